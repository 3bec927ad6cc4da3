//! Backbones: encoders of sequences, each written once over the operations of a backend.
//!
//! `model.backbone` names one. A backbone is one file here, an entry of [`KINDS`] and its name in [`Backbone`]; one of another crate is made
//! known by [`register`].

mod bert4rec;
mod gru4rec;
mod sasrec;

pub use bert4rec::Bert4rec;
pub use gru4rec::Gru4rec;
pub use sasrec::Sasrec;

use super::Layout;
use crate::Result;
use crate::backend::{Act, Backend};
use crate::config::{Backbone, ModelSettings};
use parking_lot::RwLock;

/// A sequence encoder: from the packed items of a step to hidden states, and back to gradients.
pub trait Encoder: Send + Sync + Sized + 'static {
    /// What the forward pass leaves for the backward pass.
    type Trace: Passed;

    /// Declares every tensor in `layout`, in the order in which they lie in the slab.
    fn new(settings: &ModelSettings, layout: &mut Layout) -> Self;

    /// Refuses settings that the backbone cannot have. Every backbone may rely on the ranges of `model.*`, and on `heads` dividing `dim`.
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

/// An [`Encoder`] whose traces stay inside.
pub(super) trait Passes: Send + Sync {
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

/// A backbone by name.
pub struct Kind {
    /// Name in `model.backbone`.
    pub name: &'static str,
    /// One line: how it reads a sequence.
    pub summary: &'static str,
    /// Where it was published.
    pub paper: &'static str,
    check: fn(&ModelSettings) -> Result<()>,
    build: fn(&ModelSettings, &mut Layout) -> Box<dyn Passes>,
}

impl Kind {
    /// The encoder `E` under a name.
    pub const fn of<E: Encoder>(name: &'static str, summary: &'static str, paper: &'static str) -> Kind {
        Kind { name, summary, paper, check: E::check, build: |settings, layout| Box::new(E::new(settings, layout)) }
    }
}

/// The backbones of LUMOS.
pub const KINDS: &[Kind] = &[sasrec::KIND, gru4rec::KIND, bert4rec::KIND];

/// Backbones that were registered.
static REGISTERED: RwLock<Vec<&'static Kind>> = RwLock::new(Vec::new());

/// Makes a backbone known in this process, for settings that are read from now on.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage) where its name is taken or cannot stand in a configuration file.
pub fn register(kind: Kind) -> Result<()> {
    // Held over both, so that whoever reads the name finds what it stands for.
    let mut registered = REGISTERED.write();
    Backbone::register(kind.name)?;
    registered.push(Box::leak(Box::new(kind)));
    Ok(())
}

/// What `backbone` stands for.
pub fn kind(backbone: Backbone) -> &'static Kind {
    let registered = REGISTERED.read();
    let mut all = KINDS.iter().chain(registered.iter().copied());
    all.find(|kind| kind.name == backbone.name()).expect("a name becomes known with its backbone")
}

/// Every backbone: those of LUMOS, then registered ones.
pub fn kinds() -> Vec<&'static Kind> {
    KINDS.iter().chain(REGISTERED.read().iter().copied()).collect()
}

/// Refuses settings that the backbone that they name cannot have.
///
/// # Errors
/// [`crate::Error::Setting`] with the key and what to do.
pub fn check(settings: &ModelSettings) -> Result<()> {
    (kind(settings.backbone).check)(settings)
}

/// The backbone that `settings` name, with its tensors in `layout`.
pub(super) fn build(settings: &ModelSettings, layout: &mut Layout) -> Box<dyn Passes> {
    (kind(settings.backbone).build)(settings, layout)
}

/// The gradient `dx` under the dropout of `site`, in `t`; `dx` itself where nothing is dropped.
pub fn dropped(be: &mut dyn Backend, site: u32, rate: f32, dx: Act, t: Act) -> Act {
    if rate == 0.0 {
        return dx;
    }
    be.copy(dx, t);
    be.dropout(site, rate, t);
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_lumos_has_its_backbone() {
        let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        assert!(Backbone::names().starts_with(&names), "{names:?} and {:?}", Backbone::names());
        for kind in KINDS {
            assert!(!kind.summary.is_empty() && !kind.paper.is_empty(), "{}", kind.name);
        }
    }
}
