//! What a rank is.

use super::MISS;

/// The definition of a rank, kept plain as the reference for everything that ranks faster: one more than the number of items
/// that are neither the target nor masked and do not score below it. Ties and NaN, on either side, count against the model.
/// A target that is itself masked is never recommended, so it has the rank [`MISS`]: were it ranked among the items that are
/// left, the mask would give the answer away wherever users come back to items.
///
/// `scores` is `[I]`; `target` must be below `I` (panics otherwise); `masked`, as [`crate::config::Mask::masked`] gives it, may repeat
/// items and be in any order.
pub fn rank_of(scores: &[f32], target: u32, masked: &[u32]) -> u32 {
    if masked.contains(&target) {
        return MISS;
    }
    let threshold = scores[target as usize];
    let above = |&(i, s): &(usize, &f32)| {
        i as u32 != target && !masked.contains(&(i as u32)) && s.partial_cmp(&threshold).is_none_or(|o| o.is_ge())
    };
    1 + scores.iter().enumerate().filter(above).count() as u32
}

#[cfg(test)]
mod tests {
    use super::{MISS, rank_of};

    #[test]
    fn ranks_by_hand() {
        let scores = [0.5, 2.0, 1.0, 3.0, -1.0];
        assert_eq!([0, 1, 2, 3, 4].map(|t| rank_of(&scores, t, &[])), [4, 2, 3, 1, 5]);
        assert_eq!(rank_of(&scores, 0, &[3, 1, 3]), 2);
        // Masking what scores lower changes nothing.
        assert_eq!(rank_of(&scores, 0, &[4]), 4);
    }

    #[test]
    fn ties_count_against_the_model() {
        assert_eq!([0, 1, 2].map(|t| rank_of(&[1.0; 3], t, &[])), [3; 3]);
        assert_eq!(rank_of(&[0.0, -0.0], 0, &[]), 2);
        assert_eq!(rank_of(&[1.0; 3], 0, &[1]), 2);
    }

    #[test]
    fn nan_counts_against_the_model() {
        assert_eq!(rank_of(&[f32::NAN, 1.0, 2.0], 0, &[]), 3);
        assert_eq!(rank_of(&[f32::NAN, 1.0, 0.0], 1, &[]), 2);
        assert_eq!(rank_of(&[f32::NAN; 4], 2, &[0]), 3);
        assert_eq!(rank_of(&[f32::NEG_INFINITY, f32::INFINITY], 0, &[]), 2);
    }

    #[test]
    fn a_masked_target_is_a_miss_whatever_it_scores() {
        assert_eq!(rank_of(&[1.0, 2.0, 3.0], 1, &[1]), MISS);
        assert_eq!(rank_of(&[1.0, 2.0, 3.0], 2, &[0, 1, 2]), MISS);
        assert_eq!(rank_of(&[1.0, f32::NAN, 3.0], 1, &[1]), MISS);
    }
}
