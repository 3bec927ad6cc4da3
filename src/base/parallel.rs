//! Work over an index range on rayon's threads. It is handed out in small chunks; results must not depend on who did what.

use crate::{Error, Result};
use parking_lot::Mutex;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a setting of 0 means; 0 for every core.
static DEFAULT: AtomicUsize = AtomicUsize::new(0);

/// The number of threads that a setting means: 0 is every core the process may run on, or its share of them where [`set_default`] says so.
pub fn threads(setting: usize) -> usize {
    match (setting, DEFAULT.load(Ordering::Relaxed)) {
        (0, 0) => std::thread::available_parallelism().map_or(1, |n| n.get()),
        (0, share) => share,
        (n, _) => n,
    }
}

/// Sets what 0 means for [`threads`] from now on, where processes share the cores of a machine.
pub fn set_default(threads: usize) {
    DEFAULT.store(threads, Ordering::Relaxed);
}

static POOLS: Mutex<Vec<Arc<ThreadPool>>> = Mutex::new(Vec::new());

/// The pool of `threads(setting)` threads; made once and shared by everything that asks for as many.
///
/// # Errors
/// Where the system gives no more threads.
pub fn pool(setting: usize) -> Result<Arc<ThreadPool>> {
    let n = threads(setting);
    let mut pools = POOLS.lock();
    if let Some(pool) = pools.iter().find(|p| p.current_num_threads() == n) {
        return Ok(Arc::clone(pool));
    }
    let pool = ThreadPoolBuilder::new().num_threads(n).thread_name(|i| format!("lumos-{i}")).build();
    let pool = pool.map_err(|e| Error::Usage(format!("cannot start {n} threads: {e}; set a smaller number of threads")))?;
    pools.push(Arc::new(pool));
    Ok(Arc::clone(&pools[pools.len() - 1]))
}

/// Runs `work(&mut state, index)` for every index below `n`. Each thread owns one entry of `states` (so `states.len()`
/// is the number of threads; the calling one is the first). Indices are handed out `chunk` at a time, in no promised order.
///
/// # Panics
/// Without a state.
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
    let count = states.len();
    let (first, rest) = states.split_first_mut().expect("for_each needs at least one state");
    match if rest.is_empty() { None } else { pool(count).ok() } {
        // Where the system gives no more threads, this one does the work.
        None => run(first),
        Some(pool) => pool.in_place_scope(|scope| {
            let run = &run;
            rest.iter_mut().for_each(|state| scope.spawn(move |_| run(state)));
            run(first);
        }),
    }
}

/// Runs `work(item)` for each of `items` on up to `threads` threads, in no promised order.
pub fn consume<T: Send>(threads: usize, items: Vec<T>, work: impl Fn(T) + Sync) {
    let items: Vec<Mutex<Option<T>>> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
    let take = |i: usize| items[i].lock().take();
    let mut states = vec![(); threads.clamp(1, items.len().max(1))];
    for_each(&mut states, items.len(), 1, |(), i| take(i).into_iter().for_each(&work));
}

/// `work(index)` for every index below `n` on at most `threads` threads, results in index order.
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

    #[test]
    fn a_pool_is_shared_and_work_may_start_work() {
        let (one, two) = (super::pool(3).unwrap(), super::pool(3).unwrap());
        assert!(std::sync::Arc::ptr_eq(&one, &two) && one.current_num_threads() == 3);
        assert_eq!(super::pool(0).unwrap().current_num_threads(), super::threads(0));
        let sums = super::map(3, 9, 1, |i| super::map(3, 20, 1, |k| i * k).iter().sum::<usize>());
        assert_eq!(sums, (0..9).map(|i| i * 190).collect::<Vec<_>>());
    }
}
