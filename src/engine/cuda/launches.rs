//! What a chunk launches besides the model's operations: the start of a visit, the end of a step, averaging.

use super::chunk_memory::Region;
use super::chunks::{Adding, ChunkTrainer, FactorOf, ReadyChunk};
use super::kept::Own;
use super::packed::DeviceChunk;
use crate::backend::cuda::kernels::{
    AdamDense, AdamRows, AverageDense, AverageRows, Broadcast, ClientLosses, ClipNorm, GatherRows, UpdateNorms,
};
use crate::backend::cuda::ops::{DeviceBackend, Stepping};
use crate::backend::cuda::shape::Shape;
use crate::device::interface::{Buffer, Fill, Result, bytes_of};
use crate::device::launch::{Launch, Pointer};
use crate::engine::Chunk;

/// Bytes for the slots of `rows` rows, with some to grow.
pub(super) fn slot_room(rows: usize) -> usize {
    4 * rows + rows / 2
}

/// Bytes for the norms and the factors of `clients` clients, with some to grow.
pub(super) fn factor_bytes(clients: usize) -> [usize; 2] {
    [8, 4].map(|each| each * (clients + clients / 8))
}

/// Clients that one thread of the averaging kernel adds up in a register.
const AVERAGE_EACH: usize = 64;

impl ChunkTrainer {
    /// One local step of every client: forward, backward, clip, optimiser, losses.
    pub(super) fn record_step(&self, shape: &Shape) -> Result<()> {
        let room = self.room.as_ref().expect("made before recording");
        let (sizes, local) = (&self.sizes, &self.settings.local);
        let width = sizes.dim;
        self.device.fill(room.region(Region::RowGrad), 0, 4 * width * shape.rows as usize, Fill::Byte(0))?;
        let places = room.places(self.clock.as_ref().map_or(0, Buffer::address));
        let floats = room.region(Region::Arena).bytes() / 4;
        let dims = (width, sizes.dense);
        let at = |p: Region| Pointer::from(room.region(p));
        let some = |on: bool, p: Region| if on { at(p) } else { Pointer::NULL };
        let opt = Pointer::from(&room.optimiser);
        let (first, second) = (some(sizes.moments, Region::DenseFirst), some(sizes.moments, Region::DenseSecond));
        let global = Pointer::from(&self.dense);
        let stepping = self.unfused.as_ref().map(|_| Stepping { opt, first, second, global });
        let mut be =
            DeviceBackend::new(&*self.device, &self.kernels, *shape, dims, places, floats, self.settings.precision).stepping(stepping);
        self.model.train(&mut be, &self.settings.loss);

        let positions = self.spec.positions();
        let position_at = positions.map_or(-1, |p| p.offset as i32);
        let position_rows = positions.map_or(0, |p| p.shape[0] as i32);
        let (step, d, stride, length) = (be.step(), width as i32, sizes.dense as i64, sizes.dense as i32);
        let scale = some(sizes.clip, Region::Clip);
        let (g, row_grad) = (at(Region::DenseGrad), at(Region::RowGrad));
        if sizes.clip {
            let clip = local.clip;
            let kernel = ClipNorm { step, g, row_grad, stride, length, position_at, position_rows, d, clip, scale };
            be.go([shape.clients, 1], kernel);
        }
        let (p, m, s) = (at(Region::Dense), first, second);
        let (places, count) = self.unfused.as_ref().map_or((Pointer::NULL, sizes.dense), |list| (list.into(), list.bytes() / 4));
        let grid = [shape.clients, count.div_ceil(2048).max(1) as u32];
        let count = count as i32;
        let kernel = AdamDense { step, opt, scale, p, m, s, g, global, places, count, stride, length, position_at, position_rows, d };
        be.go(grid, kernel);
        let (p, m, s) = (at(Region::Rows), some(sizes.moments, Region::RowFirst), some(sizes.moments, Region::RowSecond));
        let blocks = (shape.client_rows as usize * width).div_ceil(2048).clamp(1, 65_535) as u32;
        be.go([shape.clients, blocks], AdamRows { step, opt, scale, p, m, s, g: row_grad, table: (&self.table).into(), d });
        let (contrast, pairs) = (some(shape.groups > 0, Region::Contrast), some(shape.pairs > 0, Region::Paired));
        let kernel = ClientLosses { step, loss: at(Region::Loss), contrast, pairs, out: at(Region::Losses) };
        be.go([shape.clients.div_ceil(4), 1], kernel);
        be.finish()
    }

    /// Launches a kernel that is no operation of the model.
    pub(super) fn go<L: Launch>(&self, grid: [u32; 2], kernel: L) -> Result<()> {
        // SAFETY: the pointers are those of buffers that the engine owns, sized for the chunk and the round at hand.
        unsafe { self.kernels.launch(&*self.device, self.settings.precision as usize, grid, &kernel) }
    }

