//! `dx-noise`: a client adds noise to each item row before it uploads it.

use super::{Kind, Needs, Occasion, Options, Role, Rule};
use crate::Result;
use crate::base::rng::{Purpose, Stream};
use crate::engine::Update;

pub(super) const KIND: Kind = Kind {
    name: "dx-noise",
    role: Role::Other,
    summary: "each client adds noise to every item row that it uploads, with a density in proportion to exp(-epsilon |noise|); the mean length is d / epsilon",
    paper: "d_X-privacy, Feyisetan et al., WSDM 2020, as FELLAS, Yuan et al., arXiv 2405.15259, puts it on what clients send; there on a sequence's \
            state, here on the rows of an update",
    options: &[("epsilon", 100.0)],
    build,
};

struct DxNoise {
    epsilon: f64,
}

fn build(options: &Options) -> Result<Box<dyn Rule>> {
    Ok(Box::new(DxNoise { epsilon: options.get("epsilon", |x| x > 0.0, "a number above 0")? }))
}

/// Noise of `d` numbers: a direction uniform on the sphere, a length from the gamma distribution of shape `d` and scale `1 / epsilon`.
fn noise(stream: &mut Stream, d: usize, epsilon: f64) -> Vec<f64> {
    // A sum of d exponential draws. One less the draw is above 0.
    let length: f64 = (0..d).map(|_| -libm::log(1.0 - f64::from(stream.unit()))).sum::<f64>() / epsilon;
    let direction: Vec<f64> = (0..d).map(|_| stream.normal().into()).collect();
    let norm = direction.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    direction.into_iter().map(|x| x * length / norm).collect()
}

impl Rule for DxNoise {
    fn needs(&self) -> Needs {
        Needs::Each
    }

    fn client(&self, occasion: &Occasion, update: &mut Update) {
        let Update { client, items, rows, .. } = update;
        let d = rows.len() / items.len().max(1);
        for (item, row) in items.iter().zip(rows.chunks_exact_mut(d.max(1))) {
            let mut stream = Stream::new(occasion.seed, Purpose::LocalNoise, occasion.round, u64::from(*client) << 32 | u64::from(*item));
            row.iter_mut().zip(noise(&mut stream, d, self.epsilon)).for_each(|(x, noise)| *x = (f64::from(*x) + noise) as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_gamma_and_directions_uniform() {
        let (d, epsilon, n) = (8, 4.0, 4000);
        let mut stream = Stream::new(1, Purpose::Bench, 0, 0);
        let drawn: Vec<Vec<f64>> = (0..n).map(|_| noise(&mut stream, d, epsilon)).collect();
        let lengths: Vec<f64> = drawn.iter().map(|x| x.iter().map(|v| v * v).sum::<f64>().sqrt()).collect();
        let mean = lengths.iter().sum::<f64>() / f64::from(n);
        let variance = lengths.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(n);
        // Gamma of shape 8 and scale 1/4: mean 2, variance 1/2; five deviations of the mean are .056.
        assert!((mean - 2.0).abs() < 0.06 && (variance - 0.5).abs() < 0.06, "{mean} {variance}");
        for k in 0..d {
            let centre = drawn.iter().zip(&lengths).map(|(x, length)| x[k] / length).sum::<f64>() / f64::from(n);
            assert!(centre.abs() < 5.0 / (f64::from(n) * d as f64).sqrt(), "{k}: {centre}");
        }
    }

    #[test]
    fn rows_alone_are_disturbed_by_client_item_and_round() {
        let rule = DxNoise { epsilon: 10.0 };
        let changed = |client, round, items: &[u32]| {
            let mut update = Update { client, weight: 1, dense: vec![0.5], items: items.to_vec(), rows: vec![0.0; 3 * items.len()] };
            rule.client(&Occasion { seed: 1, round, weights: None }, &mut update);
            assert_eq!(update.dense, [0.5]);
            update.rows
        };
        let all = changed(4, 1, &[7, 9]);
        assert!(all.iter().all(|x| *x != 0.0) && all[..3] != all[3..]);
        // The same row has the same noise wherever it stands in the upload.
        assert_eq!(changed(4, 1, &[9]), all[3..]);
        assert_ne!(changed(5, 1, &[9]), all[3..]);
        assert_ne!(changed(4, 2, &[9]), all[3..]);
        assert!(changed(4, 1, &[]).is_empty());
    }
}
