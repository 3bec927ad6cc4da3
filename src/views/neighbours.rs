//! The nearest items of every item, through an inverted index with bounded work per item.

use std::sync::atomic::{AtomicU64, Ordering};

use super::features::Features;
use super::mix;
use crate::base::parallel;

/// Most and fewest index entries read for one item, rare terms first. A list that does not fit is read from a place that
/// depends on the item, so that a common term gives every item another sample.
const WORK: std::ops::RangeInclusive<usize> = 1024..=4096;
/// Index entries read for all items, where the limits above allow it: above 131,072 items each has less.
const ALL_WORK: usize = 1 << 29;
/// Candidates scored exactly, as a multiple of the neighbours kept, where a list was cut.
const RESCORED: usize = 4;
/// Less similar items are no neighbours.
const MIN_SIMILARITY: f32 = 0.05;
/// Items handed to a thread at once.
const CHUNK: usize = 32;

/// Nearest items, packed: item `i` owns entries `offsets[i]..offsets[i + 1]`, nearest first.
#[derive(Default)]
pub struct Neighbours {
    offsets: Vec<u64>,
    items: Vec<u32>,
    similarities: Vec<f32>,
}

/// Which items have a term, packed; in an order that does not follow the index.
struct Postings {
    offsets: Vec<u64>,
    entries: Vec<(u32, f32)>,
}

impl Postings {
    fn new(features: &Features) -> Postings {
        let mut offsets = vec![0u64; features.term_count() + 1];
        let mut order: Vec<u32> = (0..features.item_count() as u32).collect();
        for &item in &order {
            for term in features.vector(item).0 {
                offsets[*term as usize + 1] += 1;
            }
        }
        for term in 1..offsets.len() {
            offsets[term] += offsets[term - 1];
        }
        order.sort_by_cached_key(|item| (mix(*item, 0), *item));
        let mut next = offsets.clone();
        let mut entries = vec![(0u32, 0f32); offsets[features.term_count()] as usize];
        for item in order {
            let (terms, weights) = features.vector(item);
            for (term, weight) in terms.iter().zip(weights) {
                entries[next[*term as usize] as usize] = (item, *weight);
                next[*term as usize] += 1;
            }
        }
        Postings { offsets, entries }
    }

    fn of(&self, term: u32) -> &[(u32, f32)] {
        &self.entries[self.offsets[term as usize] as usize..self.offsets[term as usize + 1] as usize]
    }
}

/// What one thread reuses from item to item.
struct Scratch {
    scores: Vec<f32>,
    touched: Vec<u32>,
    terms: Vec<(u32, u32, f32)>,
    found: Vec<(u32, Vec<(u32, f32)>)>,
}

impl Neighbours {
    /// The `keep` nearest items of each item. `done` is called with the number of finished items now and then.
    pub fn new(features: &Features, keep: usize, threads: usize, done: &(dyn Fn(u64) + Sync)) -> Neighbours {
        let work = (ALL_WORK / features.item_count().max(1)).clamp(*WORK.start(), *WORK.end());
        Neighbours::within(work, features, keep, threads, done)
    }

    fn within(work: usize, features: &Features, keep: usize, threads: usize, done: &(dyn Fn(u64) + Sync)) -> Neighbours {
        let n = features.item_count();
        if !features.any() {
            return Neighbours { offsets: vec![0; n + 1], ..Default::default() };
        }
        let postings = Postings::new(features);
        let new = || Scratch { scores: vec![0.0; n], touched: Vec::new(), terms: Vec::new(), found: Vec::new() };
        let mut scratch: Vec<Scratch> = (0..threads.max(1)).map(|_| new()).collect();
        let finished = AtomicU64::new(0);
        parallel::for_each(&mut scratch, n, CHUNK, |scratch, item| {
            let nearest = nearest(features, &postings, (keep, work), item as u32, scratch);
            scratch.found.push((item as u32, nearest));
            let count = finished.fetch_add(1, Ordering::Relaxed) + 1;
            if count.is_multiple_of(1024) {
                done(count);
            }
        });
        let mut found: Vec<_> = scratch.into_iter().flat_map(|s| s.found).collect();
        found.sort_unstable_by_key(|(item, _)| *item);
        let mut made = Neighbours { offsets: vec![0], ..Default::default() };
        for (_, list) in found {
            made.items.extend(list.iter().map(|(item, _)| *item));
            made.similarities.extend(list.iter().map(|(_, similarity)| *similarity));
            made.offsets.push(made.items.len() as u64);
        }
        made
    }

    /// Nearest items of `item` and their cosines, nearest first; `item` itself is not among them.
    pub fn of(&self, item: u32) -> impl ExactSizeIterator<Item = (u32, f32)> + '_ {
        let range = self.offsets[item as usize] as usize..self.offsets[item as usize + 1] as usize;
        self.items[range.clone()].iter().copied().zip(self.similarities[range].iter().copied())
    }
}

