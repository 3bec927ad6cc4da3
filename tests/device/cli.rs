//! The whole program where a device is there, that of the tests, in a process of its own.

#[cfg(feature = "llm")]
use crate::real;
use crate::sandbox::{Ran, Sandbox, small};
use crate::simt;
use lumos::device::{Device, DeviceError, Geometry};
use lumos::testing::{HostDevice, HostKernels, stand_in};
use serde_json::Value;
use std::ffi::c_void;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The host's kernels, of which one fails at its nth launch.
struct Faulty {
    kernels: simt::Simt,
    kernel: usize,
    at: u64,
    launched: AtomicU64,
}

impl HostKernels for Faulty {
    fn find(&self, name: &str) -> Option<usize> {
        self.kernels.find(name)
    }

    fn parameters(&self, handle: usize) -> Option<Vec<usize>> {
        self.kernels.parameters(handle)
    }

    unsafe fn launch(&self, handle: usize, geometry: Geometry, args: &[*const c_void]) -> Result<(), String> {
        if self.kernel == handle && self.launched.fetch_add(1, Relaxed) + 1 == self.at {
            return Err("an illegal memory access was encountered".into());
        }
        // SAFETY: the caller's promise.
        unsafe { self.kernels.launch(handle, geometry, args) }
    }
}

/// Bytes of the device; `KERNEL:N` makes the Nth launch of a kernel fail; any text in place of a device is why there is none.
const MEMORY: &str = "LUMOS_TEST_MEMORY";
const FAULT: &str = "LUMOS_TEST_FAULT";
const REFUSED: &str = "LUMOS_TEST_REFUSED";
/// Words of the command line, one a line.
const WORDS: &str = "LUMOS_TEST_WORDS";

fn open() -> Result<Arc<dyn Device>, DeviceError> {
    let text = |name: &str| std::env::var(name).ok();
    if let Some(reason) = text(REFUSED) {
        return Err(DeviceError::Busy { ordinal: 0, name: "CPU rendition".into(), reason });
    }
    let bytes = text(MEMORY).map_or(1 << 28, |m| m.parse().unwrap());
    let Some(fault) = text(FAULT) else { return Ok(simt::device(bytes)) };
    let (name, at) = fault.split_once(':').unwrap();
    let kernels = simt::Simt;
    let kernel = kernels.find(name).unwrap();
    Ok(Arc::new(HostDevice::new(Faulty { kernels, kernel, at: at.parse().unwrap(), launched: AtomicU64::new(0) }, bytes)))
}

#[test]
#[ignore = "the program that the other tests start as a process of its own"]
fn program() {
    let words = std::env::var(WORDS).expect("started by the other tests");
    stand_in(open);
    let code = lumos::cli::run(std::iter::once("lumos").chain(words.lines()).map(Into::into));
    std::process::exit(code.into());
}

/// What the test harness says before the program begins.
const HARNESS: &[u8] = b"\nrunning 1 test\n";

fn command(sandbox: &Sandbox, words: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    // Two threads: with one the harness would write the test's name into the program's first line.
    command.args(["cli::program", "--exact", "--ignored", "--nocapture", "--test-threads=2"]).current_dir(sandbox.path());
    // A busy machine makes any run a long one.
    command.env(WORDS, words.join("\n")).env("LUMOS_PROGRESS_S", "0").envs(env.iter().copied());
    command
}

fn lumos(sandbox: &Sandbox, words: &[&str], env: &[(&str, &str)]) -> Ran {
    let mut output = command(sandbox, words, env).output().unwrap();
    output.stdout = output.stdout.strip_prefix(HARNESS).expect("the harness speaks first").to_vec();
    Ran::new(output, &words.join(" "))
}

/// A configuration that the rendition trains in a second or two.
pub const TINY: [&str; 12] = [
    "--set",
    "data.synth_users=60",
    "--set",
    "data.synth_items=50",
    "--set",
    "federation.fraction=0.5",
    "--set",
    "local.epochs=1",
    "--set",
    "loss.negatives=1",
    // Clients that are resident on a multiprocessor contrast last states.
    "--set",
    "loss.pool=last",
];

pub fn train(sandbox: &Sandbox, out: &str, more: &[&str], env: &[(&str, &str)]) -> Ran {
    let config = small();
    let mut words = vec!["train", config.as_str(), "--out", out];
    words.extend(TINY);
    words.extend(more);
    lumos(sandbox, &words, env)
}

