//! What may be done to an update between a client's visit and the server's step.

use super::{Mean, Update};

/// What a rule needs at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing, or the weighted mean: updates can be added up one by one.
    Linear,
    /// Every update of the round at once, in [`Mean::updates`]. Costs the memory of the cohort's uploads.
    All,
}

/// Where and when a rule is applied.
#[derive(Clone, Copy, Debug)]
pub struct Occasion {
    /// Seed of the run.
    pub seed: u64,
    /// Round, counted from 1.
    pub round: u64,
}

/// One thing that is done to updates. Equal occasions and updates must give equal bits.
pub trait Rule: Send + Sync {
    /// Changes what a client uploads. Called for every client of a round, in no promised order.
    fn client(&self, _occasion: &Occasion, _update: &mut Update) {}

    /// Changes the mean before the server's step.
    fn server(&self, _occasion: &Occasion, _mean: &mut Mean) {}

    /// What [`Rule::server`] needs.
    fn needs(&self) -> Needs {
        Needs::Linear
    }
}
