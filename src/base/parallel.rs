//! Plain scoped threads over an index range. Work is handed out in small chunks; results must not depend on who did what.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Number of threads to use when the setting is 0: every core the process may run on.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Runs `work(&mut state, index)` for every index below `n`. Each thread owns one entry of `states` (so `states.len()`
/// is the number of threads). Indices are handed out `chunk` at a time, in no promised order.
pub fn for_each<S: Send>(states: &mut [S], n: usize, chunk: usize, work: impl Fn(&mut S, usize) + Sync) {
    let chunk = chunk.max(1);
    let next = AtomicUsize::new(0);
    let run = |state: &mut S| {
        loop {
            let lo = next.fetch_add(chunk, Ordering::Relaxed);
            if lo >= n {
                break;
            }
            for i in lo..n.min(lo + chunk) {
                work(state, i);
            }
        }
    };
    match states {
        [] => panic!("for_each needs at least one state"),
        [one] => run(one),
        [first, rest @ ..] => std::thread::scope(|scope| {
            for state in rest {
                // Where the system gives no more threads, those that run do the work.
                if std::thread::Builder::new().spawn_scoped(scope, || run(state)).is_err() {
                    break;
                }
            }
            run(first);
        }),
    }
}

/// Runs `work(item)` for each of `items` on up to `threads` threads, in no promised order.
pub fn consume<T: Send>(threads: usize, items: Vec<T>, work: impl Fn(T) + Sync) {
    let items: Vec<Mutex<Option<T>>> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
    let take = |i: usize| items[i].lock().unwrap_or_else(PoisonError::into_inner).take();
    let mut states = vec![(); threads.clamp(1, items.len().max(1))];
    for_each(&mut states, items.len(), 1, |(), i| take(i).into_iter().for_each(&work));
}

/// `work(index)` for every index below `n`, results in index order.
pub fn map<T: Send>(threads: usize, n: usize, chunk: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let mut parts: Vec<Vec<(usize, T)>> = (0..threads.max(1)).map(|_| Vec::new()).collect();
    for_each(&mut parts, n, chunk, |part, i| part.push((i, work(i))));
    let mut all: Vec<(usize, T)> = parts.into_iter().flatten().collect();
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, v)| v).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_item_is_consumed_once() {
        for threads in [1, 3, 8] {
            let mut seen = vec![0u8; 5];
            super::consume(threads, seen.iter_mut().collect(), |n: &mut u8| *n += 1);
            assert_eq!(seen, [1; 5]);
            super::consume(threads, Vec::<u8>::new(), |_| panic!("there is none"));
        }
    }

    #[test]
    fn map_keeps_order() {
        for threads in [1, 3] {
            assert_eq!(super::map(threads, 101, 7, |i| i * i), (0..101).map(|i| i * i).collect::<Vec<_>>());
        }
    }
}
