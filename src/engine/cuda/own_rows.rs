//! Users who keep item rows of their own (`federation.shared` without `items`) in a ranking. The hidden states are those of each user's rows. The
//! scores of all items are counted with the global rows, as for any users; then the items that a user keeps are taken out of its count with the
//! global row and added with its own. So a user costs the rows that it keeps, and no table.

use super::chunks::ChunkTrainer;
use super::kept::Own;
use super::ranker::RankChunk;
use crate::backend::cuda::kernels::{GatherRows, RankTargets};
use crate::device::interface::{Buffer, Result, bytes_of};
use crate::device::launch::Pointer;
use std::collections::HashSet;

/// Kept rows a user at which a launch is large enough: it holds this many times the users of the chunk, and those of one user more.
const EACH: usize = 64;

/// Bytes at which parts of the memory begin, and how many there are.
struct Places {
    /// Kept rows of a launch `[n, d]`, and the hidden state of the user of each `[n, d]`.
    kept: usize,
    hidden: usize,
    /// User, item and number of each kept row, `[n]` u32 each.
    words: usize,
    /// Score of each by its own and by the global row `[n]` f32 each, and a count that nothing reads `[n]`.
    scores: usize,
    count: usize,
    /// Most rows of a launch.
    most: usize,
    bytes: usize,
}

impl Places {
    /// For `users` users with `tokens` tokens, whose rows `[T, d]` come first, over a catalogue of `items`.
    fn new(tokens: usize, users: usize, items: usize, d: usize) -> Places {
        let most = EACH * users + items;
        let mut at = 0;
        let mut next = |bytes: usize| {
            let place = at;
            at += bytes.next_multiple_of(512);
            place
        };
        next(4 * tokens * d);
        let [kept, hidden] = [(); 2].map(|()| next(4 * most * d));
        let (words, scores, count) = (next(12 * most), next(8 * most), next(4 * most));
        Places { kept, hidden, words, scores, count, most, bytes: at }
    }
}

/// Kept rows of some users, one after another.
#[derive(Default)]
struct KeptRows {
    users: Vec<u32>,
    items: Vec<u32>,
    rows: Vec<f32>,
}

/// Whether `score` is not below `threshold`; a NaN on either side counts.
fn counts(score: f32, threshold: f32) -> i32 {
    i32::from(score.partial_cmp(&threshold).is_none_or(|o| o.is_ge()))
}

impl ChunkTrainer {
    /// Bytes for the rows of `users` users with `tokens` tokens.
    pub(super) fn own_rows_bytes(&self, tokens: usize, users: usize) -> usize {
        Places::new(tokens, users, self.sizes.items, self.sizes.dim).bytes
    }

    /// Puts the rows of all tokens of `chunk`, as their users have them, at the beginning of `room`.
    pub(super) fn take_rows(&self, room: &Buffer, chunk: &RankChunk, own: &Own) -> Result<()> {
        let mut rows = Vec::with_capacity(chunk.items().len() * self.sizes.dim);
        for user in 0..chunk.users() {
            rows.extend(own.rows(&own.state(user), chunk.input(user)));
        }
        self.device.upload(room, 0, bytes_of(&rows))
    }

    /// Compares the rows that the users of `chunk` keep with the global ones, under the hidden states `h [U, d]`: sets the `threshold [U]` of those who
    /// keep their target, and gives by how many items each user's count changes. Masked items are left out.
    pub(super) fn compare_rows(&self, room: &Buffer, chunk: &RankChunk, own: &Own, h: Pointer, threshold: &Buffer) -> Result<Vec<i32>> {
        let (users, items) = (chunk.users(), self.sizes.items);
        let places = Places::new(chunk.items().len(), users, items, self.sizes.dim);
        let mut thresholds: Vec<f32> = self.device.download_vec(threshold, 0, users)?;
        let (mut changes, mut kept) = (vec![0; users], KeptRows::default());
        for user in 0..users {
            let masked: HashSet<u32> = chunk.masked(user).iter().copied().collect();
            for (item, row) in own.state(user).rows {
                // A special row is no item.
                if (item as usize) < items && !masked.contains(&item) {
                    kept.users.push(user as u32);
                    kept.items.push(item);
                    kept.rows.extend(row);
                }
            }
            if kept.items.len() + items <= places.most && user + 1 < users || kept.items.is_empty() {
                continue;
            }
            let scores = self.score_rows(room, &places, &kept, h)?;
            let (own_scores, global_scores) = scores.split_at(kept.items.len());
            for ((&user, &item), &score) in kept.users.iter().zip(&kept.items).zip(own_scores) {
                if item == chunk.target(user as usize) {
                    thresholds[user as usize] = score;
                }
            }
            for ((&user, &own), &global) in kept.users.iter().zip(own_scores).zip(global_scores) {
                let threshold = thresholds[user as usize];
                changes[user as usize] += counts(own, threshold) - counts(global, threshold);
            }
            kept = KeptRows::default();
        }
        self.device.upload(threshold, 0, bytes_of(&thresholds))?;
        Ok(changes)
    }

    /// Scores of `kept` by its own rows and by the global ones `[2, n]`.
    fn score_rows(&self, room: &Buffer, places: &Places, kept: &KeptRows, h: Pointer) -> Result<Vec<f32>> {
        let (device, n, d) = (&*self.device, kept.items.len(), self.sizes.dim as i32);
        let words: Vec<u32> = kept.users.iter().chain(&kept.items).copied().chain(0..n as u32).collect();
        device.upload(room, places.kept, bytes_of(&kept.rows))?;
        device.upload(room, places.words, bytes_of(&words))?;
        let at = |place: usize| Pointer(room.at(place));
        let [users, items, numbers] = [0, 1, 2].map(|i| at(places.words + 4 * n * i));
        let (count, rows) = (at(places.count), at(places.hidden));
        self.go([n.div_ceil(8) as u32, 1], GatherRows { items: users, table: h, rows, count: n as i32, d })?;
        for (i, (table, target)) in [(at(places.kept), numbers), ((&self.table).into(), items)].into_iter().enumerate() {
            let threshold = at(places.scores + 4 * n * i);
            self.go([n.div_ceil(128) as u32, 1], RankTargets { h: rows, table, target, threshold, count, users: n as i32, d })?;
        }
        device.download_vec(room, places.scores, 2 * n)
    }
}
