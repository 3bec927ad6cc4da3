//! Numbers that the reference computes with: f64 for what is right, f32 for what a plain program would get.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub};

/// A floating-point number.
pub trait Real:
    Copy
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + MulAssign
    + Sum
    + 'static
{
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// Below every number.
    const LEAST: Self;
    /// The number itself, or the nearest to it.
    fn of(x: f64) -> Self;
    /// The number as f64.
    fn wide(self) -> f64;
    /// The exponential.
    fn exp(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// `ln(1 + x)`.
    fn ln_1p(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// The hyperbolic tangent.
    fn tanh(self) -> Self;
    /// The magnitude.
    fn abs(self) -> Self;
    /// The greater of two.
    fn max(self, other: Self) -> Self;
}

macro_rules! real {
    ($($t:ty),*) => { $(
        #[allow(clippy::unnecessary_cast)]
        impl Real for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LEAST: Self = <$t>::NEG_INFINITY;
            fn of(x: f64) -> Self {
                x as $t
            }
            fn wide(self) -> f64 {
                self as f64
            }
            fn exp(self) -> Self {
                self.exp()
            }
            fn ln(self) -> Self {
                self.ln()
            }
            fn ln_1p(self) -> Self {
                self.ln_1p()
            }
            fn sqrt(self) -> Self {
                self.sqrt()
            }
            fn tanh(self) -> Self {
                self.tanh()
            }
            fn abs(self) -> Self {
                self.abs()
            }
            fn max(self, other: Self) -> Self {
                self.max(other)
            }
        }
    )* };
}
real!(f32, f64);

/// `1 / (1 + e^-x)`.
pub fn sigmoid<R: Real>(x: R) -> R {
    R::ONE / (R::ONE + (-x).exp())
}

/// `ln(1 + e^x)`.
pub fn softplus<R: Real>(x: R) -> R {
    x.max(R::ZERO) + (-x.abs()).exp().ln_1p()
}

/// Inner product.
pub fn inner<R: Real>(a: &[R], b: &[R]) -> R {
    a.iter().zip(b).map(|(&a, &b)| a * b).sum()
}

/// Log of the sum of exponentials.
pub fn log_sum<R: Real>(scores: &[R]) -> R {
    let top = scores.iter().fold(R::LEAST, |a, &b| a.max(b));
    top + scores.iter().map(|&s| (s - top).exp()).sum::<R>().ln()
}

/// Gelu in its tanh form, and its derivative.
pub fn gelu<R: Real>(x: R) -> (R, R) {
    let (half, cube) = (R::of(0.5), R::of(0.044715));
    let root = R::of(2.0 / std::f64::consts::PI).sqrt();
    let t = (root * (x + cube * x * x * x)).tanh();
    (half * x * (R::ONE + t), half * (R::ONE + t) + half * x * (R::ONE - t * t) * root * (R::ONE + R::of(3.0) * cube * x * x))
}
