//! A small world in memory.
#![allow(dead_code)]

use lumos::base::rng::{Purpose, Stream};
use lumos::data::{Dataset, ItemText};
use lumos::views::{UserViews, Views};

/// Users who mostly walk to the next item of a ring, with views that continue, repeat or reverse the walk.
pub fn world(users: u32, items: u32, seed: u64) -> (Dataset, Views) {
    let mut data = Dataset { name: "ring".into(), offsets: vec![0], ..Default::default() };
    data.item_tokens = (0..items).map(|i| format!("i{i}")).collect();
    data.catalogue = vec![ItemText::default(); items as usize];
    let mut views = Views::default();
    for u in 0..users {
        let mut s = Stream::new(seed, Purpose::Bench, 0, u64::from(u));
        let n = 4 + s.below(9) as u32;
        let mut at = s.below(u64::from(items)) as u32;
        let sequence: Vec<u32> = (0..n)
            .map(|_| {
                at = (at + if s.below(10) == 0 { 1 + s.below(5) as u32 } else { 1 }) % items;
                at
            })
            .collect();
        let train = &sequence[..sequence.len() - 2];
        let mut future = train.to_vec();
        future.extend((1..4).map(|k| (train[train.len() - 1] + k) % items));
        let counterfactual = train.iter().map(|i| (i + items / 2) % items).collect();
        views.users.push(UserViews { future, paraphrase: train.to_vec(), counterfactuals: vec![counterfactual] });
        data.user_tokens.push(format!("u{u}"));
        data.items.extend(&sequence);
        data.offsets.push(data.items.len() as u64);
    }
    (data, views)
}

/// Makes every third user of `data` come back: the last item becomes the first of the training items, for every ninth the one before it
/// as well.
pub fn come_back(data: &mut Dataset) {
    for user in (0..data.users()).step_by(3) {
        let (first, end) = (data.offsets[user] as usize, data.offsets[user + 1] as usize);
        data.items[end - 1] = data.items[first];
        if user % 9 == 0 {
            data.items[end - 2] = data.items[first];
        }
    }
}
