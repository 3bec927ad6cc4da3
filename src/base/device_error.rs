//! What can go wrong with a GPU, one kind for each remedy.

use std::fmt;

/// Where and how a kernel was launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared: usize,
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([gx, gy, gz], [bx, by, bz]) = (self.grid, self.block);
        write!(f, "grid {gx}x{gy}x{gz}, block {bx}x{by}x{bz}, {} bytes of shared memory", self.shared)
    }
}

/// An error of the device layer. Each message says what, where and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// This build leaves the GPU backend out.
    #[error("this build has no GPU backend; build it with the feature `cuda` (on by default), or use `--device cpu`")]
    NotBuilt,
    /// The build has the backend and no kernels (`LUMOS_CUDA=off`).
    #[error("this build holds no GPU kernels (it was made with LUMOS_CUDA=off); build without that variable, or use `--device cpu`")]
    NoKernels,
    /// libcuda is not on this machine.
    #[error(
        "no NVIDIA driver: the library libcuda.so.1 is not found; install the driver (in a container: start it with GPU access), \
         or use `--device cpu`"
    )]
    NoDriver,
    /// The driver does not answer.
    #[error("the NVIDIA driver does not start: {reason}; see whether `nvidia-smi` works, or use `--device cpu`")]
    DriverFails {
        /// What the driver said.
        reason: String,
    },
    /// The driver is older than the kernels ask for. Versions are CUDA's, as 1000 x major + 10 x minor.
    #[error(
        "the NVIDIA driver is too old: it supports CUDA {}, the kernels need {}; update the driver (580 or later), or use `--device cpu`",
        version(*found), version(*needed)
    )]
    OldDriver {
        /// What the driver supports.
        found: i32,
        /// What is needed.
        needed: i32,
    },
    /// The driver runs and sees no GPU.
    #[error(
        "the NVIDIA driver sees no GPU; check `nvidia-smi` and CUDA_VISIBLE_DEVICES{}, or use `--device cpu`",
        visible.as_ref().map(|v| format!(" (now `{v}`)")).unwrap_or_default()
    )]
    NoDevice {
        /// CUDA_VISIBLE_DEVICES, where set.
        visible: Option<String>,
    },
    /// A GPU was named that is not there.
    #[error("there is no GPU {asked}: the driver sees {count}, counted from 0; use `--device cuda:{}` or less", count.saturating_sub(1))]
    NoSuchDevice {
        /// Number asked for.
        asked: usize,
        /// GPUs present.
        count: usize,
    },
    /// The GPU lacks instructions that the kernels use.
    #[error(
        "GPU {ordinal} ({name}) is too old: it has compute capability {}.{}, the kernels need 8.0 (A100, RTX 30 series) or later; \
         use another GPU or `--device cpu`", capability.0, capability.1
    )]
    TooOld {
        /// Number of the GPU.
        ordinal: usize,
        /// Its name.
        name: String,
        /// Major and minor compute capability.
        capability: (u32, u32),
    },
    /// Another process holds the GPU, or its compute mode forbids use.
    #[error(
        "GPU {ordinal} ({name}) cannot be used now: {reason}; wait for the other process (`nvidia-smi` shows it), name another GPU \
         with `--device cuda:N`, or use `--device cpu`"
    )]
    Busy {
        /// Number of the GPU.
        ordinal: usize,
        /// Its name.
        name: String,
        /// Compute mode or what the driver said.
        reason: String,
    },
    /// Not enough memory on the device. The device stays usable: free something or ask for less.
    #[error(
        "{device}: out of memory while {doing}: {} wanted, {} of {} free; free the GPU of other processes (`nvidia-smi` shows \
         them), use a larger one, or `--device cpu`", size(*wanted), size(*free), size(*total)
    )]
    OutOfMemory {
        /// Name of the device.
        device: String,
        /// What was being done.
        doing: String,
        /// Bytes asked for; 0 where unknown.
        wanted: u64,
        /// Bytes free at that time.
        free: u64,
        /// Bytes of the device.
        total: u64,
    },
    /// The build embeds kernel sources and the compiler library is missing.
    #[error(
        "the kernels of this build are compiled at first use and libnvrtc.so is not found (`lumos doctor` says where it was looked \
         for); install the CUDA toolkit's NVRTC and put its folder on LD_LIBRARY_PATH, or build where nvcc is on the PATH"
    )]
    NvrtcMissing,
    /// NVRTC refused a kernel source.
    #[error("kernels/{file}.cu does not compile for {arch} with NVRTC {nvrtc}; this is a defect of LUMOS, please report it:\n{log}")]
    Compile {
        /// Family, without `.cu`.
        file: String,
        /// Architecture compiled for.
        arch: String,
        /// Version of NVRTC.
        nvrtc: String,
        /// The compiler's messages.
        log: String,
    },
    /// The driver refused a compiled kernel file.
    #[error("the kernels of `{file}` do not load on {device}: {reason}{}; update the driver, or build on this machine", after(log))]
    Image {
        /// Family, without `.cu`.
        file: String,
        /// Name of the device.
        device: String,
        /// What the driver said.
        reason: String,
        /// Messages of the driver's compiler, if it ran.
        log: String,
    },
    /// No embedded file has this kernel.
    #[error("there is no kernel `{name}` in this build{}; rebuild, for program and kernels do not fit", near(nearest))]
    UnknownKernel {
        /// Name asked for.
        name: String,
        /// The nearest name that exists.
        nearest: Option<String>,
    },
    /// The arguments do not match the kernel's parameters.
    #[error("kernel `{kernel}` takes {expected}, it was given {given}; program and kernels do not fit")]
    Arguments {
        /// The kernel.
        kernel: &'static str,
        /// What it takes.
        expected: String,
        /// What it was given.
        given: String,
    },
    /// A launch was refused before it ran. The device stays usable.
    #[error("kernel `{kernel}` cannot be launched ({geometry}): {reason}")]
    Launch {
        /// The kernel.
        kernel: &'static str,
        /// Its grid.
        geometry: Geometry,
        /// Why, and the limit.
        reason: String,
    },
    /// Clients are to be resident, and do not fit.
    #[error("clients cannot be resident in one block of threads on {device}: {reason}; set gpu.resident to `auto` or `off`")]
    Resident {
        /// Name of the device.
        device: String,
        /// What does not fit.
        reason: String,
    },
    /// A kernel failed while it ran. The context is lost: nothing on this device can be used any more.
    #[error(
        "{device}: {reason}; {suspect}{}. Nothing on the GPU can be trusted now: run the command again (a training goes on from its last checkpoint \
         with `--resume`), and report this with `LUMOS_CUDA_SYNC=1` set, which names the kernel that failed",
        scoped(scope)
    )]
    Fault {
        /// Name of the device.
        device: String,
        /// What the driver said.
        reason: String,
        /// Kernels that may have failed, with their grids.
        suspect: String,
        /// What the caller said it was doing, such as round and clients.
        scope: String,
    },
    /// The device is gone (fell off the bus, was taken away, uncorrectable memory error).
    #[error(
        "{device} is lost: {reason}{}. Run the command again once `nvidia-smi` shows the GPU (a training goes on from its last checkpoint with `--resume`)",
        scoped(scope)
    )]
    Lost {
        /// Name of the device.
        device: String,
        /// What the driver said.
        reason: String,
        /// What the caller said it was doing.
        scope: String,
    },
    /// A copy or fill would leave its buffer.
    #[error("{what}: bytes {from} to {to} of a buffer of {len}")]
    Range {
        /// The operation.
        what: &'static str,
        /// First byte.
        from: usize,
        /// The one after the last.
        to: usize,
        /// Bytes of the buffer.
        len: usize,
    },
    /// An operation that a graph cannot hold was called while one is recorded, or the like.
    #[error("{0}")]
    Misuse(String),
    /// Anything else that the driver said.
    #[error("{device}: {call} failed: {reason}")]
    Driver {
        /// Name of the device.
        device: String,
        /// The driver's function.
        call: &'static str,
        /// What the driver said.
        reason: String,
    },
}

