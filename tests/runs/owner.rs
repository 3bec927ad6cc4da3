//! One process owns a run folder, and a store of views while it is written.

use super::{prepared, same_outcome, snapshot, times, train};
use lumos::base::lock::Lock;
use lumos::run::{Claim, Start};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

const EIGHT: &[&str] = &["federation.rounds=8", "compare=lumos"];

/// Three processes at once on one folder: one has it, the others are told who; or they come when it has ended. `LUMOS_CONTESTS` says how
/// often.
#[test]
fn three_at_once_leave_a_run_that_goes_on_to_the_same_bits() {
    let sandbox = prepared();
    sandbox.lumos(&train("whole", EIGHT, &[])).done();
    sandbox.lumos(&train("two", &["federation.rounds=2"], &[])).done();
    let run = ["run", "small.toml", "--out", "r", "--set", EIGHT[0], "--set", EIGHT[1]];
    let (new, resume) = (train("r/lumos", EIGHT, &[]), train("r/lumos", EIGHT, &["--resume"]));
    for contest in 0..times("LUMOS_CONTESTS", 4) {
        let _ = std::fs::remove_dir_all(sandbox.path().join("r"));
        let starts: [&[&str]; 3] = match contest % 4 {
            0 => [&new, &new, &new],
            1 => [&resume, &resume, &resume],
            2 => [&run, &run, &run],
            _ => [&resume, &run, &new],
        };
        if contest % 2 == 1 {
            super::copy(&sandbox.path().join("two"), &sandbox.path().join("r/lumos"));
        }
        let start = |words: &[&str]| sandbox.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let children: Vec<Child> = starts.iter().map(|words| start(words)).collect();
        let ids: Vec<String> = children.iter().map(|child| format!("run folder r/lumos is in use by pid {} on ", child.id())).collect();
        let mut won = 0;
        for child in children {
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                won += 1;
                continue;
            }
            let refused = ids.iter().any(|id| stderr.contains(id)) && stderr.contains(" since ");
            assert!(output.status.code() == Some(1) && (refused || stderr.contains("holds a run already")), "{contest}: {stderr}");
        }
        // A new run whose folder holds one by now has nothing to do; all others may finish one after another.
        assert!(won >= 1 && (contest % 4 != 0 || won == 1), "{contest}: {won} of three");
        sandbox.lumos(&resume).done();
        same_outcome(&sandbox.path().join("r/lumos"), &sandbox.path().join("whole"), &format!("contest {contest}"));
        assert!(!sandbox.path().join("r/lumos/.lumos.lock").exists());
    }
}

#[test]
fn a_second_process_is_refused_and_changes_nothing() {
    let sandbox = prepared();
    sandbox.lumos(&train("whole", EIGHT, &[])).done();
    sandbox.lumos(&train("r/lumos", &["federation.rounds=2"], &[])).done();
    let root = sandbox.path().join("r/lumos");
    let claim = Claim::take(&root, Start::Resume).unwrap();
    // What the owner is writing.
    std::fs::write(root.join("run.json.1.tmp"), b"half").unwrap();
    let before = snapshot(&root);
    let owner = format!("in use by pid {} on ", std::process::id());
    let parts = ["run folder r/lumos is ", owner.as_str(), " since "];
    for words in [
        train("r/lumos", EIGHT, &["--resume"]),
        train("r/lumos", EIGHT, &[]),
        vec!["run", "small.toml", "--out", "r", "--set", "federation.rounds=8"],
    ] {
        sandbox.lumos(&words).refused(1, &parts);
        assert!(snapshot(&root) == before, "{words:?}");
    }
    // Who only reads is let in, and leaves the ranks to the owner.
    let text = sandbox.lumos(&["eval", "r/lumos"]).done();
    assert!(text.contains("HR@10") && text.contains("not kept") && text.contains(&owner), "{text}");
    assert_eq!(sandbox.lumos(&["eval", "r/lumos", "--json"]).json()["ranks_kept"], false);
    assert!(snapshot(&root) == before);
    drop(claim);
    sandbox.lumos(&train("r/lumos", EIGHT, &["--resume"])).done();
    same_outcome(&root, &sandbox.path().join("whole"), "after the owner");
    assert!(!root.join("run.json.1.tmp").exists(), "what a dead owner left half-written goes");
    assert_eq!(sandbox.lumos(&["eval", "r/lumos", "--json"]).json()["ranks_kept"], true);
}

