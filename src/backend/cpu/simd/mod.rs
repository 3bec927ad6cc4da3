//! Vectors of f32 with run-time dispatch: AVX-512 or AVX2 + FMA where the processor has them, plain arrays elsewhere (which the
//! compiler turns into NEON on aarch64). Kernels are written once: those that work number by number over [`Vector`], of any width,
//! those that add lanes up over [`Simd`], of eight.
//!
//! Every operation has the same order of additions at all levels; only fused multiply-add differs in rounding, so AVX-512 and AVX2
//! give the same bits.

/// Methods of a level. Each body may use the level's instructions and its pointers.
macro_rules! by_contract {
    ($($(#[$meta:meta])* unsafe fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => { $(
        $(#[$meta])*
        #[inline(always)]
        unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: the caller's promise: pointers are valid for the lanes, and the processor has the level's instructions.
            unsafe { $body }
        }
    )* };
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use portable::Portable;

/// Lanes of a vector of [`Simd`].
pub const LANES: usize = 8;

/// Instruction level found on this processor, the best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Whatever the target's baseline is.
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// The same with AVX-512F.
    Avx512,
}

impl Level {
    /// The best level of this processor. `LUMOS_SIMD=portable` or `avx2` asks for at most that one (to test it).
    pub fn detect() -> Level {
        static LEVEL: std::sync::OnceLock<Level> = std::sync::OnceLock::new();
        *LEVEL.get_or_init(|| {
            let most = match std::env::var("LUMOS_SIMD").as_deref() {
                Ok("portable") => Level::Portable,
                Ok("avx2") => Level::Avx2,
                _ => Level::Avx512,
            };
            Level::of_processor().min(most)
        })
    }

    fn of_processor() -> Level {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return if is_x86_feature_detected!("avx512f") { Level::Avx512 } else { Level::Avx2 };
        }
        Level::Portable
    }

    /// Name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Level::Avx512 => "avx512f",
            Level::Avx2 => "avx2+fma",
            Level::Portable => "portable",
        }
    }
}

/// Operations lane by lane on one vector of [`Vector::WIDTH`] numbers.
///
/// # Safety
/// Pointers must be valid for the lanes read or written, and the processor must have the level's instructions.
#[allow(clippy::missing_safety_doc)]
pub trait Vector: Copy {
    /// Lanes.
    const WIDTH: usize;
    /// The vector type.
    type V: Copy;
    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::V;
    /// As many numbers as there are lanes.
    unsafe fn load(p: *const f32) -> Self::V;
    /// Writes every lane.
    unsafe fn store(p: *mut f32, v: Self::V);
    /// The first `n <= WIDTH` lanes; the others are 0.
    unsafe fn load_n(p: *const f32, n: usize) -> Self::V;
    /// Writes the first `n <= WIDTH` lanes.
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
    /// `a * b + c`.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Asks for the cache line at `p`; never faults.
    unsafe fn prefetch(p: *const f32);
}

/// Further operations on one vector of [`LANES`] numbers.
///
/// # Safety
/// As [`Vector`].
#[allow(clippy::missing_safety_doc)]
pub trait Simd: Vector {
    /// Larger; the second where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// Smaller; the second where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c` on one number, rounded as [`Vector::fma`] rounds a lane.
    unsafe fn fma1(a: f32, b: f32, c: f32) -> f32;
    /// Sum of the lanes: `((0+4)+(2+6)) + ((1+5)+(3+7))`.
    unsafe fn sum(a: Self::V) -> f32;
    /// Lane sums of four vectors.
    unsafe fn sum4(a: Self::V, b: Self::V, c: Self::V, d: Self::V) -> [f32; 4];
    /// Adds the square of each lane to its sum.
    unsafe fn add_squares(sums: &mut [f64; LANES], a: Self::V);
    /// `2^k` for integral `k` in `-126..=127`.
    unsafe fn exp2i(k: Self::V) -> Self::V;
    /// Nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// The magnitude of `a` with the sign of `b`.
    unsafe fn copysign(a: Self::V, b: Self::V) -> Self::V;
    /// Turns eight rows of eight into eight columns.
    unsafe fn transpose(rows: &mut [Self::V; LANES]);
    /// Number of lanes where `a < b` is false (so that a NaN counts).
    unsafe fn count_not_less(a: Self::V, b: Self::V) -> u32;

    /// `e^a`, relative error below 3e-7 between -87.3 and 88; arguments beyond are taken as
    /// these (so e^-87.3, about 1e-38, is the least).
    #[inline(always)]
    unsafe fn exp(a: Self::V) -> Self::V {
        // SAFETY: the caller's promise: the processor has the level's instructions.
        unsafe {
            let x = Self::min(Self::max(a, Self::splat(-87.3)), Self::splat(88.0));
            let (q, scale) = Self::exp_parts(x);
            Self::mul(Self::add(q, Self::splat(1.0)), scale)
        }
    }

