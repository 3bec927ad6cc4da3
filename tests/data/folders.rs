//! Prepared data sets through the program: nothing is replaced unasked, and what fits is found again.

use crate::cli::Sandbox;
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

#[test]
fn a_prepared_folder_is_trained_on_without_its_source() {
    let sandbox = Sandbox::new();
    let rows: String = (0..40).flat_map(|u| (0..6).map(move |i| format!("u{u}\ti{}\t{i}\n", (u * 7 + i * 3) % 90))).collect();
    let inter = sandbox.write("log.inter", format!("user_id:token\titem_id:token\ttimestamp:float\n{rows}").as_bytes());
    sandbox.lumos(&["data", "prepare", "--format", "recbole", "--inter", "log.inter", "--out", "sets/log"]).done();
    let source = "data.format=recbole";
    let train = ["train", "small.toml", "--set", "method=fed-sasrec"];
    let with_source = [
        &train[..],
        &["--set", source, "--set", "data.inter=log.inter", "--set", "data.dir=sets/log", "--set", "data.name=log", "--out", "a"],
    ]
    .concat();
    sandbox.lumos(&with_source).done();
    std::fs::remove_file(&inter).unwrap();
    let with_data = [&train[..], &["--data", "sets/log", "--out"]].concat();
    let text = sandbox.lumos(&[&with_data[..], &["b"]].concat()).done();
    assert!(text.contains("data log: taken as it is (40 users"), "{text}");
    for file in ["checkpoints/best.safetensors", "ranks-test.safetensors"] {
        assert!(sandbox.read(&format!("a/{file}")) == sandbox.read(&format!("b/{file}")), "{file}");
    }
    let config = String::from_utf8(sandbox.read("b/config.toml")).unwrap();
    assert!(config.contains("dir = \"sets/log\"") && config.contains("# prepared data set"), "{config}");
    // What was trained so is resumed, evaluated and used so, from a moved folder as well.
    std::fs::rename(sandbox.path().join("sets"), sandbox.path().join("moved")).unwrap();
    let more = ["train", "small.toml", "--set", "method=fed-sasrec", "--set", "federation.rounds=6", "--data", "moved/log", "--out", "b"];
    sandbox.lumos(&[&more[..], &["--resume"]].concat()).done();
    sandbox.lumos(&["eval", "b", "--json"]).json();
    // The configuration may be left out, and what contradicts the folder is refused.
    sandbox.lumos(&["train", "--data", "moved/log", "--set", "federation.rounds=1", "--set", "method=fed-sasrec", "--out", "c"]).done();
    let contrary = ["train", "small.toml", "--data", "moved/log", "--out", "d", "--set", "data.k_core=3"];
    sandbox.lumos(&contrary).refused(1, &["data.k_core", "--data"]);
    sandbox.lumos(&["train", "small.toml", "--data", "nowhere", "--out", "d"]).refused(1, &["nowhere", "lumos data prepare"]);
}
