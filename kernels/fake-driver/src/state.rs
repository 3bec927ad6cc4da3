//! Everything that the stand-in knows, behind one lock.

use crate::codes::{self, Code, forbidden};
use crate::faults::{Faults, number};
use crate::memory::Memory;
use crate::queue::Op;
use lumos_simt::Kernel;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// The address that stands for the primary context.
pub const CONTEXT: usize = 0x100;

thread_local! {
    /// The context that is current on this thread, or 0.
    pub static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// An event.
pub struct Event {
    pub timing: bool,
    /// How often it was recorded.
    pub record: u64,
    /// When the queue came to its latest record.
    pub reached: Option<Instant>,
}

/// A kernel of a loaded module.
pub struct Function {
    pub kernel: Kernel,
    /// Most dynamic shared memory of a launch.
    pub shared: usize,
    pub carveout: i32,
}

/// What a stream records.
pub struct Capture {
    pub thread: ThreadId,
    pub mode: i32,
    pub ops: Vec<Op>,
    pub invalid: bool,
}

pub struct State {
    pub started: bool,
    pub retained: usize,
    pub flags: u32,
    /// The error of the context, which every later call gives.
    pub sticky: Code,
    pub streams: HashSet<usize>,
    pub events: HashMap<usize, Event>,
    /// Names of the kernels of each module; all where nothing.
    pub modules: HashMap<usize, Option<Vec<String>>>,
    /// By module and name.
    pub functions: HashMap<usize, (usize, Function)>,
    pub graphs: HashMap<usize, Vec<Op>>,
    pub execs: HashMap<usize, Vec<Op>>,
    /// By stream: each device of a process may record on one of its own.
    pub captures: HashMap<usize, Capture>,
    pub queue: VecDeque<Op>,
    pub memory: Memory,
    pub faults: Faults,
    /// A copy that never ends is in the queue.
    pub hangs: bool,
    pub threads: usize,
    pub counts: BTreeMap<&'static str, u64>,
    random: u64,
    handles: usize,
}

impl State {
    fn new() -> State {
        State {
            started: false,
            retained: 0,
            flags: 0,
            sticky: 0,
            streams: HashSet::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            graphs: HashMap::new(),
            execs: HashMap::new(),
            captures: HashMap::new(),
            queue: VecDeque::new(),
            memory: Memory::new(),
            faults: Faults::from_environment(),
            hangs: false,
            threads: 2,
            counts: BTreeMap::new(),
            random: number("LUMOS_FAKE_SEED").unwrap_or(0),
            handles: CONTEXT,
        }
    }

    /// A handle that was never given out before.
    pub fn handle(&mut self) -> usize {
        self.handles += 16;
        self.handles
    }

    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Now and then some of what is queued runs early, as on a GPU.
    pub fn pump(&mut self) {
        if self.queue.is_empty() || !self.draw().is_multiple_of(4) {
            return;
        }
        let some = self.draw() as usize % self.queue.len() + 1;
        self.run(some);
    }

    /// Refuses a call that a capture on this thread (or, in the global mode, on any) does not allow, and ends the capture for it.
    pub fn outside_capture(&mut self) -> Code {
        let mut code = 0;
        for capture in self.captures.values_mut() {
            // 0: global, 1: thread-local, 2: relaxed.
            if capture.mode == 0 || (capture.mode == 1 && capture.thread == std::thread::current().id()) {
                capture.invalid = true;
                code = codes::CAPTURE_UNSUPPORTED;
            }
        }
        code
    }

    /// Refuses a call on `stream` that no capture takes, from whatever thread, and ends the capture for it.
    pub fn outside_capture_of(&mut self, stream: usize) -> Code {
        let Some(capture) = self.captures.get_mut(&stream) else { return 0 };
        capture.invalid = true;
        codes::CAPTURE_UNSUPPORTED
    }

    /// Puts work into a stream: into its capture where it has one.
    pub fn put(&mut self, stream: usize, op: Op) -> Code {
        if stream != 0 && !self.streams.contains(&stream) {
            return codes::INVALID_HANDLE;
        }
        if stream == 0 && !self.captures.is_empty() {
            self.captures.values_mut().for_each(|c| c.invalid = true);
            return codes::CAPTURE_UNSUPPORTED;
        }
        if let Some(capture) = self.captures.get_mut(&stream) {
            if capture.invalid {
                return codes::CAPTURE_INVALIDATED;
            }
            if let Op::Record(..) = op {
                forbidden("an event was recorded in a capture, which this stand-in does not know");
            }
            capture.ops.push(op);
            return 0;
        }
        self.queue.push_back(op);
        0
    }
}

fn state() -> MutexGuard<'static, State> {
    static STATE: OnceLock<Mutex<State>> = OnceLock::new();
    STATE.get_or_init(|| Mutex::new(State::new())).lock().unwrap_or_else(|e| e.into_inner())
}

/// A call that needs the driver alone.
pub fn plain(name: &'static str, work: impl FnOnce(&mut State) -> Code) -> Code {
    let mut state = state();
    *state.counts.entry(name).or_default() += 1;
    if !state.started && name != "cuInit" && name != "cuDriverGetVersion" {
        return codes::NOT_INITIALIZED;
    }
    work(&mut state)
}

/// A call that needs the context to be current on this thread, and in order.
pub fn current(name: &'static str, work: impl FnOnce(&mut State) -> Code) -> Code {
    let code = plain(name, |state| {
        if CURRENT.get() != CONTEXT || state.retained == 0 {
            return codes::INVALID_CONTEXT;
        }
        state.pump();
        if state.sticky != 0 {
            return state.sticky;
        }
        work(state)
    });
    // The lock is free meanwhile: another thread's calls go on.
    while state().hangs {
        std::thread::sleep(Duration::from_millis(20));
    }
    code
}

/// The same, refused while this thread captures.
pub fn current_idle(name: &'static str, work: impl FnOnce(&mut State) -> Code) -> Code {
    current(name, |state| match state.outside_capture() {
        0 => work(state),
        code => code,
    })
}

/// Writes a result to where the caller wants it.
pub fn give<T>(to: *mut T, value: T) -> Code {
    if to.is_null() {
        return codes::INVALID_VALUE;
    }
    // SAFETY: the caller of the driver gives a place for one value.
    unsafe { to.write(value) };
    0
}
