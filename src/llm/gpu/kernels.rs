//! The decoder's kernels by the numbers they compute with, and the sizes of their launches.

use super::super::weights::Stored;
use crate::device::interface::{Device, Result};
use crate::device::{Geometry, Kernel, Limits};

/// Names of the kernels for one kind of number.
struct Names {
    embed: &'static str,
    norm: &'static str,
    gated: &'static str,
    add: &'static str,
    store: &'static str,
    some: &'static str,
    linear: [&'static str; 3],
    attend: [&'static str; 3],
}

macro_rules! names {
    ($kind:literal) => {
        Names {
            embed: concat!("decoder_embed_", $kind),
            norm: concat!("decoder_norm_", $kind),
            gated: concat!("decoder_gated_", $kind),
            add: concat!("decoder_add_", $kind),
            store: concat!("decoder_store_", $kind),
            some: concat!("decoder_some_", $kind),
            linear: [
                concat!("decoder_linear_", $kind, "_16"),
                concat!("decoder_linear_", $kind, "_64"),
                concat!("decoder_linear_", $kind, "_128"),
            ],
            attend: [
                concat!("decoder_attend_", $kind, "_2"),
                concat!("decoder_attend_", $kind, "_4"),
                concat!("decoder_attend_", $kind, "_8"),
            ],
        }
    };
}

/// A tile of a product: rows and outputs of a block, its threads, its shared memory for halves and for f32.
struct Tile {
    rows: usize,
    outputs: usize,
    threads: u32,
    shared: [usize; 2],
}

const TILES: [Tile; 3] = [
    Tile { rows: 16, outputs: 32, threads: 128, shared: [27_648, 13_824] },
    Tile { rows: 64, outputs: 64, threads: 128, shared: [40_960, 36_864] },
    Tile { rows: 128, outputs: 128, threads: 256, shared: [81_920, 73_728] },
];

impl Tile {
    /// A launch for `rows` rows and `outputs` outputs.
    fn geometry(&self, number: Stored, rows: usize, outputs: usize) -> Geometry {
        let grid = [rows.div_ceil(self.rows) as u32, outputs.div_ceil(self.outputs) as u32, 1];
        Geometry { grid, block: [self.threads, 1, 1], shared: self.shared[usize::from(number == Stored::F32)] }
    }
}

/// A product in bfloat16 by each of the tiles.
pub(crate) fn products(rows: usize, outputs: usize) -> Vec<(&'static str, Geometry)> {
    names!("bf16").linear.into_iter().zip(TILES.iter().map(|t| t.geometry(Stored::Bf16, rows, outputs))).collect()
}

/// Bytes of attention's shared memory for heads of `padded` numbers of `size` bytes.
pub(crate) fn attend_shared(padded: usize, size: usize) -> usize {
    64 * padded + 2048 + 32 * size * (2 * padded + 16 / size)
}

/// Kernels, looked up.
pub(super) struct Kernels {
    pub embed: Kernel,
    pub norm: Kernel,
    pub gated: Kernel,
    pub add: Kernel,
    pub store: Kernel,
    pub some: Kernel,
    pub pick: Kernel,
    pub choose: Kernel,
    linear: [Kernel; 3],
    attend: [Kernel; 3],
    number: Stored,
    limits: Limits,
}

impl Kernels {
    /// Loads or compiles the kernels for `number`.
    pub fn load(device: &dyn Device, number: Stored) -> Result<Kernels> {
        let names = match number {
            Stored::F32 => names!("f32"),
            Stored::F16 => names!("f16"),
            Stored::Bf16 => names!("bf16"),
        };
        let [a, b, c] = names.linear;
        let [d, e, f] = names.attend;
        Ok(Kernels {
            embed: device.kernel(names.embed)?,
            norm: device.kernel(names.norm)?,
            gated: device.kernel(names.gated)?,
            add: device.kernel(names.add)?,
            store: device.kernel(names.store)?,
            some: device.kernel(names.some)?,
            pick: device.kernel("decoder_pick")?,
            choose: device.kernel("decoder_choose")?,
            linear: [device.kernel(a)?, device.kernel(b)?, device.kernel(c)?],
            attend: [device.kernel(d)?, device.kernel(e)?, device.kernel(f)?],
            number,
            limits: device.limits(),
        })
    }

    /// The product's kernel for a shape: the largest tile of which there are enough for all multiprocessors. An output has the same
    /// bits in each.
    pub fn linear(&self, rows: usize, outputs: usize) -> (Kernel, Geometry) {
        let blocks = |t: &Tile| rows.div_ceil(t.rows) * outputs.div_ceil(t.outputs);
        let fits = |i: &usize| {
            let t = &TILES[*i];
            2 * rows > t.rows && blocks(t) >= self.limits.multiprocessors as usize
        };
        let i = (1..3).rev().find(fits).unwrap_or(0);
        (self.linear[i], TILES[i].geometry(self.number, rows, outputs))
    }

    /// Attention's kernel for heads of `padded` numbers, and its shared memory in bytes.
    pub fn attend(&self, padded: usize) -> (Kernel, usize) {
        let i = if padded <= 64 { 0 } else { usize::from(padded > 128) + 1 };
        (self.attend[i], attend_shared(padded, self.number.bytes()))
    }
}

/// Blocks of `threads` threads.
pub(super) fn blocks(n: usize, threads: u32) -> Geometry {
    Geometry { grid: [n as u32, 1, 1], block: [threads, 1, 1], shared: 0 }
}
