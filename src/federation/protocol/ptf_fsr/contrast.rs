//! The server's two contrastive terms over the sequences of a mini-batch, both InfoNCE (van den Oord et al., arXiv 1807.03748) of cosines.

use super::constants::Constants;
use crate::backend::cpu::{Group, dot, info_nce, sum_of_squares};
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
    let (count, mut scratch) = (groups.len().max(1), Vec::new());
    let one = |(anchor, others): &(u32, Vec<u32>)| {
        let group = Group { anchor: *anchor, views: others, positives: 1 };
        info_nce(group, Contrast::Joint, tau, weight / count as f32, batch.d, batch.hidden, pulls, &mut scratch)
    };
    groups.iter().map(one).sum::<f64>() / count as f64
}
