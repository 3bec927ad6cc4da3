//! How a world works: sizes, relations between items, tastes, the next step of a history.

use std::collections::HashSet;

use super::names::{CATEGORIES, KINDS, PRODUCTS, STYLES, brand};
use crate::base::memory;
use crate::base::rng::{Purpose, Stream};
use crate::config::DataSettings;
use crate::config::range::{number, range};
use crate::data::dataset::ItemText;
use crate::{Error, Result};

/// One of this number of interactions is an exploration.
pub(super) const EXPLORE: u64 = 10;
/// Percentage of steps that follow the last item.
pub(super) const FOLLOW: u64 = 50;
/// Successors of an item.
pub(super) const SUCCESSORS: u64 = 3;
/// Further draws where an item was met before.
pub(super) const RETRIES: i32 = 8;
/// What shares of steps and of late categories are counted in; [`LATE`] so that a third is a whole number of it.
pub(super) const SHARE: u64 = 1_000_000;
const LATE: u64 = 3_000_000;
/// Brands of one category.
const BRANDS: u64 = 8;
/// Memory of a user (token, bounds), of an interaction (drawn, sorted, packed) and of an item (token, texts) while a world is made, and of
/// a machine that does not tell its own.
const USER_BYTES: u64 = 128;
const STEP_BYTES: u64 = 48;
const ITEM_BYTES: u64 = 384;
const MEMORY: u64 = 64 << 30;
/// First second of the world.
const EPOCH: u64 = 1_400_000_000;
/// Streams: users' draws, items' relations, items' texts.
const USER: u64 = 1;
const RELATION: u64 = 2;
const TEXT: u64 = 3;

/// Sizes and habits of the world; everything else is computed from them.
pub(super) struct World {
    seed: u64,
    pub items: u64,
    /// Step of the walk over the whole catalogue.
    stride: u64,
    pub categories: u64,
    /// Sub-categories of a category.
    pub subs: u64,
    mean_length: f64,
    /// Categories in a taste.
    pub tastes: usize,
    /// Of [`LATE`] draws of a late category those that keep the early one.
    keeps: u64,
    /// Power of a uniform number that says how much the first items of a leaf are preferred.
    pub skew: u32,
    /// Of [`SHARE`] steps those that are an item out of the whole catalogue.
    pub noise: u64,
}

/// What a user likes.
pub(super) struct Taste {
    /// Categories at the beginning, the best liked first.
    pub early: Vec<u64>,
    /// Categories at the end.
    pub late: Vec<u64>,
    habit: u32,
}

impl Taste {
    /// The sub-category of `category` that the user likes best, of `subs`.
    pub fn favourite(&self, category: u64, subs: u64) -> u64 {
        (u64::from(self.habit) >> 8).wrapping_mul(category + 1) % subs
    }
}

/// Where a history has come to.
pub(super) struct Place<'a> {
    pub taste: &'a Taste,
    pub last: Option<u64>,
    pub position: u64,
    pub length: u64,
    /// Items that the user has met.
    pub met: &'a HashSet<u64>,
}

/// Refuses a world that the machine's memory cannot hold, before anything of its size is asked for.
fn check_memory(users: u32, items: u32, mean: f32) -> Result<()> {
    let by_users = u64::from(users) * USER_BYTES + (f64::from(users) * f64::from(mean)) as u64 * STEP_BYTES;
    let by_items = u64::from(items) * ITEM_BYTES;
    let (needed, limit) = (by_users + by_items, memory::limit().unwrap_or(MEMORY));
    if needed <= limit {
        return Ok(());
    }
    let key = if by_users > by_items { "data.synth_users" } else { "data.synth_items" };
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let message = format!(
        "a world of {users} users and {items} items needs about {:.1} GiB of memory, there are {:.1} GiB; make it smaller",
        gib(needed),
        gib(limit)
    );
    Err(Error::setting(key, message))
}

/// `n` times a uniform number to the power `skew`, as an index below `n`: the low ones are drawn most, all alike with 1.
fn skewed(stream: &mut Stream, n: u64, skew: u32) -> u64 {
    let u = f64::from(stream.unit());
    ((0..skew).fold(n as f64, |x, _| x * u) as u64).min(n - 1)
}

/// How likely each index below `n` is by [`skewed`].
pub(super) fn skewed_weights(n: u64, skew: u32) -> impl Iterator<Item = f64> {
    let below = move |k: u64| (k as f64 / n as f64).powf(1.0 / f64::from(skew));
    (0..n).map(move |k| below(k + 1) - below(k))
}

/// Weights of the successors of an item, and of the categories of a taste of three.
pub(super) const PICKS: [f64; 3] = [0.6, 0.3, 0.1];

/// One of three entries, by [`PICKS`].
fn pick(stream: &mut Stream) -> u64 {
    match stream.below(10) {
        0..=5 => 0,
        6..=8 => 1,
        _ => 2,
    }
}

