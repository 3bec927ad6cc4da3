//! A synthetic world: a readable catalogue and users whose tastes drift, of any size, without a table over pairs of items.
//!
//! Item `i` of `I` sits in leaf `i % L` of the category tree at popularity rank `i / L`, so every relation is arithmetic and
//! every draw takes constant time. A step of a history is, in this order:
//! * every [`EXPLORE`]th interaction of the world: the next item of one walk over the whole catalogue, so that each item is met
//!   once enough interactions exist;
//! * with [`FOLLOW`] percent: one of the last item's three successors (what a sequential model can learn);
//! * else an item of the user's taste: one of three categories, early ones giving way to late ones along the history, a
//!   sub-category that this user prefers there, and a popular item in it.
//!
//! No user meets an item twice. Draws use only integers, products and sums, so the bits are the same on any machine and for
//! any number of threads.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use super::dataset::{ItemText, UserGroups};
use super::prepare::Progress;
use super::reader::{RawData, Reader};
use super::source::Source;
use super::synth_names::{CATEGORIES, KINDS, PRODUCTS, STYLES, brand};
use super::times::{TimeValues, Times};
use crate::base::clean;
use crate::base::memory;
use crate::base::parallel;
use crate::base::rng::{Purpose, Stream};
use crate::config::DataSettings;
use crate::{Error, Result};

/// One of this number of interactions is an exploration.
const EXPLORE: u64 = 10;
/// Percentage of steps that follow the last item.
const FOLLOW: u64 = 50;
/// Successors of an item.
const SUCCESSORS: u64 = 3;
/// Categories in a taste.
const TASTES: usize = 3;
/// Brands of one category.
const BRANDS: u64 = 8;
/// Users or items generated together.
const BLOCK: usize = 1024;
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

/// Reader of no file at all.
pub struct Synthetic;

impl Reader for Synthetic {
    fn name(&self) -> &'static str {
        "synthetic"
    }

    fn reads_files(&self) -> bool {
        false
    }

    fn read(&self, settings: &DataSettings, _: Option<&mut Source>, _: Option<&mut Source>, progress: &Progress) -> Result<RawData> {
        synthetic_world(settings, parallel::threads(0), progress)
    }
}

/// The world of `settings.synth_*`, made by `threads` threads (which never change it).
///
/// # Errors
/// [`Error::Setting`] for sizes out of range.
pub fn synthetic_world(settings: &DataSettings, threads: usize, progress: &(dyn Fn(&str, u64, u64) + Sync)) -> Result<RawData> {
    let world = World::new(settings)?;
    let users = settings.synth_users as usize;
    let lengths: Vec<u32> = (0..users).map(|u| world.length(u as u64)).collect();
    let mut starts = Vec::with_capacity(users + 1);
    starts.push(0u64);
    for length in &lengths {
        starts.push(starts[starts.len() - 1] + u64::from(*length));
    }
    let total = starts[users];
    if total >= u64::from(u32::MAX) {
        let message = format!("a world of {total} interactions is too large; fewer users or a smaller mean length are needed");
        return Err(Error::setting("data.synth_users", message));
    }
    let done = AtomicU64::new(0);
    let blocks = parallel::map(threads, users.div_ceil(BLOCK), 1, |block| {
        let range = block * BLOCK..users.min((block + 1) * BLOCK);
        let (mut items, mut times) = (Vec::new(), Vec::new());
        let mut met = HashSet::new();
        for user in range.clone() {
            world.history(user as u64, lengths[user], starts[user], &mut met, &mut items, &mut times);
        }
        progress("making histories", done.fetch_add(range.len() as u64, Ordering::Relaxed) + range.len() as u64, users as u64);
        (items, times)
    });
    let mut raw = RawData { users: Vec::with_capacity(total as usize), items: Vec::with_capacity(total as usize), ..RawData::default() };
    let mut all_times = Vec::with_capacity(total as usize);
    for (items, times) in blocks {
        raw.items.extend(items);
        all_times.extend(times);
    }
    for (user, length) in lengths.iter().enumerate() {
        raw.users.extend(std::iter::repeat_n(user as u32, *length as usize));
    }
    raw.times = Some(Times::new(TimeValues::Integer(all_times)));
    raw.user_tokens = (0..users).map(|u| format!("u{u:07}")).collect();
    raw.groups = sites(&world, &raw, &starts, &settings.group_column)?;
    catalogue(&world, &mut raw, threads, progress);
    Ok(raw)
}

