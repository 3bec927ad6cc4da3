//! SIGKILL at random moments of preparation, views, training, evaluation and report: what goes on afterwards ends in the same bits.

use super::cli::Sandbox;
use super::{draws, outcome, same_outcome, times};
use lumos::base::rng::Stream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const RUN: &[&str] = &["run", "small.toml", "--out", "r", "--set", "eval.every=1"];
const METHODS: [&str; 2] = ["lumos", "fed-sasrec"];

/// Starts `words` and kills it at a random moment within `longest`; whether it had ended before.
fn ended(sandbox: &Sandbox, words: &[&str], random: &mut Stream, longest: Duration) -> bool {
    let moment = longest.mul_f32(random.unit());
    let begun = Instant::now();
    let mut child = sandbox.command(words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while begun.elapsed() < moment {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1).min(moment.saturating_sub(begun.elapsed())));
    }
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    // No code: it was killed. A failure of its own would be what an earlier kill has left behind.
    assert!(output.status.success() || output.status.code().is_none(), "lumos {words:?}: {stderr}");
    output.status.success()
}

/// Data set and views, bit by bit.
fn prepared_files(root: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = super::snapshot(&root.join("data"));
    let kept = ["sequences.safetensors", "users.csv", "items.csv", "views.safetensors"];
    files.retain(|(path, _)| kept.iter().any(|name| path.ends_with(name)));
    files.into_iter().map(|(path, bytes)| (path.strip_prefix(root.to_str().unwrap()).unwrap().to_string(), bytes)).collect()
}

/// `LUMOS_KILLS` says how many at least.
#[test]
fn killed_at_any_moment_a_run_goes_on_to_the_same_bits() {
    let wanted = times("LUMOS_KILLS", 8);
    let whole = Sandbox::new();
    let begun = Instant::now();
    whole.lumos(RUN).done();
    let longest = begun.elapsed();
    let files = prepared_files(whole.path());
    assert!(files.len() >= 4, "{:?}", files.iter().map(|f| &f.0).collect::<Vec<_>>());
    let (mut kills, mut life) = ([0u64; 3], 0);
    while kills.iter().sum::<u64>() < wanted {
        life += 1;
        let mut random = draws(life);
        let sandbox = Sandbox::new();
        let what = |stage: &str| format!("life {life}, {stage}, after {kills:?} kills");
        let run = |method: &str| sandbox.path().join("r").join(method);
        let same = |stage: &str| {
            METHODS.iter().for_each(|method| same_outcome(&run(method), &whole.path().join("r").join(method), &what(stage)));
        };
        let mut hit = [0u64; 3];
        // Early at first, where data and views are made.
        let parts = [4, 2, 1];
        while !ended(&sandbox, RUN, &mut random, longest / parts[parts.len().min(hit[0] as usize + 1) - 1]) {
            hit[0] += 1;
        }
        same("run");
        assert!(prepared_files(sandbox.path()) == files, "{}", what("data and views"));
        // The last steps of a run again: the best checkpoint is ranked, the report written.
        std::fs::remove_file(run("lumos").join("result.json")).unwrap();
        hit[1] += u64::from(!ended(&sandbox, RUN, &mut random, longest / 4));
        sandbox.lumos(RUN).done();
        same("report");
        let eval = ["eval", "r/lumos", "--split", "validation"];
        hit[2] += u64::from(!ended(&sandbox, &eval, &mut random, longest / 8));
        sandbox.lumos(&eval).done();
        same("eval");
        assert!(!std::fs::read(run("lumos").join("report.html")).unwrap().is_empty() && outcome(&run("lumos")).len() == 6);
        kills.iter_mut().zip(hit).for_each(|(all, one)| *all += one);
    }
    println!(
        "{} kills in {life} lives: {} from data to test, {} in the report, {} in eval",
        kills.iter().sum::<u64>(),
        kills[0],
        kills[1],
        kills[2]
    );
}
