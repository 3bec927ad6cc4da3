//! Full ranking on the device: users packed as the sequences of one client whose weights are the global ones, their hidden states
//! by the model's forward pass, their ranks by counting. Nothing of size users x items is stored.

use super::activations::encode_floats;
use super::chunks::ChunkTrainer;
use super::kept::Own;
use super::packed::{DeviceChunk, HostChunk, PACKED_BYTES};
use crate::backend::cuda::kernels::{Broadcast, RankCount, RankMasked, RankTargets};
use crate::backend::cuda::ops::{DeviceBackend, Places};
use crate::backend::cuda::shape::Shape;
use crate::backend::{Step, TableRow};
use crate::config::Precision;
use crate::device::interface::{Buffer, Result, bytes_of};
use crate::device::launch::Pointer;
use crate::engine::Chunk;

/// Users and items of a tile of `rank_count`.
const TILE: usize = 128;

/// By what of its own each user is ranked; the rest is global.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeps {
    /// Dense weights.
    pub dense: bool,
    /// Item rows.
    pub rows: bool,
}

/// Users to be ranked together, laid out for the device.
pub struct RankChunk {
    host: HostChunk,
    shape: Shape,
    /// Target of each user `[U]`, bounds of masked items `[U + 1]`, masked items: one after another.
    lists: Vec<u32>,
    users: usize,
    keeps: Keeps,
    /// Item of each token `[T]` and bounds of users in tokens `[U + 1]`, where users keep rows.
    items: Vec<u32>,
    bounds: Vec<u32>,
}

impl RankChunk {
    /// `step` holds one sequence and one output a user over an item table of `rows`; `targets` are to be found, `masked` items are never recommended.
    /// With dense weights that it `keeps` each user is a client of the step; with item rows each token reads a row of its own.
    pub fn new<'a>(
        mut step: Step,
        rows: usize,
        keeps: Keeps,
        targets: &[u32],
        masked: impl Iterator<Item = &'a [u32]> + Clone,
    ) -> RankChunk {
        assert_eq!(step.outputs(), targets.len(), "an output a user");
        let (mut items, mut bounds) = (Vec::new(), Vec::new());
        if keeps.rows {
            items = step.row.iter().map(|row| row.0).collect();
            bounds = step.bounds.clone();
            step.row = (0..items.len() as u32).map(TableRow).collect();
        }
        let chunk = match keeps.dense {
            true => Chunk::forward_each(step),
            false => Chunk::forward(step, if keeps.rows { items.len() } else { rows } as u32),
        };
        let mut lists = targets.to_vec();
        lists.push(0);
        let mut end = 0;
        lists.extend(masked.clone().map(|h| {
            end += h.len() as u32;
            end
        }));
        lists.extend(masked.flatten());
        RankChunk {
            shape: Shape::of(&chunk).rounded(),
            host: HostChunk::new(&chunk, 0.0, 1),
            lists,
            users: targets.len(),
            keeps,
            items,
            bounds,
        }
    }

    /// Bytes that the host holds for it.
    pub fn bytes(&self) -> usize {
        self.host.bytes() + 4 * (self.lists.len() + self.items.len() + self.bounds.len())
    }

    /// Users.
    pub fn users(&self) -> usize {
        self.users
    }

    /// Item of each token, where users keep rows.
    pub(super) fn items(&self) -> &[u32] {
        &self.items
    }

    /// Those of one user.
    pub(super) fn input(&self, user: usize) -> &[u32] {
        &self.items[self.bounds[user] as usize..self.bounds[user + 1] as usize]
    }

    /// The item that is sought of a user.
    pub(super) fn target(&self, user: usize) -> u32 {
        self.lists[user]
    }

    /// The items that are never recommended to a user.
    pub(super) fn masked(&self, user: usize) -> &[u32] {
        let [first, last] = [user, user + 1].map(|u| self.lists[self.users + u] as usize);
        &self.lists[2 * self.users + 1..][first..last]
    }
}

/// What the ranking of a chunk holds on the device.
pub(super) struct RankMemory {
    arena: Buffer,
    arrays: Option<DeviceChunk>,
    step: Buffer,
    lists: Buffer,
    threshold: Buffer,
    /// Dense weights that users keep `[U, P]`.
    dense: Buffer,
    /// Item rows that they keep, as [`super::own_rows`] says.
    rows: Buffer,
}

impl RankMemory {
    pub fn bytes(&self) -> u64 {
        let arrays = self.arrays.as_ref().map_or(0, |a| a.bytes());
        ([&self.arena, &self.step, &self.lists, &self.threshold, &self.dense, &self.rows].iter().map(|b| b.bytes()).sum::<usize>() + arrays)
            as u64
    }

    fn holds(&self, need: &[usize; 5]) -> bool {
        [&self.arena, &self.lists, &self.threshold, &self.dense, &self.rows].iter().zip(need).all(|(b, n)| b.bytes() >= *n)
    }
}

impl ChunkTrainer {
    /// Bytes of the dense weights and of the item rows that `users` users with `tokens` tokens keep.
    fn own_bytes(&self, keeps: Keeps, users: usize, tokens: usize) -> [usize; 2] {
        let dense = if keeps.dense { 4 * self.sizes.dense * users } else { 0 };
        [dense, if keeps.rows { self.own_rows_bytes(tokens, users) } else { 0 }]
    }

