//! Compiling kernels on the spot, where the program was built without nvcc.
//!
//! What was compiled is kept in the user's cache folder (`$XDG_CACHE_HOME/lumos/kernels`, `~/.cache/lumos/kernels` without it) under
//! the SHA-256 of everything that it depends on.

use super::DeviceError;
use super::interface::Result;
use crate::base::files::write_scratch;
use cudarc::nvrtc::{result, sys};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::ffi::{CString, c_char};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What the kernels use of the standard headers, which NVRTC does not have.
const STANDARD: [&str; 2] = ["--define-macro=INFINITY=__int_as_float(0x7f800000)", "--define-macro=NAN=__int_as_float(0x7fffffff)"];

/// Version of NVRTC, or nothing where the library is missing.
pub fn version() -> Option<(i32, i32)> {
    static VERSION: OnceLock<Option<(i32, i32)>> = OnceLock::new();
    *VERSION.get_or_init(|| {
        // SAFETY: probing loads the library and nothing else; only where that works is a function of it called.
        unsafe {
            let (mut major, mut minor) = (0, 0);
            #[cfg(not(feature = "candle-cuda"))]
            let present = sys::is_culib_present();
            // Linked then.
            #[cfg(feature = "candle-cuda")]
            let present = true;
            (present && sys::nvrtcVersion(&mut major, &mut minor).result().is_ok()).then_some((major, minor))
        }
    })
}

/// Folder of what was compiled.
pub fn cache_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    base.map(|base| base.join("lumos").join("kernels"))
}

/// Compiles a family for a GPU of this compute capability, or takes it from the cache.
pub fn compile(file: &str, source: &str, headers: &[(&str, &str)], capability: (u32, u32)) -> Result<Vec<u8>> {
    let (nvrtc, arch) = target(capability)?;
    match cached(file, source, headers, &arch, &nvrtc) {
        (Some(code), _) => Ok(code),
        (None, path) => compile_to(path, file, source, headers, &arch, &nvrtc),
    }
}

