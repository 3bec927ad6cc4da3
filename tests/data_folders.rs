//! Prepared data sets through the program: nothing is replaced unasked, and what fits is found again.

#[path = "common/cli.rs"]
mod common;

use common::Sandbox;
use std::path::PathBuf;

const CONFIG: &str = "[data]\nname = \"w\"\nsynth_users = 60\nsynth_items = 40\nsynth_mean_length = 6.0\n";

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("w.toml", CONFIG.as_bytes());
    sandbox
}

fn folders(sandbox: &Sandbox) -> Vec<String> {
    let entries = std::fs::read_dir(sandbox.path().join("data")).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn another_setting_goes_to_a_folder_of_its_own_and_both_are_found_again() {
    let sandbox = sandbox();
    let build = |more: &[&str]| sandbox.lumos(&[&["data", "build", "w.toml"], more].concat()).done();
    build(&[]);
    let first = sandbox.path().join("data/w");
    std::fs::write(first.join("notes.md"), "mine").unwrap();
    let text = build(&["--set", "data.synth_seed=7"]);
    assert!(text.contains("data/w is kept (data.synth_seed was 1, is 7)"), "{text}");
    assert_eq!(std::fs::read_to_string(first.join("notes.md")).unwrap(), "mine");
    let all = folders(&sandbox);
    assert!(all.len() == 2 && all[0] == "w" && all[1].starts_with("w-") && all[1].len() == 10, "{all:?}");
    for (more, folder) in [(vec![], "data/w)".to_string()), (vec!["--set", "data.synth_seed=7"], format!("data/{})", all[1]))] {
        let text = build(&more);
        assert!(text.contains("up to date, reused") && text.contains(&folder), "{text}");
    }
    assert_eq!(folders(&sandbox), all);
    // Replaced where that is asked for, the user's own file kept.
    let text = build(&["--set", "data.synth_seed=8", "--overwrite"]);
    assert!(text.contains("prepared") && text.contains("data/w)"), "{text}");
    assert_eq!(std::fs::read_to_string(first.join("notes.md")).unwrap(), "mine");
    assert_eq!(folders(&sandbox), all);
}

#[test]
fn a_folder_of_other_files_is_not_touched() {
    let sandbox = sandbox();
    let folder: PathBuf = sandbox.path().join("data/w");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("thesis.tex"), "years").unwrap();
    let text = sandbox.lumos(&["data", "build", "w.toml"]).done();
    assert!(text.contains("holds other files"), "{text}");
    assert_eq!((folders(&sandbox).len(), std::fs::read_dir(&folder).unwrap().count()), (2, 1));
    // A folder that was named is refused instead.
    sandbox.lumos(&["data", "build", "w.toml", "--set", "data.dir=data/w"]).refused(1, &["holds files but no prepared data set"]);
}

#[test]
fn a_named_folder_is_replaced_only_where_that_is_asked_for() {
    let sandbox = sandbox();
    let dir = ["--set", "data.dir=mine"];
    sandbox.lumos(&[&["data", "build", "w.toml"], &dir[..]].concat()).done();
    let other = [&["data", "build", "w.toml", "--set", "data.synth_seed=7"], &dir[..]].concat();
    sandbox.lumos(&other).refused(1, &["data.synth_seed was 1, is 7", "--overwrite"]);
    sandbox.lumos(&[&other[..], &["--overwrite"]].concat()).done();
    assert!(sandbox.lumos(&other).stdout().contains("reused"));
}
