//! `sasrec`: the loss, the dropout of item rows and the details of the encoder that eSASRec (arXiv 2508.06450) found best for it.

use super::{Family, Method, Whose, choice};

pub(super) const METHOD: Method = Method {
    name: "sasrec",
    summary: "centralised SASRec with sampled softmax: what giving up privacy would buy",
    paper: "SASRec, Kang and McAuley, ICDM 2018",
    family: Family::Centralised,
    base: None,
    choices: &[
        choice("model.backbone", "sasrec", Whose::Paper),
        choice("model.dim", "64", Whose::Ours),
        choice("model.blocks", "1", Whose::Ours),
        choice("model.heads", "1", Whose::Paper),
        choice("model.dropout", "0.2", Whose::Ours),
        choice("model.item_dropout", "0.2", Whose::Ours),
        choice("model.positions", "last", Whose::Ours),
        choice("model.residual", "normed", Whose::Ours),
        choice("model.scale_items", "false", Whose::Ours),
        choice("model.init_weights", "xavier", Whose::Ours),
        choice("model.max_len", "50", Whose::Paper),
        choice("views.generator", "none", Whose::Paper),
        choice("loss.rec", "sampled-softmax", Whose::Ours),
        choice("loss.negatives", "256", Whose::Ours),
        choice("loss.contrast", "none", Whose::Paper),
        choice("local.optimizer", "adam", Whose::Paper),
        choice("local.lr", "0.001", Whose::Paper),
        choice("local.beta2", "0.98", Whose::Paper),
        choice("local.epochs", "1", Whose::Ours),
        choice("local.batch", "128", Whose::Paper),
        choice("federation.clients", "one", Whose::Ours),
        choice("federation.fraction", "1", Whose::Ours),
        choice("federation.rounds", "200", Whose::Ours),
        choice("eval.every", "1", Whose::Ours),
        choice("eval.patience", "50", Whose::Ours),
    ],
};