/// The column of groups that a world has.
const SITE: &str = "site";

/// The site of each user, where `column` asks for it: the category of the user's first item, so that sites differ in taste and size.
fn sites(world: &World, raw: &RawData, starts: &[u64], column: &str) -> Result<Option<UserGroups>> {
    if column.is_empty() {
        return Ok(None);
    }
    if column != SITE {
        let message = format!("is `{}`; a synthetic world has one column of groups, `{SITE}`", clean::id(column));
        return Err(Error::setting("data.group_column", message));
    }
    let category = |&start: &u64| u64::from(raw.items[start as usize]) % world.leaves() / world.subs;
    let values: Vec<&str> = starts[..starts.len() - 1].iter().map(|start| CATEGORIES[category(start) as usize]).collect();
    Ok(Some(UserGroups::new(column, &values)))
}

/// Numbers the items met by first appearance and writes their texts.
fn catalogue(world: &World, raw: &mut RawData, threads: usize, progress: &Progress) {
    const NONE: u32 = u32::MAX;
    let mut index = vec![NONE; world.items as usize];
    let mut met: Vec<u32> = Vec::new();
    for item in &mut raw.items {
        let slot = &mut index[*item as usize];
        if *slot == NONE {
            *slot = met.len() as u32;
            met.push(*item);
        }
        *item = *slot;
    }
    raw.item_tokens = met.iter().map(|i| format!("i{i:07}")).collect();
    let done = AtomicU64::new(0);
    let blocks = parallel::map(threads, met.len().div_ceil(BLOCK), 1, |block| {
        let part = &met[block * BLOCK..met.len().min((block + 1) * BLOCK)];
        let texts: Vec<ItemText> = part
            .iter()
            .map(|&item| {
                let bought = world.also_bought(u64::from(item)).into_iter().map(|i| index[i as usize]).filter(|i| *i != NONE);
                ItemText { also_bought: bought.collect(), ..world.text(u64::from(item)) }
            })
            .collect();
        progress("making the catalogue", done.fetch_add(part.len() as u64, Ordering::Relaxed) + part.len() as u64, met.len() as u64);
        texts
    });
    raw.catalogue = blocks.into_iter().flatten().collect();
}

/// Sizes of the world; everything else is computed from them.
struct World {
    seed: u64,
    items: u64,
    /// Step of the walk over the whole catalogue.
    stride: u64,
    categories: u64,
    /// Sub-categories of a category.
    subs: u64,
    mean_length: f64,
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

/// `n` times the square of a uniform number, as an index below `n`: the low ones are drawn most.
fn skewed(stream: &mut Stream, n: u64) -> u64 {
    let u = f64::from(stream.unit());
    ((n as f64 * u * u) as u64).min(n - 1)
}

/// One of three entries, with weights .6, .3, .1.
fn pick(stream: &mut Stream) -> u64 {
    match stream.below(10) {
        0..=5 => 0,
        6..=8 => 1,
        _ => 2,
    }
}

impl World {
    fn new(settings: &DataSettings) -> Result<World> {
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
        Ok(World { seed: settings.synth_seed, stride, items, categories, subs, mean_length: f64::from(mean) })
    }

    fn leaves(&self) -> u64 {
        self.categories * self.subs
    }

    fn stream(&self, what: u64, id: u64) -> Stream {
        Stream::new(self.seed, Purpose::World, what, id)
    }

