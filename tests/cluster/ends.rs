//! Processes that are asked to stop, die or hang.

use crate::cli::Sandbox;
use crate::mpirun::{command, ended, lumos, pid_of, signal, there};
use crate::outcome::same_outcome;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

const SETS: [&str; 3] = ["federation.rounds=60", "eval.every=5", "federation.fraction=0.5"];

fn train(out: &str) -> Vec<&str> {
    let mut words = vec!["train", "small.toml", "--out", out];
    SETS.iter().for_each(|set| words.extend(["--set", set]));
    words
}

/// Waits until the run in `out` has written `rounds` lines.
fn wait_for(child: &mut Child, out: &Path, rounds: usize) {
    let lines = || std::fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    while lines() < rounds {
        assert!(child.try_wait().unwrap().is_none(), "it has ended before round {rounds}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_signal_to_any_rank_saves_the_round_and_asks_to_be_started_again() {
    if !there() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.lumos(&train("alone")).done();
    for (rank, name) in [(1, "TERM"), (0, "USR1")] {
        let out = format!("run-{name}");
        let root = sandbox.path().join(&out);
        let mut child = command(&sandbox, 3, &train(&out)).spawn().unwrap();
        let pid = pid_of(&mut child, rank);
        wait_for(&mut child, &root, 1);
        signal(pid, name);
        let ran = ended(child, &out);
        let said = ran.stderr();
        assert!(ran.0.status.code() == Some(75) && said.contains("error: interrupted: round "), "{:?}: {said}", ran.0.status);
        assert!(!root.join("result.json").exists());
        let more = [train(&out), vec!["--resume"]].concat();
        assert!(lumos(&sandbox, 2, &more).done().contains("resumed after round"));
        same_outcome(&sandbox.path().join("alone"), &root, name);
    }
}

#[test]
fn a_rank_that_is_killed_takes_the_others_with_it_and_the_checkpoint_is_good() {
    if !there() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.lumos(&train("alone")).done();
    for (rank, rounds) in [(0, 7), (1, 13), (2, 2)] {
        let out = format!("run-{rank}");
        let root = sandbox.path().join(&out);
        let mut child = command(&sandbox, 3, &train(&out)).spawn().unwrap();
        let pid = pid_of(&mut child, rank);
        wait_for(&mut child, &root, rounds);
        signal(pid, "KILL");
        let ran = ended(child, &out);
        assert!(!ran.0.status.success() && ran.stderr().contains(&format!("rank {rank}")), "{}", ran.stderr());
        let more = [train(&out), vec!["--resume"]].concat();
        lumos(&sandbox, 4, &more).done();
        same_outcome(&sandbox.path().join("alone"), &root, &out);
    }
}

#[test]
fn a_rank_that_hangs_is_named_and_all_end() {
    if !there() {
        return;
    }
    let sandbox = Sandbox::new();
    for rank in [0, 2] {
        let out = format!("run-{rank}");
        let mut child = command(&sandbox, 3, &train(&out)).env("LUMOS_CLUSTER_SILENT_S", "2").spawn().unwrap();
        let pid = pid_of(&mut child, rank);
        wait_for(&mut child, &sandbox.path().join(&out), 3);
        signal(pid, "STOP");
        let ran = ended(child, &out);
        let said = ran.stderr();
        assert!(!ran.0.status.success(), "{said}");
        assert!(said.contains(&format!("rank {rank} on ")) && said.contains("no sign of life for 2 s"), "{said}");
        if rank == 0 {
            let log = |n| std::fs::read_to_string(sandbox.path().join(format!("run-0/rank-{n}.log"))).unwrap();
            assert!([1, 2].iter().any(|n| log(*n).contains("no sign of life for 2 s")), "{} {}", log(1), log(2));
        }
    }
}

/// One client a round, which one rank trains for days and the others wait for.
#[test]
fn a_rank_that_works_on_nothing_while_others_wait_is_named() {
    if !there() {
        return;
    }
    let sandbox = Sandbox::new();
    let endless = ["train", "small.toml", "--out", "run", "--set", "federation.cohort=1", "--set", "local.epochs=10000000"];
    let child = command(&sandbox, 2, &endless).env("LUMOS_CLUSTER_STILL_S", "3").spawn().unwrap();
    let ran = ended(child, "endless");
    let said = ran.stderr();
    assert!(!ran.0.status.success() && said.contains("rank 0 on ") && said.contains("has worked on nothing for 3 s"), "{said}");
}

#[test]
fn a_limit_that_is_no_number_is_refused() {
    if !there() {
        return;
    }
    let sandbox = Sandbox::new();
    let child = command(&sandbox, 2, &train("run")).env("LUMOS_CLUSTER_STILL_S", "soon").spawn().unwrap();
    let said = ended(child, "run").stderr();
    assert!(said.contains("LUMOS_CLUSTER_STILL_S is `soon`"), "{said}");
}
