//! Sums of updates in 64-bit fixed point. Integer addition has no order, so a sum is the same for any number of threads,
//! chunks, devices or nodes, and a number that is not finite or too large cannot enter unseen.

use crate::{Error, Result};

/// Steps of the fixed point in 1.0.
pub const SCALE: f64 = 4_294_967_296.0;
/// Largest magnitude of one weight's change in one visit.
pub const LIMIT: f32 = 256.0;
/// Largest total weight of a round: beyond it a sum of changes at the limit could overflow.
pub const MAX_WEIGHT: u64 = 1 << 22;

/// Adds `weight * (after - before)` to `sums`. Returns false, with `sums` unusable, if any change is not finite or
/// exceeds [`LIMIT`]. Rounds to nearest, ties to even.
#[must_use]
pub fn add_change(sums: &mut [i64], before: &[f32], after: &[f32], weight: i64) -> bool {
    assert!(sums.len() == before.len() && sums.len() == after.len());
    if weight == 1 { add::<false>(sums, before, after, 1) } else { add::<true>(sums, before, after, weight) }
}

/// [`add_change`] of changes that are there as values.
#[must_use]
pub fn add_values(sums: &mut [i64], values: &[f32], weight: i64) -> bool {
    assert_eq!(sums.len(), values.len());
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2(sums: &mut [i64], values: &[f32], weight: i64) -> bool {
            if weight == 1 { values_body::<false>(sums, values, 1) } else { values_body::<true>(sums, values, weight) }
        }
        use crate::backend::cpu::simd::Level;
        if Level::detect() >= Level::Avx2 {
            // SAFETY: the processor has the instructions.
            return unsafe { avx2(sums, values, weight) };
        }
    }
    values_body::<true>(sums, values, weight)
}

#[inline(always)]
fn values_body<const WEIGHTED: bool>(sums: &mut [i64], values: &[f32], weight: i64) -> bool {
    let mut fine = true;
    for (sum, &value) in sums.iter_mut().zip(values) {
        fine &= value.abs() <= LIMIT;
        let fixed = to_fixed(value);
        *sum = sum.wrapping_add(if WEIGHTED { fixed.wrapping_mul(weight) } else { fixed });
    }
    fine
}

/// Steps in 1.0 of a gradient: gradients are far smaller than changes, and an optimiser divides by their size.
pub const GRADIENT_SCALE: f64 = 1_099_511_627_776.0;

/// Adds `share * gradient` to `sums` in steps of 1 / [`GRADIENT_SCALE`]. Returns false, with `sums` unusable, if any of it is not finite or
/// exceeds [`LIMIT`]. Up to 2^14 gradients can be added.
#[must_use]
pub fn add_gradient(sums: &mut [i64], gradient: &[f32], share: f32) -> bool {
    assert_eq!(sums.len(), gradient.len());
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2(sums: &mut [i64], gradient: &[f32], share: f32) -> bool {
            gradient_body(sums, gradient, share)
        }
        use crate::backend::cpu::simd::Level;
        if Level::detect() >= Level::Avx2 {
            // SAFETY: the processor has the instructions.
            return unsafe { avx2(sums, gradient, share) };
        }
    }
    gradient_body(sums, gradient, share)
}