impl DeviceError {
    /// Whether less memory would help; the device is still usable.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, DeviceError::OutOfMemory { .. })
    }

    /// What is wrong, without what to do about it.
    pub fn brief(&self) -> String {
        let text = self.to_string();
        text.split("; ").next().unwrap_or_default().replace('\n', " ")
    }

    /// Whether the context is lost: every later call on the device fails, and only a new process helps.
    pub fn is_sticky(&self) -> bool {
        matches!(self, DeviceError::Fault { .. } | DeviceError::Lost { .. })
    }
}

/// `13.0` for 13000.
pub fn version(cuda: i32) -> String {
    format!("{}.{}", cuda / 1000, cuda % 1000 / 10)
}

/// Bytes for a reader.
pub fn size(bytes: u64) -> String {
    let mib = bytes as f64 / (1 << 20) as f64;
    match bytes {
        0 => "an unknown amount".into(),
        b if b < 1 << 20 => format!("{b} bytes"),
        _ if mib < 1024.0 => format!("{mib:.1} MiB"),
        _ => format!("{:.2} GiB", mib / 1024.0),
    }
}

fn after(log: &str) -> String {
    if log.trim().is_empty() { String::new() } else { format!(" ({})", log.trim()) }
}

fn near(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|n| format!(" (the nearest is `{n}`)")).unwrap_or_default()
}

fn scoped(scope: &str) -> String {
    if scope.is_empty() { String::new() } else { format!(", in {scope}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_what_and_what_to_do() {
        let oom = DeviceError::OutOfMemory {
            device: "H100".into(),
            doing: "allocating".into(),
            wanted: 3 << 30,
            free: 700 << 20,
            total: 80 << 30,
        };
        assert!(oom.to_string().contains("3.00 GiB wanted, 700.0 MiB of 80.00 GiB free; free the GPU"), "{oom}");
        assert!(oom.is_out_of_memory() && !oom.is_sticky());
        let old = DeviceError::OldDriver { found: 12040, needed: 13000 }.to_string();
        assert!(old.contains("CUDA 12.4, the kernels need 13.0"), "{old}");
        let none = DeviceError::NoDevice { visible: Some("".into()) }.to_string();
        assert!(none.contains("CUDA_VISIBLE_DEVICES (now ``)"), "{none}");
        let fault = DeviceError::Fault {
            device: "H100".into(),
            reason: "illegal address".into(),
            suspect: "last kernel `adam`".into(),
            scope: "round 3".into(),
        };
        assert!(fault.is_sticky() && fault.to_string().contains("last kernel `adam`, in round 3."), "{fault}");
    }
}
