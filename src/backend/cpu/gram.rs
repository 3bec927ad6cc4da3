//! Inner products of many long vectors with each other.

use super::gemm::{GradSink, linear_weight_span};
use super::spread::Shared;
use crate::base::parallel;

/// Coordinates that are taken at a time: those of all vectors stay in the second cache.
const PANEL: usize = 256;

/// Vectors whose products one task takes.
const SPAN: usize = 96;

/// Inner products `[n, n]` of `vectors`, `n` of equal lengths. Each is one chain of fused multiply-adds for each [`PANEL`], so that threads change no
/// bit.
///
/// # Panics
/// Where lengths differ.
pub fn gram(vectors: &[&[f32]], threads: usize) -> Vec<f32> {
    let n = vectors.len();
    let length = vectors.first().map_or(0, |v| v.len());
    assert!(vectors.iter().all(|v| v.len() == length), "vectors of equal lengths");
    let mut products = vec![0f32; n * n];
    let mut panel = Vec::with_capacity(PANEL * n);
    let mut states = vec![(); threads.max(1)];
    for from in (0..length).step_by(PANEL) {
        let coordinates = from..(from + PANEL).min(length);
        panel.clear();
        panel.extend(coordinates.clone().flat_map(|k| vectors.iter().map(move |v| v[k])));
        let (x, out) = (Shared::new(panel.as_ptr()), Shared::new(products.as_mut_ptr()));
        parallel::for_each(&mut states, n.div_ceil(SPAN), 1, |(), span| {
            let (lo, hi) = (span * SPAN, n.min((span + 1) * SPAN));
            // SAFETY: the panel holds the coordinates of all vectors; spans write to rows of their own.
            unsafe { linear_weight_span(coordinates.len(), n, n, lo, hi, x.get(), x.get(), GradSink::Add(out.get())) };
        });
    }
    products
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, Stream};

    #[test]
    fn products_are_those_of_a_loop_for_any_number_of_threads() {
        for (n, length) in [(1, 1), (7, 300), (100, 33), (130, 600)] {
            let mut stream = Stream::new(1, Purpose::Bench, n as u64, 0);
            let values: Vec<Vec<f32>> = (0..n).map(|_| (0..length).map(|_| stream.normal()).collect()).collect();
            let vectors: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
            let found = gram(&vectors, 1);
            assert_eq!(found, gram(&vectors, 3));
            for (i, a) in vectors.iter().enumerate() {
                for (j, b) in vectors.iter().enumerate() {
                    let want: f64 = a.iter().zip(*b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    assert!((f64::from(found[i * n + j]) - want).abs() < 1e-3, "{n} {i} {j}");
                }
            }
        }
        assert!(gram(&[], 2).is_empty());
    }
}
