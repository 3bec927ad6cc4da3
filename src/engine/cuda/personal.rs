//! Dense weights that clients keep to themselves (`federation.personal`): a client starts from its own, and after its visit the host splits what it
//! has trained into what it keeps and what it shows ([`crate::engine::personal`]). The server sees the latter alone.

use super::chunks::{Adding, ChunkTrainer, OwnDense, ReadyChunk};
use super::packing::Visit;
use crate::base::parallel;
use crate::engine::personal::{Split, merged, split};
use crate::engine::{PrivateState, PrivateStore};
use crate::{Error, Result};
use std::cell::RefCell;

/// Clients whose weights the host has at a time.
const GROUP: usize = 64;

/// Clients of a round that keep dense weights.
pub(super) struct Personal<'p> {
    /// Share of the weights that each keeps.
    pub share: f32,
    /// The global dense weights `[P]`.
    pub global: &'p [f32],
    /// What clients keep so far.
    pub private: &'p PrivateStore,
    /// The clients by their places in the cohort.
    pub visits: &'p [Visit],
    pub round: u64,
    pub threads: usize,
}

impl Personal<'_> {
    /// Trains `chunk` on `on` and adds what its clients show as `adding` says; gives what each client keeps.
    pub fn train(&self, on: &mut ChunkTrainer, chunk: &mut ReadyChunk, adding: Adding) -> Result<Vec<(u32, PrivateState)>> {
        let clients = &self.visits[chunk.first..][..chunk.weight.len()];
        let mut kept = Vec::with_capacity(clients.len());
        with_own(self.global, |c| self.own(clients[c].client), |own| Ok(on.train(chunk, Some(own), Adding::Nowhere)?))?;
        for first in (0..clients.len()).step_by(GROUP) {
            let n = GROUP.min(clients.len() - first);
            let (mut dense, p) = (on.fetch_dense(first, n)?, self.global.len());
            let splits = parallel::map(self.threads, n, 1, |c| {
                let (client, after) = (clients[first + c].client, &dense[c * p..][..p]);
                // A client that has nothing to train on keeps what it has.
                let split = |own: Option<Vec<f32>>| split(self.share, self.global, &merged(self.global, own.as_deref()), after);
                (chunk.weight[first + c] > 0).then(|| self.own(client).map(split)).transpose()
            });
            for (c, found) in splits.into_iter().enumerate() {
                if let Some(Split { kept: own, shown }) = found? {
                    dense[c * p..][..p].copy_from_slice(&shown);
                    kept.push((clients[first + c].client, PrivateState { dense: Some(own), ..Default::default() }));
                }
            }
            on.change_dense(first, &dense)?;
        }
        on.add(chunk, adding)?;
        Ok(kept)
    }

    /// What `client` keeps so far.
    fn own(&self, client: u32) -> Result<Option<Vec<f32>>> {
        let failed = |e: Error| Error::Training { round: self.round, client: client.into(), message: e.to_string() };
        Ok(self.private.get(client).map_err(failed)?.and_then(|state| state.dense))
    }
}

/// Does `work` with the dense weights of clients by their places, of which `kept` gives what they keep: the `global` ones elsewhere.
pub(super) fn with_own<T>(
    global: &[f32],
    kept: impl Fn(usize) -> Result<Option<Vec<f32>>>,
    work: impl FnOnce(&OwnDense) -> Result<T>,
) -> Result<T> {
    let failure = RefCell::new(None);
    let done = work(&|place| match kept(place) {
        Ok(own) => own.map(|own| merged(global, Some(&own)).into_owned()),
        Err(e) => {
            failure.borrow_mut().get_or_insert(e);
            None
        }
    });
    // What could not be read makes the rest of no use.
    failure.into_inner().map_or(done, Err)
}
