//! The loaded kernels of one GPU.

use super::DeviceError;
use super::driver_error::{Kind, Suspects, kind, reason, told};
use super::interface::{Kernel, Limits, Resources, Result};
use super::modules::{self, Family};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUfunction_attribute as Attribute};
use std::collections::HashMap;
use std::ffi::{CString, c_void};

/// Bytes of the driver's compiler log that are kept.
const LOG: usize = 4096;

/// Dynamic shared memory that a block may have without being given more.
pub(super) const PLAIN_SHARED: usize = 48 << 10;

struct Function {
    handle: sys::CUfunction,
    /// A multiprocessor gives it all its shared memory at the cost of the first-level cache.
    prefers_shared: bool,
    /// Sizes of the parameters.
    parameters: Vec<usize>,
}

/// Kernels by name and number, families by name. All calls want the device's context to be current.
#[derive(Default)]
pub(super) struct Functions {
    list: Vec<Function>,
    numbers: HashMap<&'static str, usize>,
    modules: HashMap<&'static str, sys::CUmodule>,
    /// Code of families that are not loaded yet.
    codes: Vec<(&'static str, Vec<u64>)>,
}

// SAFETY: handles of a context that any thread may use.
unsafe impl Send for Functions {}

impl Functions {
    /// A kernel that was loaded before.
    pub fn known(&self, name: &'static str) -> Option<Kernel> {
        self.numbers.get(name).map(|&handle| Kernel { name, handle })
    }

    /// The driver's handle.
    pub fn handle(&self, kernel: Kernel) -> sys::CUfunction {
        self.list[kernel.handle].handle
    }

    /// Sizes of the parameters.
    pub fn parameters(&self, kernel: Kernel) -> &[usize] {
        &self.list[kernel.handle].parameters
    }

    /// Loads a kernel, with its family where that is not loaded yet, and lets it use all the shared memory that a block may have.
    pub fn load(&mut self, name: &'static str, device: &str, limits: &Limits) -> Result<Kernel> {
        let family = modules::family_of(name)?;
        let module = match self.modules.get(family.name) {
            Some(&module) => module,
            None => {
                let code = match self.codes.iter().position(|(name, _)| *name == family.name) {
                    Some(place) => self.codes.swap_remove(place).1,
                    None => family.code(limits.capability)?,
                };
                let module = load_module(family, device, code)?;
                self.modules.insert(family.name, module);
                module
            }
        };
        let failed = |call| move |e: DriverError| told(device, call, e, &Suspects::default(), name);
        // SAFETY: module and function are alive for as long as the context is.
        let function = unsafe {
            let handle = result::module::get_function(module, CString::new(name).unwrap_or_default()).map_err(|error| match error.0 {
                sys::CUresult::CUDA_ERROR_NOT_FOUND => DeviceError::UnknownKernel { name: name.into(), nearest: None },
                _ => failed("cuModuleGetFunction")(error),
            })?;
            let fixed = result::function::get_function_attribute(handle, Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)
                .map_err(failed("cuFuncGetAttribute"))?;
            let most = limits.shared_per_block as i32 - fixed;
            result::function::set_function_attribute(handle, Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, most)
                .map_err(failed("cuFuncSetAttribute"))?;
            Function { handle, prefers_shared: false, parameters: parameters(handle) }
        };
        let handle = self.list.len();
        self.list.push(function);
        self.numbers.insert(name, handle);
        Ok(Kernel { name, handle })
    }

    /// Families of `names` that are neither loaded nor kept.
    pub fn families(&self, names: &[&'static str]) -> Result<Vec<&'static Family>> {
        let mut missing: Vec<&'static Family> = Vec::new();
        for name in names.iter().filter(|name| !self.numbers.contains_key(*name)) {
            let family = modules::family_of(name)?;
            let here = self.modules.contains_key(family.name) || self.codes.iter().any(|(name, _)| *name == family.name);
            if !here && !missing.iter().any(|f| f.name == family.name) {
                missing.push(family);
            }
        }
        Ok(missing)
    }

    /// Keeps code until a kernel of its family is loaded.
    pub fn keep(&mut self, codes: Vec<(&'static str, Vec<u64>)>) {
        self.codes.extend(codes);
    }

    /// Has a multiprocessor give the kernel as much shared memory as it has, so that as many blocks fit as the kernel was laid out for.
    pub fn prefer_shared(&mut self, kernel: Kernel) -> Result<(), DriverError> {
        let function = &mut self.list[kernel.handle];
        if !function.prefers_shared {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
            // SAFETY: the function is alive; the value is a share in percent.
            unsafe { result::function::set_function_attribute(function.handle, attribute, 100) }?;
            function.prefers_shared = true;
        }
        Ok(())
    }

    /// What the compiled kernel takes.
    pub fn resources(&self, kernel: Kernel) -> Result<Resources, DriverError> {
        // SAFETY: the function is alive.
        let get = |attribute| unsafe { result::function::get_function_attribute(self.handle(kernel), attribute) };
        Ok(Resources {
            registers: get(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)? as u32,
            local: get(Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)? as usize,
            fixed_shared: get(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)? as usize,
            most_threads: get(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)? as u32,
        })
    }

    /// Unloads everything; nothing may run.
    pub fn unload(&mut self) {
        self.list.clear();
        self.numbers.clear();
        for (_, module) in self.modules.drain() {
            // SAFETY: loaded by `load_module`, unloaded once. An error cannot be reported here.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}

/// Sizes of a function's parameters: the driver counts them by refusing the one after the last.
unsafe fn parameters(function: sys::CUfunction) -> Vec<usize> {
    let mut sizes = Vec::new();
    loop {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: the caller's function is alive.
        if unsafe { sys::cuFuncGetParamInfo(function, sizes.len(), &mut offset, &mut size) }.result().is_err() {
            return sizes;
        }
        sizes.push(size);
    }
}

fn load_module(family: &Family, device: &str, code: Vec<u64>) -> Result<sys::CUmodule> {
    let mut log = vec![0u8; LOG];
    let mut options = [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), LOG as *mut c_void];
    let mut module = std::ptr::null_mut();
    // SAFETY: the code is whole and ends in zero; option values are what their options ask for.
    let loaded = unsafe {
        let code = code.as_ptr().cast();
        sys::cuModuleLoadDataEx(&mut module, code, options.len() as u32, options.as_mut_ptr(), values.as_mut_ptr()).result()
    };
    loaded.map(|()| module).map_err(|error| match kind(error.0) {
        Kind::Image | Kind::Other | Kind::Old => {
            let end = log.iter().position(|&c| c == 0).unwrap_or(LOG);
            let log = String::from_utf8_lossy(&log[..end]).into_owned();
            DeviceError::Image { file: family.name.into(), device: device.into(), reason: reason(error), log }
        }
        Kind::Memory => super::driver_error::full(device, &format!("loading the kernels of `{}`", family.name), code.len() * 8, 0, 0),
        _ => told(device, "cuModuleLoadDataEx", error, &Suspects::default(), family.name),
    })
}
