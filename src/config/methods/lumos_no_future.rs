//! `lumos-no-future`.

use super::{Family, Method, Whose, choice};

pub(super) const METHOD: Method = Method {
    name: "lumos-no-future",
    summary: "ablation: lumos without the future view",
    paper: "LUMOS, arXiv 2602.09306",
    family: Family::Federated,
    base: Some("lumos"),
    choices: &[choice("loss.future", "false", Whose::Ours)],
};
