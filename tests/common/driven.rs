//! A GPU of the driver with less memory or shared memory than it has: many tests share the one GPU of the stand-in, each with limits of its own.

use lumos::device::driver::CudaDevice;
use lumos::device::interface::{Arriving, Exchange, Release, Result};
use lumos::device::{Arg, Buffer, Counters, Device, DeviceError, Event, Fill, Geometry, Graph, Kernel, Limits, Memory, Resources};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

pub struct Driven {
    gpu: CudaDevice,
    limits: Limits,
    heap: Arc<Heap>,
}

/// Memory that this device has handed out. Graphs count nothing: the driver tells what they take by how much of the whole GPU is free, from
/// which other tests take meanwhile, and those of the stand-in take nothing unless it is asked to.
struct Heap {
    total: u64,
    held: AtomicU64,
    peak: AtomicU64,
}

/// Gives one buffer back to the driver.
struct Owner {
    buffer: Mutex<Option<Buffer>>,
    heap: Arc<Heap>,
}

impl Release for Owner {
    fn release(&self, _: u64, bytes: usize) {
        self.heap.held.fetch_sub(bytes as u64, Relaxed);
        drop(self.buffer.lock().unwrap().take());
    }
}

impl Driven {
    pub fn new(bytes: u64) -> Driven {
        let gpu = CudaDevice::open(0);
        let gpu = gpu.unwrap_or_else(|e| panic!("LUMOS_TEST_DRIVER is set: {e}; scripts/with-fake-driver puts a stand-in in front"));
        let heap = Arc::new(Heap { total: bytes, held: AtomicU64::new(0), peak: AtomicU64::new(0) });
        Driven { limits: gpu.limits(), gpu, heap }
    }

    /// The same with smaller limits, which every launch is held to.
    pub fn with_limits(mut self, less: impl FnOnce(Limits) -> Limits) -> Driven {
        self.limits = less(self.limits);
        self
    }
}

impl Device for Driven {
    fn name(&self) -> &str {
        self.gpu.name()
    }

    fn uuid(&self) -> Option<&str> {
        self.gpu.uuid()
    }

    fn exchange(&self) -> Option<&dyn Exchange> {
        self.gpu.exchange()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn memory(&self) -> Result<Memory> {
        let (total, held, peak) = (self.heap.total, self.heap.held.load(Relaxed), self.heap.peak.load(Relaxed));
        let driver = self.gpu.memory()?;
        assert!(driver.held >= held, "the driver's code counts {} bytes, of which {held} are buffers", driver.held);
        Ok(Memory { free: total.saturating_sub(held), total, held, peak })
    }

    fn reset_peak(&self) {
        self.gpu.reset_peak();
        self.heap.peak.store(self.heap.held.load(Relaxed), Relaxed);
    }

    fn counters(&self) -> Counters {
        self.gpu.counters()
    }

    fn set_scope(&self, scope: &str) {
        self.gpu.set_scope(scope);
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        let Memory { free, total, .. } = self.memory()?;
        if bytes as u64 > free {
            let (device, doing) = (self.name().into(), "allocating".into());
            return Err(DeviceError::OutOfMemory { device, doing, wanted: bytes as u64, free, total });
        }
        let buffer = self.gpu.alloc(bytes)?;
        let held = self.heap.held.fetch_add(bytes as u64, Relaxed) + bytes as u64;
        self.heap.peak.fetch_max(held, Relaxed);
        let address = buffer.address();
        let owner = Owner { buffer: Mutex::new(Some(buffer)), heap: self.heap.clone() };
        Ok(Buffer::new(address, bytes, Arc::new(owner)))
    }

    fn upload(&self, to: &Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
        self.gpu.upload(to, offset, bytes)
    }

    fn download(&self, from: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.gpu.download(from, offset, bytes)
    }

    fn fetch(&self, from: &Buffer, offset: usize, bytes: usize) -> Result<Box<dyn Arriving>> {
        self.gpu.fetch(from, offset, bytes)
    }

    fn fill(&self, to: &Buffer, offset: usize, bytes: usize, value: Fill) -> Result<()> {
        self.gpu.fill(to, offset, bytes, value)
    }

    fn copy(&self, from: &Buffer, from_offset: usize, to: &Buffer, to_offset: usize, bytes: usize) -> Result<()> {
        self.gpu.copy(from, from_offset, to, to_offset, bytes)
    }

    fn prepare(&self, names: &[&'static str]) -> Result<()> {
        self.gpu.prepare(names)
    }

    fn kernel(&self, name: &'static str) -> Result<Kernel> {
        self.gpu.kernel(name)
    }

    fn resources(&self, kernel: Kernel) -> Result<Option<Resources>> {
        self.gpu.resources(kernel)
    }

    fn resident_blocks(&self, kernel: Kernel, threads: u32, shared: usize) -> Result<u32> {
        let by_shared = self.limits.shared_per_multiprocessor / shared.max(1);
        Ok(self.gpu.resident_blocks(kernel, threads, shared)?.min(by_shared as u32))
    }

    unsafe fn launch(&self, kernel: Kernel, geometry: Geometry, args: &[Arg]) -> Result<()> {
        if geometry.shared > self.limits.shared_per_block {
            let reason = format!("more than the {} bytes of shared memory of a block", self.limits.shared_per_block);
            return Err(DeviceError::Launch { kernel: kernel.name, geometry, reason });
        }
        // SAFETY: the caller's promise.
        unsafe { self.gpu.launch(kernel, geometry, args) }
    }

    fn capture(&self, label: &str, record: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        self.gpu.capture(label, record).map(|graph| Graph { bytes: 0, ..graph })
    }

    unsafe fn replay(&self, graph: &Graph) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.gpu.replay(graph) }
    }

    fn synchronize(&self) -> Result<()> {
        self.gpu.synchronize()
    }

    fn event(&self) -> Result<Event> {
        self.gpu.event()
    }

    fn elapsed(&self, start: &Event, end: &Event) -> Result<f32> {
        self.gpu.elapsed(start, end)
    }
}
