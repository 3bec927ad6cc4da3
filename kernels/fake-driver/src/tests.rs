//! That the stand-in is as strict as it says. The state is the process's, so each test is a process of its own.

use crate::calls::{device::*, graph::*, memory::*, module::*, stream::*};
use crate::codes::*;
use crate::nvrtc::MAGIC;
use std::ffi::{CString, c_void};
use std::process::Command;

/// The context, and a stream.
fn start() -> usize {
    let (mut device, mut context, mut stream) = (0, 0, 0);
    assert_eq!(cuDeviceGet(&mut device, 0), NOT_INITIALIZED, "the driver is started first");
    assert_eq!((cuInit(0), cuDeviceGet(&mut device, 0), cuDevicePrimaryCtxRetain(&mut context, device)), (0, 0, 0));
    assert_eq!(cuStreamCreate(&mut stream, 1), INVALID_CONTEXT, "no context is current yet");
    assert_eq!((cuCtxSetCurrent(context), cuStreamCreate(&mut stream, 1)), (0, 0));
    stream
}

fn device_memory(bytes: usize) -> u64 {
    let mut at = 0;
    assert_eq!(cuMemAlloc_v2(&mut at, bytes), 0);
    at
}

fn pinned(bytes: usize) -> *mut c_void {
    let mut at = std::ptr::null_mut();
    assert_eq!(cuMemHostAlloc(&mut at, bytes, 0), 0);
    at
}

fn function(name: &str) -> usize {
    let image = CString::new(format!("{MAGIC}{name}")).unwrap();
    let (mut module, mut function) = (0, 0);
    assert_eq!(cuModuleLoadDataEx(&mut module, image.as_ptr(), 0, std::ptr::null_mut(), std::ptr::null_mut()), 0);
    let other = CString::new("zero").unwrap();
    assert_eq!(cuModuleGetFunction(&mut function, module, other.as_ptr()), NOT_FOUND, "of another file");
    let name = CString::new(name).unwrap();
    assert_eq!(cuModuleGetFunction(&mut function, module, name.as_ptr()), 0);
    function
}

/// Launches selftest_places, which numbers its threads.
fn places(function: usize, stream: usize, threads: u32, shared: u32, mut to: u64) -> Code {
    let mut values = [(&raw mut to).cast::<c_void>()];
    cuLaunchKernel(function, 1, 1, 1, threads, 1, 1, shared, stream, values.as_mut_ptr(), std::ptr::null_mut())
}

fn bytes_at(at: u64, stream: usize) -> [u8; 4] {
    let mut bytes = [0; 4];
    assert_eq!(cuMemcpyDtoHAsync_v2(bytes.as_mut_ptr().cast(), at, 4, stream), 0);
    bytes
}

fn copies_read_their_sources_when_a_driver_does() {
    let stream = start();
    let (at, source) = (device_memory(64), pinned(64).cast::<u8>());
    assert_eq!(bytes_at(at, stream), [0xff; 4], "fresh memory is no number");
    let mut own = [1u8; 4];
    // SAFETY: 64 bytes each; nothing else uses them.
    unsafe { source.write_bytes(2, 64) };
    // More than runs early by chance.
    let ahead = (0..64).map(|_| cuMemsetD8Async(at + 8, 0, 8, stream)).sum::<Code>();
    let queued = cuMemcpyHtoDAsync_v2(at, own.as_ptr().cast(), 4, stream) + cuMemcpyHtoDAsync_v2(at + 4, source.cast(), 4, stream);
    assert_eq!((ahead, queued), (0, 0));
    own.fill(9);
    // SAFETY: as above.
    unsafe { source.write_bytes(3, 64) };
    assert_eq!(bytes_at(at, stream), [1; 4], "the host's own memory was read at the call");
    assert_eq!(bytes_at(at + 4, stream), [3; 4], "pinned memory when the copy ran");
    assert_eq!(cuMemcpyHtoDAsync_v2(at + 62, own.as_ptr().cast(), 4, stream), INVALID_VALUE, "beyond the allocation");
    assert_eq!((cuMemFree_v2(at + 4), cuMemFree_v2(at), cuMemFree_v2(at)), (INVALID_VALUE, 0, INVALID_VALUE));
}

