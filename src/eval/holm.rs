//! Several tests at once.

/// p-values corrected for their number by Holm's step-down method (Scand. J. Statist. 1979), in the order in which they are given: the
/// smallest of `m` times `m`, the next times `m - 1` and so on, none below the one before it and none above 1.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let (mut corrected, mut least) = (vec![0.0; p.len()], 0f64);
    for (place, &i) in order.iter().enumerate() {
        least = least.max((p[i] * (p.len() - place) as f64).min(1.0));
        corrected[i] = least;
    }
    corrected
}

#[cfg(test)]
mod tests {
    use super::holm;

    #[test]
    fn a_known_example() {
        let found = holm(&[0.01, 0.04, 0.03, 0.005]);
        let wanted = [0.03, 0.06, 0.06, 0.02];
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
        assert_eq!(holm(&[0.7, 0.6]), [1.0, 1.0]);
        assert_eq!(holm(&[0.2]), [0.2]);
        assert!(holm(&[]).is_empty());
    }
}
