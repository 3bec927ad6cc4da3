//! `lumos`.

use super::{Family, Method, Whose, choice};

pub(super) const METHOD: Method = Method {
    name: "lumos",
    summary: "federated SASRec with three private views and the decoupled contrast; view-only rows stay on the client",
    paper: "LUMOS, arXiv 2602.09306",
    family: Family::Federated,
    base: None,
    choices: &[
        choice("model.backbone", "sasrec", Whose::SecondHand),
        choice("views.generator", "catalogue", Whose::Ours),
        choice("loss.contrast", "decoupled", Whose::Ours),
        choice("loss.tau", "0.5", Whose::Ours),
        choice("loss.lambda", "0.02", Whose::Ours),
        choice("loss.lambda_rounds", "60", Whose::Ours),
        choice("loss.future", "true", Whose::Paper),
        choice("loss.paraphrase", "true", Whose::Paper),
        choice("loss.counterfactual", "true", Whose::Paper),
        choice("federation.clients", "user", Whose::Paper),
        choice("federation.upload_rows", "trained", Whose::Ours),
    ],
};
