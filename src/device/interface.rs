//! The few operations that a backend of kernels is written over.
//!
//! Two things do them: the driver of an NVIDIA GPU, and `HostDevice` of the feature `testing`, which plays the same kernels on the CPU. Work
//! goes to one queue and runs in order; only [`Device::download`], [`Arriving::take`], [`Device::synchronize`] and [`Device::elapsed`]
//! wait for it.

use super::{DeviceError, Geometry};
use std::any::Any;
use std::sync::Arc;

/// Result of the device layer.
pub type Result<T, E = DeviceError> = std::result::Result<T, E>;

/// Values that may be read as bytes.
///
/// # Safety
/// The type has no padding, no invalid bit patterns and no references, and its layout is C's.
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($t:ty),*) => { $(
        // SAFETY: a number of C, of which every bit pattern is one.
        unsafe impl Plain for $t {}
    )* };
}
plain!(u8, i8, u16, i16, u32, i32, u64, i64, usize, isize, f32, f64);

/// The bytes of `values`.
pub fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `Plain` has no padding, so every byte is initialised.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), std::mem::size_of_val(values)) }
}

/// The bytes of `values`, to be written.
pub fn bytes_of_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: `Plain` has no padding and takes every bit pattern.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), std::mem::size_of_val(values)) }
}

/// Gives memory back; what a [`Buffer`] holds of its device.
pub trait Release: Send + Sync {
    /// Frees what `alloc` gave. Called once a buffer.
    fn release(&self, address: u64, bytes: usize);
}

/// Memory of a device, freed when dropped. Graphs keep addresses and not buffers: a buffer must outlive the graphs that use it.
pub struct Buffer {
    address: u64,
    bytes: usize,
    owner: Arc<dyn Release>,
}

impl Buffer {
    /// Wraps what a device allocated; for devices.
    pub fn new(address: u64, bytes: usize, owner: Arc<dyn Release>) -> Buffer {
        Buffer { address, bytes, owner }
    }

    /// Address on the device, a multiple of 256.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The address `offset` bytes in. Panics beyond the end, for that is a defect of the caller.
    pub fn at(&self, offset: usize) -> u64 {
        assert!(offset <= self.bytes, "offset {offset} in a buffer of {} bytes", self.bytes);
        self.address + offset as u64
    }

    /// The address of bytes `offset` to `offset + len`, or an error that names `what`.
    pub fn range(&self, what: &'static str, offset: usize, len: usize) -> Result<u64> {
        match offset.checked_add(len) {
            Some(to) if to <= self.bytes => Ok(self.address + offset as u64),
            to => Err(DeviceError::Range { what, from: offset, to: to.unwrap_or(usize::MAX), len: self.bytes }),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.owner.release(self.address, self.bytes);
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({:#x}, {} bytes)", self.address, self.bytes)
    }
}

/// An argument of a kernel. Its size must be the parameter's.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    /// A device address.
    Pointer(u64),
    /// `int`.
    Int(i32),
    /// `unsigned`.
    Uint(u32),
    /// `float`.
    Float(f32),
    /// `long long`.
    Long(i64),
    /// `unsigned long long`.
    Ulong(u64),
    /// A struct by value, see [`Arg::value`].
    Bytes(&'a [u8]),
}

impl<'a> Arg<'a> {
    /// A struct by value.
    pub fn value<T: Plain>(value: &'a T) -> Arg<'a> {
        Arg::Bytes(bytes_of(std::slice::from_ref(value)))
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        match self {
            Arg::Int(_) | Arg::Uint(_) | Arg::Float(_) => 4,
            Arg::Pointer(_) | Arg::Long(_) | Arg::Ulong(_) => 8,
            Arg::Bytes(bytes) => bytes.len(),
        }
    }

    /// Where the value lies, for as long as the argument does.
    pub fn address(&self) -> *const std::ffi::c_void {
        match self {
            Arg::Pointer(v) | Arg::Ulong(v) => (v as *const u64).cast(),
            Arg::Int(v) => (v as *const i32).cast(),
            Arg::Uint(v) => (v as *const u32).cast(),
            Arg::Float(v) => (v as *const f32).cast(),
            Arg::Long(v) => (v as *const i64).cast(),
            Arg::Bytes(bytes) => bytes.as_ptr().cast(),
        }
    }
}

impl From<&Buffer> for Arg<'_> {
    fn from(buffer: &Buffer) -> Self {
        Arg::Pointer(buffer.address())
    }
}

macro_rules! arg_from {
    ($($t:ty => $variant:ident),*) => { $(impl From<$t> for Arg<'_> {
        fn from(value: $t) -> Self {
            Arg::$variant(value)
        }
    })* };
}
arg_from!(i32 => Int, u32 => Uint, f32 => Float, i64 => Long, u64 => Ulong);

/// A kernel of one device, from [`Device::kernel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Name in the source.
    pub name: &'static str,
    /// What the device knows it by.
    pub handle: usize,
}

/// What a compiled kernel takes of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Local memory of a thread in bytes: spills and indexed arrays.
    pub local: usize,
    /// Shared memory of a block that is fixed in the source, in bytes.
    pub fixed_shared: usize,
    /// Most threads of a block.
    pub most_threads: u32,
}

