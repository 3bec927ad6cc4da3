//! Local optimisers over spans of weights, and the gradient norm.

use super::simd::{LANES, Simd, Vector, dispatch, load, store};
use crate::backend::LocalStep;
use crate::config::LocalSettings;
use smallvec::SmallVec;

/// One step of the optimiser: [`LocalStep`] but its pull, which [`Worker::end_step`](super::Worker::end_step) makes behind it.
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    by: LocalStep,
    /// Factor on the gradient, below 1 where the norm was clipped.
    scale: f32,
    /// Neither weight decay nor a clipped norm: the gradient is taken as it is.
    as_is: bool,
    /// Moments are taken as zero and not read.
    first: bool,
    /// Last step of a visit: moments are not written back.
    last: bool,
}

impl AdamStep {
    /// Step number `t` (from 1) of `total` in a visit; gradients are multiplied by `scale`.
    pub fn new(settings: &LocalSettings, t: u32, total: u32, scale: f32) -> AdamStep {
        let by = LocalStep::new(settings, t);
        let as_is = by.l2 == 0.0 && by.shrink == 1.0 && scale == 1.0;
        AdamStep { by, scale, as_is, first: by.first, last: t == total }
    }

    /// Whether moments begin with this step.
    pub fn begins(&self) -> bool {
        self.first
    }

    /// Whether moments are written or read.
    pub fn has_moments(&self) -> bool {
        !self.by.sgd
    }

    /// See [`LocalStep::pull`].
    pub fn pull(&self) -> f32 {
        self.by.pull
    }

    /// The same step with moments always read and written: for weights that some steps of a visit do not reach.
    pub fn with_stored_moments(self) -> AdamStep {
        AdamStep { first: false, last: false, ..self }
    }

    /// The same step without the short cut for gradients that are taken as they are.
    #[cfg(test)]
    pub fn by_the_whole_formula(self) -> AdamStep {
        AdamStep { as_is: false, ..self }
    }

    /// One vector of weights: reads and writes `p`, `m`, `s` at the pointers (`n` lanes where `TAIL`).
    ///
    /// # Safety
    /// The pointers are valid for the lanes.
    #[inline(always)]
    pub unsafe fn apply<S: Vector, const TAIL: bool>(&self, p: *mut f32, m: *mut f32, s: *mut f32, g: S::V, n: usize) {
        // SAFETY: the caller's promise: all pointers are valid for the lanes.
        unsafe {
            let w = load::<S, TAIL>(p, n);
            let (g, w) = match self.as_is {
                true => (g, w),
                false => (S::fma(w, S::splat(self.by.l2), S::mul(g, S::splat(self.scale))), S::mul(w, S::splat(self.by.shrink))),
            };
            if self.by.sgd {
                store::<S, TAIL>(p, S::fma(S::splat(-self.by.rate), g, w), n);
                return;
            }
            let (m0, s0) = if self.first { (S::splat(0.0), S::splat(0.0)) } else { (load::<S, TAIL>(m, n), load::<S, TAIL>(s, n)) };
            let m1 = S::fma(S::splat(self.by.beta1), m0, S::mul(S::splat(1.0 - self.by.beta1), g));
            let s1 = S::fma(S::splat(self.by.beta2), s0, S::mul(S::mul(S::splat(1.0 - self.by.beta2), g), g));
            if !self.last {
                store::<S, TAIL>(m, m1, n);
                store::<S, TAIL>(s, s1, n);
            }
            let den = S::fma(S::sqrt(s1), S::splat(self.by.correction), S::splat(self.by.eps));
            store::<S, TAIL>(p, S::sub(w, S::div(S::mul(S::splat(self.by.rate), m1), den)), n);
        }
    }
}

/// Takes weights `p [n]` the share `pull` of the way back to `start [n]`.
pub fn pull_back(p: &mut [f32], start: &[f32], pull: f32) {
    p.iter_mut().zip(start).for_each(|(p, start)| *p = pull.mul_add(start - *p, *p));
}

dispatch! {
    /// One optimiser step over a span of `n` weights with stored gradients.
    ///
    /// # Safety
    /// Every pointer is valid for `n` numbers.
    pub unsafe fn adam_span(n: usize, p: *mut f32, m: *mut f32, s: *mut f32, g: *const f32, step: &AdamStep) = wide adam_kernel
}

#[inline(always)]
unsafe fn adam_kernel<S: Vector>(n: usize, p: *mut f32, m: *mut f32, s: *mut f32, g: *const f32, step: &AdamStep) {
    // SAFETY: the caller's promise: all pointers are valid for the lanes.
    unsafe {
        let step = *step;
        let mut i = 0;
        while i + S::WIDTH <= n {
            step.apply::<S, false>(p.add(i), m.add(i), s.add(i), S::load(g.add(i)), S::WIDTH);
            i += S::WIDTH;
        }
        if i < n {
            let k = n - i;
            step.apply::<S, true>(p.add(i), m.add(i), s.add(i), S::load_n(g.add(i), k), k);
        }
    }
}

