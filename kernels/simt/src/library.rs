//! Kernels of another build, out of a shared library.

use super::{KERNELS, Kernel, Run};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::OnceLock;

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
}
const RTLD_NOW: c_int = 2;

/// The function that runs `kernel`: the one linked, or that of the library which `LUMOS_SIMT_LIBRARY` names.
pub(super) fn run_of(kernel: Kernel) -> Result<Run, String> {
    static RUNS: OnceLock<Option<Result<Vec<Run>, String>>> = OnceLock::new();
    match RUNS.get_or_init(|| std::env::var("LUMOS_SIMT_LIBRARY").ok().filter(|path| !path.is_empty()).map(|path| load(&path))) {
        None => Ok(kernel.0.run),
        Some(Ok(runs)) => Ok(runs[kernel.index()]),
        Some(Err(reason)) => Err(format!("LUMOS_SIMT_LIBRARY: {reason}")),
    }
}

fn load(path: &str) -> Result<Vec<Run>, String> {
    let c_string = |text: String| CString::new(text).map_err(|e| e.to_string());
    let path = c_string(path.into())?;
    // SAFETY: a path that ends in zero; the library stays loaded for good.
    let library = unsafe { dlopen(path.as_ptr(), RTLD_NOW) };
    if library.is_null() {
        // SAFETY: the message of the call that just failed on this thread.
        return Err(unsafe { CStr::from_ptr(dlerror()) }.to_string_lossy().into_owned());
    }
    let one = |entry: &super::Entry| {
        let name = c_string(format!("lumos_simt_{}", entry.name))?;
        // SAFETY: the library is loaded; the name ends in zero.
        let found = unsafe { dlsym(library, name.as_ptr()) };
        if found.is_null() {
            return Err(format!("no kernel `{}`: it was built from other sources", entry.name));
        }
        // SAFETY: EXPORT_KERNEL gives functions of this name this type.
        Ok(unsafe { std::mem::transmute::<*mut c_void, Run>(found) })
    };
    KERNELS.iter().map(one).collect()
}
