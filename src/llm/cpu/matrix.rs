//! Products of packed rows with weights, `y[r, n] = bias[n] + sum_k x[r, k] w[n, k]`, in one order of summation.
//!
//! A text must not depend on its neighbours in a batch, so a row's result must have the same bits whatever the number of rows.
//! General libraries choose their kernel by that number, and their bits with it. Here every output is one chain of fused
//! multiply-adds in the order of `k`, and only what is computed side by side depends on the shape.
//!
//! Weights lie in panels of sixteen outputs, `[panels, k, 16]`: a panel streams through the cache once for up to eight rows.
//! Numbers stored as bf16 stay so and are widened in registers, which is exact.

use super::super::weights::{Plain, Stored};
use crate::backend::cpu::simd::{LANES, Level, Simd};
use half::bf16;
use rayon::prelude::*;

/// Outputs of a panel.
pub const PANEL: usize = 16;

/// Rows that one task computes: their inputs stay in the second cache while panels pass.
const ROWS: usize = 64;

/// A stored number of a panel.
trait Element: Copy + Send + Sync {
    /// Sixteen of them take this alignment and fill it: a load never straddles two cache lines.
    type Aligned: Copy + Send + Sync;
    /// Eight numbers widened to f32.
    unsafe fn load8<S: Simd>(p: *const Self) -> S::V;
    /// Sixteen numbers widened to f32.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load16(p: *const Self) -> std::arch::x86_64::__m512;
    fn widen(self) -> f32;
}

