//! Memory of activations: taken from the device once and handed round.

use crate::device::Buffer;
use crate::device::interface::{Device, Result};
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;

/// Unused buffers, by size. The device works in the order of its queue, so a buffer may be handed out again while work on
/// its old contents is still to come: the new work comes behind it.
pub(super) struct Spare {
    device: Arc<dyn Device>,
    free: Mutex<HashMap<usize, Vec<Buffer>>>,
    /// Recordings hold addresses of unused buffers: none is freed but by [`Spare::clear`].
    keeps: bool,
}

impl Spare {
    pub fn new(device: Arc<dyn Device>) -> Arc<Spare> {
        Arc::new(Spare { device, free: Mutex::default(), keeps: false })
    }

    /// One that frees nothing by itself.
    pub fn keeping(device: Arc<dyn Device>) -> Arc<Spare> {
        Arc::new(Spare { device, free: Mutex::default(), keeps: true })
    }

    /// Frees what is unused. Waits for the queue, as it must.
    pub fn clear(&self) {
        self.free().clear();
    }

    fn free(&self) -> MutexGuard<'_, HashMap<usize, Vec<Buffer>>> {
        self.free.lock()
    }

    /// At least `bytes` bytes, with undefined contents.
    pub fn take(self: &Arc<Spare>, bytes: usize) -> Result<Lent> {
        let class = class(bytes);
        let known = self.free().get_mut(&class).and_then(Vec::pop);
        let buffer = match known.map_or_else(|| self.device.alloc(class), Ok) {
            // What lies about in other sizes makes room. Freeing waits for the queue, as it must.
            Err(e) if e.is_out_of_memory() && !self.keeps => {
                self.free().clear();
                self.device.alloc(class)?
            }
            other => other?,
        };
        Ok(Lent { buffer: Some(buffer), spare: Some(self.clone()) })
    }
}

/// Sizes are rounded up to quarters of powers of two, so that batches of nearly the same size share buffers.
fn class(bytes: usize) -> usize {
    let bytes = bytes.max(4096);
    bytes.next_multiple_of(bytes.next_power_of_two() / 8)
}

/// A buffer that goes back when dropped.
pub(super) struct Lent {
    buffer: Option<Buffer>,
    /// Where to; nothing for a buffer that is freed.
    spare: Option<Arc<Spare>>,
}

impl Lent {
    /// A buffer that is freed when dropped.
    pub fn own(buffer: Buffer) -> Lent {
        Lent { buffer: Some(buffer), spare: None }
    }

    pub fn buffer(&self) -> &Buffer {
        self.buffer.as_ref().expect("a buffer is given back in `drop` alone")
    }

    pub fn address(&self) -> u64 {
        self.buffer().address()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(buffer), Some(spare)) = (self.buffer.take(), &self.spare) {
            spare.free().entry(buffer.bytes()).or_default().push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::class;

    #[test]
    fn classes_hold_what_is_asked_for_and_waste_little() {
        for bytes in (0..3000).map(|i| i * 7919 + i % 3).chain([4096, 4097, 1 << 30]) {
            let class = class(bytes);
            assert!(class >= bytes && class as f64 <= 1.25 * bytes as f64 + 4096.0, "{bytes}: {class}");
        }
    }
}
