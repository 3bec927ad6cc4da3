//! `lumos-no-paraphrase`.

use super::{Family, Method, Whose, choice};

pub(super) const METHOD: Method = Method {
    name: "lumos-no-paraphrase",
    summary: "ablation: lumos without the paraphrase view",
    paper: "LUMOS, arXiv 2602.09306",
    family: Family::Federated,
    base: Some("lumos"),
    choices: &[choice("loss.paraphrase", "false", Whose::Ours)],
};
