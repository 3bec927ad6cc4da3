//! Queued work, and how it is carried out.

use crate::codes::{Code, ILLEGAL_ADDRESS, LAUNCH_FAILED, forbidden};
use crate::nccl::{self, Member};
use crate::state::State;
use lumos_simt::Kernel;
use std::ffi::c_void;
use std::sync::Arc;
use std::time::Instant;

/// A kernel with copies of its arguments.
pub struct Launch {
    pub kernel: Kernel,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: usize,
    /// Whole words, so that each value is aligned.
    pub args: Vec<Vec<u128>>,
}

/// Where a copy to the device comes from.
#[derive(Clone)]
pub enum Source {
    /// Pinned memory, read when the copy runs.
    Pinned(usize),
    /// What the host's own memory held at the call.
    Taken(Arc<Vec<u8>>),
}

/// A piece of queued work.
#[derive(Clone)]
pub enum Op {
    Launch(Arc<Launch>),
    /// `count` units of `unit` bytes.
    Fill {
        to: usize,
        word: u32,
        unit: usize,
        count: usize,
    },
    ToDevice {
        to: usize,
        from: Source,
        bytes: usize,
    },
    ToHost {
        to: usize,
        from: usize,
        bytes: usize,
    },
    Within {
        to: usize,
        from: usize,
        bytes: usize,
    },
    /// Sums over processes, in place.
    Sum {
        at: usize,
        count: usize,
        member: Arc<Member>,
    },
    /// The event and which of its records.
    Record(usize, u64),
}

impl State {
    /// Carries out up to `count` pieces from the front of the queue. An error stays.
    pub fn run(&mut self, count: usize) -> Code {
        for _ in 0..count {
            if self.sticky != 0 {
                break;
            }
            let Some(op) = self.queue.pop_front() else { break };
            let code = self.carry_out(&op);
            if code != 0 {
                self.sticky = code;
                self.queue.clear();
            }
        }
        self.memory.close();
        self.sticky
    }

    /// Carries out everything.
    pub fn drain(&mut self) -> Code {
        self.run(usize::MAX)
    }

    fn alive(&self, what: &str, at: usize, bytes: usize) {
        if !self.memory.holds(at, bytes) {
            forbidden(&format!("{what} of {bytes} bytes at {at:#x}: not within one allocation of device memory"));
        }
    }

    fn pinned(&self, what: &str, at: usize, bytes: usize) {
        if !self.memory.is_pinned(at, bytes) {
            forbidden(&format!("{what}: its pinned memory at {at:#x} was freed before the copy ran"));
        }
    }

    fn carry_out(&mut self, op: &Op) -> Code {
        match op {
            Op::Launch(launch) => return self.launch(launch),
            &Op::Fill { to, word, unit, count } => {
                self.alive("a fill", to, unit * count);
                // SAFETY: within an allocation; the call checked the alignment.
                self.memory.while_open("a fill", || unsafe {
                    match unit {
                        1 => std::ptr::write_bytes(to as *mut u8, word as u8, count),
                        _ => std::slice::from_raw_parts_mut(to as *mut u32, count).fill(word),
                    }
                });
            }
            Op::ToDevice { to, from, bytes } => {
                self.alive("a copy from the host", *to, *bytes);
                let source = match from {
                    Source::Pinned(at) => {
                        self.pinned("a copy from the host", *at, *bytes);
                        *at as *const u8
                    }
                    Source::Taken(taken) => taken.as_ptr(),
                };
                // SAFETY: both ranges are alive, and host and device memory never overlap.
                self.memory.while_open("a copy", || unsafe { std::ptr::copy_nonoverlapping(source, *to as *mut u8, *bytes) });
            }
            &Op::ToHost { to, from, bytes } => {
                self.alive("a copy to the host", from, bytes);
                if self.faults.copy.hit() {
                    eprintln!("fake driver: a copy that never ends");
                    self.hangs = true;
                    return 0;
                }
                // SAFETY: the device's range is alive; the host's is pinned, or the call is still waiting.
                self.memory.while_open("a copy", || unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) });
            }
            &Op::Within { to, from, bytes } => {
                self.alive("a copy", from, bytes);
                self.alive("a copy", to, bytes);
                // SAFETY: both ranges are alive.
                self.memory.while_open("a copy", || unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) });
            }
            Op::Sum { at, count, member } => nccl::sum(self, member, *at, *count),
            &Op::Record(event, record) => {
                if let Some(event) = self.events.get_mut(&event).filter(|e| e.record == record) {
                    event.reached = Some(Instant::now());
                }
            }
        }
        0
    }

    /// Whether an argument holds the address of device memory that was freed.
    pub fn stale_argument(&self, launch: &Launch) -> Option<usize> {
        let words = launch.args.iter().flatten().flat_map(|&w| [w as u64 as usize, (w >> 64) as u64 as usize]);
        words.into_iter().find(|&w| self.memory.stale(w))
    }

    fn launch(&mut self, launch: &Launch) -> Code {
        let name = launch.kernel.name();
        if self.faults.launch.hit() {
            return ILLEGAL_ADDRESS;
        }
        if let Some(word) = self.stale_argument(launch) {
            forbidden(&format!("kernel `{name}` was launched with {word:#x}, an address of device memory that is not alive"));
        }
        let threads = self.threads;
        let args: Vec<*const c_void> = launch.args.iter().map(|a| a.as_ptr().cast()).collect();
        // SAFETY: the program promises that addresses are valid for what the kernel does; guard pages end it where they are not.
        let done = self.memory.while_open(&format!("kernel `{name}`"), || unsafe {
            lumos_simt::launch_pointers(launch.kernel, launch.grid, launch.block, launch.shared, &args, threads)
        });
        match done {
            Ok(()) => 0,
            Err(reason) => {
                eprintln!("fake driver: {reason}");
                LAUNCH_FAILED
            }
        }
    }
}
