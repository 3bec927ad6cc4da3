//! What a test does where real data are absent.

use crate::real;
use std::path::Path;
use std::process::Command;

#[test]
#[ignore = "the subject of the test below"]
fn needs_data() {
    let Some(_) = real::data("no-such-set") else { return };
}

#[test]
fn absent_data_are_told_counted_and_a_failure_where_they_are_required() {
    let folder = tempfile::tempdir().unwrap();
    let count = folder.path().join("skipped");
    let run = |required: Option<&str>| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "skipped::needs_data", "--ignored"]).env("LUMOS_DATA", folder.path()).env("LUMOS_SKIPPED", &count);
        match required {
            Some(value) => command.env("LUMOS_REQUIRE_DATA", value),
            None => command.env_remove("LUMOS_REQUIRE_DATA"),
        };
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    };
    for unset in [None, Some("0"), Some("")] {
        let (passed, text) = run(unset);
        assert!(passed && text.contains("skipped: skipped::needs_data: no no-such-set under"), "{unset:?}: {text}");
    }
    let counted = std::fs::read_to_string(&count).unwrap();
    assert_eq!(counted.lines().count(), 3, "{counted}");
    let (passed, text) = run(Some("1"));
    assert!(!passed && text.contains("LUMOS_REQUIRE_DATA asks for it"), "{text}");
}

/// A test that looks for data by itself could return in silence again.
#[test]
fn data_and_models_are_found_in_one_place() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("common/real.rs") && !path.ends_with("skipped.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for word in ["println!(\"skipped", "\"LUMOS_MODELS\"", "var_os(\"LUMOS_DATA\""] {
                    assert!(!text.contains(word), "{} holds {word}; use tests/common/real.rs", path.display());
                }
            }
        }
    }
}
