//! The check of a GPU, made on the CPU rendition of the kernels: it passes there, and wrong kernels are found out by name.

use crate::simt;
use crate::simt::Simt;
use lumos::check::file::{self, Attachment};
use lumos::check::report::Report;
use lumos::check::{self, CheckPart, Options};
#[cfg(feature = "llm")]
use lumos::device::interface::Limits;
use lumos::device::{Choice, Chosen, Device, Geometry, choose};
#[cfg(feature = "llm")]
use lumos::llm::Stored;
use lumos::testing::{HostDevice, HostKernels, stand_in};
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const MEMORY: u64 = 2 << 30;

/// What a kernel does wrong.
#[derive(Clone, Copy, PartialEq)]
enum Wrong {
    /// A number of its output is off by a thousandth.
    Off,
    /// The same, every second time only.
    Sometimes,
    /// It does its work twice.
    Twice,
    /// It writes before its output.
    Astray,
    /// It faults.
    Faults,
}

/// A kernel, which of its arguments is an output, and which one holds an offset into it.
type Output = (&'static str, usize, Option<usize>);

/// The rendition with some kernels spoilt.
struct Spoilt {
    kernels: Vec<(Output, Wrong)>,
    runs: Arc<AtomicUsize>,
}

impl HostKernels for Spoilt {
    fn find(&self, name: &str) -> Option<usize> {
        Simt.find(name)
    }

    fn parameters(&self, handle: usize) -> Option<Vec<usize>> {
        Simt.parameters(handle)
    }

    unsafe fn launch(&self, handle: usize, g: Geometry, args: &[*const c_void]) -> Result<(), String> {
        // SAFETY: the caller's promise.
        unsafe { Simt.launch(handle, g, args)? };
        let name = lumos_simt::nth(handle).ok_or("no such kernel")?.name();
        let Some(&((_, output, offset), how)) = self.kernels.iter().find(|k| k.0.0 == name) else { return Ok(()) };
        let run = self.runs.fetch_add(1, Relaxed);
        match how {
            // SAFETY: the caller's promise.
            Wrong::Twice => return unsafe { Simt.launch(handle, g, args) },
            Wrong::Faults => return Err("an illegal address was read".into()),
            Wrong::Sometimes if run.is_multiple_of(2) => return Ok(()),
            _ => {}
        }
        // SAFETY: outputs are pointers to memory with at least a guard behind its end, offsets are ints.
        unsafe {
            let at = offset.map_or(0, |i| *args[i].cast::<i32>() as isize);
            // The high word of a double: the low one is beyond what is held against the reference.
            let at = if name == "client_losses" { 1 } else { at };
            let at = if how == Wrong::Astray { at - 1 } else { at };
            let word = (*args[output].cast::<*mut u32>()).offset(at);
            *word = if *word == 0 { 0x3a83_126f } else { *word ^ (1 << 13) };
        }
        Ok(())
    }
}

fn spoilt(kernels: &[(Output, Wrong)]) -> Arc<dyn Device> {
    Arc::new(HostDevice::new(Spoilt { kernels: kernels.to_vec(), runs: Arc::default() }, MEMORY))
}

/// Every kernel that is checked by itself, with an argument that is an output and one that holds an offset into it.
const OUTPUTS: &[Output] = &[
    ("adam_dense", 3, None),
    ("adam_rows", 3, None),
    ("add", 3, None),
    ("add_gradients", 5, None),
    ("add_mean", 4, None),
    ("add_row_gradients", 6, None),
    ("attention_backward_kv", 12, None),
    ("attention_backward_q", 10, None),
    ("attention_forward", 8, None),
    ("average_dense", 8, None),
    ("average_rows", 11, None),
    ("broadcast", 1, None),
    ("client_losses", 4, None),
    ("clip_factor", 3, None),
    ("clip_norm", 9, None),
    ("copy", 3, None),
    ("drop_items", 5, None),
    ("drop_items_backward", 4, None),
    ("drop_table", 6, None),
    ("dropout", 6, None),
    ("embed", 6, None),
    ("embed_backward_positions", 2, Some(4)),
    ("embed_backward_rows", 3, None),
    ("full_softmax_hidden", 4, None),
    ("full_softmax_rows", 4, None),
    ("full_softmax_stats", 4, None),
    ("gather_rows", 2, None),
    ("gelu", 3, None),
    ("gelu_backward", 3, None),
    ("gradient_squares", 3, None),
    ("gru_backward", 8, None),
    ("gru_forward", 7, None),
    ("in_batch_gather", 3, None),
    ("in_batch_info_nce_grad", 7, None),
    ("in_batch_info_nce_stats", 5, None),
    ("info_nce", 4, None),
    ("layer_norm", 9, None),
    ("layer_norm_backward", 9, None),
    ("layer_norm_weight", 6, Some(9)),
    ("linear_forward", 8, None),
    ("linear_forward_bf16", 8, None),
    ("linear_forward_tf32", 8, None),
    ("linear_input", 7, None),
    ("linear_input_bf16", 7, None),
    ("linear_input_tf32", 7, None),
    ("linear_step", 8, Some(13)),
    ("linear_step_bf16", 8, Some(13)),
    ("linear_step_tf32", 8, Some(13)),
    ("linear_weight", 6, Some(8)),
    ("linear_weight_bf16", 6, Some(9)),
    ("linear_weight_tf32", 6, Some(8)),
    ("next_item_loss", 5, None),
    ("next_item_rows", 3, None),
    ("rank_count", 3, None),
    ("rank_masked", 6, None),
    ("rank_targets", 3, None),
    ("relu", 2, None),
    ("relu_backward", 3, None),
    ("select_rows", 2, None),
    ("select_rows_backward", 2, None),
    ("server_dense", 3, None),
    ("server_rows", 5, None),
    ("step_span", 3, None),
    ("take_gradients", 2, None),
    ("yardstick_bf16", 2, None),
    ("yardstick_copy", 1, None),
    ("yardstick_fma", 3, None),
    ("yardstick_tf32", 2, None),
    ("zero", 2, None),
    ("update_norms", 12, None),
];

fn quick(parts: &[CheckPart]) -> Options {
    Options { parts: parts.to_vec(), quick: true, ..Options::default() }
}

fn run(device: &Arc<dyn Device>, parts: &[CheckPart]) -> Report {
    check::run(device, &quick(parts), &|_| {})
}

fn failing(report: &Report) -> BTreeSet<&str> {
    report.failures().map(|c| c.name.as_str()).collect()
}

#[test]
fn every_part_passes_on_right_kernels() {
    let device = simt::device(MEMORY);
    let report = run(&device, &[CheckPart::Kernels, CheckPart::Bits, CheckPart::Rounds, CheckPart::Benches, CheckPart::Smoke]);
    let failures: Vec<String> =
        report.failures().map(|c| format!("{} ({}): {}", c.name, c.case, c.fault.as_deref().unwrap_or(""))).collect();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), report.checks.len(), failures.join("\n"));
    assert!(report.passed(), "{:?}", report.parts);
    // Every kernel that a run uses has a check of its own, and a time.
    let checked: BTreeSet<&str> = report.checks.iter().filter(|c| c.part == "kernels").map(|c| c.name.as_str()).collect();
    let listed: BTreeSet<&str> = OUTPUTS.iter().map(|k| k.0).collect();
    assert_eq!(checked, listed);
    assert!(report.unchecked.iter().all(|k| k.starts_with("resident_visits")), "{:?}", report.unchecked);
    let (decoder, timed): (Vec<&str>, Vec<&str>) = report.benches.iter().map(|b| b.kernel).partition(|k| k.starts_with("decoder_"));
    assert_eq!(decoder.len(), if cfg!(feature = "llm") { 5 * 3 + 5 } else { 0 }, "products by three tiles, attention, choices, norm, gate");
    let timed: BTreeSet<&str> = timed.into_iter().collect();
    let expected: BTreeSet<&str> = listed.into_iter().filter(|k| !k.starts_with("yardstick")).collect();
    assert_eq!(timed, expected);
    assert!(report.benches.iter().all(|b| b.us > 0.0 && b.us_range[0] <= b.us && b.us <= b.us_range[1] && b.bytes > 0.0));
    assert_eq!(report.yardsticks.iter().map(|y| y.name).collect::<Vec<_>>(), ["copy", "fma", "tf32", "bf16"]);
    assert!(report.rounds.iter().all(|r| r.client_epochs_per_s > 0.0 && r.kernels > r.host_calls));
    // Errors that are compared are really looked at: some are above nothing and below what is allowed.
    let bounded: Vec<_> = report.checks.iter().filter(|c| c.bound > 0.0).collect();
    assert!(bounded.len() > 100 && bounded.iter().filter(|c| c.error > 0.0).count() > bounded.len() / 2);
}

