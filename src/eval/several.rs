//! Recall@K, Precision@K and MAP@K: what a list is worth where a user has several items to be found.

use super::MISS;

/// Names of the figures without K, in the order of tables.
pub const SEVERAL: [&str; 3] = ["Recall", "Precision", "MAP"];

/// Means over users at every cut-off, by name, such as `Recall@20`. `ranks` holds for each user the ranks of the user's distinct targets, in any order,
/// each counted over the whole catalogue as [`super::rank_of`] does; [`MISS`] for one that may not be recommended. A user without targets is left
/// out. Of a user with targets `R` and `h` of them among the first K:
///
/// * Recall is `h / |R|` and Precision `h / K`;
/// * MAP is the mean of average precision, `1 / min(K, |R|)` times the sum of the precision at the rank of every target found.
///
/// Where two targets score alike each counts against the other, as any tie counts against the model.
pub fn several(ranks: &[Vec<u32>], ks: &[u32]) -> Vec<(String, f64)> {
    let users: Vec<Vec<u32>> = ranks.iter().filter(|all| !all.is_empty()).map(|all| sorted(all)).collect();
    let n = users.len().max(1) as f64;
    let mut values = Vec::new();
    for &k in ks {
        let mut sums = [0f64; 3];
        for targets in &users {
            let found = targets.partition_point(|&rank| rank <= k && rank != MISS);
            let precisions: f64 = (1..).zip(&targets[..found]).map(|(place, &rank)| f64::from(place) / f64::from(rank)).sum();
            sums[0] += found as f64 / targets.len() as f64;
            sums[1] += found as f64 / f64::from(k);
            sums[2] += precisions / (targets.len().min(k as usize)) as f64;
        }
        // An empty sum of floats is -0.
        values.extend(SEVERAL.iter().zip(sums).map(|(name, sum)| (format!("{name}@{k}"), (sum + 0.0) / n)));
    }
    values
}

fn sorted(ranks: &[u32]) -> Vec<u32> {
    let mut sorted = ranks.to_vec();
    sorted.sort_unstable();
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{best_items, metrics, rank_of};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn get(values: &[(String, f64)], name: &str) -> f64 {
        values.iter().find(|(known, _)| known == name).unwrap().1
    }

    /// Manning, Raghavan and Schuetze, Introduction to Information Retrieval, 8.4: precision is taken at the rank of each relevant document.
    #[test]
    fn an_example_by_hand() {
        // Two of three targets among the first five, at ranks 1 and 4; one of two at 2, the other not recommendable; one user without targets.
        let values = several(&[vec![4, 9, 1], vec![MISS, 2], vec![]], &[5]);
        assert!((get(&values, "Recall@5") - (2.0 / 3.0 + 1.0 / 2.0) / 2.0).abs() < 1e-12);
        assert!((get(&values, "Precision@5") - (2.0 / 5.0 + 1.0 / 5.0) / 2.0).abs() < 1e-12);
        let average = [(1.0 / 1.0 + 2.0 / 4.0) / 3.0, (1.0 / 2.0) / 2.0];
        assert!((get(&values, "MAP@5") - (average[0] + average[1]) / 2.0).abs() < 1e-12);
        // A list of one item cannot hold more than one of three targets.
        let values = several(&[vec![4, 9, 1]], &[1]);
        assert_eq!((get(&values, "MAP@1"), get(&values, "Precision@1")), (1.0, 1.0));
        assert_eq!(get(&several(&[], &[5]), "MAP@5"), 0.0);
    }

    /// The definitions read off a list that is really made.
    fn plain(list: &[u32], targets: &BTreeSet<u32>, k: usize) -> [f64; 3] {
        let hit = |item: &u32| targets.contains(item);
        let hits = list.iter().take(k).filter(|item| hit(item)).count() as f64;
        let mut sum = 0.0;
        for at in 0..list.len().min(k) {
            if hit(&list[at]) {
                sum += list[..=at].iter().filter(|item| hit(item)).count() as f64 / (at + 1) as f64;
            }
        }
        [hits / targets.len() as f64, hits / k as f64, sum / targets.len().min(k) as f64]
    }

    proptest! {
        #[test]
        fn ranks_give_what_a_list_gives(seeds in prop::collection::vec((any::<u64>(), prop::collection::btree_set(0u32..30, 1..9),
            prop::collection::vec(0u32..30, 0..6)), 1..8), k in 1u32..12) {
            let (mut ranks, mut wanted) = (Vec::new(), [0f64; 3]);
            for (seed, targets, masked) in &seeds {
                // No two alike: where items tie a list has an order that the definition of a rank does not trust.
                let mut order: Vec<u32> = (0..30).collect();
                crate::base::rng::Stream::new(*seed, crate::base::rng::Purpose::World, 0, 0).shuffle(&mut order);
                let scores: Vec<f32> = order.iter().map(|&s| s as f32).collect();
                let list: Vec<u32> = best_items(&scores, masked, 30).into_iter().map(|(item, _)| item).collect();
                let one = plain(&list, targets, k as usize);
                wanted.iter_mut().zip(one).for_each(|(sum, value)| *sum += value / seeds.len() as f64);
                ranks.push(targets.iter().map(|&target| rank_of(&scores, target, masked)).collect());
            }
            let values = several(&ranks, &[k]);
            for ((name, found), wanted) in values.iter().zip(wanted) {
                prop_assert!((found - wanted).abs() < 1e-9, "{}: {} and {}", name, found, wanted);
            }
        }

        #[test]
        fn one_target_a_user_gives_the_hit_rate_and_the_reciprocal_rank(ranks in prop::collection::vec(1u32..40, 1..30), k in 1u32..20) {
            let (single, known) = (ranks.iter().map(|r| vec![*r]).collect::<Vec<_>>(), metrics(&ranks, &[k]));
            let values = several(&single, &[k]);
            for (name, same) in [("Recall", "HR"), ("MAP", "MRR")] {
                let (found, wanted) = (get(&values, &format!("{name}@{k}")), known.get(&format!("{same}@{k}")).unwrap());
                prop_assert!((found - wanted).abs() < 1e-12, "{}", name);
            }
        }
    }
}