fn launches_are_checked() {
    let stream = start();
    let (at, kernel) = (device_memory(4096), function("selftest_places"));
    assert_eq!(places(kernel, stream, 1025, 0, at), INVALID_VALUE, "threads");
    assert_eq!(places(kernel, stream, 32, 50_000, at), INVALID_VALUE, "shared memory that it was not given");
    assert_eq!((cuFuncSetAttribute(kernel, 8, 60_000), places(kernel, stream, 32, 50_000, at)), (0, 0));
    assert_eq!(places(kernel, stream + 16, 32, 0, at), INVALID_HANDLE);
    assert_eq!(cuStreamSynchronize(stream), 0);
    assert_eq!(bytes_at(at + 4, stream), 2i32.to_le_bytes());
    let elsewhere = std::thread::spawn(move || places(kernel, stream, 32, 0, at)).join().unwrap();
    assert_eq!(elsewhere, INVALID_CONTEXT, "current on the other thread only");
}

fn captures_keep_the_rules() {
    let stream = start();
    let (at, kernel) = (device_memory(4096), function("selftest_places"));
    let (mut graph, mut exec, mut more) = (0, 0, 0);
    assert_eq!((cuStreamBeginCapture_v2(0, 1), cuStreamBeginCapture_v2(stream, 1)), (CAPTURE_UNSUPPORTED, 0));
    assert_eq!((places(kernel, stream, 32, 0, at), cuMemAlloc_v2(&mut more, 64)), (0, CAPTURE_UNSUPPORTED));
    assert_eq!(places(kernel, stream, 32, 0, at), CAPTURE_INVALIDATED, "by the allocation");
    assert_eq!(cuStreamEndCapture(stream, &mut graph), CAPTURE_INVALIDATED);
    // Whole this time, and another thread cannot end it, nor wait for it.
    assert_eq!((cuStreamBeginCapture_v2(stream, 1), places(kernel, stream, 32, 0, at)), (0, 0));
    assert_eq!((cuStreamEndCapture(stream, &mut graph), cuGraphInstantiateWithFlags(&mut exec, graph, 0)), (0, 0));
    assert_eq!(bytes_at(at, stream), [0xff; 4], "what is captured has not run");
    assert_eq!((cuGraphLaunch(exec, stream), cuGraphLaunch(exec, stream), cuStreamSynchronize(stream)), (0, 0, 0));
    assert_eq!(bytes_at(at, stream), 1i32.to_le_bytes());
    assert_eq!(cuStreamBeginCapture_v2(stream, 1), 0);
    let other = std::thread::spawn(move || (cuCtxSetCurrent(crate::state::CONTEXT), cuStreamEndCapture(stream, &mut 0)));
    assert_eq!(other.join().unwrap(), (0, CAPTURE_WRONG_THREAD));
    assert_eq!(cuStreamEndCapture(stream, &mut graph), CAPTURE_INVALIDATED);
}

