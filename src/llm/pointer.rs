//! A pointer that parallel tasks share.

/// Memory that tasks share and write disjoint parts of.
#[derive(Clone, Copy)]
pub(super) struct Pointer(pub *mut f32);
// SAFETY: tasks write disjoint parts.
unsafe impl Send for Pointer {}
// SAFETY: as above.
unsafe impl Sync for Pointer {}

impl Pointer {
    /// A closure that calls this shares the whole, which may be shared; the bare pointer inside may not.
    pub fn get(&self) -> *mut f32 {
        self.0
    }
}
