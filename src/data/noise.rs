//! Noise: some items that a user has met are replaced by items that it has not; some titles of the catalogue change places.

use super::Dataset;
use crate::base::rng::{Purpose, Stream};
use sha2::{Digest, Sha256};

/// The fingerprint of the data set with `fingerprint` under noise.
pub fn noisy_fingerprint(fingerprint: &str, share: f64, seed: u64) -> String {
    hex::encode(Sha256::digest(format!("{fingerprint} noise {share} seed {seed}")))
}

/// `data` with `share` of each user's training items replaced, rounded to the nearest number of places. Places and items are drawn by `seed` and user;
/// an item that comes in stands nowhere else in the user's sequence. Validation and test items stay, so that what is to be found is true.
/// The result has a fingerprint of its own: views and runs of it are not taken for those of `data`.
pub fn disturbed(mut data: Dataset, share: f64, seed: u64) -> Dataset {
    if share == 0.0 {
        return data;
    }
    data.fingerprint = noisy_fingerprint(&data.fingerprint, share, seed);
    let items = data.item_count() as u64;
    let mut met = vec![u32::MAX; data.item_count()];
    for user in 0..data.users() {
        let (from, count) = (data.offsets[user] as usize, data.train(user).len());
        data.sequence(user).iter().for_each(|&item| met[item as usize] = user as u32);
        let mut open = items - met.iter().filter(|mark| **mark == user as u32).count() as u64;
        let mut stream = Stream::new(seed, Purpose::Noise, 0, user as u64);
        let mut places: Vec<usize> = (0..count).collect();
        stream.shuffle(&mut places);
        for &place in places.iter().take((share * count as f64).round() as usize) {
            if open == 0 {
                break;
            }
            let item = loop {
                let item = stream.below(items) as usize;
                if met[item] != user as u32 {
                    break item;
                }
            };
            (met[item], open) = (user as u32, open - 1);
            data.items[from + place] = item as u32;
        }
    }
    data
}

/// `data` with `share` of its titles, rounded to the nearest number, in other places: each drawn item has the title of another drawn one. Items and
/// places are drawn by `seed`; an item without a title stays without. Views of the result are made by themselves; histories and ids stay.
pub fn with_exchanged_titles(mut data: Dataset, share: f64, seed: u64) -> Dataset {
    if share == 0.0 {
        return data;
    }
    let mut named: Vec<usize> = (0..data.catalogue.len()).filter(|&item| !data.catalogue[item].title.is_empty()).collect();
    // Behind the streams of users.
    Stream::new(seed, Purpose::Noise, 0, u64::MAX).shuffle(&mut named);
    named.truncate((share * named.len() as f64).round() as usize);
    for pair in named.windows(2) {
        let first = std::mem::take(&mut data.catalogue[pair[0]].title);
        data.catalogue[pair[0]].title = std::mem::replace(&mut data.catalogue[pair[1]].title, first);
    }
    data.altered = hex::encode(Sha256::digest(format!("{} exchanged {share} seed {seed}", data.altered)));
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ItemText;
    use std::collections::HashSet;

    fn data() -> Dataset {
        let mut data = Dataset { fingerprint: "f".into(), offsets: vec![0], ..Default::default() };
        data.item_tokens = vec![String::new(); 60];
        for user in 0..30u32 {
            data.items.extend((0..4 + user % 17).map(|i| (i * 7 + user) % 60));
            data.offsets.push(data.items.len() as u64);
        }
        data
    }

    #[test]
    fn the_share_of_training_items_is_replaced_by_new_ones() {
        let clean = data();
        for share in [0.1, 0.25, 0.5] {
            let noisy = disturbed(clean.clone(), share, 9);
            assert_ne!(noisy.fingerprint, clean.fingerprint);
            assert_eq!(noisy.fingerprint, noisy_fingerprint("f", share, 9));
            for user in 0..clean.users() {
                let (before, after) = (clean.sequence(user), noisy.sequence(user));
                let train = before.len() - 2;
                assert_eq!(before[train..], after[train..]);
                let changed: Vec<u32> = (0..train).filter(|&i| before[i] != after[i]).map(|i| after[i]).collect();
                assert_eq!(changed.len(), (share * train as f64).round() as usize);
                assert!(changed.iter().all(|item| !before.contains(item)));
                assert_eq!(changed.iter().collect::<HashSet<_>>().len(), changed.len());
            }
            assert_eq!(noisy, disturbed(clean.clone(), share, 9));
            assert_ne!(noisy.items, disturbed(clean.clone(), share, 10).items);
        }
        assert_eq!(disturbed(clean.clone(), 0.0, 9), clean);
    }

    #[test]
    fn the_share_of_titles_changes_places() {
        let title = |item: usize| if item % 6 == 5 { String::new() } else { format!("Item {item}") };
        let clean = Dataset { catalogue: (0..60).map(|i| ItemText { title: title(i), ..Default::default() }).collect(), ..data() };
        for share in [0.04, 0.3, 1.0] {
            let noisy = with_exchanged_titles(clean.clone(), share, 9);
            let titles = |data: &Dataset| data.catalogue.iter().map(|item| item.title.clone()).collect::<Vec<_>>();
            let (before, mut after) = (titles(&clean), titles(&noisy));
            let moved: Vec<usize> = (0..60).filter(|&item| before[item] != after[item]).collect();
            assert_eq!(moved.len(), (share * 50.0).round() as usize);
            assert!(moved.iter().all(|&item| !before[item].is_empty()));
            assert_eq!(titles(&with_exchanged_titles(clean.clone(), share, 9)), after);
            assert_ne!(titles(&with_exchanged_titles(clean.clone(), share, 10)), after);
            after.sort();
            let mut all = before;
            all.sort();
            assert_eq!(after, all);
            assert!(noisy.views_fingerprint() != clean.views_fingerprint() && noisy.fingerprint == clean.fingerprint);
        }
        assert_eq!(with_exchanged_titles(clean.clone(), 0.0, 9), clean);
    }

    #[test]
    fn a_user_who_has_met_everything_keeps_what_it_has() {
        let mut data = Dataset { item_tokens: vec![String::new(); 4], offsets: vec![0, 6], ..Default::default() };
        data.items = vec![0, 1, 2, 3, 0, 1];
        assert_eq!(disturbed(data.clone(), 0.5, 1).items, data.items);
    }
}
