//! `calrec`: a causal language model is fine-tuned on the titles of histories and recommends what its texts lead to (CALRec, arXiv 2405.02429).
//!
//! A training step is an AdamW step on a mini-batch of users. In the first rounds every item of a history is predicted from those before it
//! ([`loss::all_items`]); then the objective of the paper follows, the next item's text with two contrasts ([`loss::with_contrast`]). For a ranking
//! several texts are drawn for a user, the catalogue is ranked by BM25 for each of them, and the rankings are merged: one item from each in turn, the
//! likeliest text first. Ours, where the paper leaves it open or has another setting:
//!
//! * The paper's first stage trains on other categories as well. A run has one data set: its first stage teaches the form of a history.
//! * A target is drawn from the positions of a user's training items, once in each local epoch.
//! * Weights and temperature of the contrasts, and the number of texts (second-hand sources say different things).
//! * A low-rank change of every projection is trained, or with `rank=0` all weights, as in the paper.
//!
//! The model is `views.llm.model`; without one a small model of bytes is trained from nothing. Of several processes each trains the same model, and
//! users are ranked by shares.

mod constants;
#[cfg(feature = "llm")]
mod loss;
#[cfg(feature = "llm")]
mod ranker;
#[cfg(feature = "llm")]
mod text;
#[cfg(feature = "llm")]
mod trainer;

use super::{Kind, Parts, Place, Protocol};
use crate::Result;
use crate::base::options::Options;
use constants::Constants;

/// Why there is no device for it.
const OWN_DEVICE: &str = "protocol `calrec` trains a language model, whose device is `views.llm.device`";

pub(super) const KIND: Kind = Kind {
    name: "calrec",
    summary: "a language model is fine-tuned on titles; its texts, matched to the catalogue, recommend",
    paper: "CALRec, arXiv 2405.02429",
    options: constants::OPTIONS,
    check: |options, settings| Constants::read(options, settings).map(|_| ()),
    trains: |_| Place::Cpu(OWN_DEVICE),
    ranks: |_| Place::Cpu(OWN_DEVICE),
    build,
};

#[cfg(feature = "llm")]
fn build(options: &Options, parts: Parts) -> Result<Box<dyn Protocol>> {
    let constants = Constants::read(options, &parts.settings)?;
    Ok(Box::new(trainer::CalRec::new(constants, parts)?))
}

#[cfg(not(feature = "llm"))]
fn build(options: &Options, parts: Parts) -> Result<Box<dyn Protocol>> {
    Constants::read(options, &parts.settings)?;
    Err(crate::Error::setting("federation.protocol", "language models are not in this build; build with `--features llm`"))
}
