//! Which blocks of the cache are whose. A block that holds part of a shared prefix belongs to all who use it.

use super::network::BLOCK;

/// The blocks of a cache.
pub struct Blocks {
    free: Vec<u32>,
    total: usize,
    /// Most blocks in use at one time.
    pub peak: usize,
}

impl Blocks {
    /// All of `total` blocks free.
    pub fn new(total: usize) -> Blocks {
        // Taken from the end: low numbers first, so that memory never used stays untouched.
        Blocks { free: (0..total as u32).rev().collect(), total, peak: 0 }
    }

    /// Blocks for `positions` positions.
    pub fn needed(positions: usize) -> usize {
        positions.div_ceil(BLOCK)
    }

    /// Number of blocks.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Blocks in use.
    pub fn used(&self) -> usize {
        self.total - self.free.len()
    }

    /// `n` blocks, or `None` where fewer are free.
    pub fn take(&mut self, n: usize) -> Option<Vec<u32>> {
        let at = self.free.len().checked_sub(n)?;
        let taken = self.free.split_off(at);
        self.peak = self.peak.max(self.used());
        Some(taken)
    }

    /// Gives blocks back.
    pub fn give(&mut self, blocks: &[u32]) {
        self.free.extend_from_slice(blocks);
    }
}
