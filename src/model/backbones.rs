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
    check: fn(&ModelSettings) -> Result<()>,
    build: fn(&ModelSettings, &mut Layout) -> Box<dyn Passes>,
}

impl BackboneKind {
    /// The backbone that `E` is.
    pub const fn of<E: Encoder>(name: &'static str, summary: &'static str, paper: &'static str) -> BackboneKind {
        BackboneKind { name, summary, paper, check: E::check, build: |settings, layout| Box::new(E::new(settings, layout)) }
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

/// What a name stands for.
fn kind(backbone: Backbone) -> &'static BackboneKind {
    let registered = REGISTERED.read();
    let kind = KINDS.iter().chain(registered.iter().copied()).find(|kind| kind.name == backbone.name());
    // A `Backbone` is one of the names, and each of them came with its kind.
    kind.expect("every name of a backbone has a kind")
}

/// Refuses settings that the backbone that they name cannot have.
///
/// # Errors
/// [`Error::Setting`] with the key and what to do.
pub fn check(settings: &ModelSettings) -> Result<()> {
    (kind(settings.backbone).check)(settings)
}

/// The encoder that `settings` name, its tensors declared in `layout`.
pub(super) fn build(settings: &ModelSettings, layout: &mut Layout) -> Box<dyn Passes> {
    (kind(settings.backbone).build)(settings, layout)
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
    /// GRU4Rec of an even width alone.
    struct Even(Gru4rec);

    impl Encoder for Even {
        type Trace = <Gru4rec as Encoder>::Trace;

        fn new(settings: &ModelSettings, layout: &mut Layout) -> Even {
            Even(Gru4rec::new(settings, layout))
        }

        fn check(settings: &ModelSettings) -> Result<()> {
            let fits = settings.dim.is_multiple_of(2);
            if fits { Ok(()) } else { Err(Error::setting("model.dim", format!("is {}, must be even", settings.dim))) }
        }

        fn forward(&self, be: &mut dyn Backend) -> Self::Trace {
            self.0.forward(be)
        }

        fn backward(&self, be: &mut dyn Backend, trace: &Self::Trace, dh: Act) {
            self.0.backward(be, trace, dh);
        }
    }

    #[test]
    fn a_backbone_refuses_settings_of_its_own() {
        register(BackboneKind::of::<Even>("even", "", "")).unwrap();
        let load = |dim: &str| crate::settings::load(None, &["model.backbone=even".into(), format!("model.dim={dim}")]);
        assert!(load("6").is_ok());
        let message = load("7").unwrap_err().to_string();
        assert!(message.contains("model.dim") && message.contains("must be even"), "{message}");
    }
}