fn nearest(
    features: &Features,
    postings: &Postings,
    (keep, mut work): (usize, usize),
    item: u32,
    scratch: &mut Scratch,
) -> Vec<(u32, f32)> {
    let Scratch { scores, touched, terms, .. } = scratch;
    terms.clear();
    let (own, weights) = features.vector(item);
    terms.extend(own.iter().zip(weights).map(|(term, weight)| (features.frequency(*term), *term, *weight)));
    terms.sort_unstable_by_key(|(frequency, term, _)| (*frequency, *term));
    let mut cut = false;
    for &(_, term, weight) in terms.iter() {
        let list = postings.of(term);
        let take = list.len().min(work);
        cut |= take < list.len();
        work -= take;
        let start = if take < list.len() { mix(item, term.wrapping_add(1)) as usize % list.len() } else { 0 };
        let (tail, head) = (&list[start..], &list[..start]);
        for &(other, other_weight) in tail.iter().chain(head).take(take) {
            if scores[other as usize] == 0.0 {
                touched.push(other);
            }
            scores[other as usize] += weight * other_weight;
        }
    }
    let wanted = if cut { keep.saturating_mul(RESCORED) } else { keep };
    let lowest = floor(scores, touched, wanted, if cut { 0.0 } else { MIN_SIMILARITY });
    let mut candidates: Vec<(u32, f32)> = Vec::new();
    for &other in touched.iter() {
        let score = std::mem::take(&mut scores[other as usize]);
        if score >= lowest && other != item {
            candidates.push((other, score.min(1.0)));
        }
    }
    touched.clear();
    if cut {
        best(&mut candidates, item, wanted);
        for (other, score) in candidates.iter_mut() {
            *score = features.cosine(item, *other);
        }
        candidates.retain(|(_, score)| *score >= MIN_SIMILARITY);
    }
    best(&mut candidates, item, keep);
    candidates
}

/// A score that more than `wanted` of the touched items reach, at least `least`: thousands are touched and few wanted, so
/// counting by steps of a score saves sorting the rest.
fn floor(scores: &[f32], touched: &[u32], wanted: usize, least: f32) -> f32 {
    const STEPS: usize = 128;
    let mut counts = [0usize; STEPS + 1];
    for other in touched {
        counts[((scores[*other as usize] * STEPS as f32) as usize).min(STEPS)] += 1;
    }
    let mut above = 0;
    // One more than wanted, for the item itself is among them.
    let step = (0..=STEPS).rev().find(|step| {
        above += counts[*step];
        above > wanted
    });
    step.map_or(least, |step| least.max(step as f32 / STEPS as f32))
}

/// The `keep` highest of `candidates` in falling order; ties by a hash of the pair.
fn best(candidates: &mut Vec<(u32, f32)>, item: u32, keep: usize) {
    // Scores are not negative, so their bits order as they do; the hash is computed once a candidate, for most may be tied.
    let key = |(other, score): &(u32, f32)| (u64::from(!score.to_bits()) << 32 | u64::from(mix(*other, item)), *other, *score);
    let mut keyed: Vec<(u64, u32, f32)> = candidates.iter().map(key).collect();
    if keyed.len() > keep && keep > 0 {
        keyed.select_nth_unstable_by_key(keep - 1, |(key, other, _)| (*key, *other));
    }
    keyed.truncate(keep);
    keyed.sort_unstable_by_key(|(key, other, _)| (*key, *other));
    candidates.clear();
    candidates.extend(keyed.into_iter().map(|(_, other, score)| (other, score)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ItemText;

    fn catalogue(n: u32, kinds: u32) -> Vec<ItemText> {
        let title = |i: u32| format!("kind{} model{} shared", i % kinds, i / kinds % 7);
        (0..n).map(|i| ItemText { title: title(i), ..Default::default() }).collect()
    }

    #[test]
    fn the_index_finds_what_comparing_all_pairs_finds() {
        let features = Features::new(&catalogue(150, 11));
        let found = Neighbours::new(&features, 9, 2, &|_| ());
        for item in 0..150u32 {
            let mut all: Vec<f32> = (0..150).filter(|j| *j != item).map(|j| features.cosine(item, j)).collect();
            all.sort_by(|a, b| b.total_cmp(a));
            let list: Vec<(u32, f32)> = found.of(item).collect();
            assert_eq!(list.len(), 9);
            for (k, (other, similarity)) in list.iter().enumerate() {
                assert!((similarity - all[k]).abs() < 1e-5 && (features.cosine(item, *other) - similarity).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn threads_do_not_matter_and_common_terms_are_cut() {
        // One term in 1,000 items: far more than the work allowed, and nothing rarer to go by.
        let brand = |i: u32| if i.is_multiple_of(2) { "even" } else { "odd" }.to_string();
        let items: Vec<ItemText> = (0..2000).map(|i| ItemText { brand: brand(i), ..Default::default() }).collect();
        let features = Features::new(&items);
        let one = Neighbours::within(100, &features, 3, 1, &|_| ());
        let three = Neighbours::within(100, &features, 3, 3, &|_| ());
        assert!(one.items == three.items && one.similarities == three.similarities && one.offsets == three.offsets);
        let mut distinct: Vec<u32> = (0..200).flat_map(|i| one.of(i).map(|(j, _)| j).collect::<Vec<_>>()).collect();
        assert!((0..200u32).all(|i| one.of(i).len() == 3 && one.of(i).all(|(j, _)| j % 2 == i % 2 && j != i)));
        distinct.sort_unstable();
        distinct.dedup();
        // An item's place in the source file shows what its first buyer took next: it must not make neighbours.
        let beside = (0..2000).flat_map(|i| one.of(i).map(move |(j, _)| i.abs_diff(j))).filter(|d| *d <= 20).count();
        assert!(beside < 250, "{beside} of 6000 neighbours stand within 20 places, chance is 120");
        assert!(distinct.len() > 300, "equal items give every item other neighbours, not the same few: {}", distinct.len());
    }
}