    /// `q` and `2^k` for `e^x = (1 + q) 2^k`, with `|q|` at most about 0.4, for `x` in `-87.3..=88`. A NaN gives a NaN.
    #[inline(always)]
    unsafe fn exp_parts(x: Self::V) -> (Self::V, Self::V) {
        // SAFETY: the caller's promise: the processor has the level's instructions.
        unsafe {
            let k = Self::round(Self::mul(x, Self::splat(std::f32::consts::LOG2_E)));
            let r = Self::fma(k, Self::splat(-0.693_359_4), x);
            let r = Self::fma(k, Self::splat(2.121_944_4e-4), r);
            let mut p = Self::splat(1.987_569_1e-4);
            for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
                p = Self::fma(p, r, Self::splat(c));
            }
            (Self::fma(p, Self::mul(r, r), r), Self::exp2i(k))
        }
    }

    /// `1 / (1 + e^-x)`, two units in the last place off at most; below -88 what it is there, 6e-39. A NaN stays one.
    #[inline(always)]
    unsafe fn sigmoid(x: Self::V) -> Self::V {
        // SAFETY: the caller's promise: the processor has the level's instructions.
        unsafe {
            let one = Self::splat(1.0);
            // The second of two is what comes of a comparison with a NaN.
            let x = Self::min(Self::splat(88.0), Self::max(Self::splat(-87.3), Self::sub(Self::splat(0.0), x)));
            let (q, scale) = Self::exp_parts(x);
            // In this order one of the two additions is exact or small beside the other, whatever the scale.
            Self::div(one, Self::add(scale, Self::fma(q, scale, one)))
        }
    }

    /// `tanh x`, two units in the last place off at most. A NaN stays one.
    #[inline(always)]
    unsafe fn tanh(x: Self::V) -> Self::V {
        // SAFETY: the caller's promise: the processor has the level's instructions.
        unsafe {
            // With e = e^-2|x|, from (1 + q) 2^k without adding the one: (e - 1) / (e + 1), which is exact for small x as well.
            let down = Self::copysign(Self::add(x, x), Self::splat(-1.0));
            let (q, scale) = Self::exp_parts(Self::max(Self::splat(-87.3), down));
            let less = Self::fma(q, scale, Self::sub(scale, Self::splat(1.0)));
            let more = Self::fma(q, scale, Self::add(scale, Self::splat(1.0)));
            Self::copysign(Self::div(less, more), x)
        }
    }
}

/// Asks for the cache lines of `values`.
#[inline]
pub fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for byte in (0..size_of_val(values)).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 processor has the instruction, and it never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().cast::<i8>().wrapping_add(byte)) };
    }
}

/// Loads a whole vector, or its first `n` lanes where `TAIL`.
///
/// # Safety
/// `p` is valid for the lanes read.
#[inline(always)]
pub unsafe fn load<S: Vector, const TAIL: bool>(p: *const f32, n: usize) -> S::V {
    // SAFETY: the caller's promise.
    unsafe { if TAIL { S::load_n(p, n) } else { S::load(p) } }
}

/// Stores a whole vector, or its first `n` lanes where `TAIL`.
///
/// # Safety
/// `p` is valid for the lanes written.
#[inline(always)]
pub unsafe fn store<S: Vector, const TAIL: bool>(p: *mut f32, v: S::V, n: usize) {
    // SAFETY: the caller's promise.
    unsafe { if TAIL { S::store_n(p, v, n) } else { S::store(p, v) } }
}

/// Defines `$name(args)`: runs the generic kernel `$kernel::<S>` at the best level with eight lanes. It is `unsafe` where the
/// kernel is: its pointers must be valid. With `wide` the kernel is one over [`Vector`] and takes sixteen lanes where it can.
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $kernel:ident) => {
        $crate::backend::cpu::simd::dispatch! { @ Avx2, $(#[$meta])* $vis unsafe fn $name($($arg: $ty),*) $(-> $ret)? = $kernel }
    };
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = wide $kernel:ident) => {
        $crate::backend::cpu::simd::dispatch! { @ Avx512, $(#[$meta])* $vis unsafe fn $name($($arg: $ty),*) $(-> $ret)? = $kernel }
    };
    (@ $best:ident, $(#[$meta:meta])* $vis:vis unsafe fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $kernel:ident) => {
        $(#[$meta])*
        #[inline]
        $vis unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::backend::cpu::simd::{self, Level};
                #[target_feature(enable = "avx512f,avx2,fma")]
                unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: the caller's promise; the instructions are this function's.
                    unsafe { $kernel::<simd::$best>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma")]
                unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: as above.
                    unsafe { $kernel::<simd::Avx2>($($arg),*) }
                }
                match Level::detect() {
                    // SAFETY: the caller's promise; the processor was found to have the instructions.
                    Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    Level::Avx2 => return unsafe { avx2($($arg),*) },
                    Level::Portable => {}
                }
            }
            // SAFETY: the caller's promise; plain arrays need no instructions.
            unsafe { $kernel::<$crate::backend::cpu::simd::Portable>($($arg),*) }
        }
    };
}
pub(crate) use dispatch;
