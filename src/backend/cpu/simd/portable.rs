//! Plain arrays of eight.

use super::{LANES, Simd, Vector};

/// Plain arrays.
#[derive(Clone, Copy)]
pub struct Portable;

macro_rules! lanewise {
    ($a:ident, $b:ident, $e:expr) => {{
        let mut out = [0f32; LANES];
        for i in 0..LANES {
            out[i] = $e($a[i], $b[i]);
        }
        out
    }};
}

impl Vector for Portable {
    const WIDTH: usize = LANES;
    type V = [f32; LANES];
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: the caller's promise: `p` is valid for the lanes.
        unsafe { p.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: the caller's promise: `p` is valid for the lanes.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f32, n: usize) -> Self::V {
        let mut out = [0f32; LANES];
        for (i, o) in out.iter_mut().enumerate().take(n) {
            // SAFETY: the caller's promise: `p` is valid for the lanes.
            *o = unsafe { *p.add(i) };
        }
        out
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut f32, v: Self::V, n: usize) {
        for (i, x) in v.iter().enumerate().take(n) {
            // SAFETY: the caller's promise: `p` is valid for the lanes.
            unsafe { *p.add(i) = *x };
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(a, b, |x: f32, y: f32| x + y)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(a, b, |x: f32, y: f32| x - y)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(a, b, |x: f32, y: f32| x * y)
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(a, b, |x: f32, y: f32| x / y)
    }
    #[inline(always)]
    unsafe fn sqrt(a: Self::V) -> Self::V {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        let mut out = [0f32; LANES];
        for i in 0..LANES {
            // SAFETY: plain arrays need no instructions.
            out[i] = unsafe { Self::fma1(a[i], b[i], c[i]) };
        }
        out
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const f32) {}
}

impl Simd for Portable {
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(a, b, |x: f32, y: f32| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(a, b, |x: f32, y: f32| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn fma1(a: f32, b: f32, c: f32) -> f32 {
        // A software fused multiply-add would be hundreds of times slower than two roundings.
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { a * b + c }
    }
    #[inline(always)]
    unsafe fn sum(a: Self::V) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }
    #[inline(always)]
    unsafe fn sum4(a: Self::V, b: Self::V, c: Self::V, d: Self::V) -> [f32; 4] {
        // SAFETY: plain arrays need no instructions.
        unsafe { [Self::sum(a), Self::sum(b), Self::sum(c), Self::sum(d)] }
    }
    #[inline(always)]
    unsafe fn add_squares(sums: &mut [f64; LANES], a: Self::V) {
        for i in 0..LANES {
            sums[i] += f64::from(a[i]) * f64::from(a[i]);
        }
    }
    #[inline(always)]
    unsafe fn exp2i(k: Self::V) -> Self::V {
        k.map(|x| f32::from_bits(((x as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn copysign(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(a, b, f32::copysign)
    }
    #[inline(always)]
    unsafe fn transpose(rows: &mut [Self::V; LANES]) {
        for i in 1..LANES {
            let (above, rest) = rows.split_at_mut(i);
            for (row, x) in above.iter_mut().zip(&mut rest[0]) {
                std::mem::swap(&mut row[i], x);
            }
        }
    }
    #[inline(always)]
    unsafe fn count_not_less(a: Self::V, b: Self::V) -> u32 {
        let mut n = 0;
        for i in 0..LANES {
            n += u32::from(a[i].partial_cmp(&b[i]).is_none_or(|o| o.is_ge()));
        }
        n
    }
}
