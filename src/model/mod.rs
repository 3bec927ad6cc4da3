//! Recommenders: backbones, each with its weights, its forward and its backward pass, written once over the ops of a backend.
//!
//! A backbone is one file beside this one and a line in the list below.

mod bert4rec;
mod gru4rec;
mod layout;
pub mod objectives;
mod sasrec;
mod spec;
mod weights;
mod worker_shape;

pub use bert4rec::Bert4rec;
pub use gru4rec::Gru4rec;
pub use layout::*;
pub use sasrec::Sasrec;
pub use spec::*;
pub use weights::*;

use crate::backend::{Act, Backend};
use crate::config::{LossSettings, ModelSettings, choice};
use serde::{Deserialize, Serialize};

/// A sequence encoder: from the packed items of a step to hidden states, and back to gradients.
pub trait Encoder: Send + Sync + Sized + 'static {
    /// What the forward pass leaves for the backward pass.
    type Trace: Passed;

    /// Declares every tensor in `layout`, in the order in which they lie in the slab.
    fn new(settings: &ModelSettings, layout: &mut Layout) -> Self;

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

/// An [`Encoder`] whose traces stay inside.
trait Passes: Send + Sync {
    fn encode(&self, be: &mut dyn Backend) -> Act;

    /// Forward, `objective` from hidden states to their gradients, backward.
    fn train(&self, be: &mut dyn Backend, objective: &mut dyn FnMut(&mut dyn Backend, Act) -> Act);
}

impl<E: Encoder> Passes for E {
    fn encode(&self, be: &mut dyn Backend) -> Act {
        self.forward(be).hidden()
    }

    fn train(&self, be: &mut dyn Backend, objective: &mut dyn FnMut(&mut dyn Backend, Act) -> Act) {
        let trace = self.forward(be);
        let dh = objective(be, trace.hidden());
        self.backward(be, &trace, dh);
    }
}

macro_rules! backbones {
    ($($(#[$doc:meta])* $variant:ident = $name:literal => $encoder:ty),+ $(,)?) => {
        choice! {
            /// The sequence encoder.
            Backbone { $($(#[$doc])* $variant = $name),+ }
        }

        impl Backbone {
            fn build(self, settings: &ModelSettings, layout: &mut Layout) -> Box<dyn Passes> {
                match self { $(Backbone::$variant => Box::new(<$encoder>::new(settings, layout))),+ }
            }
        }
    };
}

// Every backbone: its name in settings and its encoder. One more is a file and a line.
backbones! {
    /// Self-attentive sequential recommendation (Kang and McAuley, ICDM 2018), pre-norm blocks.
    Sasrec = "sasrec" => Sasrec,
    /// Gated recurrent units (Hidasi et al., ICLR 2016), one layer per block.
    Gru4rec = "gru4rec" => Gru4rec,
    /// Bidirectional self-attention trained on masked items (Sun et al., CIKM 2019), norms behind the residuals.
    Bert4rec = "bert4rec" => Bert4rec,
}

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
        Model { encoder: s.backbone.build(s, &mut Layout::new(s)), item_dropout: s.item_dropout, asked: spec.asked.is_some() }
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

/// The gradient `dx` under the dropout of `site`, in `t`; `dx` itself where nothing is dropped.
fn dropped(be: &mut dyn Backend, site: u32, rate: f32, dx: Act, t: Act) -> Act {
    if rate == 0.0 {
        return dx;
    }
    be.copy(dx, t);
    be.dropout(site, rate, t);
    t
}
