//! `fed-gru4rec`.

use super::{Family, Method, Whose, choice};

pub(super) const METHOD: Method = Method {
    name: "fed-gru4rec",
    summary: "federated GRU4Rec without views: the lambda = 0 twin of lumos-gru4rec",
    paper: "GRU4Rec, Hidasi et al., ICLR 2016; FedAvg, McMahan et al., AISTATS 2017",
    family: Family::Federated,
    base: None,
    choices: &[
        choice("model.backbone", "gru4rec", Whose::Paper),
        choice("views.generator", "none", Whose::Paper),
        choice("loss.contrast", "none", Whose::Paper),
        choice("federation.clients", "user", Whose::Paper),
    ],
};
