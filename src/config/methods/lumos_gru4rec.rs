//! `lumos-gru4rec`.

use super::{Family, Method, Whose, choice};

pub(super) const METHOD: Method = Method {
    name: "lumos-gru4rec",
    summary: "lumos on recurrent units instead of attention",
    paper: "LUMOS, arXiv 2602.09306; GRU4Rec, Hidasi et al., ICLR 2016",
    family: Family::Federated,
    base: Some("lumos"),
    choices: &[choice("model.backbone", "gru4rec", Whose::Ours)],
};
