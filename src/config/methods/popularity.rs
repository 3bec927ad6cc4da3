//! `popularity`.

use super::{Family, Method, Whose, choice};

pub(super) const METHOD: Method = Method {
    name: "popularity",
    summary: "every user gets the most frequent training items; nothing is trained",
    paper: "a baseline without a paper",
    family: Family::Baseline,
    base: None,
    choices: &[choice("views.generator", "none", Whose::Ours), choice("loss.contrast", "none", Whose::Ours)],
};
