//! Recommenders: backbones, each with its weights, its forward and its backward pass, written once over the ops of a backend.
//!
//! A backbone is one file beside this one and an entry in the table [`BACKBONES`]; one of another crate is made known by [`register_backbone`].

mod backbones;
mod bert4rec;
mod check;
mod gru4rec;
mod layout;
pub mod objectives;
mod sasrec;
mod spec;
mod weights;
mod worker_shape;

pub use backbones::{BackboneKind, KINDS as BACKBONES, register as register_backbone};
pub use bert4rec::Bert4rec;
pub use check::{check, fits};
pub use gru4rec::Gru4rec;
pub use layout::*;
pub use sasrec::Sasrec;
pub use spec::*;
pub use weights::*;

use crate::Result;
use crate::backend::{Act, Backend};
use crate::config::{LossSettings, ModelSettings};
use backbones::Passes;
use objectives::Term;
use std::sync::Arc;

/// A sequence encoder: from the packed items of a step to hidden states, and back to gradients.
pub trait Encoder: Send + Sync + Sized + 'static {
    /// What the forward pass leaves for the backward pass.
    type Trace: Passed;

    /// Declares every tensor in `layout`, in the order in which they lie in the slab.
    fn new(settings: &ModelSettings, layout: &mut Layout) -> Self;

    /// Refuses settings that the backbone cannot have, beside the ranges of `model.*` that hold for all.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] with the key and what to do.
    fn check(_settings: &ModelSettings) -> Result<()> {
        Ok(())
    }

    /// Hidden states of the step's output rows.
    fn forward(&self, be: &mut dyn Backend) -> Self::Trace;

    /// Gradients of everything from `dh [Q, d]`.
    fn backward(&self, be: &mut dyn Backend, trace: &Self::Trace, dh: Act);
}

/// The result of a forward pass.
pub trait Passed {
    /// Hidden states `[Q, d]`.
    fn hidden(&self) -> Act;
}

/// A backbone, ready to run on a backend.
pub struct Model {
    encoder: Box<dyn Passes>,
    item_dropout: f32,
    /// Whether hidden states are asked for at a special row.
    asked: bool,
    /// Terms of `loss.terms`.
    made: Vec<Arc<dyn Term>>,
}

impl Model {
    /// The backbone that `spec` names.
    pub fn new(spec: &ModelSpec) -> Model {
        let s = &spec.settings;
        Model {
            encoder: backbones::build(s, &mut Layout::new(s)),
            item_dropout: s.item_dropout,
            asked: spec.asked.is_some(),
            made: Vec::new(),
        }
    }

    /// The same for training under `loss`, which was validated: with the terms of `loss.terms`.
    pub fn for_training(spec: &ModelSpec, loss: &LossSettings) -> Model {
        Model { made: objectives::made(loss).expect("validated settings name terms that are known"), ..Model::new(spec) }
    }

    /// Hidden states `[Q, d]` of the step's output rows, no gradients.
    pub fn encode(&self, be: &mut dyn Backend) -> Act {
        self.encoder.encode(be)
    }

    /// One forward and backward pass of a client's objective, the sum of its terms (see [`objectives`]), over the backend's step.
    pub fn train(&self, be: &mut dyn Backend, loss: &LossSettings) {
        be.drop_items(self.item_dropout);
        self.encoder.train(be, &mut |be, h| objectives::backward(be, loss, self.asked, &self.made, h));
        be.drop_items_backward(self.item_dropout);
    }
}

/// The gradient `dx` under the dropout of `site`, in `t`; `dx` itself where nothing is dropped.
fn dropped(be: &mut dyn Backend, site: u32, rate: f32, dx: Act, t: Act) -> Act {
    if rate == 0.0 {
        return dx;
    }
    be.copy(dx, t);
    be.dropout(site, rate, t);
    t
}
