//! Where each weight of a model lies in the dense slab.

use super::layout::{Layout, ParamInfo, Treatment};
use crate::config::ModelSettings;

/// Shape of a model and the layout of its dense slab `[P]`. The item table `[I, d]` is kept apart.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The settings that the layout follows from.
    pub settings: ModelSettings,
    /// Tensors in slab order.
    pub params: Vec<ParamInfo>,
    /// Length `P` of the slab.
    pub dense_len: usize,
}

impl ModelSpec {
    /// Layout for `settings` (already validated: `heads` divides `dim`, nothing is zero).
    pub fn new(settings: &ModelSettings) -> ModelSpec {
        let mut layout = Layout::new(settings);
        settings.backbone.build(settings, &mut layout);
        let (params, dense_len) = layout.finish();
        ModelSpec { settings: settings.clone(), params, dense_len }
    }

    /// Width `d`.
    pub fn dim(&self) -> usize {
        self.settings.dim as usize
    }

    /// The table of learned positions, where the backbone has one.
    pub fn positions(&self) -> Option<&ParamInfo> {
        self.params.iter().find(|p| p.treatment == Treatment::Table)
    }
}