#[inline(always)]
fn gradient_body(sums: &mut [i64], gradient: &[f32], share: f32) -> bool {
    let mut fine = true;
    for (sum, &g) in sums.iter_mut().zip(gradient) {
        let g = share * g;
        fine &= g.abs() <= LIMIT;
        let fixed = (f64::from(g) * GRADIENT_SCALE + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i64;
        *sum = sum.wrapping_add(fixed);
    }
    fine
}

/// The gradient that a sum stands for.
pub fn to_gradient(sum: i64) -> f32 {
    (sum as f64 / GRADIENT_SCALE) as f32
}

/// Rounds to nearest, ties to even.
#[inline(always)]
fn to_fixed(change: f32) -> i64 {
    (f64::from(change) * SCALE + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i64
}

/// Adding 1.5 * 2^52 leaves the rounded integer in the low bits of a double: a conversion that vectorises everywhere.
const MAGIC: f64 = 6_755_399_441_055_744.0;

#[inline]
fn add<const WEIGHTED: bool>(sums: &mut [i64], before: &[f32], after: &[f32], weight: i64) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2<const W: bool>(sums: &mut [i64], before: &[f32], after: &[f32], weight: i64) -> bool {
            body::<W>(sums, before, after, weight)
        }
        #[target_feature(enable = "avx512f,avx2,fma")]
        unsafe fn avx512<const W: bool>(sums: &mut [i64], before: &[f32], after: &[f32], weight: i64) -> bool {
            body::<W>(sums, before, after, weight)
        }
        use crate::backend::cpu::simd::Level;
        match Level::detect() {
            // SAFETY: the processor has the instructions.
            Level::Avx512 => return unsafe { avx512::<WEIGHTED>(sums, before, after, weight) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { avx2::<WEIGHTED>(sums, before, after, weight) },
            Level::Portable => {}
        }
    }
    body::<WEIGHTED>(sums, before, after, weight)
}

#[inline(always)]
fn body<const WEIGHTED: bool>(sums: &mut [i64], before: &[f32], after: &[f32], weight: i64) -> bool {
    let mut fine = true;
    for ((s, &b), &a) in sums.iter_mut().zip(before).zip(after) {
        let change = a - b;
        fine &= change.abs() <= LIMIT;
        let fixed = to_fixed(change);
        *s = s.wrapping_add(if WEIGHTED { fixed.wrapping_mul(weight) } else { fixed });
    }
    fine
}

/// The number that a sum stands for.
pub fn to_f64(sum: i64) -> f64 {
    sum as f64 / SCALE
}

/// What is said of a client whose change [`add_change`] refuses, with its mean losses.
pub fn diverged(next_item: f64, contrast: f64) -> String {
    format!(
        "the client's change is not finite or exceeds {LIMIT} (mean next-item loss {next_item:.4}, contrast {contrast:.4}); lower local.lr, \
         raise loss.tau or set local.clip"
    )
}

/// Refuses a round whose clients weigh too much together.
pub fn check_weight(total: i64) -> Result<()> {
    if total as u64 <= MAX_WEIGHT {
        return Ok(());
    }
    let message = format!("the round's total weight {total} exceeds {MAX_WEIGHT}; use `equal` or a smaller cohort");
    Err(Error::setting("federation.weights", message))
}

/// A loss or other statistic in the same fixed point; saturates.
pub fn from_f64(x: f64) -> i64 {
    (x * SCALE).round_ties_even() as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn conversion_is_exact_to_half_a_step(before in -4f32..4.0, change in -200f32..200.0, weight in 1i64..1000) {
            let after = before + change;
            let mut sums = [7i64; 3];
            prop_assert!(add_change(&mut sums, &[before; 3], &[after; 3], weight));
            let exact = f64::from(after - before) * SCALE;
            for s in sums {
                prop_assert!(((s - 7) as f64 / weight as f64 - exact).abs() <= 0.5);
            }
        }

        #[test]
        fn order_does_not_matter(mut changes in prop::collection::vec(-1f32..1.0, 1..50), seed in any::<u64>()) {
            let sum = |c: &[f32]| {
                let mut s = [0i64];
                for &x in c { assert!(add_change(&mut s, &[0.0], &[x], 1)); }
                s[0]
            };
            let forward = sum(&changes);
            crate::base::rng::Stream::new(seed, crate::base::rng::Purpose::Bench, 0, 0).shuffle(&mut changes);
            prop_assert_eq!(forward, sum(&changes));
        }
    }

    proptest! {
        #[test]
        fn gradients_are_exact_to_half_a_step(g in -2f32..2.0, share in 0.01f32..1.0) {
            let mut sums = [3i64; 5];
            prop_assert!(add_gradient(&mut sums, &[g; 5], share));
            for s in sums {
                prop_assert!(((s - 3) as f64 - f64::from(share * g) * GRADIENT_SCALE).abs() <= 0.5);
                prop_assert!((to_gradient(s - 3) - share * g).abs() <= 1e-12 + f32::EPSILON * g.abs());
            }
        }
    }

    #[test]
    fn gradients_that_are_not_finite_or_too_large_are_seen() {
        for bad in [f32::NAN, f32::INFINITY, -300.0] {
            for at in 0..9 {
                let mut g = [0.1f32; 9];
                g[at] = bad;
                assert!(!add_gradient(&mut [0; 9], &g, 1.0), "{bad} at {at}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_or_too_large_is_seen() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 300.0, -300.0] {
            for at in 0..17 {
                let mut after = [0.5f32; 17];
                after[at] = bad;
                assert!(!add_change(&mut [0; 17], &[0.0; 17], &after, 1), "{bad} at {at}");
            }
        }
    }

    #[test]
    fn the_largest_round_cannot_overflow() {
        assert!(MAX_WEIGHT as f64 * f64::from(LIMIT) * SCALE <= i64::MAX as f64);
    }
}
