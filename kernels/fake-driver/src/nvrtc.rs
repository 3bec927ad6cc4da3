//! NVRTC: "compiling" writes down which kernels a source exports.

use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::sync::Mutex;

/// The first line of what was compiled.
pub const MAGIC: &str = "LUMOS-STAND-IN\n";

const SUCCESS: i32 = 0;
const INVALID_INPUT: i32 = 3;
const INVALID_PROGRAM: i32 = 4;
const COMPILATION: i32 = 6;

struct Program {
    name: String,
    source: String,
    /// Names and texts.
    headers: Vec<(String, String)>,
    log: Vec<u8>,
    code: Vec<u8>,
}

static PROGRAMS: Mutex<Option<HashMap<usize, Program>>> = Mutex::new(None);

fn with<T>(work: impl FnOnce(&mut HashMap<usize, Program>) -> T) -> T {
    work(PROGRAMS.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert_default())
}

fn with_program(program: usize, work: impl FnOnce(&mut Program) -> i32) -> i32 {
    with(|all| all.get_mut(&program).map_or(INVALID_PROGRAM, work))
}

fn text(at: *const c_char) -> String {
    // SAFETY: the callers give strings that end in zero.
    unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned()
}

fn set<T>(to: *mut T, value: T) -> i32 {
    // SAFETY: the callers give a place for one value.
    unsafe { to.write(value) };
    SUCCESS
}

fn copy(to: *mut c_char, bytes: &[u8]) -> i32 {
    // SAFETY: the callers asked for the size first.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast(), bytes.len()) };
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcVersion(major: *mut i32, minor: *mut i32) -> i32 {
    // No version of NVIDIA's: what is compiled here must not be found in a cache by the real one.
    set(major, 13) | set(minor, 99)
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetNumSupportedArchs(count: *mut i32) -> i32 {
    set(count, 2)
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetSupportedArchs(list: *mut i32) -> i32 {
    set(list.cast::<[i32; 2]>(), [80, 90])
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetErrorString(code: i32) -> *const c_char {
    let text: &CStr = match code {
        SUCCESS => c"NVRTC_SUCCESS",
        INVALID_INPUT => c"NVRTC_ERROR_INVALID_INPUT",
        COMPILATION => c"NVRTC_ERROR_COMPILATION",
        _ => c"NVRTC_ERROR_INVALID_PROGRAM",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcCreateProgram(
    program: *mut usize,
    source: *const c_char,
    name: *const c_char,
    count: i32,
    headers: *const *const c_char,
    names: *const *const c_char,
) -> i32 {
    // SAFETY: the caller gives as many of each.
    let header = |i| unsafe { (text(*names.add(i)), text(*headers.add(i))) };
    let headers = (0..count as usize).map(header).collect();
    let made = Program { name: text(name), source: text(source), headers, log: vec![0], code: Vec::new() };
    with(|all| {
        let handle = all.keys().max().unwrap_or(&0) + 16;
        all.insert(handle, made);
        set(program, handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcDestroyProgram(program: *mut usize) -> i32 {
    // SAFETY: the caller gives the place of its handle.
    let handle = unsafe { *program };
    if with(|all| all.remove(&handle)).is_some() { set(program, 0) } else { INVALID_PROGRAM }
}

/// Headers that `source` includes, each of which must have been given.
fn missing_header(program: &Program) -> Option<String> {
    let texts = program.headers.iter().map(|(_, text)| text).chain([&program.source]);
    let included = texts.flat_map(|t| t.lines().filter_map(|l| l.trim().strip_prefix("#include \"")?.split('"').next()));
    included.into_iter().find(|&name| !program.headers.iter().any(|(known, _)| known == name)).map(str::to_string)
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcCompileProgram(program: usize, count: i32, options: *const *const c_char) -> i32 {
    // SAFETY: the caller gives as many options.
    let options: Vec<String> = (0..count as usize).map(|i| text(unsafe { *options.add(i) })).collect();
    with_program(program, |program| {
        if !options.iter().any(|o| o.starts_with("--gpu-architecture=")) {
            return INVALID_INPUT;
        }
        let exported = |line: &str| line.trim().strip_prefix("EXPORT_KERNEL(").and_then(|rest| rest.split(')').next()).map(str::to_string);
        let kernels: Vec<String> = program.source.lines().filter_map(exported).collect();
        let unknown = kernels.iter().find(|k| lumos_simt::find(k).is_none()).map(|k| format!("kernel `{k}` is not in this build"));
        let missing = missing_header(program).map(|h| format!("cannot open source file \"{h}\""));
        if let Some(fault) = unknown.or(missing) {
            program.log = format!("{}(1): error: {fault}\n\0", program.name).into_bytes();
            return COMPILATION;
        }
        program.code = format!("{MAGIC}{}\0", kernels.join("\n")).into_bytes();
        SUCCESS
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetProgramLogSize(program: usize, size: *mut usize) -> i32 {
    with_program(program, |p| set(size, p.log.len()))
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetProgramLog(program: usize, log: *mut c_char) -> i32 {
    with_program(program, |p| copy(log, &p.log))
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetCUBINSize(program: usize, size: *mut usize) -> i32 {
    with_program(program, |p| set(size, p.code.len()))
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetCUBIN(program: usize, code: *mut c_char) -> i32 {
    with_program(program, |p| copy(code, &p.code))
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetPTXSize(program: usize, size: *mut usize) -> i32 {
    nvrtcGetCUBINSize(program, size)
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetPTX(program: usize, code: *mut c_char) -> i32 {
    nvrtcGetCUBIN(program, code)
}
