//! Full ranking on the device: users packed as the sequences of one client whose weights are the global ones, their hidden states
//! by the model's forward pass, their ranks by counting. Nothing of size users x items is stored.

use super::activations::encode_floats;
use super::chunks::{ChunkTrainer, OwnDense};
use super::packed::{DeviceChunk, HostChunk, PACKED_BYTES};
use crate::backend::Step;
use crate::backend::cuda::kernels::{Broadcast, RankCount, RankMasked, RankTargets};
use crate::backend::cuda::ops::{DeviceBackend, Places};
use crate::backend::cuda::shape::Shape;
use crate::config::Precision;
use crate::device::interface::{Buffer, Result, bytes_of};
use crate::device::launch::Pointer;
use crate::engine::Chunk;

/// Users and items of a tile of `rank_count`.
const TILE: usize = 128;

/// Users to be ranked together, laid out for the device.
pub struct RankChunk {
    host: HostChunk,
    shape: Shape,
    /// Target of each user `[U]`, bounds of masked items `[U + 1]`, masked items: one after another.
    lists: Vec<u32>,
    users: usize,
    /// Whether each user is a client with dense weights of its own.
    own: bool,
}

impl RankChunk {
    /// `step` holds one sequence and one output a user over an item table of `rows`; `targets` are to be found, `masked` items are never recommended.
    /// With `own` weights each user is a client of the step.
    pub fn new<'a>(step: Step, rows: usize, own: bool, targets: &[u32], masked: impl Iterator<Item = &'a [u32]> + Clone) -> RankChunk {
        assert_eq!(step.outputs(), targets.len(), "an output a user");
        let chunk = if own { Chunk::forward_each(step) } else { Chunk::forward(step, rows as u32) };
        let mut lists = targets.to_vec();
        lists.push(0);
        let mut end = 0;
        lists.extend(masked.clone().map(|h| {
            end += h.len() as u32;
            end
        }));
        lists.extend(masked.flatten());
        RankChunk { shape: Shape::of(&chunk).rounded(), host: HostChunk::new(&chunk, 0.0, 1), lists, users: targets.len(), own }
    }

    /// Bytes that the host holds for it.
    pub fn bytes(&self) -> usize {
        self.host.bytes() + 4 * self.lists.len()
    }

    /// Users.
    pub fn users(&self) -> usize {
        self.users
    }
}

/// What the ranking of a chunk holds on the device.
pub(super) struct RankMemory {
    arena: Buffer,
    arrays: Option<DeviceChunk>,
    step: Buffer,
    lists: Buffer,
    threshold: Buffer,
    /// Dense weights of users who have their own `[U, P]`.
    own: Buffer,
}

impl RankMemory {
    pub fn bytes(&self) -> u64 {
        let arrays = self.arrays.as_ref().map_or(0, |a| a.bytes());
        ([&self.arena, &self.step, &self.lists, &self.threshold, &self.own].iter().map(|b| b.bytes()).sum::<usize>() + arrays) as u64
    }

    fn holds(&self, need: &[usize; 4]) -> bool {
        [&self.arena, &self.lists, &self.threshold, &self.own].iter().zip(need).all(|(b, n)| b.bytes() >= *n)
    }
}

impl ChunkTrainer {
    /// Bytes that the ranking of users of `shape` with `masked` masked items in all takes, as planned; with `own` weights of each of them.
    pub fn rank_bytes(&self, shape: &Shape, masked: usize, own: bool) -> u64 {
        let shape = shape.rounded();
        let (users, tokens) = (shape.outputs as usize, shape.tokens as usize);
        // Packed arrays: six words a token, five an output, two a tile, and some to grow.
        let arrays = 4 * (6 * tokens + 5 * users + 2 * (shape.token_tiles + shape.output_tiles) as usize) / 8 * 9 + 8192;
        let own = if own { 4 * self.sizes.dense * users } else { 0 };
        (4 * encode_floats(&self.model, &shape) + arrays + own + 4 * (masked + 4 * users)) as u64
    }

    /// Memory for the ranks of `users` users.
    pub fn rank_counts(&self, users: usize) -> Result<Buffer> {
        self.device.alloc(4 * users)
    }

