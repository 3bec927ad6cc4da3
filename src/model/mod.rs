//! Recommenders: parameter layout and the encoder, forward and backward, written once over the ops of a backend.

mod gru4rec;
mod sasrec;
mod spec;
mod weights;

pub use gru4rec::Gru4rec;
pub use sasrec::Sasrec;
pub use spec::*;
pub use weights::*;

use crate::backend::{Act, Backend, RowKind};
use crate::config::{Backbone, LossSettings};

/// A backbone, ready to run on a backend. A new one adds a variant here and a file beside this one.
pub enum Model {
    /// See [`Sasrec`].
    Sasrec(Sasrec),
    /// See [`Gru4rec`].
    Gru4rec(Gru4rec),
}

impl Model {
    /// The backbone that `spec` names.
    pub fn new(spec: &ModelSpec) -> Model {
        match spec.settings.backbone {
            Backbone::Sasrec => Model::Sasrec(Sasrec::new(spec)),
            Backbone::Gru4rec => Model::Gru4rec(Gru4rec::new(spec)),
        }
    }

    /// Hidden states `[Q, d]` of the step's output rows, no gradients.
    pub fn encode<B: Backend>(&self, be: &mut B) -> Act {
        match self {
            Model::Sasrec(m) => m.forward(be).hidden,
            Model::Gru4rec(m) => m.forward(be).hidden,
        }
    }

    /// One forward and backward pass of a client's objective `L_rec + lambda L_tri` over the backend's step.
    pub fn train<B: Backend>(&self, be: &mut B, loss: &LossSettings) {
        let rate = self.item_dropout();
        be.drop_items(rate);
        match self {
            Model::Sasrec(m) => {
                let trace = m.forward(be);
                let dh = objective(be, loss, trace.hidden);
                m.backward(be, &trace, dh);
            }
            Model::Gru4rec(m) => {
                let trace = m.forward(be);
                let dh = objective(be, loss, trace.hidden);
                m.backward(be, &trace, dh);
            }
        }
        be.drop_items_backward(rate);
    }

    fn item_dropout(&self) -> f32 {
        match self {
            Model::Sasrec(m) => m.item_dropout,
            Model::Gru4rec(m) => m.item_dropout,
        }
    }
}

fn objective<B: Backend>(be: &mut B, loss: &LossSettings, h: Act) -> Act {
    let dh = be.act(RowKind::Outputs, h.width);
    be.zero(dh);
    be.next_item_loss(loss, h, dh);
    be.info_nce(loss, h, dh);
    dh
}
