//! How often items occur in training items, as far as it may be known (`privacy.counts`), and bands of about equally popular items.

use super::mix;
use crate::base::rng::Stream;

/// Draws from one band before the next is tried.
const TRIES: usize = 32;
/// Fewest items of a band, where the catalogue has that many.
const MIN_BAND: usize = 32;
/// A band ends where an item is more than this much more popular than its least popular one.
const RATIO: f64 = 1.25;

/// Items by popularity. Built from counts over all users alone; of equal counts there is one band.
pub struct Popularity {
    counts: Vec<u32>,
    /// Items, least popular first `[I]`.
    order: Vec<u32>,
    /// Bounds of the bands in `order` `[B + 1]`.
    bounds: Vec<usize>,
    /// Band of an item `[I]`.
    band: Vec<u32>,
}

impl Popularity {
    /// Bands over `counts` `[I]`. Items of equal count are never in two bands.
    pub fn new(counts: &[u32]) -> Popularity {
        let n = counts.len();
        let mut order: Vec<u32> = (0..n as u32).collect();
        order.sort_by_cached_key(|item| (counts[*item as usize], mix(*item, 1), *item));
        let count_at = |place: usize| counts[order[place] as usize];
        let mut bounds = vec![0usize];
        let mut start = 0;
        for place in 1..n {
            let wide = place - start >= MIN_BAND && n - place >= MIN_BAND;
            if wide && count_at(place) != count_at(place - 1) && f64::from(count_at(place)) > RATIO * f64::from(count_at(start)) {
                bounds.push(place);
                start = place;
            }
        }
        bounds.push(n);
        let mut band = vec![0u32; n];
        for (b, range) in bounds.windows(2).enumerate() {
            for &item in &order[range[0]..range[1]] {
                band[item as usize] = b as u32;
            }
        }
        Popularity { counts: counts.to_vec(), order, bounds, band }
    }

    /// Training count of `item`.
    pub fn count(&self, item: u32) -> u32 {
        self.counts[item as usize]
    }

    /// Band of `item`; 0 holds the least popular items.
    pub fn band(&self, item: u32) -> usize {
        self.band[item as usize] as usize
    }

    /// Number of bands, at least one.
    pub fn bands(&self) -> usize {
        self.bounds.len() - 1
    }

    /// An item about as popular as `like`: the one with the lowest `cost` among some drawn from its band; the first one that
    /// costs at most `enough` is taken at once. `cost` is `None` for items that are out of the question. A band without any
    /// gives way to the next ones, and these at last to a walk over all items; `None` where no item at all has a cost.
    pub fn draw(&self, like: u32, enough: f32, stream: &mut Stream, mut cost: impl FnMut(u32) -> Option<f32>) -> Option<u32> {
        let (home, bands) = (self.band(like), self.bands());
        for distance in 0..bands {
            let below = home.checked_sub(distance);
            let above = Some(home + distance).filter(|b| *b < bands && distance > 0);
            for band in [below, above].into_iter().flatten() {
                let items = &self.order[self.bounds[band]..self.bounds[band + 1]];
                if let Some(item) = draw_from(items, enough, stream, &mut cost) {
                    return Some(item);
                }
            }
        }
        let start = stream.below(self.order.len() as u64) as usize;
        let (head, tail) = self.order.split_at(start);
        tail.iter().chain(head).copied().find(|item| cost(*item).is_some())
    }
}

/// The cheapest of a few draws; a short list is looked through wholly.
fn draw_from(items: &[u32], enough: f32, stream: &mut Stream, cost: &mut impl FnMut(u32) -> Option<f32>) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    let start = stream.below(items.len().max(1) as u64) as usize;
    for attempt in 0..items.len().min(TRIES) {
        let whole = items.len() <= TRIES;
        let place = if whole { (start + attempt) % items.len() } else { stream.below(items.len() as u64) as usize };
        let item = items[place];
        if let Some(found) = cost(item) {
            if found <= enough {
                return Some(item);
            }
            if best.is_none_or(|(_, lowest)| found < lowest) {
                best = Some((item, found));
            }
        }
    }
    best.map(|(item, _)| item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Purpose;

    #[test]
    fn bands_are_narrow_and_keep_equal_counts_together() {
        let counts: Vec<u32> = (0..2000u32).map(|i| 2000 / (i + 1)).collect();
        let p = Popularity::new(&counts);
        assert!(p.bands() > 3);
        for a in 0..2000u32 {
            assert!(p.band(a) < p.bands());
        }
        for pair in p.order.windows(2) {
            assert!(p.band(pair[0]) <= p.band(pair[1]));
            assert!(p.count(pair[0]) != p.count(pair[1]) || p.band(pair[0]) == p.band(pair[1]));
        }
    }

    #[test]
    fn draws_end_where_little_is_left() {
        for n in [1usize, 2, 40, 500] {
            let p = Popularity::new(&(0..n as u32).collect::<Vec<_>>());
            let mut stream = Stream::new(1, Purpose::Bench, 0, 0);
            for like in 0..n as u32 {
                let last = n as u32 - 1;
                assert_eq!(p.draw(like, 0.0, &mut stream, |i| (i == last).then_some(1.0)), Some(last));
                assert_eq!(p.draw(like, 0.0, &mut stream, |_| None), None);
                assert_eq!(p.draw(like, 0.0, &mut stream, |_| Some(0.0)).map(|i| p.band(i)), Some(p.band(like)));
            }
        }
    }
}