/// Refuses habits out of range.
pub(in crate::data) fn check_habits(settings: &DataSettings) -> Result<()> {
    range((1..=16).contains(&settings.synth_tastes), "data.synth_tastes", settings.synth_tastes, "between 1 and 16 categories")?;
    number(|x| (0.0..=1.0).contains(&x), "data.synth_drift", settings.synth_drift, "a share from 0 to 1")?;
    range((1..=8).contains(&settings.synth_skew), "data.synth_skew", settings.synth_skew, "between 1 (none) and 8")?;
    number(|x| (0.0..=1.0).contains(&x), "data.synth_noise", settings.synth_noise, "a share from 0 to 1")
}

impl World {
    pub fn new(settings: &DataSettings) -> Result<World> {
        check_habits(settings)?;
        let (users, items, mean) = (settings.synth_users, settings.synth_items, settings.synth_mean_length);
        if users == 0 {
            return Err(Error::setting("data.synth_users", "0 is too small: one user is the least"));
        }
        if items < 20 {
            return Err(Error::setting("data.synth_items", format!("{items} is too small: 20 is the least")));
        }
        if !(3.0..=1000.0).contains(&mean) {
            return Err(Error::setting("data.synth_mean_length", format!("{mean} is out of range: 3 to 1000")));
        }
        if f64::from(mean) > f64::from(items) / 4.0 {
            let message = format!("{mean} is too large for {items} items, a quarter of them is the most; raise data.synth_items");
            return Err(Error::setting("data.synth_mean_length", message));
        }
        // Refused before anything of that size is asked for; the exact total is checked again later.
        if f64::from(users) * f64::from(mean) >= f64::from(u32::MAX) {
            let message = format!("{users} users of {mean} interactions are too many; fewer users or a smaller mean length are needed");
            return Err(Error::setting("data.synth_users", message));
        }
        check_memory(users, items, mean)?;
        let leaves = u64::from(items / 25).clamp(4, (PRODUCTS.len() * KINDS.len()) as u64);
        let categories = leaves.isqrt().clamp(2, CATEGORIES.len() as u64);
        let (items, subs) = (u64::from(items), leaves / categories);
        // A stride without a common divisor makes the walk over the catalogue a permutation.
        let mut stride = (items as f64 * 0.618) as u64 | 1;
        while gcd(stride, items) != 1 {
            stride += 2;
        }
        let count = |share: f32, of: u64| (f64::from(share) * of as f64).round() as u64;
        Ok(World {
            seed: settings.synth_seed,
            stride,
            items,
            categories,
            subs,
            mean_length: f64::from(mean),
            tastes: settings.synth_tastes as usize,
            keeps: LATE - count(settings.synth_drift, LATE),
            skew: settings.synth_skew,
            noise: count(settings.synth_noise, SHARE),
        })
    }

    pub fn leaves(&self) -> u64 {
        self.categories * self.subs
    }

    fn stream(&self, what: u64, id: u64) -> Stream {
        Stream::new(self.seed, Purpose::World, what, id)
    }

    /// Items of `leaf`.
    pub fn leaf_size(&self, leaf: u64) -> u64 {
        (self.items - leaf).div_ceil(self.leaves())
    }

    /// A popular item of `leaf`.
    fn item_in(&self, leaf: u64, stream: &mut Stream) -> u64 {
        let size = self.leaf_size(leaf);
        skewed(stream, size, self.skew) * self.leaves() + leaf
    }

    /// Length of a history: a floor of five (less where the mean is less) plus a long tail of the right mean.
    pub fn length(&self, user: u64) -> u32 {
        let mut stream = self.stream(USER, user);
        let floor = self.mean_length.floor().min(5.0);
        let (u, round) = (f64::from(stream.unit()), f64::from(stream.unit()));
        let length = floor + (4.0 * (self.mean_length - floor) * u * u * u + round).floor();
        (length as u64).min(self.items / 2) as u32
    }

    /// Successor `k` of `item`: in its own leaf (0, 2) or in the neighbouring sub-category (1), never itself.
    pub fn successor(&self, item: u64, k: u64) -> u64 {
        let mut stream = self.stream(RELATION + (k << 8), item);
        let leaf = item % self.leaves();
        let leaf = match k {
            1 => leaf / self.subs * self.subs + (leaf % self.subs + 1) % self.subs,
            _ => leaf,
        };
        let next = self.item_in(leaf, &mut stream);
        if next == item { (item + self.leaves()) % self.items } else { next }
    }

    /// What `user` likes; `stream` is the user's, of which the first two words decided the length.
    fn draw_taste(&self, stream: &mut Stream) -> Taste {
        let early: Vec<u64> = (0..self.tastes).map(|_| skewed(stream, self.categories, self.skew)).collect();
        let late = |&early: &u64| if stream.below(LATE) < self.keeps { early } else { skewed(stream, self.categories, self.skew) };
        let late = early.iter().map(late).collect();
        Taste { early, late, habit: stream.u32() }
    }