/// Each half of the kernels spoilt: those fail, and no other.
#[test]
fn a_wrong_kernel_fails_under_its_name() {
    for half in 0..2 {
        let some: Vec<_> = OUTPUTS.iter().skip(half).step_by(2).map(|&k| (k, Wrong::Off)).collect();
        let report = run(&spoilt(&some), &[CheckPart::Kernels]);
        let expected: BTreeSet<&str> = some.iter().map(|k| k.0.0).collect();
        assert_eq!(failing(&report), expected, "half {half}");
        assert!(!report.passed() && report.parts[0].state == "failed");
    }
}

/// Every kernel of the decoder and an argument that is an output; a kind of number stands for `?`.
#[cfg(feature = "llm")]
const DECODER: &[(&str, usize)] = &[
    ("decoder_embed_?", 0),
    ("decoder_norm_?", 0),
    ("decoder_gated_?", 0),
    ("decoder_add_?", 0),
    // Not its queries: the first one sees one key alone, and whatever it is changes nothing.
    ("decoder_store_?", 1),
    ("decoder_some_?", 0),
    ("decoder_linear_?_16", 0),
    ("decoder_linear_?_64", 0),
    ("decoder_linear_?_128", 0),
    ("decoder_attend_?_2", 0),
    ("decoder_attend_?_4", 0),
    ("decoder_attend_?_8", 0),
    ("decoder_pick", 0),
    ("decoder_choose", 0),
];