fn several_streams_capture_at_once() {
    let stream = start();
    let (at, kernel) = (device_memory(4096), function("selftest_places"));
    let (mut graph, mut exec) = (0, 0);
    assert_eq!((cuStreamBeginCapture_v2(stream, 1), places(kernel, stream, 32, 0, at)), (0, 0));
    assert_eq!(cuStreamBeginCapture_v2(stream, 1), INVALID_VALUE, "it captures already");
    // Another thread captures on a stream of its own, and what it may not do ends its capture alone.
    let other = move || {
        let mut own = 0;
        assert_eq!((cuCtxSetCurrent(crate::state::CONTEXT), cuStreamCreate(&mut own, 1), cuStreamBeginCapture_v2(own, 1)), (0, 0, 0));
        assert_eq!((places(kernel, own, 32, 0, at), cuMemAlloc_v2(&mut 0, 64)), (0, CAPTURE_UNSUPPORTED));
        (cuStreamEndCapture(own, &mut 0), cuMemAlloc_v2(&mut 0, 64), cuStreamSynchronize(own))
    };
    assert_eq!(std::thread::spawn(other).join().unwrap(), (CAPTURE_INVALIDATED, 0, 0));
    assert_eq!(places(kernel, stream, 32, 0, at), 0, "this one is whole");
    assert_eq!((cuStreamEndCapture(stream, &mut graph), cuGraphInstantiateWithFlags(&mut exec, graph, 0)), (0, 0));
    assert_eq!((cuGraphLaunch(exec, stream), cuStreamSynchronize(stream)), (0, 0));
    assert_eq!(bytes_at(at, stream), 1i32.to_le_bytes());
}

fn a_replay_of_freed_memory_is_forbidden() {
    let stream = start();
    let (at, kernel) = (device_memory(4096), function("selftest_places"));
    let (mut graph, mut exec) = (0, 0);
    assert_eq!((cuStreamBeginCapture_v2(stream, 1), places(kernel, stream, 32, 0, at)), (0, 0));
    assert_eq!((cuStreamEndCapture(stream, &mut graph), cuGraphInstantiateWithFlags(&mut exec, graph, 0)), (0, 0));
    assert_eq!(cuMemFree_v2(at), 0);
    cuGraphLaunch(exec, stream);
}

fn the_host_cannot_touch_device_memory() {
    start();
    // SAFETY: not sound, which is the point: the guard ends the process.
    unsafe { (device_memory(64) as *mut u8).write_volatile(1) };
}

fn a_kernel_cannot_leave_its_memory() {
    let stream = start();
    let (at, kernel) = (device_memory(256), function("selftest_places"));
    places(kernel, stream, 1024, 0, at);
    cuStreamSynchronize(stream);
}

fn pinned_memory_outlives_its_copies() {
    let stream = start();
    let (at, source) = (device_memory(1 << 16), pinned(64));
    for _ in 0..64 {
        cuMemsetD8Async(at, 0, 1 << 16, stream);
    }
    cuMemcpyHtoDAsync_v2(at, source, 64, stream);
    cuMemFreeHost(source);
}

/// A name, and what the case ends in: nothing, or a message of the stand-in.
type Case = (&'static str, fn(), Option<&'static str>);

const CASES: [Case; 8] = [
    ("copies", copies_read_their_sources_when_a_driver_does, None),
    ("launches", launches_are_checked, None),
    ("captures", captures_keep_the_rules, None),
    ("several", several_streams_capture_at_once, None),
    ("replay", a_replay_of_freed_memory_is_forbidden, Some("a graph is replayed whose selftest_places uses")),
    ("host", the_host_cannot_touch_device_memory, Some("the host touched")),
    ("kernel", a_kernel_cannot_leave_its_memory, Some("kernel `selftest_places` touched")),
    ("pinned", pinned_memory_outlives_its_copies, Some("freed while a queued copy uses it")),
];

const CASE: &str = "LUMOS_FAKE_TEST_CASE";

#[test]
#[ignore = "one case, in a process of its own"]
fn one() {
    let name = std::env::var(CASE).expect("started by the other test");
    CASES.iter().find(|c| c.0 == name).expect("a case").1();
}

#[test]
fn strict() {
    for (name, _, end) in CASES {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let ran = command.args(["tests::one", "--exact", "--ignored", "--nocapture"]).env(CASE, name).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr).into_owned() + &String::from_utf8_lossy(&ran.stdout);
        assert_eq!(ran.status.code(), Some(if end.is_some() { 86 } else { 0 }), "{name}: {said}");
        assert!(end.is_none_or(|text| said.contains(text)), "{name}: {said}");
    }
}
