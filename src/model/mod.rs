//! Recommenders: backbones, each with its weights, its forward and its backward pass, written once over the ops of a backend.
//!
//! [`backbones`] has one file for each encoder, [`objectives`] one for each term of the loss.

pub mod backbones;
mod layout;
pub mod objectives;
mod spec;
mod weights;
mod worker_shape;

pub use backbones::{Encoder, Passed, Sasrec};
pub use layout::*;
pub use spec::*;
pub use weights::*;

use crate::backend::{Act, Backend};
use crate::config::LossSettings;
use backbones::Passes;

/// A backbone, ready to run on a backend.
pub struct Model {
    encoder: Box<dyn Passes>,
    item_dropout: f32,
    /// Whether hidden states are asked for at a special row.
    asked: bool,
}

impl Model {
    /// The backbone that `spec` names.
    pub fn new(spec: &ModelSpec) -> Model {
        let s = &spec.settings;
        Model { encoder: backbones::build(s, &mut Layout::new(s)), item_dropout: s.item_dropout, asked: spec.asked.is_some() }
    }

    /// Hidden states `[Q, d]` of the step's output rows, no gradients.
    pub fn encode(&self, be: &mut dyn Backend) -> Act {
        self.encoder.encode(be)
    }

    /// One forward and backward pass of a client's objective, the sum of its terms (see [`objectives`]), over the backend's step.
    pub fn train(&self, be: &mut dyn Backend, loss: &LossSettings) {
        be.drop_items(self.item_dropout);
        self.encoder.train(be, &mut |be, h| objectives::backward(be, loss, self.asked, h));
        be.drop_items_backward(self.item_dropout);
    }
}
