//! How a GPU is used, and which settings fit on one multiprocessor.

use serde::{Deserialize, Serialize};

use super::Settings;
use crate::config::choices::*;
use crate::config::clients::Clients;

/// How a GPU is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GpuSettings {
    /// Whether a client's visit stays in one multiprocessor.
    pub resident: Resident,
}

impl Default for GpuSettings {
    fn default() -> Self {
        GpuSettings { resident: Resident::Auto }
    }
}

/// Widest item rows of a client that is resident in one block of threads.
pub const RESIDENT_DIM: u32 = 64;
/// Most local epochs of one.
pub const RESIDENT_EPOCHS: u32 = 256;

impl Settings {
    /// Why clients cannot be resident in one block of threads with these settings, whatever the GPU.
    pub fn why_not_resident(&self) -> Option<String> {
        let (d, f) = (self.model.dim, if self.model.ffn == 0 { self.model.dim } else { self.model.ffn });
        let wide = || format!("model.dim is {d}, at most {RESIDENT_DIM} is possible");
        let odd = || format!("model.dim is {d} and the feed-forward layer {f} wide, both must be multiples of 4");
        match self {
            s if s.model.backbone != Backbone::SASREC => Some("model.backbone is not `sasrec`".into()),
            _ if d > RESIDENT_DIM => Some(wide()),
            _ if d % 4 != 0 || f % 4 != 0 => Some(odd()),
            s if s.loss.rec == RecLoss::Softmax => Some("loss.rec is `softmax`, which trains every item row".into()),
            s if s.federation.clients != Clients::User => Some(format!("federation.clients is `{}`", s.federation.clients)),
            s if s.local.proximal > 0.0 => Some("local.proximal is above 0".into()),
            s if s.local.optimizer.takes_second() => Some("local.optimizer is `preconditioned`".into()),
            s if s.federation.personal > 0.0 => Some("federation.personal is above 0".into()),
            s if s.federation.shared.len() < Group::NAMES.len() => Some("federation.shared leaves a group out".into()),
            s if s.loss.in_batch.weight > 0.0 => Some("loss.in_batch.weight is above 0".into()),
            s if !s.loss.terms.is_empty() => Some("loss.terms lists terms of other crates".into()),
            s if s.local.epochs > RESIDENT_EPOCHS => Some(format!("local.epochs is above {RESIDENT_EPOCHS}")),
            _ => None,
        }
    }
}
