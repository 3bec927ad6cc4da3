//! What a rank is.

/// The definition of a rank, kept plain as the reference for everything that ranks faster: one more than the number of items
/// that are neither the target nor masked and do not score below it. Ties and NaN, on either side, count against the model.
/// The target is never masked, even where the history holds it: a user may come back to an item, and a masked target could
/// not be found by anyone.
///
/// `scores` is `[I]`; `target` must be below `I` (panics otherwise); `masked` may repeat items and be in any order.
pub fn rank_of(scores: &[f32], target: u32, masked: &[u32]) -> u32 {
    let threshold = scores[target as usize];
    let above = |&(i, s): &(usize, &f32)| {
        i as u32 != target && !masked.contains(&(i as u32)) && s.partial_cmp(&threshold).is_none_or(|o| o.is_ge())
    };
    1 + scores.iter().enumerate().filter(above).count() as u32
}

#[cfg(test)]
mod tests {
    use super::rank_of;

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
    fn a_target_that_the_history_holds_is_not_masked() {
        assert_eq!(rank_of(&[1.0, 2.0, 3.0], 1, &[1]), 2);
        assert_eq!(rank_of(&[1.0, 2.0, 3.0], 1, &[1, 2]), 1);
    }
}
