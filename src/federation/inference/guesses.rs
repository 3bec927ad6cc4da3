//! Guesses that need no model of a client.

use super::Guess;

/// Share of the uploaded rows that a guess takes for the history: with one negative a position half of them are.
const TAKEN: f64 = 0.5;

/// Length of the change of each row.
pub fn sizes(rows: &[(u32, &[f32])]) -> Vec<f64> {
    rows.iter().map(|(_, row)| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()).collect()
}

/// Place of each row's change along the direction in which changes differ most; the side on which rows lie that many clients upload (`often`) counts
/// as the history's, for negatives are drawn from the whole catalogue.
pub fn directions(rows: &[(u32, &[f32])], often: &[f64]) -> Vec<f64> {
    let d = rows.first().map_or(0, |(_, row)| row.len());
    let mut axis = vec![1.0 / (d.max(1) as f64).sqrt(); d];
    let along = |axis: &[f64], row: &[f32]| row.iter().zip(axis).map(|(x, a)| f64::from(*x) * a).sum::<f64>();
    // The largest singular direction by powers.
    for _ in 0..30 {
        let mut next = vec![0.0; d];
        for (_, row) in rows {
            let share = along(&axis, row);
            next.iter_mut().zip(*row).for_each(|(n, x)| *n += share * f64::from(*x));
        }
        let length = next.iter().map(|x| x * x).sum::<f64>().sqrt();
        if length == 0.0 {
            break;
        }
        axis = next.into_iter().map(|x| x / length).collect();
    }
    let places: Vec<f64> = rows.iter().map(|(_, row)| along(&axis, row)).collect();
    let mean = often.iter().sum::<f64>() / often.len().max(1) as f64;
    let lean: f64 = places.iter().zip(often).map(|(place, often)| place * (often - mean)).sum();
    places.into_iter().map(|place| if lean < 0.0 { -place } else { place }).collect()
}

/// How well `scores`, the higher the likelier, tell the rows of the history (`truth`) from the others; of a history of `history` items.
pub fn judge(name: &'static str, scores: &[f64], truth: &[bool], history: usize, all: bool) -> Guess {
    let n = scores.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    let taken = if all { n } else { ((TAKEN * n as f64).round() as usize).max(1).min(n) };
    let right = order[..taken].iter().filter(|i| truth[**i]).count() as f64;
    Guess { name, precision: right / taken.max(1) as f64, recall: right / history.max(1) as f64, auc: auc(scores, truth) }
}

/// The chance that a row of the history scores above another, ties counting half; one half where there is but one kind.
fn auc(scores: &[f64], truth: &[bool]) -> f64 {
    let (mut above, mut pairs) = (0.0, 0.0);
    for (a, _) in scores.iter().zip(truth).filter(|(_, truth)| **truth) {
        for (b, _) in scores.iter().zip(truth).filter(|(_, truth)| !**truth) {
            pairs += 1.0;
            above += if a > b {
                1.0
            } else if a == b {
                0.5
            } else {
                0.0
            };
        }
    }
    if pairs > 0.0 { above / pairs } else { 0.5 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_by_hand() {
        // Of four rows two are the history's, which has three items; the best two are one of each kind.
        let guess = judge("g", &[4.0, 3.0, 2.0, 1.0], &[true, false, true, false], 3, false);
        assert_eq!((guess.precision, guess.recall, guess.auc), (0.5, 1.0 / 3.0, 0.75));
        let all = judge("g", &[0.0; 4], &[true, false, true, false], 3, true);
        assert_eq!((all.precision, all.recall, all.auc), (0.5, 2.0 / 3.0, 0.5));
    }

    #[test]
    fn two_kinds_of_change_lie_on_two_sides() {
        let rows: Vec<Vec<f32>> = (0..10).map(|i| if i < 4 { vec![1.0 + 0.01 * i as f32, 2.0] } else { vec![-1.0, -2.0] }).collect();
        let rows: Vec<(u32, &[f32])> = rows.iter().zip(0..).map(|(row, item)| (item, &row[..])).collect();
        let often: Vec<f64> = (0..10).map(|i| if i < 4 { 9.0 } else { 1.0 }).collect();
        let places = directions(&rows, &often);
        assert!(places[..4].iter().all(|place| *place > 2.0) && places[4..].iter().all(|place| *place < -2.0), "{places:?}");
    }
}