fn lines(sandbox: &Sandbox, run: &str) -> Vec<Value> {
    let text = String::from_utf8(sandbox.read(&format!("{run}/metrics.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The metrics without what depends on the clock and on the meters of a GPU.
fn metrics(sandbox: &Sandbox, run: &str) -> Vec<Value> {
    let mut lines = lines(sandbox, run);
    for line in &mut lines {
        line.as_object_mut().unwrap().retain(|k, _| k != "crc32c" && k != "seconds" && k != "device" && k != "gpu" && !k.ends_with("_s"));
    }
    lines
}

pub fn same_outcome(sandbox: &Sandbox, a: &str, b: &str) {
    for file in ["checkpoints/last.safetensors", "checkpoints/best.safetensors", "ranks-test.safetensors", "ranks-validation.safetensors"] {
        assert!(sandbox.read(&format!("{a}/{file}")) == sandbox.read(&format!("{b}/{file}")), "{file} differs");
    }
    assert_eq!(metrics(sandbox, a), metrics(sandbox, b));
}

/// Local training step by step: by graphs of many kernels.
pub const STEPS: [&str; 2] = ["--set", "gpu.resident=off"];

#[test]
fn a_run_takes_the_device_and_says_so() {
    let sandbox = Sandbox::new();
    let text = train(&sandbox, "gpu", &STEPS, &[]).done();
    let name = simt::name();
    assert!(text.contains(&format!("device: {name} (the first GPU that can be used)\n")), "{text}");
    let text = train(&sandbox, "cpu", &["--device", "cpu"], &[]).done();
    assert!(text.contains("device: CPU (asked for)\n"), "{text}");
    let info: Value = serde_json::from_slice(&sandbox.read("gpu/run.json")).unwrap();
    let result: Value = serde_json::from_slice(&sandbox.read("gpu/result.json")).unwrap();
    assert_eq!((&info["device"], &result["device"]), (&name.as_str().into(), &name.as_str().into()));
    for (gpu, cpu) in lines(&sandbox, "gpu").iter().zip(lines(&sandbox, "cpu")) {
        let used = &gpu["device"];
        for key in ["launches", "replays", "replayed", "chunks", "bytes_to", "bytes_from", "predicted_bytes", "peak_bytes"] {
            assert!(used[key].as_u64().unwrap() > 0, "{key}: {used}");
        }
        assert!((0.0..=1.0).contains(&used["busy_share"].as_f64().unwrap()) && cpu.get("device").is_none(), "{gpu}");
        assert!(gpu.get("gpu").is_none() || simt::through_driver(), "meters that are not there say nothing: {gpu}");
        for key in ["round", "clients", "client_epochs", "tokens", "bytes_up", "bytes_down"] {
            assert_eq!(gpu[key], cpu[key], "{key}");
        }
        let loss = |line: &Value| line["rec_loss"].as_f64().unwrap();
        assert!((loss(gpu) - loss(&cpu)).abs() < 1e-2, "{gpu} {cpu}");
    }
    // TensorBoard has it too.
    let board = |run: &str| {
        let files = std::fs::read_dir(sandbox.path().join(run).join("tensorboard")).unwrap();
        files.flat_map(|f| std::fs::read(f.unwrap().path()).unwrap()).collect::<Vec<u8>>()
    };
    for tag in ["device/launches", "device/replays", "device/chunks", "device/busy_share", "device/predicted_bytes", "device/peak_bytes"] {
        let has = |run: &str| board(run).windows(tag.len()).filter(|w| *w == tag.as_bytes()).count();
        assert_eq!((has("gpu"), has("cpu")), (4, 0), "{tag}, once a round");
    }
    // Ranked here or there, a checkpoint is worth the same.
    let eval = |device: &str| lumos(&sandbox, &["eval", "gpu", "--json", "--device", device], &[]).json();
    let (there, here) = (eval("cuda:0"), eval("cpu"));
    assert_eq!((&there["device"], &here["device"]), (&name.into(), &"CPU".into()));
    assert_eq!(there["HR@10"], result["test"]["HR@10"]);
    assert!((there["NDCG@10"].as_f64().unwrap() - here["NDCG@10"].as_f64().unwrap()).abs() < 0.02, "{there} {here}");
}

#[test]
fn what_is_the_cpus_work_goes_there_and_a_device_that_cannot_be_had_is_refused() {
    let sandbox = Sandbox::new();
    let one = ["--set", "federation.rounds=1"];
    for (name, device) in [("a", "auto"), ("b", "cuda")] {
        train(&sandbox, name, &[&["--set", "method=popularity", "--device", device][..], &one].concat(), &[]).done();
        // Private groups are the device's work like any other.
        let text = train(
            &sandbox,
            &format!("{name}-private"),
            &[&["--set", "federation.shared=encoder", "--device", device][..], &one].concat(),
            &[],
        )
        .done();
        assert!(text.contains(&format!("device: {} (", simt::name())), "{text}");
        assert_eq!(
            lumos(&sandbox, &["eval", &format!("{name}-private"), "--json", "--device", device], &[]).json()["device"],
            simt::name()
        );
    }
    // What is the CPU's work is done there, with a line that says so, and no device is opened.
    for method in ["transitions", "fed-transitions", "ptf-fsr"] {
        let method_set = format!("method={method}");
        let sets = ["--set", method_set.as_str(), "--set", "federation.rounds=1"];
        let other = format!("{method}-cpu");
        let text = train(&sandbox, method, &[&sets[..], &["--device", "cuda"]].concat(), &[(REFUSED, "another process holds it")]).done();
        let protocol = method.strip_prefix("fed-").unwrap_or(method);
        let line = format!("device: CPU (cuda was asked for, but protocol `{protocol}` ");
        assert_eq!(text.matches(&line).count(), 1, "{text}");
        train(&sandbox, &other, &[&sets[..], &["--device", "cpu"]].concat(), &[]).done();
        same_outcome(&sandbox, method, &other);
        let eval = lumos(&sandbox, &["eval", method, "--json", "--device", "cuda"], &[]).json();
        assert_eq!(eval["device"], "CPU");
    }
    // A device that is there and not to be had.
    let busy = [(REFUSED, "another process holds it")];
    let text = train(&sandbox, "c", &one, &busy).done();
    assert!(text.contains("device: CPU (GPU 0 (CPU rendition) cannot be used now: another process holds it)\n"), "{text}");
    train(&sandbox, "d", &["--device", "cuda"], &busy).refused(1, &["cannot be used now: another process holds it", "--device cpu"]);
    train(&sandbox, "d", &["--device", "cuda:3"], &[]).refused(1, &["there is no GPU 3: the driver sees 1"]);
    train(&sandbox, "d", &["--device", "gpu"], &[]).refused(2, &["--device", "did you mean `cuda`"]);
    assert!(!sandbox.path().join("d").exists());
    // One that has no room for as much as the weights.
    let full = [(MEMORY, "1000")];
    let text = train(&sandbox, "e", &one, &full).done();
    assert!(text.contains(&format!("device: CPU ({}: out of memory", simt::name())), "{text}");
    train(&sandbox, "f", &["--device", "cuda"], &full).refused(1, &["out of memory"]);
}

/// Several methods share the device; what is the CPU's work goes there.
#[test]
fn methods_side_by_side_share_the_device() {
    let sandbox = Sandbox::new();
    // The width belongs to the methods, for the centralised one sets its own.
    let text = String::from_utf8(sandbox.read(&small())).unwrap().replace("[model]\ndim = 8\n", "");
    let widths = "model.dim = 8\n[methods.sasrec]\nmodel.dim = 8\nmodel.blocks = 1\n";
    sandbox.write("side.toml", (text + widths).as_bytes());
    let words = |more: &[&'static str]| {
        let mut words = vec!["run", "side.toml", "--out", "all", "--set", "federation.rounds=1"];
        words.extend(TINY);
        words.extend(more);
        words.iter().map(|w| w.to_string()).collect::<Vec<_>>()
    };
    let run = |more: &[&'static str]| lumos(&sandbox, &words(more).iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    let text = run(&["--set", "compare=fed-sasrec,sasrec,popularity"]).done();
    // The centralised method as well.
    assert_eq!(text.matches(&format!("device: {} (", simt::name())).count(), 3, "{text}");
    for method in ["lumos", "fed-sasrec", "sasrec", "popularity"] {
        assert!(text.lines().any(|l| l.starts_with(method) && l.contains("0.")), "{method} is not in\n{text}");
    }
    // Finished runs are reused, wherever they were trained.
    let again = run(&["--set", "compare=fed-sasrec,sasrec,popularity"]).done();
    assert!(again.matches("finished already").count() >= 3 && !again.contains("device:"), "{again}");
    // A model that one participant trained is ranked on the device all the same.
    let eval = lumos(&sandbox, &["eval", "all/sasrec", "--json", "--device", "cuda"], &[]).json();
    assert_eq!(eval["device"], simt::name());
}

#[test]
fn resumed_runs_end_in_the_same_bits() {
    let sandbox = Sandbox::new();
    let sets = ["--set", "federation.server=fedadam", "--set", "federation.server_momentum=0.9"];
    train(&sandbox, "short", &[&sets[..], &["--set", "federation.rounds=2"]].concat(), &[]).done();
    let text = train(&sandbox, "short", &[&sets[..], &["--resume", "--threads", "1"]].concat(), &[]).done();
    assert!(text.contains("resumed after round 2") && !text.contains("bits"), "{text}");
    // Little memory: more chunks, the same bits.
    train(&sandbox, "long", &sets, &[(MEMORY, "900000")]).done();
    same_outcome(&sandbox, "short", "long");
    // Another device goes on, and says what that means.
    let more = ["--resume", "--device", "cpu", "--set", "federation.rounds=5"];
    let text = train(&sandbox, "short", &[&sets[..], &more].concat(), &[]).done();
    assert!(text.contains(&format!("trained on {} so far: bits from here on are those of CPU", simt::name())), "{text}");
}

/// A kernel that fails in mid-run: what the host has is saved, the message names the place, and the run goes on from there.
#[test]
fn a_fault_loses_nothing_that_was_good() {
    let sandbox = Sandbox::new();
    train(&sandbox, "whole", &[], &[]).done();
    train(&sandbox, "steps", &STEPS, &[]).done();
    same_outcome(&sandbox, "steps", "whole");
    // One local step a round, four rounds, validated and saved after the second and the fourth. The host copies weights every second
    // as well, so that a slow machine may have saved one round more.
    for (fault, rounds, place) in [
        ("adam_dense:3", 2..=2, "in round 3, clients 0 to "),
        ("resident_visits:3", 2..=2, "in round 3, clients 0 to "),
        ("server_rows:4", 2..=3, "in the server's step of round 4"),
        ("average_dense:1", 0..=0, "in round 1, clients 0 to "),
        ("rank_count:1", 0..=1, "in the ranking of users 0 to "),
        ("rank_masked:3", 4..=4, "in the ranking of users 0 to "),
    ] {
        let (kernel, _) = fault.split_once(':').unwrap();
        let out = fault.replace(':', "-");
        let way = if kernel == "adam_dense" { &STEPS[..] } else { &[] };
        let ran = train(&sandbox, &out, way, &[(FAULT, fault)]);
        ran.refused(1, &["CPU rendition: an illegal memory access", &format!("kernel `{kernel}` (grid "), place, "--resume"]);
        let stderr = ran.stderr();
        let saved = |n: &u64| match n {
            0 => stderr.contains("no round was finished before it"),
            n => stderr.contains(&format!("round {n} of 4 is saved in {out}/checkpoints/last.safetensors")),
        };
        let round = rounds.clone().find(saved).unwrap_or_else(|| panic!("{fault}: {rounds:?} in {stderr}"));
        assert!(!sandbox.path().join(format!("{out}/result.json")).exists());
        let text = train(&sandbox, &out, &[way, &["--resume"]].concat(), &[]).done();
        let resumed = if round == 0 { "nothing was saved yet".to_string() } else { format!("resumed after round {round}") };
        assert!(text.contains(&resumed), "{fault}: {text}");
        same_outcome(&sandbox, &out, "whole");
    }
}

#[test]
fn the_bench_tells_what_the_device_did() {
    let sandbox = Sandbox::new();
    let words = "bench round --clients 40 --items 60 --dim 8 --epochs 2 --max-len 8 --rounds 2 --threads 2 --json";
    let words: Vec<&str> = words.split(' ').collect();
    let json = lumos(&sandbox, &[&words[..], &["--resident", "off"]].concat(), &[]).json();
    assert_eq!((&json["device"], &json["resident"]), (&simt::name().into(), &false.into()));
    assert_eq!((&json["replays_per_round"], &json["chunks_per_round"]), (&2.into(), &1.into()), "{json}");
    let number = |key: &str| json[key].as_f64().unwrap_or_else(|| panic!("{key}: {json}"));
    assert!(number("kernels_per_round") > number("launches_per_round") && number("launches_per_round") > 3.0);
    assert!(number("predicted_device_bytes") >= number("peak_device_bytes") && number("peak_device_bytes") > 0.0);
    assert!(number("busy_share") > 0.0 && number("rank_s") > 0.0 && number("rank_again_s") > 0.0);
    for key in ["utilisation_percent", "joules_per_round", "watts", "sm_mhz", "memory_mhz", "memory_bytes"] {
        assert!(json[key].is_null() || simt::through_driver(), "no meter, no figure: {key} in {json}");
    }
    let cpu = lumos(&sandbox, &[&words[..], &["--device", "cpu"]].concat(), &[]).json();
    assert!(cpu["device"] == "cpu" && cpu.get("busy_share").is_none(), "{cpu}");
    let table = lumos(&sandbox, &words[..words.len() - 1], &[]).done();
    assert!(table.contains(&format!("device: {} (", simt::name())) && table.contains("clients resident in one block"), "{table}");
    assert!(table.contains("energy of a round J unknown") || simt::through_driver(), "{table}");
}

/// Ctrl-C on a device: the round ends, its weights are fetched and saved.
#[cfg(unix)]
#[test]
fn an_interrupted_run_goes_on_to_the_same_bits() {
    use std::time::{Duration, Instant};
    let sandbox = Sandbox::new();
    let long = ["--set", "federation.rounds=12", "--set", "eval.every=12"];
    let config = small();
    let mut words = vec!["train", config.as_str(), "--out", "cut"];
    words.extend(TINY);
    words.extend(long);
    let child = command(&sandbox, &words, &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let file = sandbox.path().join("cut/metrics.jsonl");
    let start = Instant::now();
    while std::fs::metadata(&file).map_or(0, |m| m.len()) == 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "training never began");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(130) && stderr.contains("interrupted"), "{stderr}");
    let at = metrics(&sandbox, "cut").len();
    assert!((1..12).contains(&at), "stopped after {at} rounds");
    let text = train(&sandbox, "cut", &[&long[..], &["--resume"]].concat(), &[]).done();
    assert!(text.contains(&format!("resumed after round {at}")), "{text}");
    train(&sandbox, "whole", &long, &[]).done();
    same_outcome(&sandbox, "cut", "whole");
}

#[test]
#[cfg(feature = "llm")]
fn a_language_model_writes_on_the_device() {
    let Some(model) = real::tinystories() else { return };
    let sandbox = Sandbox::new();
    let short = ["--prefix", "5", "--suffix", "4", "--output", "3", "--prompts", "3", "--repeats", "1", "--json"];
    let bench = |more: &[&str], env: &[(&str, &str)]| {
        let words = [&["bench", "generate", "--model", model.to_str().unwrap()], &short[..], more].concat();
        lumos(&sandbox, &words, env)
    };
    let row = bench(&[], &[]).json();
    assert_eq!((&row["device"], &row["gpu"], &row["dtype"]), (&"cuda".into(), &simt::name().into(), &"bf16".into()), "{row}");
    let row = bench(&["--dtype", "f16", "--device", "cuda:0"], &[]).json();
    assert_eq!((&row["device"], &row["dtype"]), (&"cuda".into(), &"f16".into()), "{row}");
    let row = bench(&["--device", "cpu"], &[]).json();
    assert_eq!((&row["device"], &row["gpu"]), (&"cpu".into(), &Value::Null), "{row}");
    // A device that is there and not to be had, one that is too small for the weights, one too small for the cache.
    let busy = [(REFUSED, "another process holds it")];
    assert_eq!(bench(&[], &busy).json()["device"], "cpu");
    bench(&["--device", "cuda"], &busy).refused(1, &["another process holds it"]);
    bench(&[], &[(MEMORY, "100000")]).refused(1, &[&simt::name(), "wanted"]);
    bench(&["--batch", "4000"], &[(MEMORY, "8000000")]).refused(1, &["keys and values need", "side by side"]);
    // Views that were written there say so.
    let config = small();
    let mut words = vec!["views", "build", config.as_str(), "--users", "1", "--json", "--set", "views.generator=llm", "--set"];
    let model = format!("views.llm.model={}", model.display());
    words.extend([model.as_str(), "--set", "views.text.history=2", "--set", "views.max_failed=1", "--set", "views.llm.device=cuda"]);
    words.extend(TINY);
    let row = lumos(&sandbox, &words, &[]).json();
    assert_eq!((&row["device"], &row["users"]), (&"cuda".into(), &1.into()), "{row}");
}
