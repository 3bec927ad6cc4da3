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

/// What a run's metrics say last of device memory: foreseen, and held.
fn foreseen_and_held(sandbox: &Sandbox, out: &str) -> (u64, u64) {
    let text = String::from_utf8(sandbox.read(&format!("{out}/metrics.jsonl"))).unwrap();
    let rows = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    let device = rows.filter_map(|row| row.get("device").cloned()).rfind(|d| d.is_object()).expect("a round on a device");
    (device["predicted_bytes"].as_u64().unwrap(), device["peak_bytes"].as_u64().unwrap())
}

#[test]
fn graphs_are_foreseen_and_make_room_where_memory_is_short() {
    let sandbox = Sandbox::new();
    train(&sandbox, "host", &[], &[]).done();
    let node = ("LUMOS_FAKE_NODE_BYTES", "4096");
    train_on_it(&sandbox, "plain", &STEPS, &[]).done();
    train_on_it(&sandbox, "graphs", &STEPS, &[node]).done();
    let ((_, plain), (foreseen, held)) = (foreseen_and_held(&sandbox, "plain"), foreseen_and_held(&sandbox, "graphs"));
    assert!(held > plain + 100_000 && held <= foreseen, "{plain} without graphs, {held} with them, {foreseen} foreseen");
    // As much as everything but the graphs of whole chunks takes: making one fails, and the chunk is split.
    let memory = plain.to_string();
    train_on_it(&sandbox, "short", &STEPS, &[node, ("LUMOS_FAKE_MEMORY", &memory), ("LUMOS_FAKE_COUNTS", "counts")]).done();
    same_outcome(&sandbox, "host", "short");
    let made = counts(&sandbox);
    assert!(made["cuGraphInstantiate"] > made["cuGraphExecDestroy"], "some were refused: {made:?}");
    // Where not even one client's graph fits, the message says what was being made.
    let huge = ("LUMOS_FAKE_NODE_BYTES", "4000000000");
    train_on_it(&sandbox, "none", &STEPS, &[huge]).refused(1, &["out of memory", "making graph `local step of"]);
}

/// The tiny real model on the stand-in, asked for a few tokens.
#[cfg(feature = "llm")]
fn write_on_it(sandbox: &Sandbox, words: &[&str], env: &[(&str, &str)]) -> Option<Ran> {
    let model = crate::real::tinystories()?;
    let common = ["--model", model.to_str().unwrap(), "--device", "cuda", "--threads", "2"];
    Some(lumos(sandbox, &[words, &common].concat(), env))
}

#[cfg(feature = "llm")]
#[test]
fn text_is_written_without_pinned_memory_and_a_fault_on_the_way_is_told() {
    let sandbox = Sandbox::new();
    let words = ["generate", "--prompt", "Once upon a time, ", "--max-tokens", "12", "--temperature", "0", "--json"];
    let counted = ("LUMOS_FAKE_COUNTS", "counts");
    let Some(plain) = write_on_it(&sandbox, &words, &[counted]) else { return };
    let text = |answer: &str| serde_json::from_str::<serde_json::Value>(answer).unwrap()["text"].clone();
    let expected = text(&plain.done());
    let made = counts(&sandbox);
    // Copies to the host are waited for at once, and the host is asked for pinned memory a single time.
    let without = write_on_it(&sandbox, &words, &[counted, ("LUMOS_FAKE_PINNED_FAILS", "1")]).expect("there a moment ago");
    assert_eq!(text(&told_of_no_pinned_memory(&without)), expected);
    assert_eq!(counts(&sandbox)["cuMemHostAlloc"], 1);
    // Some of it can be had: copies in parts go on, and what comes later goes without.
    let some = write_on_it(&sandbox, &words, &[counted, ("LUMOS_FAKE_PINNED_FAILS", "5")]).expect("there a moment ago");
    assert_eq!((text(&told_of_no_pinned_memory(&some)), counts(&sandbox)["cuMemHostAlloc"]), (expected, 5));
    // Launches beyond loading: among the first tokens, and the last one that the others wait for.
    let launches = made["cuLaunchKernel"];
    for nth in [launches / 2, launches] {
        let nth = nth.to_string();
        let fault = [("LUMOS_FAKE_LAUNCH_FAULTS", nth.as_str())];
        let parts = ["CUDA_ERROR_ILLEGAL_ADDRESS", "kernel `decoder_", "LUMOS_CUDA_SYNC=1"];
        write_on_it(&sandbox, &words, &fault).expect("there a moment ago").refused(1, &parts);
    }
    // Many prompts in steps: tokens of one are on their way while the next is queued.
    let bench =
        ["bench", "generate", "--prefix", "20", "--suffix", "9", "--output", "7", "--prompts", "6", "--batch", "3", "--repeats", "1"];
    write_on_it(&sandbox, &bench, &[counted]).expect("there a moment ago").done();
    let nth = (counts(&sandbox)["cuLaunchKernel"] * 3 / 4).to_string();
    let ran = write_on_it(&sandbox, &bench, &[("LUMOS_FAKE_LAUNCH_FAULTS", &nth)]).expect("there a moment ago");
    ran.refused(1, &["CUDA_ERROR_ILLEGAL_ADDRESS", "kernel `decoder_"]);
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
