//! What a set of recommendation lists is like as a whole: how much of the catalogue it shows, how evenly, how well known its items are.

use serde::Serialize;

/// Collects lists.
#[derive(Clone, Debug)]
pub struct Lists {
    /// How often each item was recommended `[I]`.
    shown: Vec<u64>,
    /// Share of training interactions of each item `[I]`.
    share: Vec<f64>,
    entries: u64,
    lists: u64,
}

/// The figures of all lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ListFigures {
    /// Lists.
    pub lists: u64,
    /// Share of the catalogue that is in a list, 0 to 1 (aggregate coverage).
    pub coverage: f64,
    /// Gini coefficient of how often items are shown: 0 all alike, near 1 a few items alone.
    pub gini: f64,
    /// Mean of `-log2` of an entry's share of training interactions (Vargas and Castells, RecSys 2011); higher is less known. An item without
    /// a training interaction counts as one with half an interaction.
    pub novelty: f64,
    /// Mean over entries of the share of items that have fewer training interactions, 0 to 1.
    pub popularity: f64,
}

impl Lists {
    /// None yet, over items with these training counts `[I]`.
    pub fn new(train_counts: &[u32]) -> Lists {
        let total = train_counts.iter().map(|c| f64::from(*c)).sum::<f64>().max(1.0);
        let share = train_counts.iter().map(|c| f64::from(*c).max(0.5) / total).collect();
        Lists { shown: vec![0; train_counts.len()], share, entries: 0, lists: 0 }
    }

    /// Adds a list; items that the catalogue does not have are left out.
    pub fn add(&mut self, items: impl IntoIterator<Item = u32>) {
        self.lists += 1;
        for item in items {
            if let Some(shown) = self.shown.get_mut(item as usize) {
                *shown += 1;
                self.entries += 1;
            }
        }
    }

    /// The figures of what was added.
    pub fn figures(&self) -> ListFigures {
        if self.entries == 0 {
            return ListFigures { lists: self.lists, ..ListFigures::default() };
        }
        let (n, entries) = (self.shown.len() as f64, self.entries as f64);
        let mut sorted = self.shown.clone();
        sorted.sort_unstable();
        let weighted: f64 = sorted.iter().zip(1..).map(|(shown, place)| *shown as f64 * (2.0 * f64::from(place) - n - 1.0)).sum();
        let mut shares = self.share.clone();
        shares.sort_by(f64::total_cmp);
        let below = |share: f64| shares.partition_point(|other| *other < share) as f64 / n;
        let mean = |value: &dyn Fn(f64) -> f64| {
            self.shown.iter().zip(&self.share).map(|(shown, share)| *shown as f64 * value(*share)).sum::<f64>() / entries
        };
        ListFigures {
            lists: self.lists,
            coverage: self.shown.iter().filter(|shown| **shown > 0).count() as f64 / n,
            gini: weighted / (n * entries),
            novelty: mean(&|share| -share.log2()),
            popularity: mean(&below),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_by_hand() {
        let mut lists = Lists::new(&[8, 4, 4, 0]);
        assert_eq!(lists.figures(), ListFigures::default());
        lists.add([0, 1]);
        lists.add([0, 9]);
        let f = lists.figures();
        assert_eq!((f.lists, f.coverage), (2, 0.5));
        // Shown 2, 1, 0, 0: the mean absolute difference over twice the mean.
        assert!((f.gini - 0.583_333_333).abs() < 1e-6, "{f:?}");
        assert!((f.novelty - (1.0 + 1.0 + 2.0) / 3.0).abs() < 1e-12, "{f:?}");
        assert!((f.popularity - (0.75 + 0.75 + 0.25) / 3.0).abs() < 1e-12, "{f:?}");
        let mut even = Lists::new(&[1; 4]);
        (0..4).for_each(|item| even.add([item]));
        assert!(even.figures().gini.abs() < 1e-12 && even.figures().coverage == 1.0);
    }
}
