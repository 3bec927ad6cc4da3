//! What clients keep to themselves: dense weights that matter most to them (`federation.personal`), or a whole group of parameters that is not
//! shared (`federation.shared`). A client starts from its own weights, and after its visit the host takes what it has trained, notes what it
//! keeps and leaves on the device what it shows. The server sees the latter alone.

use super::chunks::{Adding, ChunkTrainer, ReadyChunk};
use super::packing::Visit;
use crate::base::parallel;
use crate::engine::personal::{merged, split};
use crate::engine::{PrivateState, PrivateStore, Shared};
use crate::model::Weights;
use crate::{Error, Result};
use std::cell::RefCell;

/// Clients whose weights the host has at a time.
const GROUP: usize = 64;

/// What clients keep so far, by their places among those at hand, and the global weights, which they have elsewhere.
pub struct Own<'o> {
    global: &'o Weights,
    state: &'o dyn Fn(usize) -> Option<PrivateState>,
}

impl Own<'_> {
    /// What the client at `place` keeps.
    pub fn state(&self, place: usize) -> PrivateState {
        (self.state)(place).unwrap_or_default()
    }

    /// The dense weights `[P]` of a client that keeps `state`; nothing where they are the global ones.
    pub fn dense(&self, state: &PrivateState) -> Option<Vec<f32>> {
        state.dense.as_deref().map(|own| merged(&self.global.dense, Some(own)).into_owned())
    }

    /// Its rows `[n, d]` of `items`.
    pub fn rows(&self, state: &PrivateState, items: &[u32]) -> Vec<f32> {
        let d = self.global.spec.dim();
        let row = |&item: &u32| state.row(item, d).unwrap_or_else(|| self.global.item(item as usize));
        items.iter().flat_map(row).copied().collect()
    }
}

/// Clients of a round that keep weights.
pub(super) struct Keepers<'k> {
    /// Share of the dense weights that each keeps, where they are shared.
    pub share: f32,
    pub shared: Shared,
    /// The global weights, those of the groups that are kept up to date.
    pub global: &'k Weights,
    /// What clients keep so far.
    pub private: &'k PrivateStore,
    /// The clients by their places in the cohort.
    pub visits: &'k [Visit],
    pub round: u64,
    pub threads: usize,
}

/// What the clients of a chunk have left.
#[derive(Default)]
pub(super) struct Left {
    /// What each keeps.
    pub private: Vec<(u32, PrivateState)>,
    /// Places in the cohort of those for whom that is not finite.
    pub failing: Vec<usize>,
}

impl Keepers<'_> {
    /// Trains `chunk` on `on` and adds what its clients show as `adding` says; gives what they keep.
    pub fn train(&self, on: &mut ChunkTrainer, chunk: &ReadyChunk, adding: Adding) -> Result<Left> {
        let clients = chunk.weight.len();
        with_own(self.global, |c| self.before(chunk.first + c), |own| Ok(on.train(chunk, Some(own), Adding::Nowhere)?))?;
        let mut left = Left::default();
        for first in (0..clients).step_by(GROUP) {
            self.keep(on, chunk, first, GROUP.min(clients - first), &mut left)?;
        }
        on.add(chunk, adding)?;
        Ok(left)
    }

    /// Notes what `n` clients of `chunk` from its place `first` on keep, and leaves what they show on the device.
    fn keep(&self, on: &ChunkTrainer, chunk: &ReadyChunk, first: usize, n: usize, left: &mut Left) -> Result<()> {
        let (shared, d) = (self.shared, self.global.spec.dim());
        let bounds: Vec<usize> = chunk.rows.client_rows[first..=first + n].iter().map(|&row| row as usize).collect();
        // Of a group that nothing is kept of nothing is fetched.
        let p = if self.share > 0.0 || !shared.dense { self.global.dense.len() } else { 0 };
        let mut dense = if p > 0 { on.fetch_dense(first, n)? } else { Vec::new() };
        let rows = if shared.items { Vec::new() } else { on.fetch_rows(bounds[0], bounds[n] - bounds[0])? };
        let rows_of = |c: usize| match shared.items {
            true => (&[][..], &[][..]),
            false => (&chunk.rows.items[bounds[c]..bounds[c + 1]], &rows[(bounds[c] - bounds[0]) * d..(bounds[c + 1] - bounds[0]) * d]),
        };
        let visited = parallel::map(self.threads, n, 1, |c| {
            let after = |before| self.after(before, &dense[c * p..][..p], rows_of(c));
            // A client that has nothing to train on keeps what it has.
            (chunk.weight[first + c] > 0).then(|| self.before(chunk.first + first + c).map(after)).transpose()
        });
        for (c, after) in visited.into_iter().enumerate() {
            let place = chunk.first + first + c;
            match after? {
                Some(After { state: Some(state), shown }) => {
                    dense[c * p..][..shown.len()].copy_from_slice(&shown);
                    left.private.push((self.visits[place].client, state));
                }
                Some(After { state: None, .. }) => left.failing.push(place),
                None => {}
            }
        }
        if self.share > 0.0 { Ok(on.change_dense(first, &dense)?) } else { Ok(()) }
    }

    /// What comes of a visit that began with the state `before` and ended with `dense` weights `[P]` and the rows `[R, d]` of items `[R]`, each
    /// empty where nothing of it is kept.
    fn after(&self, before: Option<PrivateState>, dense: &[f32], (items, rows): (&[u32], &[f32])) -> After {
        let mut state = before.unwrap_or_default();
        if self.share > 0.0 {
            let global = &self.global.dense;
            let split = split(self.share, global, &merged(global, state.dense.as_deref()), dense);
            state.dense = Some(split.kept);
            return After { state: Some(state), shown: split.shown };
        }
        let fine = self.shared.rest_is_finite(dense, rows);
        state.keep(self.shared, dense, items, rows);
        After { state: fine.then_some(state), shown: Vec::new() }
    }

    /// What the client at `place` in the cohort keeps so far.
    fn before(&self, place: usize) -> Result<Option<PrivateState>> {
        let client = self.visits[place].client;
        let failed = |e: Error| Error::Training { round: self.round, client: client.into(), message: e.to_string() };
        self.private.get(client).map_err(failed)
    }
}

/// What a visit leaves.
struct After {
    /// What the client keeps; nothing where that is not finite.
    state: Option<PrivateState>,
    /// The dense weights `[P]` that it shows, where the host has to say so.
    shown: Vec<f32>,
}

/// Does `work` with what clients keep, of which `state` gives that of the client at a place: the `global` weights elsewhere.
pub(super) fn with_own<T>(
    global: &Weights,
    state: impl Fn(usize) -> Result<Option<PrivateState>>,
    work: impl FnOnce(&Own) -> Result<T>,
) -> Result<T> {
    let failure = RefCell::new(None);
    let state = |place| {
        state(place).unwrap_or_else(|e| {
            failure.borrow_mut().get_or_insert(e);
            None
        })
    };
    let done = work(&Own { global, state: &state });
    // What could not be read makes the rest of no use.
    failure.into_inner().map_or(done, Err)
}
