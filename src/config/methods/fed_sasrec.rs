//! `fed-sasrec`.

use super::{Family, Method, Whose, choice};

pub(super) const METHOD: Method = Method {
    name: "fed-sasrec",
    summary: "federated SASRec without views: the lambda = 0 twin of lumos",
    paper: "SASRec, Kang and McAuley, ICDM 2018; FedAvg, McMahan et al., AISTATS 2017",
    family: Family::Federated,
    base: None,
    choices: &[
        choice("model.backbone", "sasrec", Whose::Paper),
        choice("views.generator", "none", Whose::Paper),
        choice("loss.contrast", "none", Whose::Paper),
        choice("federation.clients", "user", Whose::Paper),
    ],
};