#[test]
#[cfg(feature = "llm")]
fn a_decoder_that_is_wrong_or_differs_is_found() {
    let right = run(&simt::device(MEMORY), &[CheckPart::Text]);
    let failures: Vec<_> = right.failures().collect();
    assert!(right.passed() && right.checks.len() > 40, "{failures:?} {:?}", right.parts);
    // Shapes in turn, until one fails.
    let fails = |name: &'static str, output: usize, how: Wrong, number: Stored| {
        check::text::shapes(true).iter().any(|shape| {
            let mut checks = Vec::new();
            let done = check::text::one(&spoilt(&[((name, output, None), how)]), shape, number, true, &mut checks);
            done.is_err() || checks.iter().any(|c| !c.ok)
        })
    };
    for &(name, output) in DECODER {
        let name: &'static str = name.replace('?', "f32").leak();
        assert!(fails(name, output, Wrong::Off, Stored::F32), "{name}, output {output}");
    }
    assert!(fails("decoder_linear_bf16_16", 0, Wrong::Sometimes, Stored::Bf16), "bits that change");
}

/// Limits of a GPU that has warpgroups, with few multiprocessors.
#[cfg(feature = "llm")]
fn hopper(device: HostDevice<Spoilt>) -> Arc<dyn Device> {
    let limits = Limits { capability: (9, 0), shared_per_block: 227 << 10, shared_per_multiprocessor: 228 << 10, ..device.limits() };
    Arc::new(device.with_limits(limits))
}

