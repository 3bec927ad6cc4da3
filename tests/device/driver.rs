//! The program on the stand-in for the CUDA driver: the code that talks to a driver really runs, and gives the bits of the CPU rendition.

use crate::cli::{STEPS, TINY, same_outcome, train};
use crate::sandbox::{Ran, Sandbox, small};
use std::collections::BTreeMap;
use std::process::{Command, Stdio};

/// Puts the stand-in in front of `command`, as scripts/with-fake-driver does.
fn in_front(sandbox: &Sandbox, command: &mut Command) {
    let built = std::env::current_exe().unwrap().with_file_name("liblumos_fake_driver.so");
    assert!(built.exists(), "{} is built with the tests", built.display());
    let folder = sandbox.path().join("driver");
    if !folder.exists() {
        std::fs::create_dir(&folder).unwrap();
        for name in ["libcuda.so", "libcuda.so.1", "libnvrtc.so", "libnvidia-ml.so", "libnvidia-ml.so.1", "libnccl.so.2"] {
            std::os::unix::fs::symlink(&built, folder.join(name)).unwrap();
        }
    }
    command.env("LD_LIBRARY_PATH", &folder).env("XDG_CACHE_HOME", folder.join("cache"));
}

fn lumos(sandbox: &Sandbox, words: &[&str], env: &[(&str, &str)]) -> Ran {
    let mut command = sandbox.command(words);
    in_front(sandbox, &mut command);
    Ran::new(command.envs(env.iter().copied()).output().unwrap(), &words.join(" "))
}

fn words<'a>(config: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["train", config, "--out", out, "--device", "cuda"], &TINY[..], more].concat()
}

fn train_on_it(sandbox: &Sandbox, out: &str, more: &[&str], env: &[(&str, &str)]) -> Ran {
    lumos(sandbox, &words(&small(), out, more), env)
}

/// How often each call of the driver was made.
fn counts(sandbox: &Sandbox) -> BTreeMap<String, u64> {
    let text = String::from_utf8(sandbox.read("counts")).unwrap();
    let line = |l: &str| l.split_once(' ').map(|(name, n)| (name.to_string(), n.parse().unwrap())).unwrap();
    text.lines().map(line).collect()
}

#[test]
fn a_run_has_the_bits_of_the_rendition() {
    let sandbox = Sandbox::new();
    train(&sandbox, "host", &[], &[]).done();
    let text = train_on_it(&sandbox, "resident", &[], &[]).done();
    assert!(text.contains("device: GPU 0 (Stand-in for a GPU) (the first that can be used)\n"), "{text}");
    same_outcome(&sandbox, "host", "resident");
    // Other work runs early, and every step is a graph's.
    let env = [("LUMOS_FAKE_SEED", "5"), ("LUMOS_FAKE_COUNTS", "counts")];
    train_on_it(&sandbox, "steps", &STEPS, &env).done();
    same_outcome(&sandbox, "host", "steps");
    let made = counts(&sandbox);
    assert!(made["cuGraphLaunch"] >= 4, "{made:?}");
    for (begin, end) in [
        ("cuMemAlloc", "cuMemFree"),
        ("cuMemHostAlloc", "cuMemFreeHost"),
        ("cuEventCreate", "cuEventDestroy"),
        ("cuGraphInstantiate", "cuGraphExecDestroy"),
        ("cuStreamBeginCapture", "cuStreamEndCapture"),
        ("cuModuleLoadData", "cuModuleUnload"),
        ("cuStreamCreate", "cuStreamDestroy"),
        ("cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease"),
    ] {
        assert_eq!(made[begin], made[end], "{begin} and {end}: {made:?}");
    }
    // Each kernel by itself.
    train_on_it(&sandbox, "sync", &STEPS, &[("LUMOS_CUDA_SYNC", "1"), ("LUMOS_FAKE_COUNTS", "counts")]).done();
    same_outcome(&sandbox, "host", "sync");
    assert!(!counts(&sandbox).contains_key("cuGraphLaunch"), "kernels that are waited for are in no graph");
}

#[test]
fn the_machine_is_described() {
    let sandbox = Sandbox::new();
    let text = lumos(&sandbox, &["doctor"], &[]).done();
    for part in ["0 Stand-in for a GPU, compute capability 9.0, 4.00 GiB, usable", "supports CUDA 13.0", "ready (driver 580.0"] {
        assert!(text.contains(part), "`{part}` is not in {text}");
    }
    let text = lumos(&sandbox, &["doctor"], &[("LUMOS_FAKE_BUSY", "1")]).done();
    assert!(text.contains("cannot be used now"), "{text}");
}

