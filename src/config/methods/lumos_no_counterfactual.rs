//! `lumos-no-counterfactual`.

use super::{Family, Method, Whose, choice};

pub(super) const METHOD: Method = Method {
    name: "lumos-no-counterfactual",
    summary: "ablation: lumos without the counterfactual; joint, because the decoupled form has no denominator left",
    paper: "LUMOS, arXiv 2602.09306",
    family: Family::Federated,
    base: Some("lumos"),
    choices: &[choice("loss.counterfactual", "false", Whose::Ours), choice("loss.contrast", "joint", Whose::Ours)],
};
