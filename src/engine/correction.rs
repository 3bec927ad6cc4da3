//! Bias correction of the server's moments, each weight's by the steps that it has seen itself.

use super::{NamedTensor, TensorData, Tensors};
use crate::config::FederationSettings;
use crate::{Error, Result};

/// Name of the counts in a checkpoint: `[1 + I]`, those of the dense weights first.
const NAME: &str = "server.steps";

/// What the moments are multiplied by where a step reads them; 1 without correction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scales {
    /// Factor on the first moment.
    pub first: f32,
    /// Factor on the second moment.
    pub second: f32,
}

impl Scales {
    /// No correction.
    pub const NONE: Scales = Scales { first: 1.0, second: 1.0 };

    /// `1 / (1 - beta^t)` at step `t` (from 1) of a weight (algorithm 1 of Kingma and Ba, ICLR 2015). The sums of FedAdagrad have no
    /// second decay, and are taken as they are.
    fn at(settings: &FederationSettings, t: u32) -> Scales {
        let scale = |beta: f32| (1.0 / (1.0 - f64::from(beta).powi(t.min(i32::MAX as u32) as i32))) as f32;
        Scales {
            first: scale(settings.server_momentum),
            second: if settings.server.forgets() { scale(settings.server_beta2) } else { 1.0 },
        }
    }
}

/// Steps that the server has taken, where it corrects its moments by them (`federation.server_correction`): the moments of an item row move only
/// in rounds that touch the row, so that each row has a count of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerSteps {
    /// Steps on the dense weights.
    pub dense: u32,
    /// Steps on each row of the item table; empty without correction.
    pub rows: Vec<u32>,
}

impl ServerSteps {
    /// No step yet, on an item table of `rows`.
    pub fn new(settings: &FederationSettings, rows: usize) -> ServerSteps {
        ServerSteps { dense: 0, rows: if settings.server_correction { vec![0; rows] } else { Vec::new() } }
    }

    /// Whether moments are corrected.
    pub fn correct(&self) -> bool {
        !self.rows.is_empty()
    }

    /// The factors of the next step on the dense weights.
    pub fn next_dense(&self, settings: &FederationSettings) -> Scales {
        if self.correct() { Scales::at(settings, self.dense.saturating_add(1)) } else { Scales::NONE }
    }

    /// The factors of the next step on the row of `item`.
    pub fn next_row(&self, settings: &FederationSettings, item: u32) -> Scales {
        self.rows.get(item as usize).map_or(Scales::NONE, |steps| Scales::at(settings, steps.saturating_add(1)))
    }

    /// Counts a step on the dense weights.
    pub fn count_dense(&mut self) {
        if self.correct() {
            self.dense = self.dense.saturating_add(1);
        }
    }

    /// Counts a step on the row of `item`.
    pub fn count_row(&mut self, item: u32) {
        if let Some(steps) = self.rows.get_mut(item as usize) {
            *steps = steps.saturating_add(1);
        }
    }

    /// The counts as a tensor of a checkpoint.
    pub fn tensor(&self) -> NamedTensor {
        let counts: Vec<u64> = std::iter::once(&self.dense).chain(&self.rows).map(|&steps| u64::from(steps)).collect();
        NamedTensor { name: NAME.into(), shape: vec![counts.len()], data: TensorData::U64(counts) }
    }

    /// The counts in `tensors`, of an item table of `rows`.
    ///
    /// # Errors
    /// [`Error::Usage`] where they are missing, of another length or no counts.
    pub fn restored(tensors: &Tensors, rows: usize) -> Result<ServerSteps> {
        let counts = tensors.u64(NAME, &[1 + rows])?;
        let large = |_| Error::Usage(format!("checkpoint: tensor `{NAME}` holds no counts of steps; the file is damaged"));
        let mut counts = counts.iter().map(|&steps| u32::try_from(steps)).collect::<std::result::Result<Vec<u32>, _>>().map_err(large)?;
        let rows = counts.split_off(1);
        Ok(ServerSteps { dense: counts[0], rows })
    }
}
