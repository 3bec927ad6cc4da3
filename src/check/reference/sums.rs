//! Sums over clients: what averages, norms and reports are made of.

/// Units of the fixed-point sums in one.
const SCALE: f64 = 4_294_967_296.0;
/// Largest change of a weight that a sum takes.
const LARGEST: f32 = 256.0;

/// The change of a weight times the client's factor, in units of the fixed-point sums; nothing where it is no number or too large.
pub fn fixed_change(before: f32, after: f32, factor: f32) -> Option<i64> {
    let change = (after - before) * factor;
    (change.abs() <= LARGEST).then(|| (f64::from(change) * SCALE).round_ties_even() as i64)
}

/// Norm of a client's changes, each a pair of before and after: the change in f32, the sum of squares in f64.
pub fn update_norm(changes: impl IntoIterator<Item = (f32, f32)>) -> f64 {
    changes.into_iter().map(|(before, after)| f64::from(after - before).powi(2)).sum::<f64>().sqrt()
}

/// What gradients are multiplied by so that their norm is at most `clip`.
pub fn clip_factor(gradients: impl IntoIterator<Item = f32>, clip: f32) -> f64 {
    let norm = gradients.into_iter().map(|g| f64::from(g).powi(2)).sum::<f64>().sqrt();
    if norm > f64::from(clip) { f64::from(clip) / norm } else { 1.0 }
}

/// Mean of a client's losses; 0 where it has none.
pub fn mean(losses: &[f32]) -> f64 {
    losses.iter().map(|&x| f64::from(x)).sum::<f64>() / losses.len().max(1) as f64
}