impl Element for f32 {
    type Aligned = Aligned64;
    #[inline(always)]
    unsafe fn load8<S: Simd>(p: *const f32) -> S::V {
        // SAFETY: the caller's promise: eight numbers at `p`.
        unsafe { S::load(p) }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load16(p: *const f32) -> std::arch::x86_64::__m512 {
        // SAFETY: the caller's promise: sixteen numbers at `p`, and AVX-512.
        unsafe { std::arch::x86_64::_mm512_loadu_ps(p) }
    }
    fn widen(self) -> f32 {
        self
    }
}

impl Element for u16 {
    type Aligned = Aligned32;
    #[inline(always)]
    unsafe fn load8<S: Simd>(p: *const u16) -> S::V {
        let mut wide = [0f32; LANES];
        for (i, x) in wide.iter_mut().enumerate() {
            // SAFETY: the caller's promise: eight numbers at `p`.
            *x = f32::from_bits(u32::from(unsafe { *p.add(i) }) << 16);
        }
        // SAFETY: `wide` holds eight numbers.
        unsafe { S::load(wide.as_ptr()) }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load16(p: *const u16) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::*;
        // SAFETY: the caller's promise: sixteen numbers at `p`, and AVX-512.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))) }
    }
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Aligned64;

#[derive(Clone, Copy)]
#[repr(align(32))]
struct Aligned32;

#[derive(Clone, Copy)]
#[repr(C)]
struct Line<T: Element> {
    outputs: [T; PANEL],
    align: [T::Aligned; 0],
}

const _: () = assert!(size_of::<Line<f32>>() == 64 && size_of::<Line<u16>>() == 32, "lines follow one another without gaps");

enum Panels {
    F32(Vec<Line<f32>>),
    Bf16(Vec<Line<u16>>),
}

/// Weights `[outputs, inputs]` with an optional bias.
pub struct Matrix {
    /// Inputs `k`.
    pub inputs: usize,
    /// Outputs `n`.
    pub outputs: usize,
    panels: Panels,
    bias: Option<Vec<f32>>,
}

impl Matrix {
    /// Stacks `parts` along the outputs. Kept as bf16 where all parts are stored so, or where `round` asks for it; else as f32.
    pub fn new(parts: &[Plain<'_>], bias: Option<Vec<f32>>, round: bool) -> Matrix {
        let inputs = parts.first().map_or(0, |p| p.cols);
        let outputs: usize = parts.iter().map(|p| p.rows).sum();
        assert!(parts.iter().all(|p| p.cols == inputs), "parts of one matrix have the same inputs");
        let panels = if round || parts.iter().all(|p| p.stored == Stored::Bf16) {
            Panels::Bf16(pack(parts, inputs, outputs, 0u16, |x| bf16::from_f32(x).to_bits()))
        } else {
            Panels::F32(pack(parts, inputs, outputs, 0f32, |x| x))
        };
        Matrix { inputs, outputs, panels, bias }
    }

    /// How the weights are kept.
    pub fn stored(&self) -> Stored {
        if matches!(self.panels, Panels::F32(_)) { Stored::F32 } else { Stored::Bf16 }
    }

    /// Bytes of the weights.
    pub fn bytes(&self) -> u64 {
        match &self.panels {
            Panels::F32(p) => std::mem::size_of_val(&p[..]) as u64,
            Panels::Bf16(p) => std::mem::size_of_val(&p[..]) as u64,
        }
    }

    /// Row `n` of the weights, for a table of embeddings.
    pub fn row(&self, n: usize, out: &mut [f32]) {
        let (from, lane) = (n / PANEL * self.inputs, n % PANEL);
        match &self.panels {
            Panels::F32(p) => out.iter_mut().zip(&p[from..]).for_each(|(o, line)| *o = line.outputs[lane]),
            Panels::Bf16(p) => out.iter_mut().zip(&p[from..]).for_each(|(o, line)| *o = line.outputs[lane].widen()),
        }
    }

    /// `y [rows, outputs]` from `x [rows, inputs]`.
    pub fn apply(&self, x: &[f32], y: &mut [f32]) {
        let rows = x.len() / self.inputs;
        assert_eq!((x.len(), y.len()), (rows * self.inputs, rows * self.outputs), "shapes of a product");
        if rows == 0 {
            return;
        }
        match &self.panels {
            Panels::F32(p) => self.spread(p, x, rows, y),
            Panels::Bf16(p) => self.spread(p, x, rows, y),
        }
    }

    /// Outputs of the single row `x` at the columns `wanted`, with the bits that [`Matrix::apply`] gives.
    pub fn apply_at(&self, x: &[f32], wanted: &[u32], out: &mut Vec<f32>) {
        assert_eq!(x.len(), self.inputs, "shapes of a product");
        out.clear();
        let mut panel = [0f32; PANEL];
        let mut held = usize::MAX;
        for &n in wanted {
            let n = n as usize;
            if n / PANEL != held {
                held = n / PANEL;
                let at = Block { x: x.as_ptr(), rows: 1, y: panel.as_mut_ptr(), stride: PANEL, first: held, count: 1 };
                // SAFETY: one row of `inputs` numbers, and a whole panel of outputs.
                unsafe {
                    match &self.panels {
                        Panels::F32(p) => self.block(p, at, PANEL),
                        Panels::Bf16(p) => self.block(p, at, PANEL),
                    }
                }
            }
            out.push(panel[n % PANEL] + self.bias.as_ref().map_or(0.0, |b| b[n]));
        }
    }

    fn spread<T: Element>(&self, lines: &[Line<T>], x: &[f32], rows: usize, y: &mut [f32]) {
        let panels = self.outputs.div_ceil(PANEL);
        let row_tasks = rows.div_ceil(ROWS);
        // About a hundred thousand multiply-adds are worth handing to another core.
        let work = rows.min(ROWS) * self.inputs * PANEL;
        let step = (120_000usize.div_ceil(work.max(1))).next_multiple_of(4).min(panels.next_multiple_of(4));
        let panel_tasks = panels.div_ceil(step);
        let out = Shared(y.as_mut_ptr());
        let task = |t: usize| {
            // Tasks next to each other share panels: a second core finds them in the common cache.
            let (p, r) = (t / row_tasks * step, t % row_tasks * ROWS);
            let (count, height) = (step.min(panels - p), ROWS.min(rows - r));
            // SAFETY: tasks write disjoint rectangles of `y`; `block` stays within `outputs`.
            unsafe {
                let at = Block {
                    x: x.as_ptr().add(r * self.inputs),
                    rows: height,
                    y: out.get().add(r * self.outputs),
                    stride: self.outputs,
                    first: p,
                    count,
                };
                self.block(lines, at, self.outputs);
                if let Some(bias) = &self.bias {
                    let columns = p * PANEL..((p + count) * PANEL).min(self.outputs);
                    for row in 0..height {
                        let y = out.get().add((r + row) * self.outputs);
                        columns.clone().for_each(|n| *y.add(n) += bias[n]);
                    }
                }
            }
        };
        let tasks = panel_tasks * row_tasks;
        if tasks == 1 { task(0) } else { (0..tasks).into_par_iter().for_each(task) }
    }

    /// Rows times panels. Column `n` of panel `p` goes to `y[row * stride + p * 16 + n]` where that is below `width`; a `width` of one
    /// panel stands for a lone panel written at the start.
    ///
    /// # Safety
    /// `at` points to as many rows as it says.
    unsafe fn block<T: Element>(&self, lines: &[Line<T>], at: Block, width: usize) {
        // SAFETY: the caller's promise; a level is detected only where the processor has its instructions.
        unsafe {
            match Level::detect() {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => x86::block512(self.inputs, lines, at, width),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => x86::block2(self.inputs, lines, at, width),
                _ => block::<crate::backend::cpu::simd::Portable, T>(self.inputs, lines, at, width),
            }
        }
    }
}

struct Shared(*mut f32);

impl Shared {
    /// A closure that calls this shares the whole, which may be shared; the bare pointer inside may not.
    fn get(&self) -> *mut f32 {
        self.0
    }
}

// SAFETY: tasks write disjoint parts.
unsafe impl Sync for Shared {}

/// A rectangle of a product: `rows` rows from `x`, `count` panels from `first`.
#[derive(Clone, Copy)]
struct Block {
    x: *const f32,
    rows: usize,
    y: *mut f32,
    stride: usize,
    first: usize,
    count: usize,
}

impl Block {
    /// Where the panel's outputs go and how many of its columns there are.
    unsafe fn target(&self, row: usize, panel: usize, width: usize) -> (*mut f32, usize) {
        // A lone panel (`apply_at`) is written at the start of its buffer.
        let column = if self.stride == PANEL && width == PANEL { 0 } else { panel * PANEL };
        // SAFETY: the caller's promise: `y` holds as many rows and panels as the block says.
        let outputs = unsafe { self.y.add(row * self.stride + column) };
        (outputs, PANEL.min(width - column))
    }
}

fn pack<T: Element>(parts: &[Plain<'_>], inputs: usize, outputs: usize, zero: T, narrow: impl Fn(f32) -> T + Sync) -> Vec<Line<T>> {
    let mut lines = vec![Line { outputs: [zero; PANEL], align: [] }; outputs.div_ceil(PANEL) * inputs];
    let starts: Vec<usize> = parts
        .iter()
        .scan(0, |at, p| {
            *at += p.rows;
            Some(*at - p.rows)
        })
        .collect();
    lines.par_chunks_mut(inputs.max(1)).enumerate().for_each(|(panel, lines)| {
        let mut row = vec![0f32; inputs];
        for lane in 0..PANEL.min(outputs - panel * PANEL) {
            let n = panel * PANEL + lane;
            let part = starts.partition_point(|s| *s <= n) - 1;
            parts[part].row(n - starts[part], &mut row);
            for (line, x) in lines.iter_mut().zip(&row) {
                line.outputs[lane] = narrow(*x);
            }
        }
    });
    lines
}

/// [`Matrix::block`] on eight lanes.
#[inline(always)]
unsafe fn block<S: Simd, T: Element>(inputs: usize, lines: &[Line<T>], at: Block, width: usize) {
    // SAFETY: the caller's promise; `at` and `lines` hold as many rows and panels as they say.
    unsafe {
        for panel in at.first..at.first + at.count {
            let w = lines.as_ptr().add(panel * inputs).cast::<T>();
            let mut r = 0;
            while r < at.rows {
                let height = (at.rows - r).min(6);
                let x = at.x.add(r * inputs);
                let mut out = [[0f32; PANEL]; 6];
                match height {
                    1 => tile::<S, T, 1>(inputs, x, w, &mut out),
                    2 => tile::<S, T, 2>(inputs, x, w, &mut out),
                    3 => tile::<S, T, 3>(inputs, x, w, &mut out),
                    4 => tile::<S, T, 4>(inputs, x, w, &mut out),
                    5 => tile::<S, T, 5>(inputs, x, w, &mut out),
                    _ => tile::<S, T, 6>(inputs, x, w, &mut out),
                }
                for (i, row) in out.iter().enumerate().take(height) {
                    let (y, n) = at.target(r + i, panel, width);
                    std::ptr::copy_nonoverlapping(row.as_ptr(), y, n);
                }
                r += height;
            }
        }
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, T: Element, const MR: usize>(inputs: usize, x: *const f32, w: *const T, out: &mut [[f32; PANEL]; 6]) {
    // SAFETY: the caller's promise; `at` and `lines` hold as many rows and panels as they say.
    unsafe {
        let mut acc = [[S::splat(0.0); 2]; MR];
        for k in 0..inputs {
            let (a, b) = (T::load8::<S>(w.add(k * PANEL)), T::load8::<S>(w.add(k * PANEL + LANES)));
            for (r, row) in acc.iter_mut().enumerate() {
                let v = S::splat(*x.add(r * inputs + k));
                row[0] = S::fma(v, a, row[0]);
                row[1] = S::fma(v, b, row[1]);
            }
        }
        for (row, to) in acc.iter().zip(out.iter_mut()) {
            S::store(to.as_mut_ptr(), row[0]);
            S::store(to.as_mut_ptr().add(LANES), row[1]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Block, Element, Line, PANEL, block};
    use crate::backend::cpu::simd::Avx2;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn block2<T: Element>(inputs: usize, lines: &[Line<T>], at: Block, width: usize) {
        // SAFETY: the caller's promise; `at` and `lines` hold as many rows and panels as they say.
        unsafe { block::<Avx2, T>(inputs, lines, at, width) }
    }

    /// Eight rows by two panels, or fewer rows by four: sixteen sums hide the latency of the multiply-adds.
    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) unsafe fn block512<T: Element>(inputs: usize, lines: &[Line<T>], at: Block, width: usize) {
        // SAFETY: the caller's promise; `at` and `lines` hold as many rows and panels as they say.
        unsafe {
            let tall = at.rows > 4;
            let mut panel = at.first;
            while panel < at.first + at.count {
                let left = at.first + at.count - panel;
                let wide = match (tall, left) {
                    (false, 4..) => 4,
                    (_, 2..) => 2,
                    _ => 1,
                };
                let w = lines.as_ptr().add(panel * inputs).cast::<T>();
                let groups = at.rows.div_ceil(if wide == 4 { 4 } else { 8 });
                let mut r = 0;
                for g in 0..groups {
                    // Groups of nearly equal height: nine rows are five and four.
                    let height = (at.rows - r).div_ceil(groups - g);
                    let x = at.x.add(r * inputs);
                    macro_rules! rows {
                        ($np:literal: $($mr:literal),*) => {
                            match height {
                                $($mr => tile512::<T, $mr, $np>(inputs, x, w, at, r, panel, width),)*
                                _ => unreachable!("groups have at most eight rows"),
                            }
                        };
                    }
                    match wide {
                        4 => rows!(4: 1, 2, 3, 4),
                        2 => rows!(2: 1, 2, 3, 4, 5, 6, 7, 8),
                        _ => rows!(1: 1, 2, 3, 4, 5, 6, 7, 8),
                    }
                    r += height;
                }
                panel += wide;
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx2,fma")]
    unsafe fn tile512<T: Element, const MR: usize, const NP: usize>(
        inputs: usize,
        x: *const f32,
        w: *const T,
        at: Block,
        row: usize,
        panel: usize,
        width: usize,
    ) {
        // SAFETY: the caller's promise; `at` and `lines` hold as many rows and panels as they say.
        unsafe {
            let mut acc = [[_mm512_setzero_ps(); NP]; MR];
            for k in 0..inputs {
                let mut v = [_mm512_setzero_ps(); NP];
                for (p, v) in v.iter_mut().enumerate() {
                    *v = T::load16(w.add((p * inputs + k) * PANEL));
                }
                for (r, sums) in acc.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*x.add(r * inputs + k));
                    for (sum, v) in sums.iter_mut().zip(&v) {
                        *sum = _mm512_fmadd_ps(x, *v, *sum);
                    }
                }
            }
            for (r, sums) in acc.iter().enumerate() {
                for (p, sum) in sums.iter().enumerate() {
                    let (y, n) = at.target(row + r, panel + p, width);
                    _mm512_mask_storeu_ps(y, ((1u32 << n) - 1) as u16, *sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, Stream};

    fn numbers(n: usize, client: u64) -> Vec<f32> {
        let mut stream = Stream::new(3, Purpose::Bench, 0, client);
        (0..n).map(|_| stream.normal()).collect()
    }

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    #[test]
    fn a_row_has_the_same_bits_among_any_number_of_rows() {
        for (inputs, outputs) in [(1, 1), (5, 33), (67, 130), (128, 96), (19, 16)] {
            let (w, bias) = (bytes(&numbers(inputs * outputs, 1)), numbers(outputs, 2));
            let plain = Plain::new(Stored::F32, outputs, inputs, &w).unwrap();
            let rounded: Vec<f32> = plain.to_vec().iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
            let rounded = bytes(&rounded);
            let x = numbers(131 * inputs, 3);
            let of = |w: &[u8], round: bool| {
                let m = Matrix::new(&[Plain::new(Stored::F32, outputs, inputs, w).unwrap()], Some(bias.clone()), round);
                let mut y = vec![0.0; x.len() / inputs * outputs];
                m.apply(&x, &mut y);
                y
            };
            assert_eq!(of(&w, true), of(&rounded, false), "bf16 is widened exactly");
            for round in [false, true] {
                let m = Matrix::new(&[plain], Some(bias.clone()), round);
                let mut alone = vec![0.0; 131 * outputs];
                for (x, y) in x.chunks(inputs).zip(alone.chunks_mut(outputs)) {
                    m.apply(x, y);
                }
                for rows in [2, 3, 5, 8, 9, 17, 64, 65, 131] {
                    let mut y = vec![f32::NAN; rows * outputs];
                    m.apply(&x[..rows * inputs], &mut y);
                    assert_eq!(y, alone[..rows * outputs], "{rows} rows of {inputs} x {outputs}");
                }
                let wanted: Vec<u32> = (0..outputs as u32).rev().step_by(3).collect();
                let mut some = Vec::new();
                m.apply_at(&x[..inputs], &wanted, &mut some);
                assert_eq!(some, wanted.iter().map(|n| alone[*n as usize]).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn stacked_parts_give_the_product() {
        let (inputs, a, b) = (23, 21, 14);
        let (wa, wb) = (numbers(inputs * a, 4), numbers(inputs * b, 5));
        let (ba, bb) = (bytes(&wa), bytes(&wb));
        let parts = [Plain::new(Stored::F32, a, inputs, &ba).unwrap(), Plain::new(Stored::F32, b, inputs, &bb).unwrap()];
        let m = Matrix::new(&parts, None, false);
        let x = numbers(7 * inputs, 6);
        let mut y = vec![0.0; 7 * (a + b)];
        m.apply(&x, &mut y);
        let w: Vec<f32> = wa.iter().chain(&wb).copied().collect();
        for (r, row) in y.chunks(a + b).enumerate() {
            for (n, y) in row.iter().enumerate() {
                let exact: f64 = (0..inputs).map(|k| f64::from(x[r * inputs + k]) * f64::from(w[n * inputs + k])).sum();
                assert!((f64::from(*y) - exact).abs() < 1e-5, "{r} {n}: {y} {exact}");
            }
        }
        let mut row = vec![0.0; inputs];
        m.row(a + 3, &mut row);
        assert_eq!(row, wb[3 * inputs..4 * inputs]);
    }
}
