//! `lumos-random-counterfactual`.

use super::{Family, Method, Whose, choice};

pub(super) const METHOD: Method = Method {
    name: "lumos-random-counterfactual",
    summary: "ablation: lumos with uniform random items as the counterfactual",
    paper: "LUMOS, arXiv 2602.09306",
    family: Family::Federated,
    base: Some("lumos"),
    choices: &[choice("views.generator", "random-counterfactual", Whose::Ours)],
};
