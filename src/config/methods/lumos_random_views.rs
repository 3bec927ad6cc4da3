//! `lumos-random-views`.

use super::{Family, Method, Whose, choice};

pub(super) const METHOD: Method = Method {
    name: "lumos-random-views",
    summary: "ablation: lumos with uniform random items in all three views",
    paper: "LUMOS, arXiv 2602.09306",
    family: Family::Federated,
    base: Some("lumos"),
    choices: &[choice("views.generator", "random", Whose::Ours)],
};
