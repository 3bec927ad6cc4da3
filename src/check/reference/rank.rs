//! Full ranking from a row of scores for each user.

use crate::eval::MISS;

/// What the kernels of ranking leave for each user.
pub struct Ranked {
    /// Score of the target; 0 where there is none.
    pub threshold: Vec<f32>,
    /// Items that score no less, masked ones among them.
    pub counts: Vec<u32>,
    /// The same without masked items, and [`MISS`] where the target is masked; 0 where there is no target.
    pub ranks: Vec<u32>,
}

/// Ranks `target [U]` (-1: none) for hidden states `h [U, d]` in the catalogue `table [I, d]`, without the items of `masked [U]`. A score
/// that cannot be compared counts as no less.
pub fn rank(h: &[f32], table: &[f32], d: usize, target: &[i32], masked: &[Vec<u32>]) -> Ranked {
    let mut all = Ranked { threshold: Vec::new(), counts: Vec::new(), ranks: Vec::new() };
    for (u, (user, &target)) in h.chunks(d).zip(target).enumerate() {
        // By fused multiply-adds in order, the same everywhere, so that ties are ties.
        let scores: Vec<f32> = table.chunks(d).map(|item| user.iter().zip(item).fold(0f32, |sum, (&x, &y)| x.mul_add(y, sum))).collect();
        let threshold = usize::try_from(target).map_or(0.0, |t| scores[t]);
        let not_below = |&i: &usize| scores[i].is_nan() || threshold.is_nan() || scores[i] >= threshold;
        let above: Vec<usize> = (0..scores.len()).filter(not_below).collect();
        let open = above.iter().filter(|&&i| !masked[u].contains(&(i as u32))).count() as u32;
        all.threshold.push(threshold);
        all.counts.push(above.len() as u32);
        all.ranks.push(match u32::try_from(target) {
            Err(_) => 0,
            Ok(target) if masked[u].contains(&target) => MISS,
            Ok(_) => open,
        });
    }
    all
}