    /// Every client takes the global weights and its item rows; its losses begin at zero.
    pub(super) fn start_from_global(&self, arrays: &DeviceChunk) -> Result<()> {
        let room = self.room.as_ref().expect("made before training");
        let at = |p: Region| Pointer::from(room.region(p));
        let (p, d, clients) = (self.sizes.dense, self.sizes.dim as i32, arrays.clients);
        let (global, table) = (Pointer::from(&self.dense), Pointer::from(&self.table));
        let kernel = Broadcast { global, slab: at(Region::Dense), clients: clients as i32, stride: p as i64, length: p as i32 };
        self.go([clients as u32, p.div_ceil(2048) as u32], kernel)?;
        let kernel = GatherRows { items: Pointer(arrays.items()), table, rows: at(Region::Rows), count: arrays.rows as i32, d };
        self.go([(arrays.rows.div_ceil(8) as u32).max(1), 1], kernel)?;
        if let Some([dense, items]) = self.second() {
            self.start_from_second(arrays, dense.into(), items.into())?;
        }
        self.device.fill(room.region(Region::Losses), 0, 16 * clients, Fill::Byte(0))
    }

    /// Every client takes the server's second moments as its own; its first ones are zero.
    fn start_from_second(&self, arrays: &DeviceChunk, global: Pointer, table: Pointer) -> Result<()> {
        let room = self.room.as_ref().expect("made before training");
        let (p, d, clients) = (self.sizes.dense, self.sizes.dim as i32, arrays.clients);
        let slab = Pointer::from(room.region(Region::DenseSecond));
        let kernel = Broadcast { global, slab, clients: clients as i32, stride: p as i64, length: p as i32 };
        self.go([clients as u32, p.div_ceil(2048) as u32], kernel)?;
        let rows = Pointer::from(room.region(Region::RowSecond));
        let kernel = GatherRows { items: Pointer(arrays.items()), table, rows, count: arrays.rows as i32, d };
        self.go([(arrays.rows.div_ceil(8) as u32).max(1), 1], kernel)?;
        [Region::DenseFirst, Region::RowFirst].into_iter().try_for_each(|first| self.device.zero(room.region(first)))
    }

    /// Of the clients of `chunk` those that have weights of their `own` take them.
    pub(super) fn start_from_own(&self, own: &Own, chunk: &Chunk) -> Result<()> {
        let room = self.room.as_ref().expect("made before training");
        (0..chunk.clients.len()).try_for_each(|c| {
            let state = own.state(c);
            if let Some(dense) = own.dense(&state) {
                self.put_dense(room.region(Region::Dense), c, &dense)?;
            }
            if state.rows.is_empty() {
                return Ok(());
            }
            let [first, last] = [c, c + 1].map(|c| chunk.client_rows[c] as usize);
            let rows = own.rows(&state, &chunk.items[first..last]);
            self.device.upload(room.region(Region::Rows), 4 * first * self.sizes.dim, bytes_of(&rows))
        })
    }

    /// Puts dense weights `[n, P]` in the place of those of the clients from place `first` on in `slab`.
    pub(super) fn put_dense(&self, slab: &Buffer, first: usize, dense: &[f32]) -> Result<()> {
        self.device.upload(slab, 4 * first * self.sizes.dense, bytes_of(dense))
    }

    /// Waits for the chunk trained last and takes the dense weights `[n, P]` of `n` of its clients from place `first` on.
    pub(super) fn fetch_dense(&self, first: usize, n: usize) -> Result<Vec<f32>> {
        let slab = self.room.as_ref().expect("made before training").region(Region::Dense);
        self.device.download_vec(slab, 4 * first * self.sizes.dense, n * self.sizes.dense)
    }

    /// The same of item rows `[n, d]`, from row `first` of the chunk on.
    pub(super) fn fetch_rows(&self, first: usize, n: usize) -> Result<Vec<f32>> {
        let (rows, d) = (self.room.as_ref().expect("made before training").region(Region::Rows), self.sizes.dim);
        self.device.download_vec(rows, 4 * first * d, n * d)
    }

    /// Dense weights that a client uploads: none where the encoder is private.
    pub(super) fn uploaded_dense(&self) -> usize {
        if self.shared.dense { self.sizes.dense } else { 0 }
    }

    /// Puts dense weights `[n, P]` in the place of those of the clients from place `first` on of the chunk trained last.
    pub(super) fn change_dense(&self, first: usize, dense: &[f32]) -> Result<()> {
        self.put_dense(self.room.as_ref().expect("made before training").region(Region::Dense), first, dense)
    }

