//! The server's two contrastive terms over the sequences of a mini-batch, both InfoNCE (van den Oord et al., arXiv 1807.03748) of cosines.

use super::constants::Constants;
use crate::backend::cpu::{Group, dot, info_nce, sum_of_squares};
use crate::base::floats::Floats;
use crate::config::Contrast;

/// Hidden states that stand for the sequences of a mini-batch of `B` clients, `B'` of which have uploaded before.
pub struct Batch<'b> {
    /// Last hidden states `[B + B', d]`: of the uploads of this round, then of those before.
    pub hidden: &'b [f32],
    /// Width.
    pub d: usize,
    /// For each upload before, which of the `B` it is the predecessor of `[B']`, ascending.
    pub before: &'b [usize],
    /// Rows of the last items of the `B` uploads, where clients are contrasted with each other.
    pub last: Option<Vec<&'b [f32]>>,
}

/// The sum of both terms without their weights, and gradients with them `[B + B', d]`.
pub fn pulls(batch: &Batch, constants: &Constants) -> (f64, Vec<f32>) {
    let mut pulls = vec![0f32; batch.hidden.len()];
    let own = past(batch, constants.past, &mut pulls);
    let peers = peers(batch, constants, &mut pulls);
    (own + peers, pulls)
}

/// An upload is near the one before of the same client and far from those of the others.
fn past(batch: &Batch, (weight, tau): (f32, f32), pulls: &mut [f32]) -> f64 {
    let (n, many) = (batch.hidden.len() / batch.d, batch.before.len());
    if weight == 0.0 || many < 2 {
        return 0.0;
    }
    let first = n - many;
    let groups = batch.before.iter().enumerate().map(|(k, &anchor)| {
        let others = (0..many).filter(|&j| j != k).map(|j| (first + j) as u32);
        (anchor as u32, [(first + k) as u32].into_iter().chain(others).collect())
    });
    mean(batch, groups.collect(), weight, tau, pulls)
}

/// An upload is near the one whose last item is most like its own and far from the share whose last items are least like it.
fn peers(batch: &Batch, constants: &Constants, pulls: &mut [f32]) -> f64 {
    let (weight, tau) = constants.peer;
    let Some(last) = batch.last.as_ref().filter(|last| weight > 0.0 && last.len() > 2) else { return 0.0 };
    let far = ((constants.peer_far * last.len() as f32) as usize).clamp(1, last.len() - 2);
    let norms: Vec<f32> = last.iter().map(|row| (sum_of_squares(row) + 1e-24).sqrt() as f32).collect();
    let groups = (0..last.len()).map(|i| {
        let mut order: Vec<(f32, u32)> =
            (0..last.len()).filter(|&j| j != i).map(|j| (dot(last[i], last[j]) / (norms[i] * norms[j]), j as u32)).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let others = order[order.len() - far..].iter().map(|(_, j)| *j);
        (i as u32, [order[0].1].into_iter().chain(others).collect())
    });
    mean(batch, groups.collect(), weight, tau, pulls)
}

/// Mean over groups of an anchor and others, the first of which is the positive.
fn mean(batch: &Batch, groups: Vec<(u32, Vec<u32>)>, weight: f32, tau: f32, pulls: &mut [f32]) -> f64 {
    let (count, mut scratch) = (groups.len().max(1), Floats::default());
    let one = |(anchor, others): &(u32, Vec<u32>)| {
        let group = Group { anchor: *anchor, views: others, positives: 1 };
        info_nce(group, Contrast::Joint, tau, weight / count as f32, batch.d, batch.hidden, pulls, &mut scratch)
    };
    groups.iter().map(one).sum::<f64>() / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::options;
    use crate::base::rng::{Purpose, Stream};
    use crate::config::Settings;
    use crate::federation::protocol::KINDS;

    const D: usize = 5;

    fn constants(text: &str) -> Constants {
        let mut settings = Settings::default();
        settings.loss.contrast = Contrast::None;
        settings.loss.rec = crate::config::RecLoss::Bce;
        let (_, options) = options::read("federation.protocol", "protocol", &format!("ptf-fsr {text}"), KINDS).unwrap();
        Constants::read(&options, &settings).unwrap()
    }

    fn values(n: usize) -> Vec<f32> {
        let mut draws = Stream::new(5, Purpose::Bench, 0, 0);
        (0..n).map(|_| draws.normal()).collect()
    }

    /// Both terms by their definitions in f64, with weights.
    fn reference(hidden: &[f64], before: &[usize], last: &[f32], c: &Constants) -> f64 {
        let row = |x: &[f64], i: usize| x[i * D..][..D].to_vec();
        let cosine = |a: &[f64], b: &[f64]| {
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
        };
        let last: Vec<f64> = last.iter().map(|&x| f64::from(x)).collect();
        let (n, first) = (last.len() / D, last.len() / D);
        let nce = |anchor: usize, others: &[usize], tau: f32| {
            let s = |j: usize| cosine(&row(hidden, anchor), &row(hidden, j)) / f64::from(tau);
            others.iter().map(|&j| s(j).exp()).sum::<f64>().ln() - s(others[0])
        };
        let past = before.iter().enumerate().map(|(k, &anchor)| {
            let others: Vec<usize> = [k].into_iter().chain((0..before.len()).filter(|&j| j != k)).map(|j| first + j).collect();
            nce(anchor, &others, c.past.1)
        });
        let peers = (0..n).map(|i| {
            let mut order: Vec<usize> = (0..n).filter(|&j| j != i).collect();
            order.sort_by(|&a, &b| cosine(&row(&last, i), &row(&last, b)).total_cmp(&cosine(&row(&last, i), &row(&last, a))));
            let far = ((f64::from(c.peer_far) * n as f64) as usize).clamp(1, n - 2);
            let others: Vec<usize> = [order[0]].into_iter().chain(order[order.len() - far..].iter().copied()).collect();
            nce(i, &others, c.peer.1)
        });
        f64::from(c.past.0) * past.sum::<f64>() / before.len() as f64 + f64::from(c.peer.0) * peers.sum::<f64>() / n as f64
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let (n, before) = (6, [0usize, 2, 5]);
        let (hidden, last) = (values((n + before.len()) * D), values(n * D));
        for text in ["past-weight=1 peer-weight=0", "past-weight=0 peer-weight=1 peer-far=0.5", "past-weight=0.3 peer-weight=0.7"] {
            let c = constants(text);
            let rows = (c.peer.0 > 0.0).then(|| last.chunks_exact(D).collect());
            let (_, pulls) = pulls(&Batch { hidden: &hidden, d: D, before: &before, last: rows }, &c);
            let wide: Vec<f64> = hidden.iter().map(|&x| f64::from(x)).collect();
            for (i, &g) in pulls.iter().enumerate() {
                let at = |step: f64| {
                    let mut moved = wide.clone();
                    moved[i] += step;
                    reference(&moved, &before, &last, &c)
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((slope - f64::from(g)).abs() < 1e-4 + 1e-4 * slope.abs(), "{text}, {i}: {slope} and {g}");
            }
        }
    }

    #[test]
    fn too_few_uploads_have_no_contrast() {
        let c = constants("past-weight=1 peer-weight=1");
        let (hidden, last) = (values(3 * D), values(2 * D));
        let batch = Batch { hidden: &hidden, d: D, before: &[1], last: Some(last.chunks_exact(D).collect()) };
        assert_eq!(pulls(&batch, &c), (0.0, vec![0.0; 3 * D]));
    }
}
