//! That this process works: what a watchdog of several processes looks at.

use std::sync::atomic::{AtomicU64, Ordering};

static WORK: AtomicU64 = AtomicU64::new(0);

/// Notes that something was done: clients were trained, users ranked, a file was read. From any thread; costs next to nothing.
pub fn worked() {
    WORK.fetch_add(1, Ordering::Relaxed);
}

/// How often [`worked`] was called.
#[cfg_attr(not(feature = "mpi"), allow(dead_code))]
pub(super) fn so_far() -> u64 {
    WORK.load(Ordering::Relaxed)
}
