//! `gcl4sr`: a transformer reads a history, a graph of item transitions what surrounds its items (GCL4SR, Zhang et al., IJCAI 2022).
//!
//! The graph joins the items of all training histories. Two samples of it ([`sample`]) are encoded by graph layers, gated for the user, joined with
//! the transformer's states and pooled by attention ([`network`]); the next item is ranked by its inner product with what comes out. The loss is the
//! cross-entropy over all items, a contrast of the two samples and the maximum mean discrepancy of item rows and graph states ([`loss`]).
//! After the published code (sdu-zyx/GCL4SR at 9e6e4d2). Ours, where that code is at odds with itself or with the paper:
//!
//! * Graph layers follow each other; there each begins with the item rows again, so that what an outer one computes is lost.
//! * The gates are trained; there they stay as they were drawn, because they are no parameters of the model.
//! * Norms begin at 1 and 0; there their weights are drawn like all others.
//! * An item has one sample of neighbours in a mini-batch; there each of its occurrences has one.
//! * Nothing stands in for missing items before a short history; there item 0 is encoded.
//! * To rank, both samples are drawn once for the whole catalogue, so that a user's ranks do not depend on who is ranked beside.
//!
//! A user who is not in the data set has gates without a part of the user's.

mod constants;
#[cfg(feature = "llm")]
mod fused;
#[cfg(feature = "llm")]
mod graph;
#[cfg(feature = "llm")]
mod loss;
#[cfg(feature = "llm")]
mod network;
#[cfg(feature = "llm")]
mod sample;
#[cfg(feature = "llm")]
mod sparse;
#[cfg(all(test, feature = "llm"))]
mod tests;
#[cfg(feature = "llm")]
mod trainer;

use super::{Kind, Parts, Place, Protocol};
use crate::Result;
use crate::base::options::Options;
use constants::Constants;

/// Why there is no device for it.
const ON_THE_CPU: &str = "protocol `gcl4sr` trains and ranks on the CPU";

pub(super) const KIND: Kind = Kind {
    name: "gcl4sr",
    summary: "one model in one place: a transformer and two samples of the graph of item transitions",
    paper: "GCL4SR, Zhang et al., IJCAI 2022",
    options: constants::OPTIONS,
    check: |options, settings| Constants::read(options, settings).map(|_| ()),
    trains: |_| Place::Cpu(ON_THE_CPU),
    ranks: |_| Place::Cpu(ON_THE_CPU),
    build,
};

#[cfg(feature = "llm")]
fn build(options: &Options, parts: Parts) -> Result<Box<dyn Protocol>> {
    let constants = Constants::read(options, &parts.settings)?;
    Ok(Box::new(trainer::Gcl4sr::new(constants, parts)?))
}

#[cfg(not(feature = "llm"))]
fn build(options: &Options, parts: Parts) -> Result<Box<dyn Protocol>> {
    Constants::read(options, &parts.settings)?;
    Err(crate::Error::setting("federation.protocol", "`gcl4sr` needs candle, which is not in this build; build with `--features llm`"))
}