#[test]
#[cfg(feature = "llm")]
fn products_by_warpgroups_are_used_where_they_have_the_same_bits() {
    let wide = |how: Wrong| {
        let runs = Arc::new(AtomicUsize::new(0));
        let spoilt = Spoilt { kernels: vec![(("decoder_wide_bf16", 0, None), how)], runs: runs.clone() };
        let (shape, mut checks) = (check::text::shapes(true).remove(0), Vec::new());
        check::text::one(&hopper(HostDevice::new(spoilt, MEMORY)), &shape, Stored::Bf16, true, &mut checks).unwrap();
        let failing: Vec<_> = checks.into_iter().filter(|c| !c.ok).map(|c| c.name).collect();
        (failing, runs.load(Relaxed))
    };
    // Right in the trial; what it changes afterwards is within the bound of a logit.
    let (failing, runs) = wide(Wrong::Sometimes);
    assert!(failing.is_empty() && runs > 1, "{failing:?}, {runs}");
    // Other bits: the check says so, and the rest is right without them.
    assert_eq!(wide(Wrong::Off), (vec!["products by warpgroups".to_string()], 1));
}

#[test]
fn other_bits_and_strays_are_found() {
    let report = run(&spoilt(&[(("copy", 3, None), Wrong::Sometimes), (("layer_norm", 9, None), Wrong::Astray)]), &[CheckPart::Kernels]);
    assert_eq!(failing(&report), BTreeSet::from(["copy", "layer_norm"]));
    let said = |name: &str| -> Vec<&str> { report.failures().filter(|c| c.name == name).filter_map(|c| c.fault.as_deref()).collect() };
    assert!(said("copy").iter().any(|f| f.contains("other bits when the kernel runs again")), "{:?}", said("copy"));
    assert!(said("layer_norm").iter().any(|f| f.contains("which is no output")), "{:?}", said("layer_norm"));
}

#[test]
fn rounds_that_are_wrong_or_differ_are_found() {
    // Two steps of the optimiser in place of one, in every round of every kind.
    let report = run(&spoilt(&[(("adam_rows", 3, None), Wrong::Twice), (("step_span", 3, None), Wrong::Twice)]), &[CheckPart::Rounds]);
    // Resident clients have a kernel of their own.
    let steps = report.checks.iter().filter(|c| !c.name.ends_with(check::rounds::RESIDENT));
    let right: Vec<_> = steps.filter(|c| c.ok && c.bound < 1e-3).map(|c| (&c.name, c.error)).collect();
    assert!(!report.passed() && right.is_empty(), "{right:?}");
    let report = run(&spoilt(&[(("adam_rows", 3, None), Wrong::Sometimes)]), &[CheckPart::Bits]);
    assert!(!report.passed() && report.failures().any(|c| c.case.contains("chunks of 64")), "{:?}", report.parts);
}

#[test]
fn a_fault_ends_the_parts_and_not_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result.json");
    let report = run(&spoilt(&[(("layer_norm", 8, None), Wrong::Faults)]), &[CheckPart::Kernels, CheckPart::Bits, CheckPart::Benches]);
    let states: Vec<&str> = report.parts.iter().map(|p| p.state).collect();
    assert_eq!(states, ["failed", "not run", "not run"]);
    assert_eq!(failing(&report), BTreeSet::from(["layer_norm"]));
    let why = report.parts[0].message.clone().unwrap_or_default();
    assert!(why.contains("an illegal address was read") && why.contains("check of layer_norm"), "{why}");
    file::add_report(&path, &report).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((value["passed"].as_bool(), value["parts"][1]["state"].as_str()), (Some(false), Some("not run")));
}

