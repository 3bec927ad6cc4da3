//! A large step on several threads. An operation is cut into spans whose results depend on nothing outside of them, and each number is
//! added up in the order in which one thread adds it; so a step has the same bits for any number of threads.

use super::worker::Worker;
use crate::base::parallel;

/// Multiply-add operations below which a span is not worth a thread's while.
const LEAST: usize = 1 << 18;

/// Pointers that threads share.
#[derive(Clone, Copy)]
pub(super) struct Shared<T>(T);

// SAFETY: spans of one operation write to places apart, and read what none of them writes.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T: Copy> Shared<T> {
    pub fn new(pointers: T) -> Shared<T> {
        Shared(pointers)
    }

    pub fn get(&self) -> T {
        self.0
    }
}

impl Worker {
    /// Lets operations use up to `threads` threads, for a step that has all of them to itself. Changes no result.
    pub fn set_threads(&mut self, threads: usize) {
        self.threads = threads.max(1);
    }

    /// Calls `work(lo, hi)` for spans that make up `0..n`, of which each element costs `cost` multiply-add operations.
    pub(super) fn spread(&self, n: usize, cost: usize, work: impl Fn(usize, usize) + Sync) {
        self.spread_at(n, cost, |place| place, work);
    }

    /// [`Worker::spread`] with spans that begin at places that `cut` gives: the next one from a place on at which spans may begin.
    pub(super) fn spread_at(&self, n: usize, cost: usize, cut: impl Fn(usize) -> usize + Sync, work: impl Fn(usize, usize) + Sync) {
        // Two spans a thread, so that none waits long for another.
        let count = (n.saturating_mul(cost) / LEAST).min(2 * self.threads).min(n);
        if self.threads == 1 || count < 2 {
            return work(0, n);
        }
        let place = |i: usize| if i == count { n } else { cut(i * n / count) };
        parallel::for_each(&mut vec![(); self.threads], count, 1, |(), i| {
            let (lo, hi) = (place(i), place(i + 1));
            if lo < hi {
                work(lo, hi);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::cpu::{Worker, WorkerShape};
    use parking_lot::Mutex;

    #[test]
    fn spans_make_up_the_whole_and_begin_where_they_may() {
        let mut worker = Worker::new(WorkerShape { dim: 1, dense_len: 1, fused: Vec::new(), plain: Vec::new(), positions: None });
        for (threads, n, cost, least) in [(1, 1000, 1 << 18, 1), (3, 1000, 1 << 18, 5), (3, 2, 1 << 20, 2), (4, 1000, 1, 1), (2, 0, 9, 1)] {
            worker.set_threads(threads);
            let found = Mutex::new(Vec::new());
            // Spans may begin at multiples of seven.
            worker.spread_at(n, cost, |place: usize| place.next_multiple_of(7).min(n), |lo, hi| found.lock().push((lo, hi)));
            let mut found = found.into_inner();
            found.sort_unstable();
            assert_eq!((found[0].0, found[found.len() - 1].1), (0, n), "{threads} threads");
            assert!(found.windows(2).all(|w| w[0].1 == w[1].0 && w[1].0 % 7 == 0), "{found:?}");
            assert!(found.len() <= 2 * threads && (n < 7 || found.len() >= least), "{threads} threads: {found:?}");
        }
    }
}
