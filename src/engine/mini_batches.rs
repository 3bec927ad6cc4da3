//! The mini-batches of a participant with many sequences, the same on every kind of hardware: which sequences, in which micro-batches, and where
//! their dropout draws from.

use crate::base::rng::{Purpose, Stream};
use crate::config::Settings;

/// Sequences of a micro-batch, whose gradient is taken by itself: enough that adding it up costs little beside making it.
pub(super) const MICRO_BATCH: usize = 16;

/// The mini-batches of one visit, in their order.
pub(super) struct MiniBatches<'v> {
    settings: &'v Settings,
    round: u64,
    client: u32,
    users: &'v [u32],
    order: Vec<u32>,
    epoch: Option<u32>,
}

impl<'v> MiniBatches<'v> {
    /// Those of the participant `client`, which holds the sequences of `users`, in `round`.
    pub fn new(settings: &'v Settings, round: u64, client: u32, users: &'v [u32]) -> MiniBatches<'v> {
        MiniBatches { settings, round, client, users, order: Vec::new(), epoch: None }
    }

    /// Local steps of a visit to a participant of `users` sequences.
    pub fn steps(settings: &Settings, users: usize) -> u32 {
        settings.local.epochs * users.div_ceil(settings.local.batch.max(1) as usize) as u32
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        MiniBatches::steps(self.settings, self.users.len())
    }

    /// Local epoch and users of mini-batch `number`, from 0.
    pub fn get(&mut self, number: u32) -> (u32, &[u32]) {
        let size = self.settings.local.batch.max(1) as usize;
        let per_epoch = self.users.len().div_ceil(size).max(1) as u32;
        let (epoch, batch) = (number / per_epoch, (number % per_epoch) as usize);
        if self.epoch != Some(epoch) {
            self.epoch = Some(epoch);
            self.order.clear();
            self.order.extend_from_slice(self.users);
            let draws = u64::from(epoch) | u64::from(self.client) << 32;
            Stream::new(self.settings.seed, Purpose::Shuffle, self.round, draws).shuffle(&mut self.order);
        }
        (epoch, &self.order[batch * size..self.order.len().min((batch + 1) * size)])
    }
}

/// The dropout draws of micro-batch `part` (from 1) of the mini-batches of `client`; 0: those of the item table.
pub(super) fn draws(settings: &Settings, round: u64, client: u32, part: usize) -> Stream {
    Stream::new(settings.seed, Purpose::Dropout, round, u64::from(client) | (part as u64) << 32)
}