#[test]
fn the_file_is_added_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result.json");
    let device = simt::device(MEMORY);
    let report = run(&device, &[CheckPart::Smoke]);
    let tool = |name: &str, exit, output: &str| Attachment { name: name.into(), exit, seconds: Some(1.5), output: output.into() };
    let read = || -> serde_json::Value { serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap() };
    // A tool may come first.
    file::attach(&path, &tool("memcheck", Some(0), "no errors\n")).unwrap();
    file::add_report(&path, &report).unwrap();
    file::add_report(&path, &report).unwrap();
    let value = read();
    assert_eq!((value["parts"].as_array().unwrap().len(), value["checks"].as_array().unwrap().len()), (2, 2 * report.checks.len()));
    assert_eq!((value["passed"].as_bool(), value["attached"]["memcheck"]["output"].as_str()), (Some(true), Some("no errors\n")));
    file::attach(&path, &tool("peer", Some(0), r#"{"rate": 3.5}"#)).unwrap();
    file::attach(&path, &tool("absent", None, "not run: not there")).unwrap();
    assert_eq!((read()["passed"].as_bool(), read()["attached"]["peer"]["output"]["rate"].as_f64()), (Some(true), Some(3.5)));
    file::attach(&path, &tool("racecheck", Some(86), "a race")).unwrap();
    assert_eq!(read()["passed"].as_bool(), Some(false));
    // Another build, another device, or no result at all is not mixed in.
    let other = Report { quick: false, ..report.clone() };
    assert!(file::add_report(&path, &other).unwrap_err().to_string().contains("--out"));
    std::fs::write(&path, "[1]").unwrap();
    assert!(file::add_report(&path, &report).unwrap_err().to_string().contains("no result of a GPU check"));
}

fn lumos(words: &[&str]) -> (Option<i32>, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_lumos")).args(words).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn without_a_gpu_one_line_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("result.json");
    let (code, stdout, stderr) = lumos(&["gpu-check", "--only", "smoke", "--quick", "--out", out.to_str().unwrap()]);
    match choose(Choice::Cuda) {
        Ok((Chosen::Gpu(_), _)) => eprintln!("a GPU is there: what is said without one is not looked at"),
        _ => {
            assert_eq!((code, stdout.as_str(), stderr.lines().count()), (Some(1), "", 1), "{stderr}");
            assert!(stderr.starts_with("error: ") && !out.exists(), "{stderr}");
        }
    }
    let (code, _, stderr) = lumos(&["gpu-check", "--only", "kernel"]);
    assert!(code == Some(1) && stderr.contains("did you mean `kernels`?"), "{stderr}");
    let (code, _, stderr) = lumos(&["gpu-check", "--device", "cpu"]);
    assert!(code == Some(1) && stderr.contains("no GPU"), "{stderr}");
}

/// Words of the command line, one a line; whether a kernel is spoilt.
const WORDS: &str = "LUMOS_TEST_WORDS";
const WRONG: &str = "LUMOS_TEST_WRONG";

#[test]
#[ignore = "the program that another test starts as a process of its own"]
fn program() {
    let words = std::env::var(WORDS).expect("started by another test");
    stand_in(|| {
        let wrong = std::env::var_os(WRONG).is_some();
        Ok(if wrong { spoilt(&[(("layer_norm", 8, None), Wrong::Faults)]) } else { simt::device(MEMORY) })
    });
    let code = lumos::cli::run(std::iter::once("lumos").chain(words.lines()).map(Into::into));
    std::process::exit(code.into());
}

/// The whole program on a device that is there: tables, the file, the exit code.
#[test]
fn the_program_reports_and_its_exit_code_tells() {
    let folder = tempfile::tempdir().unwrap();
    let run = |words: &[&str], wrong: bool| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["gpu_check::program", "--exact", "--ignored", "--nocapture", "--test-threads=2"]).current_dir(folder.path());
        command.env(WORDS, words.join("\n"));
        if wrong {
            command.env(WRONG, "1");
        }
        let out = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    };
    let (code, stdout, stderr) = run(&["gpu-check", "--only", "smoke", "--quick", "--out", "a.json"], false);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("smoke") && stdout.contains("passed") && stdout.contains("written to a.json"), "{stdout}");
    let name = simt::name();
    assert!(stderr.starts_with(&format!("device: {name}")), "{stderr}");
    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.path().join("a.json")).unwrap()).unwrap();
    assert_eq!((value["passed"].as_bool(), value["device"]["name"].as_str()), (Some(true), Some(name.as_str())));
    // A fault: the report is written all the same, without a name given beside the program's own folder.
    let (code, stdout, _) = run(&["gpu-check", "--only", "kernels,smoke", "--quick"], true);
    assert!(code == Some(1) && stdout.contains("FAILED kernels layer_norm") && stdout.contains("not run"), "{stdout}");
    let dated = std::fs::read_dir(folder.path()).unwrap().filter_map(|e| e.ok()?.file_name().into_string().ok());
    assert!(dated.filter(|n| n.ends_with("-gpu-check.json")).count() == 1);
}