/// Sum of squares in f64. Number `i` of the whole eights is added to sum `i % 8`, in index order; the eight sums and then the rest follow. A square of an
/// f32 is exact in f64, so every instruction set gives the same bits.
pub fn sum_of_squares(values: &[f32]) -> f64 {
    sums_of_squares(std::iter::once(values))[0]
}

/// [`sum_of_squares`] of each of `spans`. Two spans are read at a time: an addition waits for the one before it, and those of another span fill the wait.
pub fn sums_of_squares<'s>(mut spans: impl Iterator<Item = &'s [f32]>) -> SmallVec<[f64; 32]> {
    let (mut sums, mut open) = (SmallVec::new(), SmallVec::<[Squares; 2]>::new());
    loop {
        while open.len() < 2
            && let Some(rest) = spans.next()
        {
            open.push(Squares { span: sums.len(), rest, parts: [0.0; LANES] });
            sums.push(0.0);
        }
        let Some(eights) = open.iter().map(|squares| squares.rest.len() / LANES).min() else { return sums };
        // SAFETY: `eights` is the least of what the spans have left.
        unsafe { add_squares(eights, &mut open) };
        open.retain(|squares| {
            let more = squares.rest.len() >= LANES;
            if !more {
                sums[squares.span] = squares.total();
            }
            more
        });
    }
}

/// A span whose squares are being added up.
struct Squares<'s> {
    span: usize,
    /// What is still to be added.
    rest: &'s [f32],
    parts: [f64; LANES],
}

impl Squares<'_> {
    fn total(&self) -> f64 {
        let tail: f64 = self.rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        self.parts.iter().sum::<f64>() + tail
    }
}

dispatch! {
    /// Adds the squares of the next `eights` times eight numbers of each of one or two spans.
    ///
    /// # Safety
    /// Each span has as many left.
    unsafe fn add_squares(eights: usize, open: &mut [Squares]) = add_squares_kernel
}

#[inline(always)]
unsafe fn add_squares_kernel<S: Simd>(eights: usize, open: &mut [Squares]) {
    // SAFETY: the caller's promise.
    unsafe {
        match open {
            [a, b] => add_squares_of::<S, 2>(eights, [a, b]),
            [a] => add_squares_of::<S, 1>(eights, [a]),
            _ => unreachable!("one span or two"),
        }
    }
}

#[inline(always)]
unsafe fn add_squares_of<S: Simd, const N: usize>(eights: usize, open: [&mut Squares; N]) {
    let mut parts: [_; N] = std::array::from_fn(|k| open[k].parts);
    let from: [_; N] = std::array::from_fn(|k| open[k].rest.as_ptr());
    for i in 0..eights {
        for k in 0..N {
            // SAFETY: the caller promises at least `eights` vectors in each span.
            unsafe { S::add_squares(&mut parts[k], S::load(from[k].add(LANES * i))) };
        }
    }
    for (squares, parts) in open.into_iter().zip(parts) {
        squares.parts = parts;
        squares.rest = &squares.rest[LANES * eights..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::Portable;

    /// The order that the documentation of [`sum_of_squares`] names, number by number.
    fn in_order(values: &[f32]) -> f64 {
        let (whole, rest) = values.as_chunks::<LANES>();
        let mut parts = [0f64; LANES];
        for eight in whole {
            parts.iter_mut().zip(eight).for_each(|(part, &x)| *part += f64::from(x).powi(2));
        }
        parts.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>()
    }

    #[test]
    fn squares_are_added_in_one_order_whatever_is_read_beside_them() {
        let values: Vec<f32> = (0..3000).map(|i| (i as f32 * 0.7).sin() * 10f32.powi(i % 30 - 20)).collect();
        let lengths = [1700, 64, 0, 7, 8, 900, 33, 1, 64, 200];
        for count in 0..=lengths.len() {
            let mut left = &values[..];
            let spans: Vec<&[f32]> = lengths[..count].iter().map(|&n| left.split_off(..n).expect("enough numbers")).collect();
            let sums = sums_of_squares(spans.iter().copied());
            assert_eq!(sums.as_slice(), spans.iter().map(|span| in_order(span)).collect::<Vec<_>>());
        }
        let (mut got, mut plain) =
            (Squares { span: 0, rest: &values, parts: [0.5; LANES] }, Squares { span: 0, rest: &values, parts: [0.5; LANES] });
        // SAFETY: both have 3,000 numbers; plain arrays need no instructions.
        unsafe {
            add_squares(300, std::slice::from_mut(&mut got));
            add_squares_of::<Portable, 1>(300, [&mut plain]);
        }
        assert_eq!((got.parts, got.rest), (plain.parts, plain.rest));
    }
}