    /// A popular item of `leaf`.
    fn item_in(&self, leaf: u64, stream: &mut Stream) -> u64 {
        let size = (self.items - leaf).div_ceil(self.leaves());
        skewed(stream, size) * self.leaves() + leaf
    }

    /// Length of a history: a floor of five (less where the mean is less) plus a long tail of the right mean.
    fn length(&self, user: u64) -> u32 {
        let mut stream = self.stream(USER, user);
        let floor = self.mean_length.floor().min(5.0);
        let (u, round) = (f64::from(stream.unit()), f64::from(stream.unit()));
        let length = floor + (4.0 * (self.mean_length - floor) * u * u * u + round).floor();
        (length as u64).min(self.items / 2) as u32
    }

    /// Successor `k` of `item`: in its own leaf (0, 2) or in the neighbouring sub-category (1), never itself.
    fn successor(&self, item: u64, k: u64) -> u64 {
        let mut stream = self.stream(RELATION + (k << 8), item);
        let leaf = item % self.leaves();
        let leaf = match k {
            1 => leaf / self.subs * self.subs + (leaf % self.subs + 1) % self.subs,
            _ => leaf,
        };
        let next = self.item_in(leaf, &mut stream);
        if next == item { (item + self.leaves()) % self.items } else { next }
    }

    /// Appends the history of `user`; `start` is its place among all interactions of the world.
    fn history(&self, user: u64, length: u32, start: u64, met: &mut HashSet<u64>, items: &mut Vec<u32>, times: &mut Vec<i64>) {
        let mut stream = self.stream(USER, user);
        // The first two words decided the length.
        let _ = (stream.u32(), stream.u32());
        let early: [u64; TASTES] = std::array::from_fn(|_| skewed(&mut stream, self.categories));
        let late: [u64; TASTES] =
            std::array::from_fn(|i| if stream.below(3) == 0 { early[i] } else { skewed(&mut stream, self.categories) });
        let habit = stream.u32();
        let mut time = EPOCH + stream.below(200_000_000);
        let mut last = None;
        met.clear();
        for position in 0..u64::from(length) {
            let step = start + position;
            let mut item = match last {
                _ if step.is_multiple_of(EXPLORE) => self.explored(step / EXPLORE),
                Some(last) if stream.below(100) < FOLLOW => self.successor(last, pick(&mut stream)),
                _ => self.liked(&early, &late, habit, position, length, &mut stream),
            };
            for _ in 0..8 {
                if met.contains(&item) {
                    item = self.liked(&early, &late, habit, position, length, &mut stream);
                }
            }
            // A history is at most half of the catalogue, so this walk ends.
            while !met.insert(item) {
                item = (item + 1) % self.items;
            }
            // Three in ten steps fall into the same hours, the others days apart.
            let gap = if stream.below(10) < 3 { stream.below(10_000) } else { 10_000 + skewed(&mut stream, 1_000_000) };
            time += gap;
            items.push(item as u32);
            times.push(time as i64);
            last = Some(item);
        }
    }

    /// Item `n` of a walk that visits every item once before it starts again.
    fn explored(&self, n: u64) -> u64 {
        (n % self.items) * self.stride % self.items
    }

    /// An item of the user's taste at `position` of `length`.
    fn liked(&self, early: &[u64; TASTES], late: &[u64; TASTES], habit: u32, position: u64, length: u32, stream: &mut Stream) -> u64 {
        let taste = if stream.below(u64::from(length)) < position { late } else { early };
        let category = taste[pick(stream) as usize];
        // Each user starts at another sub-category of a category.
        let favourite = (u64::from(habit) >> 8).wrapping_mul(category + 1) % self.subs;
        let leaf = category * self.subs + (favourite + skewed(stream, self.subs)) % self.subs;
        self.item_in(leaf, stream)
    }

    /// What is bought with `item`: its successors, a few popular neighbours, nothing for one item in eight.
    fn also_bought(&self, item: u64) -> Vec<u64> {
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

    fn text(&self, item: u64) -> ItemText {
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
