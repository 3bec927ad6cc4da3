//! The rounding that tensor cores apply to their operands.

use crate::config::Precision;

/// `v` with the mantissa of `precision`: TF32 keeps ten bits and rounds ties away from zero, bfloat16 keeps seven and rounds ties to
/// even.
pub fn rounded(precision: Precision, v: f32) -> f32 {
    let bits = v.to_bits();
    if !v.is_finite() {
        return v;
    }
    match precision {
        Precision::Fp32 => v,
        Precision::Tf32 => f32::from_bits((bits + 0x1000) & 0xffff_e000),
        Precision::Bf16 => f32::from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff_0000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mantissas_and_ties() {
        let tick = |bits: i32| 2f32.powi(-bits);
        // Half of the last kept bit: away from zero in TF32, to even in bfloat16.
        assert_eq!(rounded(Precision::Tf32, 1.0 + tick(11)), 1.0 + tick(10));
        assert_eq!(rounded(Precision::Tf32, -1.0 - tick(12)), -1.0);
        assert_eq!(rounded(Precision::Bf16, 1.0 + tick(8)), 1.0);
        assert_eq!(rounded(Precision::Bf16, 1.0 + 3.0 * tick(8)), 1.0 + 2.0 * tick(7));
        assert_eq!(rounded(Precision::Bf16, 1.0 + tick(8) + tick(20)), 1.0 + tick(7));
        assert_eq!(rounded(Precision::Fp32, 1.0 + tick(20)), 1.0 + tick(20));
    }
}
