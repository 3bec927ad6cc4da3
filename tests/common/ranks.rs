//! Processes of one training as threads of a test.
#![allow(dead_code)]

use lumos::cluster::Reduce;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A thread that others wait for longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(300);

/// One of several ranks.
#[derive(Clone)]
pub struct Thread {
    rank: usize,
    size: usize,
    table: Arc<(Mutex<Table>, Condvar)>,
}

#[derive(Default)]
struct Table {
    /// What each rank has put in, in the exchange at hand.
    parts: Vec<Option<Vec<u8>>>,
    /// Ranks that have not taken the whole yet.
    to_take: usize,
}

impl Thread {
    pub fn all(size: usize) -> Vec<Arc<dyn Reduce>> {
        let table: Arc<(Mutex<Table>, Condvar)> = Arc::default();
        table.0.lock().unwrap().parts = vec![None; size];
        (0..size).map(|rank| Arc::new(Thread { rank, size, table: table.clone() }) as Arc<dyn Reduce>).collect()
    }

    /// Runs `work` as each of `size` ranks; what each gave, by rank.
    pub fn run<T: Send>(size: usize, work: impl Fn(Arc<dyn Reduce>) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = Thread::all(size).into_iter().map(|rank| scope.spawn(move || work(rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    fn exchange(&self, own: Vec<u8>) -> Vec<Vec<u8>> {
        let (lock, changed) = &*self.table;
        let wait = |table, until: &dyn Fn(&Table) -> bool| {
            let (table, late) = changed.wait_timeout_while(table, PATIENCE, |t| !until(t)).unwrap();
            assert!(!late.timed_out(), "rank {} waits for another one in vain", self.rank);
            table
        };
        // The exchange before may not be over for all.
        let mut table = wait(lock.lock().unwrap(), &|t| t.to_take == 0);
        table.parts[self.rank] = Some(own);
        if table.parts.iter().all(Option::is_some) {
            table.to_take = self.size;
            changed.notify_all();
        }
        let mut table = wait(table, &|t| t.to_take > 0);
        let all = table.parts.iter().flatten().cloned().collect();
        table.to_take -= 1;
        if table.to_take == 0 {
            table.parts.fill(None);
            changed.notify_all();
        }
        all
    }
}

impl Reduce for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum(&self, values: &mut [i64]) -> lumos::Result<()> {
        let all = self.exchange(values.iter().flat_map(|v| v.to_le_bytes()).collect());
        values.fill(0);
        for part in all {
            assert_eq!(part.len(), 8 * values.len(), "ranks sum vectors of equal lengths");
            values.iter_mut().zip(part.as_chunks::<8>().0).for_each(|(sum, bytes)| *sum = sum.wrapping_add(i64::from_le_bytes(*bytes)));
        }
        Ok(())
    }

    fn union(&self, values: &[u32]) -> lumos::Result<Vec<u32>> {
        let all = self.exchange(values.iter().flat_map(|v| v.to_le_bytes()).collect());
        let mut all: Vec<u32> = all.iter().flat_map(|part| part.as_chunks::<4>().0.iter().map(|v| u32::from_le_bytes(*v))).collect();
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    fn gather(&self, bytes: &[u8]) -> lumos::Result<Vec<Vec<u8>>> {
        Ok(self.exchange(bytes.to_vec()))
    }

    fn collect(&self, bytes: &[u8]) -> lumos::Result<Vec<Vec<u8>>> {
        let all = self.exchange(bytes.to_vec());
        Ok(if self.rank == 0 { all } else { Vec::new() })
    }

    fn broadcast(&self, bytes: Vec<u8>) -> lumos::Result<Vec<u8>> {
        Ok(self.exchange(if self.rank == 0 { bytes } else { Vec::new() }).swap_remove(0))
    }
}
