//! Pinned host memory that copies to and from the device pass through, so that the host need not wait for them.

use super::waits::Waits;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use std::ffi::c_void;

/// Bytes of a block. Long enough that a copy runs at the full speed of the bus.
const BLOCK: usize = 4 << 20;
/// Blocks: while some are on their way others are filled.
const BLOCKS: usize = 4;

struct Block {
    memory: *mut u8,
    /// Recorded behind the last copy that uses the block.
    event: sys::CUevent,
}

/// A ring of pinned blocks. All its calls want the device's context to be current.
pub(super) struct Staging {
    blocks: Vec<Block>,
    current: usize,
    used: usize,
}

// SAFETY: the blocks and events belong to the context, which any thread may use; the ring itself is behind a lock.
unsafe impl Send for Staging {}

impl Staging {
    /// Takes the pinned memory.
    pub fn new(waits: Waits) -> Result<Staging, DriverError> {
        let mut staging = Staging { blocks: Vec::with_capacity(BLOCKS), current: 0, used: 0 };
        for _ in 0..BLOCKS {
            // SAFETY: what was made so far is freed by `Staging::free` or on the spot.
            let made = unsafe { result::malloc_host(BLOCK, 0) }.and_then(|memory| {
                let event = waits.event(false);
                if event.is_err() {
                    // SAFETY: allocated above, and handed to nothing yet.
                    let _ = unsafe { result::free_host(memory) };
                }
                Ok(Block { memory: memory.cast(), event: event? })
            });
            match made {
                Ok(block) => staging.blocks.push(block),
                Err(error) => {
                    staging.free();
                    return Err(error);
                }
            }
        }
        Ok(staging)
    }

    /// Gives the pinned memory back; the queue must be empty.
    pub fn free(&mut self) {
        for block in self.blocks.drain(..) {
            // SAFETY: made by `new`, freed once. An error cannot be reported here.
            unsafe {
                let _ = result::event::destroy(block.event);
                let _ = result::free_host(block.memory.cast::<c_void>());
            }
        }
    }

    /// Goes on to the next block once its last copy has ended.
    fn advance(&mut self, stream: sys::CUstream) -> Result<(), DriverError> {
        // SAFETY: events and stream are alive.
        unsafe {
            result::event::record(self.blocks[self.current].event, stream)?;
            self.current = (self.current + 1) % BLOCKS;
            self.used = 0;
            result::event::synchronize(self.blocks[self.current].event)
        }
    }

    /// Puts a copy of `bytes` to `to` into the stream; `bytes` are not read afterwards.
    ///
    /// # Safety
    /// `to` holds as many bytes.
    pub unsafe fn upload(&mut self, stream: sys::CUstream, mut to: u64, mut bytes: &[u8]) -> Result<(), DriverError> {
        while !bytes.is_empty() {
            if self.used == BLOCK {
                self.advance(stream)?;
            }
            let (piece, rest) = bytes.split_at(bytes.len().min(BLOCK - self.used));
            // SAFETY: the piece fits behind what is used of the block, which no copy on its way reads.
            unsafe {
                let at = self.blocks[self.current].memory.add(self.used);
                std::ptr::copy_nonoverlapping(piece.as_ptr(), at, piece.len());
                let source = std::slice::from_raw_parts(at, piece.len());
                result::memcpy_htod_async(to, source, stream)?;
            }
            // Copies start at whole cache lines.
            self.used = (self.used + piece.len()).next_multiple_of(256);
            to += piece.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// Copies from `from`, with the next piece on its way while one is read.
    ///
    /// # Safety
    /// `from` holds as many bytes.
    pub unsafe fn download(&mut self, stream: sys::CUstream, from: u64, bytes: &mut [u8]) -> Result<(), DriverError> {
        let mut on_its_way: Option<(usize, std::ops::Range<usize>)> = None;
        for start in (0..bytes.len()).step_by(BLOCK) {
            let piece = start..bytes.len().min(start + BLOCK);
            self.advance(stream)?;
            let block = self.current;
            // SAFETY: the block is free and long enough.
            unsafe {
                let target = std::slice::from_raw_parts_mut(self.blocks[block].memory, piece.len());
                result::memcpy_dtoh_async(target, from + start as u64, stream)?;
                result::event::record(self.blocks[block].event, stream)?;
            }
            if let Some((block, piece)) = on_its_way.replace((block, piece)) {
                self.take(block, &mut bytes[piece])?;
            }
        }
        if let Some((block, piece)) = on_its_way {
            self.take(block, &mut bytes[piece])?;
        }
        // What follows must not be written over the last piece before its block comes round again.
        self.used = BLOCK;
        Ok(())
    }

    fn take(&self, block: usize, bytes: &mut [u8]) -> Result<(), DriverError> {
        // SAFETY: the event was recorded behind the copy that filled the block.
        unsafe {
            result::event::synchronize(self.blocks[block].event)?;
            std::ptr::copy_nonoverlapping(self.blocks[block].memory, bytes.as_mut_ptr(), bytes.len());
        }
        Ok(())
    }
}