/// What to fill memory with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Every byte.
    Byte(u8),
    /// Every aligned group of four bytes.
    Word(u32),
}

impl Fill {
    /// Every `float`.
    pub fn float(value: f32) -> Fill {
        Fill::Word(value.to_bits())
    }

    /// Bytes that a filled range is a multiple of.
    pub fn unit(self) -> usize {
        match self {
            Fill::Byte(_) => 1,
            Fill::Word(_) => 4,
        }
    }
}

/// Bytes of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Free now, for any process.
    pub free: u64,
    /// Of the device.
    pub total: u64,
    /// Held by this process through [`Device::alloc`].
    pub held: u64,
    /// Most ever held since the last [`Device::reset_peak`].
    pub peak: u64,
}

/// What a launch may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Compute capability, major and minor; (0, 0) where there is none.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Most dynamic shared memory of a block, in bytes.
    pub shared_per_block: usize,
    /// Shared memory of a multiprocessor, in bytes.
    pub shared_per_multiprocessor: usize,
    /// Most threads of a block.
    pub threads_per_block: u32,
    /// Most threads resident on a multiprocessor.
    pub threads_per_multiprocessor: u32,
    /// Level 2 cache in bytes.
    pub l2_bytes: usize,
}

/// Calls made so far, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Kernels launched one by one (recorded launches are not counted).
    pub launches: u64,
    /// Graphs replayed.
    pub replays: u64,
    /// Kernels that those graphs held.
    pub replayed: u64,
    /// Bytes copied to the device.
    pub uploaded: u64,
    /// Bytes copied back.
    pub downloaded: u64,
}

impl Counters {
    /// Calls by which the host drives the device.
    pub fn host_calls(&self) -> u64 {
        self.launches + self.replays
    }
}

/// A point in a device's queue, from [`Device::event`].
pub struct Event(pub Box<dyn Any + Send + Sync>);

/// A copy on its way to the host, from [`Device::fetch`]. Dropped, it is forgotten.
pub trait Arriving: Send {
    /// Waits for the copy, not for what was put into the queue after it, and gives its bytes, as many as were asked for.
    fn take(self: Box<Self>, bytes: &mut [u8]) -> Result<()>;
}

/// A recorded sequence of launches, fills and copies within the device, from [`Device::capture`].
pub struct Graph {
    /// What it is called in messages.
    pub label: String,
    /// Kernels in it.
    pub launches: usize,
    /// Bytes of device memory that it takes.
    pub bytes: u64,
    /// What the device knows it by.
    pub inner: Box<dyn Any + Send + Sync>,
}

/// The GPUs of several processes, one a process, that add up what they hold. Every process calls the same methods in the same order.
pub trait Exchange: Send + Sync {
    /// Begins a group, at one process: what all of them join it by.
    fn begin(&self) -> Result<Vec<u8>>;

    /// Joins the group of `id` as number `rank` of `size`. Waits for the others, not for ever.
    fn join(&self, id: &[u8], rank: usize, size: usize) -> Result<()>;

    /// Whether this GPU has joined a group.
    fn has_joined(&self) -> bool;

    /// Forgets the group.
    fn leave(&self);

    /// Puts the sums over all processes in the place of the first `count` numbers (64 bits) of `values`, in the queue. Not while recording.
    fn sum(&self, values: &Buffer, count: usize) -> Result<()>;
}

/// A device that runs kernels. Threads may share one, yet its queue is one and only one thread may record a graph at a time.
pub trait Device: Send + Sync {
    /// What it is, for a reader.
    fn name(&self) -> &str;

    /// Identity that NVIDIA's management library shares, such as `GPU-1234...`; nothing where there is no GPU.
    fn uuid(&self) -> Option<&str> {
        None
    }

    /// How it adds up with the devices of other processes, where it can.
    fn exchange(&self) -> Option<&dyn Exchange> {
        None
    }

    /// What a launch may ask for.
    fn limits(&self) -> Limits;

    /// Bytes of its memory that plans count for a graph before it is recorded, as a bound.
    fn graph_bytes(&self) -> u64 {
        0
    }

    /// Memory, now.
    fn memory(&self) -> Result<Memory>;

    /// Makes [`Memory::peak`] what is held now.
    fn reset_peak(&self);

