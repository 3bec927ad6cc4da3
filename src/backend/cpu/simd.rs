//! Eight-lane f32 vectors with run-time dispatch: AVX2 + FMA where the processor has them, plain arrays elsewhere (which
//! the compiler turns into NEON on aarch64). Kernels are written once, generic over [`Simd`].
//!
//! Every operation has the same order of additions at both levels; only fused multiply-add differs in rounding.

/// Lanes of a vector.
pub const LANES: usize = 8;

/// Instruction level found on this processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// Whatever the target's baseline is.
    Portable,
}

impl Level {
    /// The best level of this processor. `LUMOS_SIMD=portable` asks for the plain one (to test it).
    pub fn detect() -> Level {
        static LEVEL: std::sync::OnceLock<Level> = std::sync::OnceLock::new();
        *LEVEL.get_or_init(|| {
            if std::env::var_os("LUMOS_SIMD").is_some_and(|v| v == "portable") {
                return Level::Portable;
            }
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Level::Avx2;
            }
            Level::Portable
        })
    }

    /// Name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Level::Avx2 => "avx2+fma",
            Level::Portable => "portable",
        }
    }
}

/// Operations on one vector of [`LANES`] numbers.
///
/// # Safety
/// Pointers must be valid for the lanes read or written, and the processor must have the level's instructions.
#[allow(clippy::missing_safety_doc)]
pub trait Simd: Copy {
    /// The vector type.
    type V: Copy;
    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::V;
    /// Eight numbers.
    unsafe fn load(p: *const f32) -> Self::V;
    /// Writes eight numbers.
    unsafe fn store(p: *mut f32, v: Self::V);
    /// The first `n < 8` lanes; the others are 0.
    unsafe fn load_n(p: *const f32, n: usize) -> Self::V;
    /// Writes the first `n < 8` lanes.
    unsafe fn store_n(p: *mut f32, v: Self::V, n: usize);
    /// `a + b`.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// Square root, correctly rounded.
    unsafe fn sqrt(a: Self::V) -> Self::V;
    /// Larger; the second where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// Smaller; the second where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a * b + c` on one number, rounded as [`Simd::fma`] rounds a lane.
    unsafe fn fma1(a: f32, b: f32, c: f32) -> f32;
    /// Sum of the lanes: `((0+4)+(2+6)) + ((1+5)+(3+7))`.
    unsafe fn sum(a: Self::V) -> f32;
    /// Lane sums of four vectors.
    unsafe fn sum4(a: Self::V, b: Self::V, c: Self::V, d: Self::V) -> [f32; 4];
    /// `2^k` for integral `k` in `-126..=127`.
    unsafe fn exp2i(k: Self::V) -> Self::V;
    /// Nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// Asks for the cache line at `p`; never faults.
    unsafe fn prefetch(p: *const f32);
    /// Turns eight rows of eight into eight columns.
    unsafe fn transpose(rows: &mut [Self::V; LANES]);
    /// Number of lanes where `a < b` is false (so that a NaN counts).
    unsafe fn count_not_less(a: Self::V, b: Self::V) -> u32;

    /// `e^a`, relative error below 3e-7 between -87.3 and 88; arguments beyond are taken as
    /// these (so e^-87.3, about 1e-38, is the least).
    #[inline(always)]
    unsafe fn exp(a: Self::V) -> Self::V {
        unsafe {
            let x = Self::min(Self::max(a, Self::splat(-87.3)), Self::splat(88.0));
            let k = Self::round(Self::mul(x, Self::splat(std::f32::consts::LOG2_E)));
            let r = Self::fma(k, Self::splat(-0.693_359_4), x);
            let r = Self::fma(k, Self::splat(2.121_944_4e-4), r);
            let mut p = Self::splat(1.987_569_1e-4);
            for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
                p = Self::fma(p, r, Self::splat(c));
            }
            let e = Self::add(Self::fma(p, Self::mul(r, r), r), Self::splat(1.0));
            Self::mul(e, Self::exp2i(k))
        }
    }
}

/// Loads [`LANES`] numbers, or the first `n` where `TAIL`.
///
/// # Safety
/// `p` is valid for the lanes read.
#[inline(always)]
pub unsafe fn load<S: Simd, const TAIL: bool>(p: *const f32, n: usize) -> S::V {
    unsafe { if TAIL { S::load_n(p, n) } else { S::load(p) } }
}

/// Stores [`LANES`] numbers, or the first `n` where `TAIL`.
///
/// # Safety
/// `p` is valid for the lanes written.
#[inline(always)]
pub unsafe fn store<S: Simd, const TAIL: bool>(p: *mut f32, v: S::V, n: usize) {
    unsafe { if TAIL { S::store_n(p, v, n) } else { S::store(p, v) } }
}

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

