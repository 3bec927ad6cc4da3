//! What a transport between processes does.

use crate::Result;

/// Adds up what several processes have summed. Every process calls the same methods in the same order with vectors of equal lengths, and
/// every process has the same result.
pub trait Reduce: Send {
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
}
