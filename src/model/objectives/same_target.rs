//! Training sequences by their targets: which others lead to the same item (DuoRec, Qiu et al., WSDM 2022).

use crate::config::{Copies, LossSettings};
use crate::data::Dataset;
use std::sync::Arc;

/// Every place of the training histories where an item is a target: where something comes before it.
pub struct SameTarget {
    data: Arc<Dataset>,
    /// Bounds of each item's places `[I + 1]`.
    bounds: Vec<usize>,
    /// User and place in its training history, ascending in each item `[N]`.
    places: Vec<(u32, u32)>,
}

impl SameTarget {
    /// Whether the objective of `loss` asks for it.
    pub fn wanted(loss: &LossSettings) -> bool {
        loss.in_batch.weight > 0.0 && loss.in_batch.copies == Copies::SameTarget
    }

    /// The places of the training histories of `data`.
    pub fn new(data: Arc<Dataset>) -> SameTarget {
        let mut all = Vec::new();
        for user in 0..data.users() {
            all.extend(data.train(user).iter().enumerate().skip(1).map(|(place, &item)| (item, (user as u32, place as u32))));
        }
        all.sort_unstable();
        let bounds = (0..=data.item_count() as u32).map(|item| all.partition_point(|(of, _)| *of < item)).collect();
        SameTarget { data, bounds, places: all.into_iter().map(|(_, place)| place).collect() }
    }

    /// What came before `target` at a place other than `own`, drawn by `below(n)`, which gives a number below `n`; nothing where there is
    /// no other place.
    pub fn draw(&self, target: u32, own: (u32, u32), mut below: impl FnMut(usize) -> usize) -> Option<&[u32]> {
        let places = &self.places[self.bounds[target as usize]..self.bounds[target as usize + 1]];
        let own = places.binary_search(&own).ok();
        let others = places.len() - usize::from(own.is_some());
        if others == 0 {
            return None;
        }
        let drawn = below(others);
        let (user, place) = places[drawn + usize::from(own.is_some_and(|own| drawn >= own))];
        Some(&self.data.train(user as usize)[..place as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a plain walk over all histories: each other place is drawn by one number, the own one by none.
    #[test]
    fn every_other_place_of_a_target_is_drawn_once() {
        let mut data = Dataset { item_tokens: vec![String::new(); 5], offsets: vec![0], ..Default::default() };
        for sequence in [&[0, 1, 2, 1, 0, 0][..], &[3, 1, 0, 0], &[1, 2, 0, 0], &[4, 4, 2, 1, 0, 0], &[1, 0, 0]] {
            data.items.extend(sequence);
            data.offsets.push(data.items.len() as u64);
        }
        let all = SameTarget::new(Arc::new(data.clone()));
        for user in 0..data.users() as u32 {
            for (place, &target) in data.train(user as usize).iter().enumerate() {
                let mut plain = Vec::new();
                for other in 0..data.users() as u32 {
                    let train = data.train(other as usize);
                    let found = (1..train.len()).filter(|&at| train[at] == target && (other, at) != (user, place));
                    plain.extend(found.map(|at| train[..at].to_vec()));
                }
                let drawn: Vec<Vec<u32>> =
                    (0..plain.len()).map(|k| all.draw(target, (user, place as u32), |n| k.min(n - 1)).unwrap().to_vec()).collect();
                assert_eq!(drawn, plain, "user {user}, place {place}");
                assert_eq!(plain.is_empty(), all.draw(target, (user, place as u32), |_| 0).is_none());
            }
        }
    }
}