#[test]
fn rounds_and_texts_pass_the_check_of_a_gpu() {
    let sandbox = Sandbox::new();
    let text = lumos(&sandbox, &["gpu-check", "--quick", "--only", "kernels,bits,rounds,text,smoke", "--out", "checked.json"], &[]);
    assert!(text.0.status.success(), "{}{}", text.stdout(), text.stderr());
    for part in ["kernels", "bits", "rounds", "text", "smoke"] {
        assert!(text.stdout().lines().any(|l| l.starts_with(part) && l.contains("passed")), "{part}: {}", text.stdout());
    }
}

/// That a run went well and said in one line that it had no pinned memory. Gives what it printed.
fn told_of_no_pinned_memory(ran: &Ran) -> String {
    let said = ran.stderr();
    assert!(ran.0.status.success() && said.lines().count() == 1, "{said}");
    assert!(said.contains("no pinned memory of the host (") && said.contains("CUDA_ERROR_OUT_OF_MEMORY"), "{said}");
    ran.stdout()
}

#[test]
fn what_memory_does_not_hold_is_done_in_parts() {
    let sandbox = Sandbox::new();
    train(&sandbox, "host", &[], &[]).done();
    for (i, way) in [&[][..], &STEPS].into_iter().enumerate() {
        // An allocation that fails in the middle of a round; little memory from the beginning; no pinned memory at all.
        for (fault, value) in [("LUMOS_FAKE_ALLOC_FAILS", "30"), ("LUMOS_FAKE_MEMORY", "1200000"), ("LUMOS_FAKE_PINNED_FAILS", "1")] {
            let out = format!("{fault}-{i}");
            let ran = train_on_it(&sandbox, &out, way, &[(fault, value), ("LUMOS_FAKE_COUNTS", "counts")]);
            match fault {
                "LUMOS_FAKE_PINNED_FAILS" => {
                    told_of_no_pinned_memory(&ran);
                    assert_eq!(counts(&sandbox)["cuMemHostAlloc"], 1, "what the host has not is asked for once");
                }
                _ => drop(ran.done()),
            }
            same_outcome(&sandbox, "host", &out);
        }
    }
    train_on_it(&sandbox, "none", &[], &[("LUMOS_FAKE_MEMORY", "1000")]).refused(1, &["out of memory", "Stand-in for a GPU"]);
    train_on_it(&sandbox, "busy", &[], &[("LUMOS_FAKE_BUSY", "1")]).refused(1, &["cannot be used now", "--device cpu"]);
}

#[test]
fn a_fault_is_told_and_the_run_goes_on_from_what_was_saved() {
    let sandbox = Sandbox::new();
    train(&sandbox, "host", &[], &[]).done();
    // A launch that faults: every later call fails as well. A capture that something else invalidates.
    for (fault, value, way, parts) in [
        ("LUMOS_FAKE_LAUNCH_FAULTS", "12", &[][..], ["CUDA_ERROR_ILLEGAL_ADDRESS", "in one of", "kernel `"]),
        ("LUMOS_FAKE_LAUNCH_FAULTS", "40", &STEPS, ["CUDA_ERROR_ILLEGAL_ADDRESS", "graph `local step of ", "--resume"]),
        ("LUMOS_FAKE_CAPTURE_FAILS", "1", &STEPS, ["CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "--resume", "failed"]),
    ] {
        let out = format!("{fault}-{value}");
        train_on_it(&sandbox, &out, way, &[(fault, value)]).refused(1, &parts);
        train_on_it(&sandbox, &out, &[way, &["--resume"]].concat(), &[]).done();
        same_outcome(&sandbox, "host", &out);
    }
}

/// A copy to the host that never ends: nothing can be done about it, and a second signal ends the program.
#[test]
fn a_copy_that_never_ends_can_be_left() {
    use std::io::{BufRead, BufReader};
    let sandbox = Sandbox::new();
    let config = small();
    let mut command = sandbox.command(&words(&config, "hangs", &[]));
    in_front(&sandbox, &mut command);
    let mut child = command.env("LUMOS_FAKE_COPY_HANGS", "3").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(|l| l.unwrap());
    assert_eq!(said.next().as_deref(), Some("fake driver: a copy that never ends"));
    let send = |signal: &str| assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    send("-INT");
    let first = said.next().unwrap_or_default();
    assert!(first.contains("Ctrl-C") && first.contains("again"), "{first}");
    // Another signal: the same one at once counts as an echo of the first.
    send("-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
}