#[test]
fn what_was_killed_before_it_began_is_no_obstacle_and_foreign_files_are() {
    let sandbox = prepared();
    sandbox.lumos(&train("whole", EIGHT, &[])).done();
    let described = std::fs::read(sandbox.path().join("whole/run.json")).unwrap();
    for (run, words) in
        [("a", train("a", EIGHT, &[])), ("b/lumos", vec!["run", "small.toml", "--out", "b", "--set", EIGHT[0], "--set", EIGHT[1]])]
    {
        let root = sandbox.path().join(run);
        std::fs::create_dir_all(root.join("checkpoints")).unwrap();
        std::fs::write(root.join(".lumos.lock"), "pid 1 on elsewhere since yesterday\n").unwrap();
        std::fs::write(root.join("run.json"), &described).unwrap();
        std::fs::write(root.join("config.toml.7.tmp"), "half").unwrap();
        sandbox.lumos(&train(run, EIGHT, &["--resume"])).refused(1, &[run, "no run to resume", "leave --resume out"]);
        sandbox.lumos(&words).done();
        same_outcome(&root, &sandbox.path().join("whole"), run);
    }
    for (name, content) in [("thesis.txt", "mine"), ("config.toml", "mine"), ("run.json", "{}"), (".lock", "mine")] {
        let root = sandbox.path().join("foreign");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join(name), content).unwrap();
        let before = snapshot(&root);
        sandbox.lumos(&train("foreign", EIGHT, &[])).refused(1, &["foreign", "not empty"]);
        assert!(snapshot(&root) == before, "{name}");
        std::fs::remove_dir_all(&root).unwrap();
    }
    // A run that comes to nothing leaves no folder.
    sandbox.lumos(&train("none", &["data.min_length=9999"], &[])).refused(1, &["min_length"]);
    assert!(!sandbox.path().join("none").exists());
}

/// A store of views is waited for, with the owner's name, until it is free or a signal comes.
#[test]
fn a_store_of_views_is_waited_for() {
    let sandbox = prepared();
    let views = sandbox.path().join("data/small-views");
    let folder = std::fs::read_dir(&views).unwrap().next().unwrap().unwrap().file_name();
    let data = folder.to_str().unwrap().split('-').next().unwrap().to_string();
    let lock = || Lock::take(&Lock::beside(&views.join(format!("{data}-catalogue.journal"))), "views").unwrap();
    let words = ["views", "build", "small.toml", "--set", "views.seed=2"];
    let owner = format!("in use by pid {} on ", std::process::id());
    let start = |held: &Lock| {
        let _ = held;
        let mut child = sandbox.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let note = lines.find(|line| line.as_ref().is_ok_and(|l| l.contains(&owner))).expect("the owner is named").unwrap();
        assert!(note.contains("waiting") && note.contains(" since "), "{note}");
        (child, lines)
    };
    let held = lock();
    let (mut child, mut lines) = start(&held);
    drop(held);
    assert!(lines.any(|line| line.unwrap().contains("views catalogue: made")) && child.wait().unwrap().success());
    std::fs::remove_dir_all(&views).unwrap();
    std::fs::create_dir(&views).unwrap();
    let held = lock();
    let (child, lines) = start(&held);
    super::signals::send(child.id(), "TERM");
    drop(lines);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(143) && stderr.contains("SIGTERM") && stderr.contains("lumos views build"), "{stderr}");
}
