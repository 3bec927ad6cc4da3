//! Several processes with a GPU each, on the stand-ins for the driver and for NCCL: the bits of one process.

use crate::cli::{Ran, Sandbox};
use crate::mpirun::{ended, prepared, there};
use crate::outcome::outcome;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

const SETS: [&str; 4] = ["--set=federation.rounds=3", "--set=eval.every=1", "--set=local.epochs=1", "--set=federation.fraction=0.3"];

/// A folder with the stand-ins under the names of the libraries.
fn stand_ins(sandbox: &Sandbox) -> PathBuf {
    let built = std::env::current_exe().unwrap().with_file_name("liblumos_fake_driver.so");
    assert!(built.exists(), "{} is built with the tests", built.display());
    let folder = sandbox.path().join("driver");
    std::fs::create_dir_all(folder.join("temporary")).unwrap();
    for name in ["libcuda.so", "libcuda.so.1", "libnvrtc.so", "libnvidia-ml.so", "libnvidia-ml.so.1", "libnccl.so.2"] {
        let _ = std::os::unix::fs::symlink(&built, folder.join(name));
    }
    folder
}

fn words<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["train", "small.toml", "--out", out, "--device", "cuda"], &SETS[..], more].concat()
}

/// `lumos WORDS` as processes with these GPUs, adding up by `sums`.
fn lumos(sandbox: &Sandbox, gpus: &[&str], sums: &str, words: &[&str]) -> Ran {
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "--bind-to", "none"]);
    for (rank, gpu) in gpus.iter().enumerate() {
        let (gpu, counts) = (format!("LUMOS_FAKE_GPU={gpu}"), format!("LUMOS_FAKE_COUNTS=counts-{rank}"));
        command
            .args(if rank > 0 { &[":"][..] } else { &[] })
            .args(["-np", "1", "env", &gpu, &counts, env!("CARGO_BIN_EXE_lumos")])
            .args(words);
    }
    on_it(sandbox, &mut command).env("LUMOS_CLUSTER_SUMS", sums);
    ended(prepared(command, sandbox).spawn().unwrap(), &words.join(" "))
}

fn on_it<'c>(sandbox: &Sandbox, command: &'c mut Command) -> &'c mut Command {
    let folder = stand_ins(sandbox);
    command.env("LD_LIBRARY_PATH", &folder).env("XDG_CACHE_HOME", folder.join("cache")).env("TMPDIR", folder.join("temporary"))
}

/// What a run leaves, without what its devices did: a process has fewer clients than the whole.
fn left(sandbox: &Sandbox, run: &str) -> Vec<(&'static str, Vec<u8>)> {
    let plain = |(name, bytes): (&'static str, Vec<u8>)| {
        if !name.contains("json") {
            return (name, bytes);
        }
        let lines = serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>().map(|line| {
            let mut line = line.unwrap();
            line.as_object_mut().unwrap().retain(|key, _| key != "device" && !key.starts_with("gpu"));
            line.to_string() + "\n"
        });
        (name, lines.collect::<String>().into_bytes())
    };
    outcome(&sandbox.path().join(run)).into_iter().map(plain).collect()
}

/// Sums that NCCL has made at `rank`.
fn sums_at(sandbox: &Sandbox, rank: usize) -> u64 {
    let text = String::from_utf8(sandbox.read(&format!("counts-{rank}"))).unwrap();
    text.lines().find_map(|line| line.strip_prefix("ncclAllReduce ")?.parse().ok()).unwrap_or(0)
}

#[test]
fn gpus_add_up_by_nccl_to_the_bits_of_one_process() {
    if !there() {
        return;
    }
    let sandbox = Sandbox::new();
    // Three sums a round; none where rules must see every update, or where they are asked for on the host.
    let kinds: [(&str, &[&str], &str, u64); 4] = [
        ("average", &[], "nccl", 9),
        (
            "fedadam",
            &["--set=federation.server=fedadam", "--set=federation.server_lr=0.01", "--set=federation.server_correction=true"],
            "nccl",
            9,
        ),
        ("median", &["--set=federation.rules=[\"median\"]"], "nccl", 0),
        ("host", &[], "host", 0),
    ];
    for (name, more, sums, reductions) in kinds {
        let (alone, both) = (format!("{name} alone"), format!("{name} both"));
        let mut one = sandbox.command(&words(&alone, more));
        Ran::new(on_it(&sandbox, &mut one).output().unwrap(), &alone).done();
        let said = lumos(&sandbox, &["1", "2"], sums, &words(&both, more)).done();
        assert!(said.contains("device: GPU 0 (Stand-in for a GPU)"), "{said}");
        for ((file, one), (_, two)) in left(&sandbox, &alone).into_iter().zip(left(&sandbox, &both)) {
            assert!(one == two, "{name}: {file} differs");
        }
        assert_eq!([0, 1].map(|rank| sums_at(&sandbox, rank)), [reductions; 2], "{name}");
    }
}

#[test]
fn processes_that_share_a_gpu_add_up_on_the_host() {
    if !there() {
        return;
    }
    let sandbox = Sandbox::new();
    let said = lumos(&sandbox, &["1", "1"], "nccl", &words("forced", &[])).stderr();
    assert!(said.contains("LUMOS_CLUSTER_SUMS is `nccl`, and several processes share a GPU"), "{said}");
    lumos(&sandbox, &["1", "1"], "auto", &words("shared", &["--set=federation.rounds=1"])).done();
    assert_eq!(sums_at(&sandbox, 0), 0);
    let said = lumos(&sandbox, &["1", "2"], "both", &words("wrong", &[])).stderr();
    assert!(said.contains("LUMOS_CLUSTER_SUMS is `both`"), "{said}");
}
