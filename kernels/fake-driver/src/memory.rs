//! Device memory behind guard pages, and pinned memory of the host.

use crate::codes::forbidden;
use crate::faults::number;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed};

const PAGE: usize = 4096;
/// Addresses set aside at once; a word in this range is taken for an address of device memory.
const ARENA: usize = 1 << 42;
/// Allocations begin at multiples of it, as a driver's do.
const ALIGN: usize = 256;
/// Written behind an allocation up to the end of its last page.
const CANARY: u8 = 0xa7;

static BEGIN: AtomicUsize = AtomicUsize::new(0);
/// What runs, for the message about a wrong access.
static RUNNING: AtomicPtr<String> = AtomicPtr::new(std::ptr::null_mut());

struct Block {
    bytes: usize,
    /// Whole pages around the allocation.
    pages: (usize, usize),
}

/// The memory of the one device.
pub struct Memory {
    next: usize,
    live: BTreeMap<usize, Block>,
    /// Whether queued work runs, which alone may touch what is live.
    open: bool,
    pub total: u64,
    pub held: u64,
    /// Allocations of pinned memory by address, with their bytes.
    pinned: BTreeMap<usize, usize>,
}

fn protect(pages: (usize, usize), access: i32) {
    // SAFETY: pages of the arena, which this module alone maps.
    if unsafe { libc::mprotect(pages.0 as *mut c_void, pages.1, access) } != 0 {
        forbidden("the pages of device memory cannot be protected");
    }
}

impl Memory {
    pub fn new() -> Memory {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping wherever there is room.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), ARENA, libc::PROT_NONE, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            forbidden("no addresses for device memory");
        }
        BEGIN.store(at as usize, Relaxed);
        watch();
        let total = number("LUMOS_FAKE_MEMORY").unwrap_or(4 << 30);
        Memory { next: at as usize + PAGE, live: BTreeMap::new(), open: false, total, held: 0, pinned: BTreeMap::new() }
    }

    /// Takes memory that has no address; whether there is as much.
    pub fn take(&mut self, bytes: u64) -> bool {
        let there = bytes <= self.total - self.held;
        self.held += if there { bytes } else { 0 };
        there
    }

    /// An address of fresh memory, or nothing where there is not as much.
    pub fn alloc(&mut self, bytes: usize) -> Option<usize> {
        if bytes as u64 > self.total - self.held {
            return None;
        }
        let length = bytes.next_multiple_of(PAGE);
        let pages = (self.next, length);
        // One page without access lies between any two.
        self.next += length + PAGE;
        if self.next > BEGIN.load(Relaxed) + ARENA {
            return None;
        }
        // As near to the guard page behind it as the alignment allows.
        let at = (pages.0 + length - bytes) / ALIGN * ALIGN;
        // Pages that a core dump leaves out are kept apart from the guards in the system's lists, so that opening them splits nothing.
        // SAFETY: pages of this allocation, which hold nothing yet.
        unsafe { libc::madvise(pages.0 as *mut c_void, pages.1, libc::MADV_DONTDUMP) };
        protect(pages, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: pages of this allocation, which now can be written.
        unsafe {
            std::ptr::write_bytes(pages.0 as *mut u8, CANARY, length);
            std::ptr::write_bytes(at as *mut u8, 0xff, bytes);
        }
        protect(pages, libc::PROT_NONE);
        self.held += bytes as u64;
        self.live.insert(at, Block { bytes, pages });
        Some(at)
    }

    /// Gives memory back; whether the address was one of an allocation.
    pub fn free(&mut self, at: usize) -> bool {
        let Some(block) = self.live.remove(&at) else { return false };
        self.held -= block.bytes as u64;
        protect(block.pages, libc::PROT_READ);
        let edges = (block.pages.0..at).chain(at + block.bytes..block.pages.0 + block.pages.1);
        for place in edges {
            // SAFETY: within the pages, which can be read.
            if unsafe { *(place as *const u8) } != CANARY {
                forbidden(&format!("something wrote at {place:#x}, beside the {} bytes at {at:#x}", block.bytes));
            }
        }
        protect(block.pages, libc::PROT_NONE);
        // SAFETY: the pages hold nothing any more; the addresses stay taken.
        unsafe {
            libc::madvise(block.pages.0 as *mut c_void, block.pages.1, libc::MADV_DONTNEED);
            libc::madvise(block.pages.0 as *mut c_void, block.pages.1, libc::MADV_DODUMP);
        }
        true
    }

    /// Lets `work`, which goes by this name, touch device memory. It stays open for what runs at once after it: [`Memory::close`] ends that.
    pub fn while_open<T>(&mut self, name: &str, work: impl FnOnce() -> T) -> T {
        let mut name = name.to_string();
        if !self.open {
            self.live.values().for_each(|b| protect(b.pages, libc::PROT_READ | libc::PROT_WRITE));
            self.open = true;
        }
        RUNNING.store(&mut name, Relaxed);
        let result = work();
        RUNNING.store(std::ptr::null_mut(), Relaxed);
        result
    }

    /// Nothing may touch device memory until work runs again.
    pub fn close(&mut self) {
        if self.open {
            self.live.values().for_each(|b| protect(b.pages, libc::PROT_NONE));
            self.open = false;
        }
    }

    /// Whether `bytes` bytes at `at` lie in one live allocation.
    pub fn holds(&self, at: usize, bytes: usize) -> bool {
        self.live.range(..=at).next_back().is_some_and(|(begin, b)| at + bytes <= begin + b.bytes)
    }

    /// Whether this is an address of device memory that is not alive. The end of an allocation is fine: arrays may be empty.
    pub fn stale(&self, word: usize) -> bool {
        let begin = BEGIN.load(Relaxed);
        (begin..begin + ARENA).contains(&word) && !self.holds(word, 0)
    }

    pub fn pin(&mut self, at: usize, bytes: usize) {
        self.pinned.insert(at, bytes);
    }

    /// Bytes of the pinned allocation at `at`, which is one no more.
    pub fn unpin(&mut self, at: usize) -> Option<usize> {
        self.pinned.remove(&at)
    }

    /// Whether the range lies in pinned memory.
    pub fn is_pinned(&self, at: usize, bytes: usize) -> bool {
        self.pinned.range(..=at).next_back().is_some_and(|(begin, size)| at + bytes <= begin + size)
    }
}

/// Says which access was wrong before the program ends.
fn watch() {
    // SAFETY: the handler is of the type that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fault as extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND | libc::SA_NODEFER;
        libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut());
    }
}

extern "C" fn on_fault(_: i32, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the system gives the handler the place of the fault.
    let place = unsafe { (*info).si_addr() } as usize;
    let begin = BEGIN.load(Relaxed);
    if !(begin..begin + ARENA).contains(&place) {
        // A fault of other code: the instruction runs again under the default action, which ends the program.
        return;
    }
    let running = RUNNING.load(Relaxed);
    // SAFETY: `while_open` keeps the name alive for as long as it is stored.
    let who = if running.is_null() { "the host" } else { unsafe { &*running } };
    eprintln!("fake driver: {who} touched {place:#x}, which is device memory that was freed, never given out, or not the host's to touch");
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(86) }
}