    /// Calls so far.
    fn counters(&self) -> Counters;

    /// Says what the following calls belong to, such as `round 3, clients 0 to 2787`; quoted when a kernel fails.
    fn set_scope(&self, scope: &str);

    /// Memory with undefined contents. Zero bytes are allowed and give a valid address. Not while recording.
    fn alloc(&self, bytes: usize) -> Result<Buffer>;

    /// Copies `bytes` to `to`, `offset` bytes in. `bytes` may change as soon as this returns; the copy itself may still be on its way.
    /// Not while recording.
    fn upload(&self, to: &Buffer, offset: usize, bytes: &[u8]) -> Result<()>;

    /// Waits for the queue and copies from `from`, `offset` bytes in. Not while recording.
    fn download(&self, from: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<()>;

    /// Puts a copy of `bytes` bytes from `from`, `offset` bytes in, into the queue, to be waited for later. Not while recording.
    fn fetch(&self, from: &Buffer, offset: usize, bytes: usize) -> Result<Box<dyn Arriving>>;

    /// Fills `bytes` bytes from `offset`; both multiples of [`Fill::unit`].
    fn fill(&self, to: &Buffer, offset: usize, bytes: usize, value: Fill) -> Result<()>;

    /// Copies within the device. The ranges must not overlap.
    fn copy(&self, from: &Buffer, from_offset: usize, to: &Buffer, to_offset: usize, bytes: usize) -> Result<()>;

    /// Compiles what these kernels need that is not compiled yet, several files at a time. Not needed before [`Device::kernel`], only faster.
    fn prepare(&self, _names: &[&'static str]) -> Result<()> {
        Ok(())
    }

    /// Looks a kernel up, compiling or loading its family at the first time, which must not be while recording.
    fn kernel(&self, name: &'static str) -> Result<Kernel>;

    /// What a compiled kernel takes; nothing where kernels are not compiled for this device.
    fn resources(&self, kernel: Kernel) -> Result<Option<Resources>>;

    /// Blocks of `threads` threads and `shared` bytes that one multiprocessor holds at a time.
    fn resident_blocks(&self, kernel: Kernel, threads: u32, shared: usize) -> Result<u32>;

    /// Puts a kernel into the queue. A grid with no blocks does nothing.
    ///
    /// # Safety
    /// Every pointer among `args` (and in what they point to) is valid on this device for what the kernel reads and writes until it
    /// has run, and the arguments' types are the kernel's.
    unsafe fn launch(&self, kernel: Kernel, geometry: Geometry, args: &[Arg]) -> Result<()>;

    /// Runs `record` and keeps its launches, fills and copies instead of doing them. An error of `record` ends the recording.
    fn capture(&self, label: &str, record: &mut dyn FnMut() -> Result<()>) -> Result<Graph>;

    /// Puts a recorded sequence into the queue.
    ///
    /// # Safety
    /// As for every launch it holds.
    unsafe fn replay(&self, graph: &Graph) -> Result<()>;

    /// Waits until the queue is empty, and tells what failed in it.
    fn synchronize(&self) -> Result<()>;

    /// Marks this point of the queue.
    fn event(&self) -> Result<Event>;

    /// Milliseconds from `start` to `end` on the device; waits for `end`.
    fn elapsed(&self, start: &Event, end: &Event) -> Result<f32>;
}

impl dyn Device + '_ {
    /// Memory that holds `values`.
    pub fn upload_new<T: Plain>(&self, values: &[T]) -> Result<Buffer> {
        let buffer = self.alloc(std::mem::size_of_val(values))?;
        self.upload(&buffer, 0, bytes_of(values))?;
        Ok(buffer)
    }

    /// `count` values from `from`, `offset` bytes in.
    pub fn download_vec<T: Plain + Default>(&self, from: &Buffer, offset: usize, count: usize) -> Result<Vec<T>> {
        let mut values = vec![T::default(); count];
        self.download(from, offset, bytes_of_mut(&mut values))?;
        Ok(values)
    }

    /// Puts a copy of `count` values from `from`, `offset` bytes in, into the queue; what it gives waits for them.
    pub fn fetch_vec<T: Plain + Default>(
        &self,
        from: &Buffer,
        offset: usize,
        count: usize,
    ) -> Result<impl FnOnce() -> Result<Vec<T>> + use<T>> {
        let arriving = self.fetch(from, offset, count * size_of::<T>())?;
        Ok(move || {
            let mut values = vec![T::default(); count];
            arriving.take(bytes_of_mut(&mut values))?;
            Ok(values)
        })
    }

    /// Fills the whole of `to` with zero bytes.
    pub fn zero(&self, to: &Buffer) -> Result<()> {
        self.fill(to, 0, to.bytes(), Fill::Byte(0))
    }
}
