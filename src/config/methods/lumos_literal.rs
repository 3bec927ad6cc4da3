//! `lumos-literal`.

use super::{Family, Method, Whose, choice};

pub(super) const METHOD: Method = Method {
    name: "lumos-literal",
    summary: "the published description taken literally: one partition function over the three views, tau 0.07",
    paper: "LUMOS, arXiv 2602.09306",
    family: Family::Federated,
    base: None,
    choices: &[
        choice("model.backbone", "sasrec", Whose::SecondHand),
        choice("views.generator", "catalogue", Whose::Ours),
        choice("loss.contrast", "joint", Whose::SecondHand),
        choice("loss.tau", "0.07", Whose::SecondHand),
        choice("loss.lambda", "0.1", Whose::SecondHand),
        choice("loss.future", "true", Whose::Paper),
        choice("loss.paraphrase", "true", Whose::Paper),
        choice("loss.counterfactual", "true", Whose::Paper),
        choice("federation.clients", "user", Whose::Paper),
    ],
};
