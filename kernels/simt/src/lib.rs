//! The CUDA kernels of LUMOS on the CPU: the same sources, compiled by the C++ compiler through a header that plays CUDA, and
//! launched with the arguments of the GPU. For tests; see `include/lumos_simt.h` for what it shows and what it cannot.
//!
//! Barriers that are missing are looked for by `scripts/race-check`: `LUMOS_SIMT_ORDER` sets the order in which the threads of a block take
//! turns (`include/schedule.h`), `LUMOS_SIMT_WITHOUT=FILE:LINE` takes a barrier out, `LUMOS_SIMT_BITS=FILE` adds a line about each result that
//! a test compares ([`check`]), and `LUMOS_SIMT_LIBRARY` names a shared library to take the kernels from, such as one built for
//! ThreadSanitizer.
//!
//! With the other sanitizers of the C++ compiler:
//!
//! ```text
//! export LUMOS_SIMT_SANITIZE=address,undefined
//! export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="env LD_PRELOAD=$(c++ -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0"
//! cargo test --manifest-path kernels/simt/Cargo.toml --target-dir target/sanitized
//! ```
#![deny(missing_docs)]

pub mod check;
mod library;

use std::ffi::{CStr, c_char, c_void};

type Run = unsafe extern "C" fn(*const u32, *const u32, usize, *mut *mut c_void, u32, *mut c_char) -> i32;
type Sizes = unsafe extern "C" fn(usize, *mut usize, *mut c_char) -> usize;

struct Entry {
    name: &'static str,
    run: Run,
    sizes: Sizes,
}

type LayoutOf = unsafe extern "C" fn(usize, *mut usize, *mut usize) -> usize;

struct StructEntry {
    name: &'static str,
    fields: &'static [&'static str],
    layout: LayoutOf,
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Most dynamic shared memory that a block may have on the GPUs the kernels are written for (H100, H200).
pub const MAX_SHARED: usize = 232_448;

/// A kernel of the build.
#[derive(Clone, Copy)]
pub struct Kernel(&'static Entry);

impl Kernel {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// Its place in the order of [`kernels`].
    pub fn index(&self) -> usize {
        KERNELS.iter().position(|e| std::ptr::eq(e, self.0)).expect("a kernel is one of the table")
    }

    /// Sizes in bytes of its parameters.
    pub fn parameters(&self) -> Vec<usize> {
        self.signature().into_iter().map(|(size, _)| size).collect()
    }

    /// Size in bytes and kind of each parameter: `p` a pointer, `i` int, `u` unsigned, `f` float, `l` long long, `s` a struct by value.
    pub fn signature(&self) -> Vec<(usize, char)> {
        let one = |index| {
            let (mut size, mut kind) = (0, 0);
            // SAFETY: the function only writes to the two places, which are live variables.
            let count = unsafe { (self.0.sizes)(index, &mut size, &mut kind) };
            (count, size, char::from(kind as u8))
        };
        (0..one(0).0).map(|i| (one(i).1, one(i).2)).collect()
    }
}

/// Names of all kernels, in order.
pub fn kernels() -> impl Iterator<Item = &'static str> {
    KERNELS.iter().map(|e| e.name)
}

/// The kernel of this place in the order of [`kernels`].
pub fn nth(index: usize) -> Option<Kernel> {
    KERNELS.get(index).map(Kernel)
}

/// The kernel called `name`.
pub fn find(name: &str) -> Option<Kernel> {
    KERNELS.binary_search_by(|e| e.name.cmp(name)).ok().map(|i| Kernel(&KERNELS[i]))
}

/// A struct as the compiler of the kernels lays it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StructLayout {
    /// Its name.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: usize,
    /// Name, offset and size in bytes of each field.
    pub fields: Vec<(&'static str, usize, usize)>,
}

/// The structs that the kernels share with the host.
pub fn structs() -> Vec<StructLayout> {
    let layout = |entry: &StructEntry| {
        let (mut offset, mut size, mut bytes) = (0, 0, 0);
        let mut field = |(index, &name): (usize, &&'static str)| {
            // SAFETY: the function has as many fields as the list, and writes to the two live variables alone.
            bytes = unsafe { (entry.layout)(index, &mut offset, &mut size) };
            (name, offset, size)
        };
        let fields = entry.fields.iter().enumerate().map(&mut field).collect();
        StructLayout { name: entry.name, bytes, fields }
    };
    STRUCTS.iter().map(layout).collect()
}

