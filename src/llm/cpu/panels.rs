//! Products of rows with panels of sixteen outputs: the loops of each instruction set. On all of them every output is one chain of fused
//! multiply-adds in the order of the inputs.

use crate::backend::cpu::simd::{LANES, Level, Portable, Simd};

/// Outputs of a panel.
pub const PANEL: usize = 16;

/// A stored number of a panel.
pub(super) trait Element: Copy + Send + Sync {
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
pub(super) struct Aligned64;

#[derive(Clone, Copy)]
#[repr(align(32))]
pub(super) struct Aligned32;

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Line<T: Element> {
    pub outputs: [T; PANEL],
    pub align: [T::Aligned; 0],
}

const _: () = assert!(size_of::<Line<f32>>() == 64 && size_of::<Line<u16>>() == 32, "lines follow one another without gaps");

/// A rectangle of a product: `rows` rows from `x`, `count` panels from `first`.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub x: *const f32,
    pub rows: usize,
    pub y: *mut f32,
    pub stride: usize,
    pub first: usize,
    pub count: usize,
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
/// Rows times panels. Column `n` of panel `p` goes to `y[row * stride + p * 16 + n]` where that is below `width`; a `width` of one
/// panel stands for a lone panel written at the start.
///
/// # Safety
/// `at` points to as many rows as it says, `lines` holds its panels.
pub(super) unsafe fn product<T: Element>(inputs: usize, lines: &[Line<T>], at: Block, width: usize) {
    // SAFETY: the caller's promise; a level is detected only where the processor has its instructions.
    unsafe {
        match Level::detect() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => x86::block512(inputs, lines, at, width),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => x86::block2(inputs, lines, at, width),
            _ => block::<Portable, T>(inputs, lines, at, width),
        }
    }
}

/// [`product`] on eight lanes.
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
