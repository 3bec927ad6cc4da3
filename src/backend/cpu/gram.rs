//! Inner products of many long vectors with each other.

use super::gemm::{GradSink, linear_weight_span};
use crate::base::parallel;
use parking_lot::Mutex;

/// Coordinates that are taken at a time: those of all vectors stay in the second cache.
const PANEL: usize = 256;

/// Vectors whose products one task takes.
const SPAN: usize = 96;

/// Inner products `[n, n]` of `vectors`, `n` of equal lengths. Each is one chain of fused multiply-adds for each `PANEL`, so that threads change no
/// bit. Each pair is multiplied once.
///
/// # Panics
/// Where lengths differ.
pub fn gram(vectors: &[&[f32]], threads: usize) -> Vec<f32> {
    let n = vectors.len();
    let length = vectors.first().map_or(0, |v| v.len());
    assert!(vectors.iter().all(|v| v.len() == length), "vectors of equal lengths");
    // The products of the vectors of a span with those from its first one on `[span, n - first]`.
    let mut spans: Vec<Vec<f32>> = (0..n).step_by(SPAN).map(|lo| vec![0f32; (n - lo).min(SPAN) * (n - lo)]).collect();
    let mut states: Vec<[Vec<f32>; 2]> = (0..threads.max(1)).map(|_| Default::default()).collect();
    for from in (0..length).step_by(PANEL) {
        let coordinates = from..(from + PANEL).min(length);
        let outputs: Vec<Mutex<&mut Vec<f32>>> = spans.iter_mut().map(Mutex::new).collect();
        parallel::for_each(&mut states, outputs.len(), 1, |[own, rest], span| {
            let lo = span * SPAN;
            let count = (n - lo).min(SPAN);
            for (panel, columns) in [(&mut *own, lo..lo + count), (&mut *rest, lo..n)] {
                panel.clear();
                panel.extend(coordinates.clone().flat_map(|k| vectors[columns.clone()].iter().map(move |v| v[k])));
            }
            let mut out = outputs[span].lock();
            let sink = GradSink::Add(out.as_mut_ptr());
            // SAFETY: the panels hold the coordinates of the span's vectors and of those from its first one on; the output has a place for each pair.
            unsafe { linear_weight_span(coordinates.len(), count, n - lo, 0, count, own.as_ptr(), rest.as_ptr(), sink) };
        });
    }
    let mut products = vec![0f32; n * n];
    for (span, out) in spans.iter().enumerate() {
        let lo = span * SPAN;
        for (i, row) in out.chunks_exact(n - lo).enumerate() {
            for (j, &product) in row.iter().enumerate() {
                products[(lo + i) * n + lo + j] = product;
                products[(lo + j) * n + lo + i] = product;
            }
        }
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