    /// Adds the changes of `chunk`, which was trained last and added nowhere.
    pub fn add(&mut self, chunk: &ReadyChunk, adding: Adding) -> Result<()> {
        let device = self.device.clone();
        self.foresee(&chunk.shape.rounded(), chunk, matches!(adding, Adding::Scaled(_)));
        let arrays = self.arrays.take().expect("a chunk was trained");
        let begun = self.spans.begin(&*device)?;
        let result = self.average(&arrays, chunk, adding);
        self.spans.end(&*device, begun)?;
        self.arrays = Some(arrays);
        result
    }

    /// Makes the factors of the chunk's clients from the norms of their changes; gives where they are.
    fn scale(&self, arrays: &DeviceChunk, chunk: &ReadyChunk, factor_of: &FactorOf) -> Result<Pointer> {
        let device = &*self.device;
        let (room, sums) = (self.room.as_ref().expect("made before training"), self.sums.as_ref().expect("a round has begun"));
        let [norms, factors] = self.factors.as_ref().expect("made by the caller");
        let kernel = UpdateNorms {
            p: room.region(Region::Dense).into(),
            global: (&self.dense).into(),
            stride: self.sizes.dense as i64,
            length: self.uploaded_dense() as i32,
            rows: room.region(Region::Rows).into(),
            table: (&self.table).into(),
            item: Pointer(arrays.items()),
            uploads: Pointer(arrays.uploads()),
            client_rows: Pointer(arrays.client_rows()),
            weight: Pointer(sums.weight.at(8 * chunk.first)),
            clients: arrays.clients as i32,
            d: self.sizes.dim as i32,
            norms: norms.into(),
        };
        self.go([arrays.clients as u32, 1], kernel)?;
        let norms: Vec<f64> = device.download_vec(norms, 0, arrays.clients)?;
        let made: Vec<f32> = norms.iter().enumerate().map(|(c, &norm)| factor_of(chunk.first + c, norm)).collect();
        device.upload(factors, 0, bytes_of(&made))?;
        Ok(factors.into())
    }

    /// Adds what the chunk's clients changed to the sums of the round.
    pub(super) fn average(&mut self, arrays: &DeviceChunk, chunk: &ReadyChunk, adding: Adding) -> Result<()> {
        let device = self.device.clone();
        let (p, clients) = (self.sizes.dense, arrays.clients);
        if self.slots.as_ref().is_none_or(|s| s.bytes() < 4 * arrays.rows) {
            self.slots = None;
            self.slots = Some(device.alloc(slot_room(arrays.rows))?);
        }
        if matches!(adding, Adding::Scaled(_)) && self.factors.as_ref().is_none_or(|[_, factors]| factors.bytes() < 4 * clients) {
            self.factors = None;
            let [norms, factors] = factor_bytes(clients);
            self.factors = Some([device.alloc(norms)?, device.alloc(factors)?]);
        }
        let slots = self.slots.as_ref().expect("made above");
        device.upload(slots, 0, bytes_of(&chunk.slot))?;
        let sums = self.sums.as_ref().expect("a round has begun");
        let room = self.room.as_ref().expect("made before training");
        device.upload(&sums.weight, 8 * chunk.first, bytes_of(&chunk.weight))?;
        device.copy(room.region(Region::Losses), 0, &sums.losses, 16 * chunk.first, 16 * clients)?;
        let factor = match adding {
            Adding::Nowhere => return Ok(()),
            Adding::Scaled(factor_of) => self.scale(arrays, chunk, factor_of)?,
            Adding::ToSums => Pointer::NULL,
        };

        let failing = Pointer(sums.failing.at(4 * chunk.first));
        let weight = Pointer(sums.weight.at(8 * chunk.first));
        let length = self.uploaded_dense();
        let dense = AverageDense {
            p: room.region(Region::Dense).into(),
            global: (&self.dense).into(),
            weight,
            factor,
            clients: clients as i32,
            each: AVERAGE_EACH as i32,
            stride: p as i64,
            length: length as i32,
            sums: (&sums.dense).into(),
            failing,
        };
        if length > 0 {
            self.go([length.div_ceil(256) as u32, clients.div_ceil(AVERAGE_EACH) as u32], dense)?;
        }
        let rows = AverageRows {
            rows: room.region(Region::Rows).into(),
            table: (&self.table).into(),
            item: Pointer(arrays.items()),
            slot: slots.into(),
            uploads: Pointer(arrays.uploads()),
            client_rows: Pointer(arrays.client_rows()),
            weight,
            factor,
            clients: clients as i32,
            d: self.sizes.dim as i32,
            sums: (&sums.rows).into(),
            slot_weight: (&sums.row_weight).into(),
            uploaded: Pointer(sums.uploaded.at(4 * chunk.first)),
            failing,
        };
        let blocks = chunk.shape.client_rows.div_ceil(16).clamp(1, 65_535);
        self.go([clients as u32, blocks], rows)
    }
}
