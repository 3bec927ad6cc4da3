//! A small network that tells from an item's row how popular the item is.

use crate::base::rng::Stream;

/// Widths of the inner layers and the classes.
const WIDTHS: [usize; 4] = [32, 16, 8, 3];

/// Layers of weights `[in, out]` and biases, with ReLU between them.
pub(super) struct Classifier {
    layers: Vec<Layer>,
}

struct Layer {
    weights: Vec<f32>,
    bias: Vec<f32>,
    /// Adam's moments of both.
    moments: [Vec<f32>; 4],
}

impl Classifier {
    /// Initial weights for rows of width `d`, drawn from `stream`.
    pub fn new(d: usize, stream: &mut Stream) -> Classifier {
        let mut inputs = d;
        let layers = WIDTHS.map(|out| {
            let deviation = (2.0 / inputs as f32).sqrt();
            let weights: Vec<f32> = (0..inputs * out).map(|_| deviation * stream.normal()).collect();
            let moments = [vec![0.0; weights.len()], vec![0.0; weights.len()], vec![0.0; out], vec![0.0; out]];
            inputs = out;
            Layer { weights, bias: vec![0.0; out], moments }
        });
        Classifier { layers: layers.into() }
    }

    /// What each layer gives, the input first; the last one holds logits.
    fn forward(&self, row: &[f32]) -> Vec<Vec<f32>> {
        let mut all = vec![row.to_vec()];
        for (i, layer) in self.layers.iter().enumerate() {
            let mut out = layer.bias.clone();
            let width = out.len();
            for (x, weights) in all[i].iter().zip(layer.weights.chunks_exact(width)) {
                out.iter_mut().zip(weights).for_each(|(o, w)| *o += x * w);
            }
            if i + 1 < self.layers.len() {
                out.iter_mut().for_each(|x| *x = x.max(0.0));
            }
            all.push(out);
        }
        all
    }

    /// The gradient of the cross-entropy with `class` by each layer's output, from the last to the input.
    fn backward(&self, all: &[Vec<f32>], class: usize, mut each: impl FnMut(usize, &[f32])) -> Vec<f32> {
        let mut gradient = softmax(&all[self.layers.len()]);
        gradient[class] -= 1.0;
        for (i, layer) in self.layers.iter().enumerate().rev() {
            each(i, &gradient);
            let below = layer.weights.chunks_exact(gradient.len());
            let mut next: Vec<f32> = below.map(|weights| weights.iter().zip(&gradient).map(|(w, g)| w * g).sum()).collect();
            if i > 0 {
                next.iter_mut().zip(&all[i]).for_each(|(g, x)| *g = if *x > 0.0 { *g } else { 0.0 });
            }
            gradient = next;
        }
        gradient
    }

    /// Gradient `[d]` of the cross-entropy of `row` with `class` by the row.
    pub fn gradient(&self, row: &[f32], class: usize) -> Vec<f32> {
        self.backward(&self.forward(row), class, |_, _| ())
    }

    /// Probability of `class`.
    #[cfg(test)]
    pub fn probability(&self, row: &[f32], class: usize) -> f32 {
        softmax(self.forward(row).last().unwrap())[class]
    }

    /// One step of Adam at rate 1e-3, the `step`-th from 1, on the mean over `batch`, rows with their classes.
    pub fn train<'r>(&mut self, batch: impl ExactSizeIterator<Item = (&'r [f32], usize)>, step: i32) {
        let share = 1.0 / batch.len().max(1) as f32;
        let zero = |layer: &Layer| (vec![0f32; layer.weights.len()], vec![0f32; layer.bias.len()]);
        let mut gradients: Vec<_> = self.layers.iter().map(zero).collect();
        for (row, class) in batch {
            let all = self.forward(row);
            self.backward(&all, class, |i, out| {
                let (weights, bias) = &mut gradients[i];
                bias.iter_mut().zip(out).for_each(|(b, g)| *b += share * g);
                for (x, weights) in all[i].iter().zip(weights.chunks_exact_mut(out.len())) {
                    weights.iter_mut().zip(out).for_each(|(w, g)| *w += share * x * g);
                }
            });
        }
        for (layer, (weights, bias)) in self.layers.iter_mut().zip(gradients) {
            let [m, s, mb, sb] = &mut layer.moments;
            adam(&mut layer.weights, m, s, &weights, step);
            adam(&mut layer.bias, mb, sb, &bias, step);
        }
    }
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponents: Vec<f32> = logits.iter().map(|x| (x - most).exp()).collect();
    let sum: f32 = exponents.iter().sum();
    exponents.into_iter().map(|x| x / sum).collect()
}

fn adam(values: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32], step: i32) {
    let (a, b) = (1.0 - 0.9f32.powi(step), 1.0 - 0.999f32.powi(step));
    for (((value, m), s), g) in values.iter_mut().zip(first).zip(second).zip(gradient) {
        *m = 0.9 * *m + 0.1 * g;
        *s = 0.999 * *s + 0.001 * g * g;
        *value -= 1e-3 * (*m / a) / ((*s / b).sqrt() + 1e-8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Purpose;

    #[test]
    fn it_learns_a_plain_difference_and_its_gradient_is_that_of_its_loss() {
        let mut stream = Stream::new(1, Purpose::Bench, 0, 0);
        let rows: Vec<(Vec<f32>, usize)> =
            (0..90).map(|i| ((0..4).map(|k| 0.3 * stream.normal() + if k == i % 3 { 1.0 } else { 0.0 }).collect(), i % 3)).collect();
        let mut classifier = Classifier::new(4, &mut stream);
        for step in 1..600 {
            classifier.train(rows.iter().map(|(row, class)| (&row[..], *class)), step);
        }
        let right = rows.iter().filter(|(row, class)| classifier.probability(row, *class) > 0.5).count();
        assert!(right > 80, "{right} of 90");
        let row = &rows[1].0;
        let loss = |row: &[f32]| -f64::from(classifier.probability(row, 0)).ln();
        for (k, g) in classifier.gradient(row, 0).iter().enumerate() {
            let moved = |by: f32| row.iter().enumerate().map(|(i, x)| if i == k { x + by } else { *x }).collect::<Vec<f32>>();
            let difference = (loss(&moved(1e-3)) - loss(&moved(-1e-3))) / 2e-3;
            assert!((difference - f64::from(*g)).abs() < 0.05 * (1.0 + difference.abs()), "{k}: {difference} {g}");
        }
    }
}
