//! Launches, fills and copies kept for later.

use super::Geometry;
use super::interface::{Arg, Fill, Kernel};
use std::ffi::c_void;

/// One call. Addresses were checked against their buffers when it was made.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// A kernel with its arguments, each in whole words and so aligned.
    Launch(Kernel, Geometry, Vec<Vec<u64>>),
    /// Address, bytes, value.
    Fill(u64, usize, Fill),
    /// From, to, bytes.
    Copy(u64, u64, usize),
}

impl Op {
    /// Keeps a launch, with what its arguments are now.
    pub fn launch(kernel: Kernel, geometry: Geometry, args: &[Arg]) -> Op {
        let words = args.iter().map(|arg| {
            let mut words = vec![0u64; arg.size().div_ceil(8)];
            // SAFETY: an argument is `size` bytes long, and that many bytes fit into the words.
            unsafe { std::ptr::copy_nonoverlapping(arg.address().cast::<u8>(), words.as_mut_ptr().cast(), arg.size()) };
            words
        });
        Op::Launch(kernel, geometry, words.collect())
    }
}

/// Where the kept arguments lie.
pub(super) fn pointers(args: &[Vec<u64>]) -> Vec<*const c_void> {
    args.iter().map(|words| words.as_ptr().cast()).collect()
}

/// Kernels among `ops`.
pub(super) fn launches(ops: &[Op]) -> usize {
    ops.iter().filter(|op| matches!(op, Op::Launch(..))).count()
}
