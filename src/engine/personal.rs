//! Partial personalisation (in the manner of PFSR, arXiv 2603.22349): of the dense weights each client keeps those that matter most to it,
//! and shares the others.
//!
//! What matters is estimated by the diagonal of the Fisher information. Ours: the estimate is the squared change of a weight in the visit, which
//! under plain gradient descent is the squared sum of the client's gradients times a constant. A weight that no longer matters is uploaded
//! with all that the client has made of it. PFSR's bidirectional encoder and its magnitude loss are not part of this.

use std::borrow::Cow;

/// The dense weights `[P]` that a client starts with: its own where it keeps one, those of the server elsewhere. A weight that the client
/// does not keep is NaN in `own`.
pub fn merged<'w>(global: &'w [f32], own: Option<&[f32]>) -> Cow<'w, [f32]> {
    match own {
        None => Cow::Borrowed(global),
        Some(own) => Cow::Owned(global.iter().zip(own).map(|(&global, &own)| if own.is_nan() { global } else { own }).collect()),
    }
}

/// What a visit leaves of the dense weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// What the client keeps `[P]`; NaN where it keeps nothing.
    pub kept: Vec<f32>,
    /// What it shows to the server `[P]`: the server's own weights where the client keeps its.
    pub shown: Vec<f32>,
}

/// Splits the weights `after` a visit that began with `start`: the `share` of them with the largest squared change stays with the client, of
/// equal ones the first.
pub fn split(share: f32, global: &[f32], start: &[f32], after: &[f32]) -> Split {
    let n = (f64::from(share) * after.len() as f64) as usize;
    let change: Vec<u32> = start.iter().zip(after).map(|(start, after)| in_order((after - start).powi(2))).collect();
    // The least change that stays, and how many are larger; where nothing stays, a bound above all changes.
    let mut sorted = change.clone();
    let (least, more) = match n.checked_sub(1) {
        None => (u32::MAX, 0),
        Some(last) => {
            let (above, &mut least, _) = sorted.select_nth_unstable_by(last, |a, b| b.cmp(a));
            (least, above.iter().filter(|&&change| change > least).count())
        }
    };
    let choose = |own: bool, yes: f32, no: f32| if own { yes } else { no };
    let mut split = Split {
        kept: change.iter().zip(after).map(|(&change, &after)| choose(change > least, after, f32::NAN)).collect(),
        shown: change.iter().zip(after).zip(global).map(|((&change, &after), &global)| choose(change > least, global, after)).collect(),
    };
    // Of those whose change equals the least, the first ones, until `n` weights stay.
    let equal = change.iter().enumerate().filter(|(_, change)| **change == least).map(|(i, _)| i);
    for i in equal.take(n - more) {
        split.kept[i] = after[i];
        split.shown[i] = global[i];
    }
    split
}

/// A number that is larger where `x` comes later in the order of [`f32::total_cmp`].
fn in_order(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, Stream};

    /// Against a plain sort of all weights by their change.
    #[test]
    fn the_weights_that_changed_most_stay_and_the_others_are_shown() {
        let mut stream = Stream::new(5, Purpose::Bench, 0, 0);
        for (n, share) in [(1, 0.5), (7, 0.3), (50, 0.1), (50, 0.99), (33, 0.0), (33, 0.4)] {
            let [global, start]: [Vec<f32>; 2] = std::array::from_fn(|_| (0..n).map(|_| stream.normal()).collect());
            // Steps of a half, so that there are equal ones.
            let mut after: Vec<f32> = start.iter().map(|x| x + (2.0 * stream.normal()).round() / 2.0).collect();
            if n == 33 {
                after.clone_from(&start);
            }
            let split = split(share, &global, &start, &after);
            let mut order: Vec<usize> = (0..n).collect();
            let change = |i: usize| (after[i] - start[i]).powi(2);
            order.sort_by(|&a, &b| change(b).total_cmp(&change(a)).then(a.cmp(&b)));
            let kept = (f64::from(share) * n as f64) as usize;
            for (place, &i) in order.iter().enumerate() {
                let own = place < kept;
                assert_eq!(split.kept[i].is_nan(), !own);
                assert_eq!(split.shown[i], if own { global[i] } else { after[i] });
                let next = merged(&global, Some(&split.kept))[i];
                assert_eq!(next, if own { after[i] } else { global[i] });
            }
        }
    }
}
