//! What was counted to follow which, over all training histories.

use crate::base::parallel;
use crate::data::{Dataset, PairCounts, PairWeights};
use std::collections::HashMap;

/// What a pair counts: `1 / sqrt(distance)` up to ten places ahead. No other weights were tried.
const WEIGHTS: PairWeights = PairWeights { window: 10, gap: 0.5, back: 0.0, clip: 0.0 };
/// Counts without a direction that are added to those of an item before its shares are taken, so that one pair is no certainty.
const PRIOR: f64 = 5.0;
/// Most items that are kept as following one.
const KEPT: usize = 256;
/// Strongest partners by which two items are alike.
const STRONGEST: usize = 64;

/// Which items follow, go with and stand for each item. It comes from sums of pair counts over all clients, integers as secure aggregation adds them
/// up, and from nothing else of a user.
#[derive(Default)]
pub struct Follows {
    next: Lists,
    partners: Lists,
    like: Lists,
}

/// A list of items with weights for each item.
#[derive(Default)]
struct Lists {
    /// Bounds `[I + 1]`.
    bounds: Vec<usize>,
    entries: Vec<(u32, f32)>,
}

impl Lists {
    fn new(lists: impl IntoIterator<Item = Vec<(u32, f32)>>) -> Lists {
        let mut out = Lists { bounds: vec![0], entries: Vec::new() };
        for list in lists {
            out.entries.extend(list);
            out.bounds.push(out.entries.len());
        }
        out
    }

    fn of(&self, item: u32) -> &[(u32, f32)] {
        match self.bounds.get(item as usize..item as usize + 2) {
            Some(span) => &self.entries[span[0]..span[1]],
            None => &[],
        }
    }
}

/// The first `most` of `list`, heaviest first; of equal ones the lower item.
fn heaviest(mut list: Vec<(u32, f32)>, most: usize) -> Vec<(u32, f32)> {
    list.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    list.truncate(most);
    list
}

impl Follows {
    /// Counts the training histories of `data`; an item has up to `keep` like ones.
    pub fn new(data: &Dataset, keep: usize, threads: usize) -> Follows {
        let mut counts = PairCounts::default();
        let one = |user: usize| PairCounts::of(std::iter::once(data.train(user)), &WEIGHTS);
        counts.add(parallel::map(threads, data.users(), 64, one).into_iter());
        let items = data.item_count() as u32;
        let next = Lists::new((0..items).map(|item| {
            let all: Vec<(u32, f64)> = counts.from(item).filter(|(other, _)| *other != item).collect();
            let total = PRIOR + all.iter().map(|(_, count)| count).sum::<f64>();
            heaviest(all.into_iter().map(|(other, count)| (other, (count / total) as f32)).collect(), KEPT)
        }));
        let partners = partners(&counts, items);
        let like = alike(&partners, items, keep, threads);
        Follows { next, partners, like }
    }

    /// Items that follow `item` and their shares of all that does, the largest first.
    pub fn next(&self, item: u32) -> &[(u32, f32)] {
        self.next.of(item)
    }

    /// Items that were counted with `item` in either order, ascending, and how strongly: the count by the root of the product of both items' counts.
    pub fn partners(&self, item: u32) -> &[(u32, f32)] {
        self.partners.of(item)
    }

    /// Items with the same partners, the likest first, and the cosine of their strongest partners.
    pub fn like(&self, item: u32) -> &[(u32, f32)] {
        self.like.of(item)
    }

    /// Whether anything was counted.
    pub fn any(&self) -> bool {
        !self.next.entries.is_empty()
    }
}

fn partners(counts: &PairCounts, items: u32) -> Lists {
    let mut both: Vec<HashMap<u32, f64>> = vec![HashMap::new(); items as usize];
    for from in 0..items {
        for (to, count) in counts.from(from).filter(|(to, _)| *to != from) {
            *both[from as usize].entry(to).or_default() += count;
            *both[to as usize].entry(from).or_default() += count;
        }
    }
    // Two addends at most, so that their order leaves no trace; the sum of a row is taken in the order of its items.
    let rows: Vec<Vec<(u32, f64)>> = both
        .into_iter()
        .map(|row| {
            let mut row: Vec<(u32, f64)> = row.into_iter().collect();
            row.sort_unstable_by_key(|(item, _)| *item);
            row
        })
        .collect();
    let totals: Vec<f64> = rows.iter().map(|row| row.iter().map(|(_, count)| count).sum()).collect();
    let scaled = |(item, row): (usize, Vec<(u32, f64)>)| {
        row.into_iter().map(|(other, count)| (other, (count / (totals[item] * totals[other as usize]).sqrt()) as f32)).collect()
    };
    Lists::new(rows.into_iter().enumerate().map(scaled))
}