    /// The draws of `user` behind the length.
    fn user_stream(&self, user: u64) -> Stream {
        let mut stream = self.stream(USER, user);
        let _ = (stream.u32(), stream.u32());
        stream
    }

    /// What `user` likes.
    pub fn taste(&self, user: u64) -> Taste {
        self.draw_taste(&mut self.user_stream(user))
    }

    /// Appends the history of `user`; `start` is its place among all interactions of the world.
    pub fn history(&self, user: u64, length: u32, start: u64, met: &mut HashSet<u64>, items: &mut Vec<u32>, times: &mut Vec<i64>) {
        let mut stream = self.user_stream(user);
        let taste = self.draw_taste(&mut stream);
        let mut time = EPOCH + stream.below(200_000_000);
        let mut last = None;
        met.clear();
        for position in 0..u64::from(length) {
            let place = Place { taste: &taste, last, position, length: length.into(), met };
            let item = match self.explores(start + position) {
                Some(item) => self.unless_met(item, &place, &mut stream),
                None => self.step(&place, &mut stream),
            };
            met.insert(item);
            // Three in ten steps fall into the same hours, the others days apart.
            let gap = if stream.below(10) < 3 { stream.below(10_000) } else { 10_000 + skewed(&mut stream, 1_000_000, 2) };
            time += gap;
            items.push(item as u32);
            times.push(time as i64);
            last = Some(item);
        }
    }

    /// The item that interaction number `step` of the world explores, where it does: one of a walk that visits every item once before it starts again.
    pub fn explores(&self, step: u64) -> Option<u64> {
        step.is_multiple_of(EXPLORE).then(|| (step / EXPLORE % self.items) * self.stride % self.items)
    }

    /// The next item of a history, where nothing is explored.
    pub fn step(&self, place: &Place, stream: &mut Stream) -> u64 {
        let item = match place.last {
            _ if self.noise > 0 && stream.below(SHARE) < self.noise => stream.below(self.items),
            Some(last) if stream.below(100) < FOLLOW => self.successor(last, pick(stream)),
            _ => self.liked(place, stream),
        };
        self.unless_met(item, place, stream)
    }

    /// `item`; where the user has met it, one of the user's taste that is new.
    fn unless_met(&self, mut item: u64, place: &Place, stream: &mut Stream) -> u64 {
        for _ in 0..RETRIES {
            if place.met.contains(&item) {
                item = self.liked(place, stream);
            }
        }
        // A history is at most half of the catalogue, so this walk ends.
        while place.met.contains(&item) {
            item = (item + 1) % self.items;
        }
        item
    }

    /// An item of the user's taste.
    fn liked(&self, place: &Place, stream: &mut Stream) -> u64 {
        let taste = if stream.below(place.length) < place.position { &place.taste.late } else { &place.taste.early };
        let entry = if taste.len() == PICKS.len() { pick(stream) } else { skewed(stream, taste.len() as u64, 2) };
        let category = taste[entry as usize];
        // Each user starts at another sub-category of a category.
        let favourite = place.taste.favourite(category, self.subs);
        let leaf = category * self.subs + (favourite + skewed(stream, self.subs, 2)) % self.subs;
        self.item_in(leaf, stream)
    }

    /// What is bought with `item`: its successors, a few popular neighbours, nothing for one item in eight.
    pub fn also_bought(&self, item: u64) -> Vec<u64> {
        let mut stream = self.stream(TEXT, item);
        if stream.below(8) == 0 {
            return Vec::new();
        }
        let mut bought: Vec<u64> = (0..SUCCESSORS).map(|k| self.successor(item, k)).collect();
        bought.extend((0..stream.below(4)).map(|_| self.item_in(item % self.leaves(), &mut stream)).collect::<Vec<_>>());
        let mut met = HashSet::from([item]);
        bought.retain(|b| met.insert(*b));
        bought
    }

    pub fn text(&self, item: u64) -> ItemText {
        let mut stream = self.stream(TEXT + (1 << 8), item);
        let leaf = item % self.leaves();
        let category = leaf / self.subs;
        let product = PRODUCTS[leaf as usize % PRODUCTS.len()];
        let kind = match leaf as usize / PRODUCTS.len() {
            0 => String::new(),
            n => format!("{} ", KINDS[n % KINDS.len()]),
        };
        let brand = brand((category * BRANDS + stream.below(BRANDS)) as u32);
        let style = STYLES[stream.below(STYLES.len() as u64) as usize];
        let series = item / self.leaves() + 1;
        ItemText {
            title: format!("{brand} {style} {kind}{product} {series}"),
            categories: vec![CATEGORIES[category as usize].to_owned(), format!("{kind}{product}s")],
            brand,
            also_bought: Vec::new(),
        }
    }
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
