//! Stands for MPI in a build without it, so that the layers above are the same: there is never a value.

use super::{RankLog, Reduce};
use crate::Result;

/// The processes of a training, of which a build without MPI has none.
#[derive(Clone, Copy, Debug)]
pub enum Mpi {}

impl Mpi {
    /// One line for a user.
    pub fn description(&self) -> &str {
        match *self {}
    }

    /// The messages of this process.
    pub fn log(&self) -> &RankLog {
        match *self {}
    }

    /// Leaves MPI.
    pub fn finish(&self) {
        match *self {}
    }

    /// Ends all processes after a message on stderr.
    pub fn end_all(&self, _message: &str) -> ! {
        match *self {}
    }
}

impl Reduce for Mpi {
    fn rank(&self) -> usize {
        match *self {}
    }

    fn size(&self) -> usize {
        match *self {}
    }

    fn sum(&self, _: &mut [i64]) -> Result<()> {
        match *self {}
    }

    fn union(&self, _: &[u32]) -> Result<Vec<u32>> {
        match *self {}
    }

    fn gather(&self, _: &[u8]) -> Result<Vec<Vec<u8>>> {
        match *self {}
    }

    fn collect(&self, _: &[u8]) -> Result<Vec<Vec<u8>>> {
        match *self {}
    }

    fn broadcast(&self, _: Vec<u8>) -> Result<Vec<u8>> {
        match *self {}
    }
}