    /// Bytes that the ranking of users of `shape` with `masked` masked items in all takes, as planned, by what each of them `keeps`.
    pub fn rank_bytes(&self, shape: &Shape, masked: usize, keeps: Keeps) -> u64 {
        let shape = shape.rounded();
        let (users, tokens) = (shape.outputs as usize, shape.tokens as usize);
        // Packed arrays: six words a token, five an output, two a tile, and some to grow.
        let arrays = 4 * (6 * tokens + 5 * users + 2 * (shape.token_tiles + shape.output_tiles) as usize) / 8 * 9 + 8192;
        let own: usize = self.own_bytes(keeps, users, tokens).iter().sum();
        (4 * encode_floats(&self.model, &shape) + arrays + own + 4 * (masked + 4 * users)) as u64
    }

    /// Memory for the ranks of `users` users.
    pub fn rank_counts(&self, users: usize) -> Result<Buffer> {
        self.device.alloc(4 * users)
    }

    /// Ranks the users of a chunk into `counts`, from place `first` on; where they keep weights, by their `own`. Returns when everything is in the
    /// device's queue.
    pub fn rank(&mut self, chunk: &RankChunk, own: &Own, counts: &Buffer, first: usize) -> Result<()> {
        let device = self.device.clone();
        let floats = encode_floats(&self.model, &chunk.shape);
        let [dense, rows] = self.own_bytes(chunk.keeps, chunk.users, chunk.items.len());
        let need = [4 * floats, 4 * chunk.lists.len(), 4 * chunk.users, dense, rows];
        let mut room = match self.ranking.take() {
            Some(room) if room.holds(&need) => room,
            room => {
                drop(room);
                let [arena, lists, threshold, dense, rows] = need.map(|bytes| device.alloc(bytes));
                let step = device.alloc(PACKED_BYTES)?;
                RankMemory { arena: arena?, lists: lists?, threshold: threshold?, dense: dense?, rows: rows?, step, arrays: None }
            }
        };
        let arrays = DeviceChunk::upload(&*device, &chunk.host, room.arrays.take())?;
        device.upload(&room.lists, 0, bytes_of(&chunk.lists))?;
        device.copy(arrays.table(), 0, &room.step, 0, PACKED_BYTES)?;
        room.arrays = Some(arrays);
        let training = self.fixed_bytes() + self.held_for_training();
        self.predicted = self.predicted.max(training + room.bytes() + counts.bytes() as u64);
        let begun = self.spans.begin(&*device)?;
        let ranked = self.take_own(&room, chunk, own).and_then(|()| self.rank_on(&room, chunk, own, (counts, first), floats));
        self.ranking = Some(room);
        ranked?;
        self.spans.end(&*device, begun)
    }

    /// Puts what users keep, and their forward passes read, side by side.
    fn take_own(&self, room: &RankMemory, chunk: &RankChunk, own: &Own) -> Result<()> {
        if chunk.keeps.rows {
            self.take_rows(&room.rows, chunk, own)?;
        }
        if !chunk.keeps.dense {
            return Ok(());
        }
        let (p, global, slab) = (self.sizes.dense, Pointer::from(&self.dense), Pointer::from(&room.dense));
        let kernel = Broadcast { global, slab, clients: chunk.users as i32, stride: p as i64, length: p as i32 };
        self.go([chunk.users as u32, p.div_ceil(2048) as u32], kernel)?;
        (0..chunk.users).try_for_each(|user| match own.dense(&own.state(user)) {
            Some(dense) => self.put_dense(&room.dense, user, &dense),
            None => Ok(()),
        })
    }

    fn rank_on(&self, room: &RankMemory, chunk: &RankChunk, own: &Own, (counts, first): (&Buffer, usize), floats: usize) -> Result<()> {
        let (d, items, users) = (self.sizes.dim, self.sizes.items, chunk.users);
        let places = Places {
            step: room.step.address(),
            dense: if chunk.keeps.dense { room.dense.address() } else { self.dense.address() },
            rows: if chunk.keeps.rows { room.rows.address() } else { self.table.address() },
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
        let (of_users, users, items, d) = (users, users as i32, items as i32, d as i32);
        self.go(blocks(128), RankTargets { h, table, target, threshold, count, users, d })?;
        let changes = if chunk.keeps.rows { self.compare_rows(&room.rows, chunk, own, h, &room.threshold)? } else { Vec::new() };
        self.go([tiles as u32, slices as u32], RankCount { h, table, threshold, count, users, items, d })?;
        if !changes.is_empty() {
            let found: Vec<u32> = self.device.download_vec(counts, 4 * first, of_users)?;
            let found: Vec<u32> = found.iter().zip(&changes).map(|(count, change)| count.wrapping_add_signed(*change)).collect();
            self.device.upload(counts, 4 * first, bytes_of(&found))?;
        }
        self.go(blocks(4), RankMasked { h, table, target, threshold, bounds, masked, count, users, d })
    }

    /// Waits for the queue and takes the ranks.
    pub fn take_ranks(&self, counts: &Buffer, users: usize) -> Result<Vec<u32>> {
        self.device.download_vec(counts, 0, users)
    }
}
