//! The weights that rank (`federation.ranking_average`): a running average of the global model over the rounds, `A = c A + (1 - c) W` after each
//! server step, from the first round's `W` on (Polyak and Juditsky, SIAM J. Control Optim. 1992, with weights that fall by `c` a round). Training
//! goes on from `W`.

use crate::Result;
use crate::config::FederationSettings;
use crate::engine::{NamedTensor, Tensors, restored_weights, weight_tensors};
use crate::model::Weights;

/// What names of the average begin with in a checkpoint; behind it stands the name of the weight.
pub const AVERAGE: &str = "average.";

/// A running average of the global model.
pub(super) struct RankingAverage {
    /// Share `c` of the average that stays in each round.
    keep: f32,
    /// The round that it is of, and the average; nothing before the first round.
    round: u64,
    weights: Option<Weights>,
}

impl RankingAverage {
    /// The average that `settings` ask for, if they do.
    pub fn of(settings: &FederationSettings) -> Option<RankingAverage> {
        (settings.ranking_average > 0.0).then_some(RankingAverage { keep: settings.ranking_average, round: 0, weights: None })
    }

    /// Adds the global model `now` of `round`, unless it is in.
    pub fn follow(&mut self, now: &Weights, round: u64) {
        if round <= self.round {
            return;
        }
        self.round = round;
        let Some(average) = &mut self.weights else {
            self.weights = Some(now.clone());
            return;
        };
        let (keep, take) = (self.keep, 1.0 - self.keep);
        for (average, now) in [(&mut average.dense, &now.dense), (&mut average.items, &now.items)] {
            average.iter_mut().zip(now).for_each(|(a, w)| *a = keep * *a + take * w);
        }
    }

    /// The average; nothing before the first round.
    pub fn weights(&self) -> Option<&Weights> {
        self.weights.as_ref()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.weights.as_ref().map_or(0, |weights| 4 * (weights.dense.len() + weights.items.len()))
    }

    /// The average for a checkpoint: tensors called like those of the model, behind [`AVERAGE`].
    pub fn tensors(&self) -> Vec<NamedTensor> {
        self.weights.as_ref().map_or_else(Vec::new, |weights| weight_tensors(weights, AVERAGE))
    }

    /// The average in the checkpoint `tensors` of `rounds_done` rounds of a model like `now`; there is none before the first server step.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] with the name of a tensor that is missing or does not fit.
    pub fn restored(&self, tensors: &Tensors, now: &Weights, rounds_done: u64) -> Result<RankingAverage> {
        let weights = if rounds_done > 0 && tensors.any(AVERAGE) { Some(restored_weights(now, tensors, AVERAGE)?) } else { None };
        Ok(RankingAverage { keep: self.keep, round: rounds_done, weights })
    }
}
