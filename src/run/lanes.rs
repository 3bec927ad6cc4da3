//! Trainings side by side.

use super::Observer;
use crate::Result;
use crate::cluster::Reduce;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Only what a user must not miss: the bars of trainings side by side would tell nothing.
pub(super) struct Warnings<'a>(pub &'a dyn Observer);

impl Observer for Warnings<'_> {
    fn warn(&self, text: &str) {
        self.0.warn(text);
    }

    fn ranks(&self) -> Option<&dyn Reduce> {
        self.0.ranks()
    }
}

/// Does all of `work`, `jobs` at a time, each with its place; the results in the order of the work. After a failure nothing more is begun.
///
/// # Errors
/// The first of those that failed, in the order of the work.
pub(super) fn side_by_side<W: Sync, T: Send>(jobs: usize, work: &[W], one: impl Fn(usize, &W) -> Result<T> + Sync) -> Result<Vec<T>> {
    let (next, failed, outcomes) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(Vec::new()));
    let lane = || {
        while !failed.load(Ordering::SeqCst) {
            let at = next.fetch_add(1, Ordering::SeqCst);
            let Some(work) = work.get(at) else { return };
            let outcome = one(at, work);
            failed.fetch_or(outcome.is_err(), Ordering::SeqCst);
            outcomes.lock().push((at, outcome));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, work.len().max(1)) {
            scope.spawn(lane);
        }
    });
    let mut all = outcomes.into_inner();
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, outcome)| outcome).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn results_stand_in_order_and_a_failure_ends_it() {
        let work: Vec<usize> = (0..40).collect();
        for jobs in [1, 3, 100] {
            assert_eq!(side_by_side(jobs, &work, |at, n| Ok(at * 100 + n)).unwrap(), (0..40).map(|n| n * 101).collect::<Vec<_>>());
        }
        assert!(side_by_side::<u8, ()>(2, &[], |_, _| Ok(())).unwrap().is_empty());
        let begun = AtomicUsize::new(0);
        let outcome = side_by_side(1, &work, |_, n| {
            begun.fetch_add(1, Ordering::SeqCst);
            if *n == 5 { Err(Error::Usage("five".into())) } else { Ok(()) }
        });
        assert!(outcome.unwrap_err().to_string().contains("five"));
        assert_eq!(begun.into_inner(), 6, "nothing more is begun");
    }
}