impl Simd for Portable {
    type V = [f32; LANES];
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        unsafe { p.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f32, n: usize) -> Self::V {
        let mut out = [0f32; LANES];
        for (i, o) in out.iter_mut().enumerate().take(n) {
            *o = unsafe { *p.add(i) };
        }
        out
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut f32, v: Self::V, n: usize) {
        for (i, x) in v.iter().enumerate().take(n) {
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
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(a, b, |x: f32, y: f32| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(a, b, |x: f32, y: f32| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        let mut out = [0f32; LANES];
        for i in 0..LANES {
            out[i] = unsafe { Self::fma1(a[i], b[i], c[i]) };
        }
        out
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
        unsafe { [Self::sum(a), Self::sum(b), Self::sum(c), Self::sum(d)] }
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
    unsafe fn prefetch(_: *const f32) {}
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

/// AVX2 with fused multiply-add.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Avx2;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Avx2, Simd};
    use std::arch::x86_64::*;

    /// `MASKS[8 - n..]` has `n` leading lanes set.
    static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

    #[inline(always)]
    unsafe fn mask(n: usize) -> __m256i {
        debug_assert!(n <= 8);
        unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(8 - n).cast()) }
    }

    /// Sum of the two halves. A function and not a closure: a closure would not take the caller's instruction set.
    #[inline(always)]
    unsafe fn fold(v: __m256) -> __m128 {
        unsafe { _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v)) }
    }

    impl Simd for Avx2 {
        type V = __m256;
        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m256) {
            unsafe { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn load_n(p: *const f32, n: usize) -> __m256 {
            unsafe { _mm256_maskload_ps(p, mask(n)) }
        }
        #[inline(always)]
        unsafe fn store_n(p: *mut f32, v: __m256, n: usize) {
            unsafe { _mm256_maskstore_ps(p, mask(n), v) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sqrt(a: __m256) -> __m256 {
            unsafe { _mm256_sqrt_ps(a) }
        }
        #[inline(always)]
        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn fma1(a: f32, b: f32, c: f32) -> f32 {
            unsafe { _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c))) }
        }
        #[inline(always)]
        unsafe fn sum(a: __m256) -> f32 {
            unsafe {
                let x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
                let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
                _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
            }
        }
        #[inline(always)]
        unsafe fn sum4(a: __m256, b: __m256, c: __m256, d: __m256) -> [f32; 4] {
            unsafe {
                // Fold the halves first: the order of `sum`, for four vectors with six shuffles.
                let (a, b, c, d) = (fold(a), fold(b), fold(c), fold(d));
                // Lanes 0,1 hold the even and odd partial sums of each.
                let ab = _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
                let cd = _mm_add_ps(_mm_movelh_ps(c, d), _mm_movehl_ps(d, c));
                let even = _mm_shuffle_ps::<0b10_00_10_00>(ab, cd);
                let odd = _mm_shuffle_ps::<0b11_01_11_01>(ab, cd);
                let mut out = [0f32; 4];
                _mm_storeu_ps(out.as_mut_ptr(), _mm_add_ps(even, odd));
                out
            }
        }
        #[inline(always)]
        unsafe fn exp2i(k: __m256) -> __m256 {
            unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(k), _mm256_set1_epi32(127)))) }
        }
        #[inline(always)]
        unsafe fn round(a: __m256) -> __m256 {
            unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
        }
        #[inline(always)]
        unsafe fn prefetch(p: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        }
        #[inline(always)]
        unsafe fn transpose(r: &mut [__m256; 8]) {
            unsafe {
                // Pairs, then fours, inside the halves; then the halves change places.
                let mut a = *r;
                for i in 0..4 {
                    a[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                    a[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
                }
                let mut b = a;
                for i in 0..2 {
                    let (w, x, y, z) = (a[4 * i], a[4 * i + 2], a[4 * i + 1], a[4 * i + 3]);
                    b[4 * i] = _mm256_shuffle_ps::<0b01_00_01_00>(w, x);
                    b[4 * i + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(w, x);
                    b[4 * i + 2] = _mm256_shuffle_ps::<0b01_00_01_00>(y, z);
                    b[4 * i + 3] = _mm256_shuffle_ps::<0b11_10_11_10>(y, z);
                }
                for i in 0..4 {
                    r[i] = _mm256_permute2f128_ps::<0x20>(b[i], b[i + 4]);
                    r[i + 4] = _mm256_permute2f128_ps::<0x31>(b[i], b[i + 4]);
                }
            }
        }
        #[inline(always)]
        unsafe fn count_not_less(a: __m256, b: __m256) -> u32 {
            unsafe { (_mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(a, b)) as u32).count_ones() }
        }
    }
}

/// Defines `pub fn $name(args)`: a safe-to-dispatch wrapper that runs the generic kernel `$kernel::<S>` at the best level.
/// The wrapper is `unsafe` where the kernel is: its pointers must be valid.
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $kernel:ident) => {
        $(#[$meta])*
        #[inline]
        $vis unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                    unsafe { $kernel::<$crate::backend::cpu::simd::Avx2>($($arg),*) }
                }
                if $crate::backend::cpu::simd::Level::detect() == $crate::backend::cpu::simd::Level::Avx2 {
                    return unsafe { avx2($($arg),*) };
                }
            }
            unsafe { $kernel::<$crate::backend::cpu::simd::Portable>($($arg),*) }
        }
    };
}
pub(crate) use dispatch;
