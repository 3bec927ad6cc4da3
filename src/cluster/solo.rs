//! A process that trains alone.

use super::Reduce;
use crate::Result;

/// One process alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Solo;

impl Reduce for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn sum(&self, _: &mut [i64]) -> Result<()> {
        Ok(())
    }

    fn union(&self, values: &[u32]) -> Result<Vec<u32>> {
        Ok(values.to_vec())
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![bytes.to_vec()])
    }

    fn collect(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.gather(bytes)
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        Ok(bytes)
    }
}
