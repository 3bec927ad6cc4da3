//! The backbones by name.

use super::{Bert4rec, Encoder, Gru4rec, Layout, Passed, Sasrec};
use crate::backend::{Act, Backend};
use crate::config::{Backbone, ModelSettings};
use crate::{Error, Result};
use parking_lot::RwLock;

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
pub struct BackboneKind {
    /// What `model.backbone` calls it.
    pub name: &'static str,
    /// One line: how it reads a history.
    pub summary: &'static str,
    /// Where it was published.
    pub paper: &'static str,
    build: fn(&ModelSettings, &mut Layout) -> Box<dyn Passes>,
}

impl BackboneKind {
    /// The backbone that `E` is.
    pub const fn of<E: Encoder>(name: &'static str, summary: &'static str, paper: &'static str) -> BackboneKind {
        BackboneKind { name, summary, paper, build: |settings, layout| Box::new(E::new(settings, layout)) }
    }
}

/// The backbones of LUMOS.
pub const KINDS: &[BackboneKind] = &[
    BackboneKind::of::<Sasrec>("sasrec", "self-attention forwards, pre-norm blocks", "Kang and McAuley, ICDM 2018"),
    BackboneKind::of::<Gru4rec>("gru4rec", "gated recurrent units, one layer a block", "Hidasi et al., ICLR 2016"),
    BackboneKind::of::<Bert4rec>("bert4rec", "self-attention both ways, trained on masked items", "Sun et al., CIKM 2019"),
];

/// Backbones that were registered.
static REGISTERED: RwLock<Vec<&'static BackboneKind>> = RwLock::new(Vec::new());

/// Makes a backbone known in this process, for settings that are read from now on.
///
/// # Errors
/// [`Error::Usage`] where its name is taken.
pub fn register(kind: BackboneKind) -> Result<()> {
    let mut registered = REGISTERED.write();
    if !Backbone::register(kind.name) {
        return Err(Error::Usage(format!("there is a backbone `{}` already; give this one another name", kind.name)));
    }
    registered.push(Box::leak(Box::new(kind)));
    Ok(())
}

/// The encoder that `settings` name, its tensors declared in `layout`.
pub(super) fn build(settings: &ModelSettings, layout: &mut Layout) -> Box<dyn Passes> {
    let name = settings.backbone.name();
    let registered = REGISTERED.read();
    let kind = KINDS.iter().chain(registered.iter().copied()).find(|kind| kind.name == name);
    // A `Backbone` is one of the names, and each of them came with its kind.
    (kind.expect("every name of a backbone has a kind").build)(settings, layout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_kind() {
        let kinds: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
        assert_eq!(kinds, Backbone::NAMES);
        for name in ["sasrec", "gru4rec"] {
            let twin = BackboneKind::of::<Gru4rec>(name, "", "");
            assert!(register(twin).unwrap_err().to_string().contains("already"), "{name}");
        }
    }
}