    /// Ranks the users of a chunk into `counts`, from place `first` on; those of a chunk with weights of each user by their `own`. Returns when
    /// everything is in the device's queue.
    pub fn rank(&mut self, chunk: &mut RankChunk, own: &OwnDense, counts: &Buffer, first: usize) -> Result<()> {
        let device = self.device.clone();
        let floats = encode_floats(&self.model, &chunk.shape);
        let slab = if chunk.own { 4 * self.sizes.dense * chunk.users } else { 0 };
        let need = [4 * floats, 4 * chunk.lists.len(), 4 * chunk.users, slab];
        let mut room = match self.ranking.take() {
            Some(room) if room.holds(&need) => room,
            room => {
                drop(room);
                let [arena, lists, threshold, own] = need.map(|bytes| device.alloc(bytes));
                let step = device.alloc(PACKED_BYTES)?;
                RankMemory { arena: arena?, lists: lists?, threshold: threshold?, own: own?, step, arrays: None }
            }
        };
        let arrays = DeviceChunk::upload(&*device, &mut chunk.host, room.arrays.take())?;
        device.upload(&room.lists, 0, bytes_of(&chunk.lists))?;
        device.copy(arrays.table(), 0, &room.step, 0, PACKED_BYTES)?;
        room.arrays = Some(arrays);
        let training = self.fixed_bytes() + self.held_for_training();
        self.predicted = self.predicted.max(training + room.bytes() + counts.bytes() as u64);
        let begun = self.spans.begin(&*device)?;
        let ranked = self.take_own(&room, chunk, own).and_then(|()| self.rank_on(&room, chunk, counts, first, floats));
        self.ranking = Some(room);
        ranked?;
        self.spans.end(&*device, begun)
    }

    /// Where each user has dense weights, puts them side by side.
    fn take_own(&self, room: &RankMemory, chunk: &RankChunk, own: &OwnDense) -> Result<()> {
        if !chunk.own {
            return Ok(());
        }
        let (p, global, slab) = (self.sizes.dense, Pointer::from(&self.dense), Pointer::from(&room.own));
        let kernel = Broadcast { global, slab, clients: chunk.users as i32, stride: p as i64, length: p as i32 };
        self.go([chunk.users as u32, p.div_ceil(2048) as u32], kernel)?;
        (0..chunk.users).try_for_each(|user| own(user).map_or(Ok(()), |dense| self.put_dense(&room.own, user, &dense)))
    }

    fn rank_on(&self, room: &RankMemory, chunk: &RankChunk, counts: &Buffer, first: usize, floats: usize) -> Result<()> {
        let (d, items, users) = (self.sizes.dim, self.sizes.items, chunk.users);
        let places = Places {
            step: room.step.address(),
            dense: if chunk.own { room.own.address() } else { self.dense.address() },
            rows: self.table.address(),
            arena: room.arena.address(),
            ..Places::default()
        };
        let dims = (d, self.sizes.dense);
        // Always in full precision: what a checkpoint is worth must not depend on how it was trained.
        let mut be = DeviceBackend::new(&*self.device, &self.kernels, chunk.shape, dims, places, floats, Precision::Fp32);
        let hidden = self.model.encode(&mut be);
        let h = Pointer(be.address(hidden));
        be.finish()?;

        let list = |word: usize| Pointer(room.lists.at(4 * word));
        let (target, bounds, masked) = (list(0), list(users), list(2 * users + 1));
        let (table, threshold, count) = (Pointer::from(&self.table), Pointer::from(&room.threshold), Pointer(counts.at(4 * first)));
        let (blocks, tiles) = (|each: usize| [users.div_ceil(each) as u32, 1], users.div_ceil(TILE));
        // Twice as many blocks as the card holds at a time, where there are tiles enough: few idle at the end.
        let slices = (4 * self.device.limits().multiprocessors as usize).div_ceil(tiles).clamp(1, items.div_ceil(TILE));
        let (users, items, d) = (users as i32, items as i32, d as i32);
        self.go(blocks(128), RankTargets { h, table, target, threshold, count, users, d })?;
        self.go([tiles as u32, slices as u32], RankCount { h, table, threshold, count, users, items, d })?;
        self.go(blocks(4), RankMasked { h, table, target, threshold, bounds, masked, count, users, d })
    }

    /// Waits for the queue and takes the ranks.
    pub fn take_ranks(&self, counts: &Buffer, users: usize) -> Result<Vec<u32>> {
        self.device.download_vec(counts, 0, users)
    }
}
