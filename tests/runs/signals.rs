//! Signals: the round ends, is saved, and the command that is printed goes on to the same bits.

use super::cli::Sandbox;
use super::{same_outcome, train};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub fn send(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().unwrap().success());
}

fn spawn(sandbox: &Sandbox, words: &[&str]) -> Child {
    sandbox.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until `done`, so long as the child lives.
fn wait_for(child: &mut Child, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(120), "it never came to that");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn each_signal_ends_a_run_with_its_own_code_and_the_printed_command_goes_on() {
    let sandbox = Sandbox::new();
    // Sixty rounds, so that the signal finds the run at work wherever it lands; validated rarely, so that the last save is the signal's.
    let sets = ["federation.rounds=60", "eval.every=30", "federation.fraction=0.5"];
    sandbox.lumos(&train("whole", &sets, &[])).done();
    for (signal, code, word) in [("INT", 130, "Ctrl-C"), ("TERM", 143, "SIGTERM"), ("USR1", 138, "SIGUSR1")] {
        let out = format!("it's a $HOME \"{signal}\"");
        let root = sandbox.path().join(&out);
        let mut child = spawn(&sandbox, &train(&out, &sets, &[]));
        wait_for(&mut child, || std::fs::metadata(root.join("metrics.jsonl")).is_ok_and(|m| m.len() > 0));
        send(child.id(), signal);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = stderr.lines().collect();
        assert_eq!((output.status.code(), lines.len()), (Some(code), 2), "{stderr}");
        assert!(lines[0].starts_with(word) && lines[0].contains("stopping once what is under way is saved"), "{stderr}");
        assert!(lines[1].starts_with("error: interrupted: round "), "{stderr}");
        let at = std::fs::read_to_string(root.join("metrics.jsonl")).unwrap().lines().count();
        assert!((1..60).contains(&at), "stopped after {at} rounds");
        assert!(!root.join("result.json").exists());
        sandbox.lumos(&["compare", &out, &out]).refused(1, &["not finished"]);

        let (_, line) = lines[1].split_once("go on with: ").expect("the command that goes on");
        let binary = std::path::Path::new(env!("CARGO_BIN_EXE_lumos"));
        let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap_or_default());
        let resumed = Command::new("sh").args(["-c", line]).env("PATH", path).current_dir(sandbox.path()).output().unwrap();
        let text = String::from_utf8_lossy(&resumed.stdout);
        assert!(resumed.status.success() && text.contains(&format!("resumed after round {at}")), "{line}: {text}");
        same_outcome(&root, &sandbox.path().join("whole"), signal);
    }
}

/// A batch system starts a job again that ends with 75; a person's Ctrl-C is none of its business.
#[test]
fn in_a_batch_job_the_code_asks_to_be_started_again() {
    let sandbox = Sandbox::new();
    let sets = ["federation.rounds=60", "eval.every=30", "federation.fraction=0.5"];
    for (signal, code) in [("TERM", 75), ("USR1", 75), ("INT", 130)] {
        let mut command = sandbox.command(&train(signal, &sets, &[]));
        let mut child = command.env("SLURM_JOB_ID", "7").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let metrics = sandbox.path().join(signal).join("metrics.jsonl");
        wait_for(&mut child, || std::fs::metadata(&metrics).is_ok_and(|m| m.len() > 0));
        send(child.id(), signal);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(sandbox.path().join(signal).join("checkpoints/last.safetensors").exists());
    }
}

#[test]
fn a_second_signal_ends_a_run_at_once() {
    let sandbox = Sandbox::new();
    // A round that would last for days.
    let endless = ["local.epochs=10000000", "federation.rounds=3"];
    let mut child = spawn(&sandbox, &train("endless", &endless, &[]));
    wait_for(&mut child, || sandbox.path().join("endless/metrics.jsonl").exists());
    send(child.id(), "TERM");
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("a second signal stops at once"), "{line}");
    // A signal that comes twice within a moment is one.
    std::thread::sleep(Duration::from_millis(300));
    send(child.id(), "USR1");
    assert_eq!(child.wait().unwrap().code(), Some(138));
    line.clear();
    stderr.read_line(&mut line).unwrap();
    assert_eq!(line, "", "nothing was saved, and nothing is said to be");
    let claim = lumos::run::Claim::take(&sandbox.path().join("endless"), lumos::run::Start::Resume);
    assert!(claim.is_ok(), "its lock went with it");
}

/// Names of all files and folders under `root`, hidden ones as well.
fn names(root: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(names(&path));
        }
        all.push(path.display().to_string());
    }
    all.sort();
    all
}

#[test]
fn a_command_with_nothing_to_save_ends_at_the_first_signal_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&train("run", &["federation.rounds=1"], &[])).done();
    std::fs::remove_file(sandbox.path().join("run/checkpoints/best.safetensors")).unwrap();
    let items = String::from_utf8(sandbox.read("data/small/items.csv")).unwrap();
    let item = items.lines().nth(1).and_then(|row| row.split(',').nth(1)).unwrap();
    let build = ["data", "build", "small.toml", "--set", "data.format=csv", "--set", "data.inter=log.csv", "--set", "data.name=built"];
    let cases: [(&[&str], &str); 4] = [
        (&["data", "prepare", "--format", "csv", "--inter", "log.csv", "--out", "made"], "log.csv"),
        (&build, "log.csv"),
        (&["eval", "run"], "run/checkpoints/best.safetensors"),
        (&["recommend", "run", "--history", item], "run/checkpoints/best.safetensors"),
    ];
    for file in ["log.csv", "run/checkpoints/best.safetensors"] {
        assert!(Command::new("mkfifo").arg(sandbox.path().join(file)).status().unwrap().success());
    }
    let before = names(sandbox.path());
    for (words, file) in cases {
        for (signal, code) in [("INT", 130), ("TERM", 143)] {
            let mut child = spawn(&sandbox, words);
            // A pipe is opened for writing once the program has it open; it then waits for bytes that never come.
            let path = sandbox.path().join(file);
            let opened = std::thread::spawn(move || OpenOptions::new().write(true).open(path).unwrap());
            wait_for(&mut child, || opened.is_finished());
            send(child.id(), signal);
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!((output.status.code(), stderr.lines().count()), (Some(code), 1), "{words:?}: {stderr}");
            assert!(stderr.starts_with("error: interrupted: "), "{words:?}: {stderr}");
            assert_eq!(names(sandbox.path()), before, "{words:?}");
        }
    }
}
