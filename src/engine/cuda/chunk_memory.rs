//! Device memory of a chunk: what is held, how much of it, and the plan made before anything is allocated.

use super::packed::PACKED_BYTES;
use crate::backend::cuda::ops::Places;
use crate::backend::cuda::shape::Shape;
use crate::device::DeviceError;
use crate::device::interface::{Buffer, Device, Result};

/// What memory depends on besides the shape of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Width `d` of item rows.
    pub dim: usize,
    /// Dense weights `P` of a client.
    pub dense: usize,
    /// Items `I`.
    pub items: usize,
    /// Whether the local optimiser keeps moments.
    pub moments: bool,
    /// Whether the item table is dropped out.
    pub item_dropout: bool,
    /// Whether gradients are clipped.
    pub clip: bool,
}

/// What a chunk's memory is used for, with its bytes, in the order of allocation.
pub type Layout = Vec<(&'static str, usize)>;

/// Bytes of each part of a chunk of `shape` with `arena_floats` floats of activations. The packed arrays are not among them: their
/// size is known when the chunk is packed.
pub fn layout(sizes: &Sizes, shape: &Shape, arena_floats: usize) -> Layout {
    let dense = 4 * sizes.dense * shape.clients as usize;
    let rows = 4 * sizes.dim * shape.rows as usize;
    let some = |on: bool, bytes: usize| if on { bytes } else { 0 };
    let (examples, groups, clients) = (shape.examples as usize, shape.groups as usize, shape.clients as usize);
    vec![
        ("dense weights", dense),
        ("dense gradients", dense),
        ("dense first moments", some(sizes.moments, dense)),
        ("dense second moments", some(sizes.moments, dense)),
        ("item rows", rows),
        ("item row gradients", rows),
        ("item row first moments", some(sizes.moments, rows)),
        ("item row second moments", some(sizes.moments, rows)),
        ("item rows with dropout", some(sizes.item_dropout, rows)),
        ("activations", 4 * arena_floats),
        ("candidate derivatives", 4 * examples * shape.width as usize),
        ("losses", 4 * examples),
        ("log partition sums", 4 * examples),
        ("contrasts", 4 * groups),
        ("losses of pairs", 8 * shape.pairs as usize),
        ("clip factors", some(sizes.clip, 4 * clients)),
        ("loss sums", 16 * clients),
    ]
}

/// Bytes of a layout as a device hands them out, in blocks of 512.
pub fn bytes(layout: &Layout) -> u64 {
    layout.iter().map(|(_, b)| b.next_multiple_of(512) as u64).sum()
}

/// The memory of a chunk, kept from chunk to chunk and made anew where one needs more.
pub struct ChunkMemory {
    regions: Vec<Buffer>,
    /// The `Packed` and the `OptimiserStep` of the step at hand.
    pub step: Buffer,
    /// See `step`.
    pub optimiser: Buffer,
}

/// Regions by their place in [`layout`].
#[derive(Clone, Copy)]
#[repr(usize)]
#[allow(missing_docs)]
pub enum Region {
    Dense,
    DenseGrad,
    DenseFirst,
    DenseSecond,
    Rows,
    RowGrad,
    RowFirst,
    RowSecond,
    Dropped,
    Arena,
    Coef,
    Loss,
    Lse,
    Contrast,
    Paired,
    Clip,
    Losses,
}

impl ChunkMemory {
    /// Allocates the regions of `layout`.
    pub fn new(device: &dyn Device, layout: &Layout, optimiser_bytes: usize) -> Result<ChunkMemory> {
        let regions = layout.iter().map(|(_, bytes)| device.alloc(*bytes)).collect::<Result<_, DeviceError>>()?;
        Ok(ChunkMemory { regions, step: device.alloc(PACKED_BYTES)?, optimiser: device.alloc(optimiser_bytes)? })
    }

    /// Whether every region has the bytes of `layout`.
    pub fn holds(&self, layout: &Layout) -> bool {
        self.regions.iter().zip(layout).all(|(region, (_, bytes))| region.bytes() >= *bytes)
    }

    /// The larger of the present bytes and those of `layout`, region by region.
    pub fn grown(&self, layout: &Layout) -> Layout {
        layout.iter().zip(&self.regions).map(|((name, bytes), region)| (*name, *bytes.max(&region.bytes()))).collect()
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.regions.iter().chain([&self.step, &self.optimiser]).map(|b| b.bytes() as u64).sum()
    }

    /// One region.
    pub fn region(&self, region: Region) -> &Buffer {
        &self.regions[region as usize]
    }

    /// Where a step finds things. `clock` is the address of the `DropoutClock`, 0 without dropout.
    pub fn places(&self, clock: u64) -> Places {
        let at = |p: Region| self.region(p).address();
        Places {
            step: self.step.address(),
            dense: at(Region::Dense),
            dense_grad: at(Region::DenseGrad),
            rows: at(Region::Rows),
            row_grad: at(Region::RowGrad),
            dropped: at(Region::Dropped),
            arena: at(Region::Arena),
            coef: at(Region::Coef),
            loss: at(Region::Loss),
            contrast: at(Region::Contrast),
            paired: at(Region::Paired),
            lse: at(Region::Lse),
            clock,
        }
    }
}
