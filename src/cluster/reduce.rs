//! What a transport between processes does.

use crate::{Error, Result};

/// Exchanges between several processes (ranks). Every process calls the same methods in the same order with vectors of equal lengths, unless a
/// method says otherwise, and every process has the same result.
pub trait Reduce: Send + Sync {
    /// Number of this process, from 0.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn size(&self) -> usize;

    /// Puts the sum over all processes in the place of `values`. Addition of integers has no order, so that the result is the same for
    /// any number of processes and any way of adding.
    ///
    /// # Errors
    /// Where the transport fails.
    fn sum(&self, values: &mut [i64]) -> Result<()>;

    /// The numbers that any process has, ascending. `values` are ascending and distinct.
    ///
    /// # Errors
    /// Where the transport fails.
    fn union(&self, values: &[u32]) -> Result<Vec<u32>>;

    /// What each process has, by rank, of any lengths.
    ///
    /// # Errors
    /// Where the transport fails.
    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// The same at rank 0 alone; the others get nothing.
    ///
    /// # Errors
    /// Where the transport fails.
    fn collect(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// What rank 0 has, of any length. The others' `bytes` are not looked at.
    ///
    /// # Errors
    /// Where the transport fails.
    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>>;

    /// What a message calls the process `rank`, such as `rank 3 on node7`.
    fn name(&self, rank: usize) -> String {
        format!("rank {rank}")
    }

    /// What the exchanges so far have cost this process.
    fn spent(&self) -> Spent {
        Spent::default()
    }
}

/// What exchanges have cost a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Exchanges.
    pub exchanges: u64,
    /// Bytes of its own that it put in.
    pub bytes: u64,
    /// Seconds inside exchanges, those included in which it waited for a slower process.
    pub seconds: f64,
}

impl Spent {
    /// What was spent since `before`.
    pub fn since(self, before: Spent) -> Spent {
        Spent { exchanges: self.exchanges - before.exchanges, bytes: self.bytes - before.bytes, seconds: self.seconds - before.seconds }
    }
}

/// Makes an error of one process an error of all, so that none goes on to an exchange that another one never enters. A process that failed
/// keeps its own error, the others get that of the lowest rank.
///
/// # Errors
/// That error; where the transport fails.
pub fn agree<T>(reduce: &dyn Reduce, outcome: Result<T>) -> Result<T> {
    if reduce.size() == 1 {
        return outcome;
    }
    let message = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
    let all = reduce.gather(message.as_bytes())?;
    let value = outcome?;
    match all.iter().enumerate().find(|(_, message)| !message.is_empty()) {
        None => Ok(value),
        Some((rank, message)) => Err(Error::Cluster(format!("{}: {}", reduce.name(rank), String::from_utf8_lossy(message)))),
    }
}
