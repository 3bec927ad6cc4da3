//! Items of the counterfactual views among the negatives of the next-item loss (`loss.counterfactual_negatives`; ours). A counterfactual item
//! stands in the popularity band of the history item at its place, so it is a harder negative than a uniform one.

use super::{Sequence, view_checks};
use crate::Result;
use crate::config::range::{ensure, refuse};
use crate::config::{RecLoss, Settings};

/// First of a draw's 16 blocks that uniform draws leave free.
const BLOCK: u64 = 8;

impl Sequence<'_> {
    /// Negative number `k` of the example at `position` in `epoch` where it is drawn from the counterfactuals: uniform over the items of all
    /// of them. Nothing where `k` is a uniform negative, the user has no counterfactual, or four draws gave nothing but training items.
    pub(super) fn hard_negative(&self, epoch: u32, position: usize, k: usize) -> Option<u32> {
        if k >= self.settings.loss.counterfactual_negatives as usize {
            return None;
        }
        let counterfactuals = &self.views?.counterfactuals;
        let items: usize = counterfactuals.iter().map(Vec::len).sum();
        let item = |word: u32| {
            let mut at = ((u64::from(word) * items as u64) >> 32) as usize;
            counterfactuals.iter().find_map(|view| match view.get(at) {
                Some(item) => Some(*item),
                None => {
                    at -= view.len();
                    None
                }
            })
        };
        let words = self.negatives.block_at(self.place(epoch, position, k) + BLOCK);
        words.into_iter().filter_map(item).find(|item| !self.train.contains(item))
    }
}

/// Refuses more of them than there are negatives, and a run without views.
///
/// # Errors
/// [`crate::Error::Setting`] with the key and what to do.
pub(super) fn check(settings: &Settings) -> Result<()> {
    let (key, loss) = ("loss.counterfactual_negatives", &settings.loss);
    let n = loss.counterfactual_negatives;
    if n == 0 {
        return Ok(());
    }
    if loss.rec == RecLoss::Softmax {
        return refuse(key, n, "0, because loss.rec is `softmax`, which draws no negatives");
    }
    ensure(n <= loss.negatives, key, n, &format!("at most loss.negatives = {}", loss.negatives))?;
    view_checks::views(settings, key)
}
