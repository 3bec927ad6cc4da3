//! AVX2 with fused multiply-add.

use super::{LANES, Simd, Vector};
use std::arch::x86_64::*;

/// AVX2 with fused multiply-add, eight lanes.
#[derive(Clone, Copy)]
pub struct Avx2;

/// `MASKS[8 - n..]` has `n` leading lanes set.
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
unsafe fn mask(n: usize) -> __m256i {
    debug_assert!(n <= 8);
    // SAFETY: eight words begin at each of the first nine places; the instructions are the caller's promise.
    unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(8 - n).cast()) }
}

/// Sum of the two halves. A function and not a closure: a closure would not take the caller's instruction set.
#[inline(always)]
unsafe fn fold(v: __m256) -> __m128 {
    // SAFETY: the caller's promise: the processor has the instructions.
    unsafe { _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v)) }
}

impl Vector for Avx2 {
    const WIDTH: usize = LANES;
    type V = __m256;
    by_contract! {
        unsafe fn splat(x: f32) -> __m256 {
            _mm256_set1_ps(x)
        }
        unsafe fn load(p: *const f32) -> __m256 {
            _mm256_loadu_ps(p)
        }
        unsafe fn store(p: *mut f32, v: __m256) {
            _mm256_storeu_ps(p, v)
        }
        unsafe fn load_n(p: *const f32, n: usize) -> __m256 {
            _mm256_maskload_ps(p, mask(n))
        }
        unsafe fn store_n(p: *mut f32, v: __m256, n: usize) {
            _mm256_maskstore_ps(p, mask(n), v)
        }
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            _mm256_add_ps(a, b)
        }
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            _mm256_sub_ps(a, b)
        }
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            _mm256_mul_ps(a, b)
        }
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            _mm256_div_ps(a, b)
        }
        unsafe fn sqrt(a: __m256) -> __m256 {
            _mm256_sqrt_ps(a)
        }
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            _mm256_fmadd_ps(a, b, c)
        }
        unsafe fn prefetch(p: *const f32) {
            _mm_prefetch::<_MM_HINT_T0>(p.cast())
        }
    }
}

impl Simd for Avx2 {
    by_contract! {
        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            _mm256_max_ps(a, b)
        }
        unsafe fn min(a: __m256, b: __m256) -> __m256 {
            _mm256_min_ps(a, b)
        }
        unsafe fn fma1(a: f32, b: f32, c: f32) -> f32 {
            _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)))
        }
        unsafe fn sum(a: __m256) -> f32 {
            let x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
        unsafe fn sum4(a: __m256, b: __m256, c: __m256, d: __m256) -> [f32; 4] {
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
        unsafe fn add_squares(sums: &mut [f64; 8], a: __m256) {
            let to = sums.as_mut_ptr();
            let (low, high) = (_mm256_cvtps_pd(_mm256_castps256_ps128(a)), _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(a)));
            // The product is exact. An addition alone waits less for the one before it than a fused one.
            _mm256_storeu_pd(to, _mm256_add_pd(_mm256_loadu_pd(to), _mm256_mul_pd(low, low)));
            _mm256_storeu_pd(to.add(4), _mm256_add_pd(_mm256_loadu_pd(to.add(4)), _mm256_mul_pd(high, high)));
        }
        unsafe fn exp2i(k: __m256) -> __m256 {
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(k), _mm256_set1_epi32(127))))
        }
        unsafe fn round(a: __m256) -> __m256 {
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
        }
        unsafe fn copysign(a: __m256, b: __m256) -> __m256 {
            let sign = _mm256_set1_ps(-0.0);
            _mm256_or_ps(_mm256_andnot_ps(sign, a), _mm256_and_ps(sign, b))
        }
        unsafe fn transpose(r: &mut [__m256; 8]) {
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
        unsafe fn count_not_less(a: __m256, b: __m256) -> u32 {
            (_mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(a, b)) as u32).count_ones()
        }
    }
}