fn alike(partners: &Lists, items: u32, keep: usize, threads: usize) -> Lists {
    let strongest = Lists::new((0..items).map(|item| heaviest(partners.of(item).to_vec(), STRONGEST)));
    let length = |item: u32| strongest.of(item).iter().map(|(_, weight)| weight * weight).sum::<f32>().sqrt();
    let lengths: Vec<f32> = (0..items).map(length).collect();
    let one = |item: usize| {
        let mut sums: HashMap<u32, f32> = HashMap::new();
        for &(partner, weight) in strongest.of(item as u32) {
            for &(other, back) in strongest.of(partner) {
                *sums.entry(other).or_default() += weight * back;
            }
        }
        let cosine = |(other, sum): (u32, f32)| (other, (sum / (lengths[item] * lengths[other as usize])).min(1.0));
        heaviest(sums.into_iter().filter(|(other, _)| *other as usize != item).map(cosine).collect(), keep)
    };
    Lists::new(parallel::map(threads, items as usize, 32, one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(histories: &[&[u32]], items: usize) -> Dataset {
        let mut data = Dataset { item_tokens: vec![String::new(); items], offsets: vec![0], ..Default::default() };
        for history in histories {
            // Two more that are held out.
            data.items.extend(history.iter().chain(&[items as u32 - 1; 2]));
            data.offsets.push(data.items.len() as u64);
        }
        data
    }

    #[test]
    fn lists_are_those_worked_out_by_hand() {
        // 0 is followed by 2 and 3 twice, 1 by the same; 4 by 5.
        let follows = Follows::new(&data(&[&[0, 2, 3], &[1, 2, 3], &[0, 2, 3], &[4, 5]], 7), 10, 2);
        let far = 1.0 / 2f64.sqrt();
        let total = PRIOR + 2.0 + 2.0 * far;
        let near = |a: f32, b: f64| (f64::from(a) - b).abs() < 1e-6;
        let next = follows.next(0);
        assert!(next.len() == 2 && next[0].0 == 2 && near(next[0].1, 2.0 / total) && near(next[1].1, 2.0 * far / total), "{next:?}");
        assert!(follows.next(6).is_empty() && follows.next(3).is_empty() && follows.any(), "what is held out is not counted");
        // 3 goes with 2 (three times) and, a place farther, with 0 (twice) and 1.
        let of_three: f64 = 3.0 + 3.0 * far;
        let of_zero = 2.0 + 2.0 * far;
        let (item, strength) = follows.partners(3)[0];
        assert!(item == 0 && near(strength, 2.0 * far / (of_three * of_zero).sqrt()), "{strength}");
        // 0 and 1 have the same partners in the same proportions.
        let (item, cosine) = follows.like(0)[0];
        assert!(item == 1 && cosine > 0.99, "{:?}", follows.like(0));
        assert!(follows.like(4).is_empty(), "5 is its partner, and has no other: {:?}", follows.like(4));
    }

    #[test]
    fn threads_and_the_order_of_users_leave_no_trace() {
        let histories: Vec<Vec<u32>> = (0..60u32).map(|u| (0..12).map(|i| (u * 7 + i * i * 3 + u * i) % 40).collect()).collect();
        let of = |backwards: bool, threads: usize| {
            let mut order: Vec<&[u32]> = histories.iter().map(Vec::as_slice).collect();
            if backwards {
                order.reverse();
            }
            let made = Follows::new(&data(&order, 41), 5, threads);
            (made.next.entries, made.partners.entries, made.like.entries)
        };
        let one = of(false, 1);
        assert!(one == of(true, 3) && !one.2.is_empty());
    }
}