/// The same for several families of names and sources. Those that are not in the cache are compiled on as many threads as there are cores,
/// after a line about it where a person watches: it takes seconds a family.
pub fn compile_all(families: &[(&str, &str)], headers: &[(&str, &str)], capability: (u32, u32)) -> Result<Vec<Vec<u8>>> {
    let (nvrtc, arch) = target(capability)?;
    let found: Vec<_> = families.iter().map(|(file, source)| cached(file, source, headers, &arch, &nvrtc)).collect();
    let missing = found.iter().filter(|(code, _)| code.is_none()).count();
    if missing > 0 && std::io::stderr().is_terminal() {
        let kept = cache_folder().map_or("not kept: no cache folder".into(), |folder| format!("kept in {}", folder.display()));
        // A terminal that is gone stops nothing.
        let _ = writeln!(std::io::stderr(), "compiling {missing} files of kernels for {arch} with NVRTC {nvrtc} ({kept})");
    }
    let next = AtomicUsize::new(0);
    let slots: Vec<_> = found.into_iter().map(Mutex::new).collect();
    let made: Mutex<Vec<(usize, Result<Vec<u8>>)>> = Mutex::default();
    let work = || {
        while let Some(slot) = slots.get(next.fetch_add(1, Relaxed)) {
            let index = slots.iter().position(|s| std::ptr::eq(s, slot)).unwrap_or_default();
            let (code, path) = std::mem::take(&mut *slot.lock());
            let (file, source) = families[index];
            let code = code.map_or_else(|| compile_to(path, file, source, headers, &arch, &nvrtc), Ok);
            made.lock().push((index, code));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(missing).max(1);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut made = made.into_inner();
    made.sort_by_key(|(index, _)| *index);
    made.into_iter().map(|(_, code)| code).collect()
}

/// Version of NVRTC and the architecture that it compiles for.
fn target(capability: (u32, u32)) -> Result<(String, String)> {
    let (major, minor) = version().ok_or(DeviceError::NvrtcMissing)?;
    Ok((format!("{major}.{minor}"), architecture(capability, &supported())))
}

/// What the cache has, and where it belongs.
fn cached(file: &str, source: &str, headers: &[(&str, &str)], arch: &str, nvrtc: &str) -> (Option<Vec<u8>>, Option<PathBuf>) {
    let path = cache_folder().map(|folder| folder.join(key(file, source, headers, arch, nvrtc)));
    (path.as_deref().and_then(read_cached), path)
}

fn compile_to(cached: Option<PathBuf>, file: &str, source: &str, headers: &[(&str, &str)], arch: &str, nvrtc: &str) -> Result<Vec<u8>> {
    let failed = |log| DeviceError::Compile { file: file.into(), arch: arch.into(), nvrtc: nvrtc.into(), log };
    let code = build(file, source, headers, arch).map_err(failed)?;
    if let Some(path) = cached {
        // Without a cache the next start is slower, that is all.
        let _ = write_cached(&path, &code);
    }
    Ok(code)
}

/// Architectures that this NVRTC knows, as 10 x major + minor.
fn supported() -> Vec<i32> {
    let mut count = 0;
    // SAFETY: called after `version` found the library; the list is as long as NVRTC says.
    unsafe {
        if sys::nvrtcGetNumSupportedArchs(&mut count).result().is_err() || count <= 0 {
            return Vec::new();
        }
        let mut list = vec![0; count as usize];
        if sys::nvrtcGetSupportedArchs(list.as_mut_ptr()).result().is_ok() { list } else { Vec::new() }
    }
}

/// Code for exactly this GPU where NVRTC knows it (Hopper with the instructions that only it has); otherwise PTX of the newest
/// architecture below, which the driver translates.
fn architecture((major, minor): (u32, u32), supported: &[i32]) -> String {
    let own = (major * 10 + minor) as i32;
    if own == 90 && supported.contains(&90) {
        return "sm_90a".into();
    }
    if supported.contains(&own) {
        return format!("sm_{own}");
    }
    format!("compute_{}", supported.iter().copied().filter(|&a| a < own).max().unwrap_or(80))
}

fn key(file: &str, source: &str, headers: &[(&str, &str)], arch: &str, nvrtc: &str) -> String {
    let mut hash = Sha256::new();
    let parts = [file, source, arch, nvrtc].into_iter().chain(STANDARD).chain(headers.iter().flat_map(|&(name, text)| [name, text]));
    for part in parts {
        // The length keeps two neighbours from passing for another pair.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digest: String = hex::encode(hash.finalize());
    format!("{file}-{arch}-{digest}")
}

/// A file is the code and its SHA-256, so that one cut short is compiled again.
fn read_cached(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = std::fs::read(path).ok()?;
    let code_len = bytes.len().checked_sub(32)?;
    let fits = Sha256::digest(&bytes[..code_len]).as_slice() == &bytes[code_len..];
    bytes.truncate(code_len);
    fits.then_some(bytes)
}

fn write_cached(path: &Path, code: &[u8]) -> crate::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(crate::Error::io(folder, "create"))?;
    write_scratch(path, &[code, Sha256::digest(code).as_slice()].concat())
}

/// Destroys the program whatever happens.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by `nvrtcCreateProgram` and destroyed once. Nothing can be done about an error here.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|e| format!("a zero byte in a kernel source: {e}"))
}

/// Cubin for `sm_*`, PTX for `compute_*`; an error is the compiler's log.
fn build(file: &str, source: &str, headers: &[(&str, &str)], arch: &str) -> Result<Vec<u8>, String> {
    let (source, name) = (c_string(source)?, c_string(&format!("{file}.cu"))?);
    let texts = headers.iter().map(|(_, text)| c_string(text)).collect::<Result<Vec<_>, _>>()?;
    let names = headers.iter().map(|(name, _)| c_string(name)).collect::<Result<Vec<_>, _>>()?;
    let pointers = |list: &[CString]| list.iter().map(|s| s.as_ptr()).collect::<Vec<*const c_char>>();
    let (text_list, name_list) = (pointers(&texts), pointers(&names));
    let mut options = vec![format!("--gpu-architecture={arch}"), "--std=c++17".to_string()];
    options.extend(STANDARD.map(str::to_string));
    // SAFETY: all strings outlive the program; sizes are asked of NVRTC before each copy.
    unsafe {
        let mut raw = std::ptr::null_mut();
        let count = headers.len() as i32;
        sys::nvrtcCreateProgram(&mut raw, source.as_ptr(), name.as_ptr(), count, text_list.as_ptr(), name_list.as_ptr())
            .result()
            .map_err(|e| format!("nvrtcCreateProgram: {e}"))?;
        let program = Program(raw);
        if let Err(error) = result::compile_program(program.0, &options) {
            let log = result::get_program_log(program.0).unwrap_or_default();
            let log: Vec<u8> = log.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
            return Err(format!("{error}\n{}", String::from_utf8_lossy(&log)));
        }
        let failed = |e| format!("the compiled code cannot be fetched: {e}");
        if arch.starts_with("compute") {
            let ptx = result::get_ptx(program.0).map_err(failed)?;
            return Ok(ptx.iter().map(|&c| c as u8).collect());
        }
        let mut size = 0;
        sys::nvrtcGetCUBINSize(program.0, &mut size).result().map_err(failed)?;
        let mut code = vec![0u8; size];
        sys::nvrtcGetCUBIN(program.0, code.as_mut_ptr().cast()).result().map_err(failed)?;
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiles_for_the_very_gpu_or_the_nearest_below() {
        let known = [75, 80, 86, 89, 90, 100, 120];
        assert_eq!(architecture((9, 0), &known), "sm_90a");
        assert_eq!(architecture((8, 6), &known), "sm_86");
        assert_eq!(architecture((10, 3), &known), "compute_100");
        assert_eq!(architecture((12, 1), &known), "compute_120");
        assert_eq!(architecture((9, 0), &[]), "compute_80");
    }

    #[test]
    fn keys_tell_every_part_apart() {
        let base = key("a", "xy", &[("h", "z")], "sm_80", "13.0");
        for other in [
            key("a", "x", &[("yh", "z")], "sm_80", "13.0"),
            key("a", "xy", &[("h", "zz")], "sm_80", "13.0"),
            key("a", "xy", &[("h", "z")], "sm_90a", "13.0"),
            key("a", "xy", &[("h", "z")], "sm_80", "13.1"),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn a_damaged_cache_file_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper").join("norm-sm_80-00");
        assert_eq!(read_cached(&path), None);
        write_cached(&path, b"code").unwrap();
        assert_eq!(read_cached(&path).as_deref(), Some(&b"code"[..]));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[1] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read_cached(&path), None);
        std::fs::write(&path, &bytes[..20]).unwrap();
        assert_eq!(read_cached(&path), None);
    }

    /// Runs only where NVRTC is; it needs no GPU.
    #[test]
    fn every_family_compiles_where_nvrtc_is() {
        if version().is_none() {
            return;
        }
        let (source, headers) = (
            "#include \"one.cuh\"\nextern \"C\" __global__ void k(int* y) { *y = ONE + (*y > -INFINITY); }",
            [("one.cuh", "#define ONE 1\n")],
        );
        for arch in ["sm_80", "sm_90a", "compute_80"] {
            assert!(!build("test", source, &headers, arch).unwrap().is_empty(), "{arch}");
        }
        let log = build("test", "int x = nothing;", &[], "sm_80").unwrap_err();
        assert!(log.contains("test.cu(1)") && log.contains("nothing"), "{log}");
        for family in super::super::modules::families() {
            if super::super::modules::form() == super::super::modules::Form::Sources {
                family.code((8, 0)).unwrap();
                family.code((9, 0)).unwrap();
            }
        }
    }
}