/// Runs `kernel` over the grid on `threads` threads of the CPU. `args` are the bytes of each argument in turn. What goes wrong
/// (a launch the GPU would refuse, arguments of the wrong size, a deadlock) comes back as a message.
///
/// # Safety
/// Pointers among the arguments must be valid for what the kernel does with them.
pub unsafe fn launch(kernel: Kernel, grid: [u32; 3], block: [u32; 3], shared: usize, args: &[&[u8]], threads: usize) -> Result<(), String> {
    let name = kernel.name();
    let size: u64 = block.iter().map(|&x| u64::from(x)).product();
    if size == 0 || size > 1024 || block[2] > 64 {
        return Err(format!("kernel {name}: a block of {block:?} threads; 1 to 1024 are possible"));
    }
    if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1] > 65_535 || grid[2] > 65_535 {
        return Err(format!("kernel {name}: a grid of {grid:?}; each side is at least 1, the second and third at most 65,535"));
    }
    if shared > MAX_SHARED {
        return Err(format!("kernel {name}: {shared} bytes of shared memory; a block has at most {MAX_SHARED}"));
    }
    let want = kernel.parameters();
    let given: Vec<usize> = args.iter().map(|a| a.len()).collect();
    if want != given {
        return Err(format!("kernel {name}: arguments of {given:?} bytes where it takes {want:?}"));
    }
    // Aligned copies, because a kernel reads each argument as its own type.
    let mut values: Vec<Vec<u128>> = args.iter().map(|a| vec![0u128; a.len().div_ceil(16).max(1)]).collect();
    for (to, from) in values.iter_mut().zip(args) {
        // SAFETY: `to` has room for `from`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr().cast(), from.len()) };
    }
    let pointers: Vec<*const c_void> = values.iter().map(|v| v.as_ptr().cast()).collect();
    // SAFETY: the caller's promise; the sizes are the parameters'.
    unsafe { launch_pointers(kernel, grid, block, shared, &pointers, threads) }
}

/// [`launch()`] with pointers to the argument values, as `cuLaunchKernel` takes them.
///
/// # Safety
/// As [`launch()`]; besides, each pointer points to an aligned value of the parameter's type.
pub unsafe fn launch_pointers(
    kernel: Kernel,
    grid: [u32; 3],
    block: [u32; 3],
    shared: usize,
    args: &[*const c_void],
    threads: usize,
) -> Result<(), String> {
    let mut pointers: Vec<*mut c_void> = args.iter().map(|p| p.cast_mut()).collect();
    let mut error = [0 as c_char; 512];
    let threads = threads.clamp(1, 64) as u32;
    let run = library::run_of(kernel)?;
    // SAFETY: the caller's promise.
    let failed = unsafe { run(grid.as_ptr(), block.as_ptr(), shared, pointers.as_mut_ptr(), threads, error.as_mut_ptr()) };
    if failed == 0 {
        return Ok(());
    }
    // SAFETY: the runtime ends its message with a zero.
    Err(unsafe { CStr::from_ptr(error.as_ptr()) }.to_string_lossy().into_owned())
}

/// The bytes of a plain value, for [`launch()`].
pub fn bytes_of<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: any `Copy` value may be read as bytes of its size; the types used here have no padding.
    unsafe { std::slice::from_raw_parts((value as *const T).cast(), size_of::<T>()) }
}

/// Launches a kernel by name on two threads: `launch!("name", [grid; 3], [block; 3], shared, argument, ...)`, each argument any
/// `Copy` value of the parameter's size. Gives the `Result` of [`launch()`]; to be called in an unsafe block.
#[macro_export]
macro_rules! launch {
    ($name:expr, $grid:expr, $block:expr, $shared:expr $(, $arg:expr)* $(,)?) => {{
        let kernel = $crate::find($name).unwrap_or_else(|| panic!("no kernel called {}", $name));
        $crate::launch_boxed(kernel, $grid, $block, $shared, &[$($crate::bytes_of(&$arg).to_vec()),*])
    }};
}

/// What [`launch!`] calls.
///
/// # Safety
/// As [`launch()`].
pub unsafe fn launch_boxed(kernel: Kernel, grid: [u32; 3], block: [u32; 3], shared: usize, args: &[Vec<u8>]) -> Result<(), String> {
    let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
    // SAFETY: the caller's promise.
    unsafe { launch(kernel, grid, block, shared, &args, 2) }
}
