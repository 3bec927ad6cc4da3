//! What a run says on stderr where that is no terminal.

use crate::sandbox::{Ran, Sandbox, small};

fn train(sandbox: &Sandbox, out: &str, every: Option<&str>, more: &[&str]) -> Ran {
    let config = small();
    let mut words = vec!["train", config.as_str(), "--out", out, "--set", "federation.rounds=40"];
    words.extend(more);
    let mut command = sandbox.command(&words);
    match every {
        Some(seconds) => command.env("LUMOS_PROGRESS_S", seconds),
        None => command.env_remove("LUMOS_PROGRESS_S"),
    };
    Ran::new(command.output().unwrap(), "train")
}

/// With a short interval a log file has lines with the round, the loss, the validation and the time left; figures and bits are the same.
#[test]
fn a_log_file_tells_where_a_run_is() {
    let sandbox = Sandbox::new();
    let ran = train(&sandbox, "a", Some("0.003"), &[]);
    assert!(ran.0.status.success(), "{}", ran.stderr());
    let text = ran.stderr();
    assert!(text.lines().all(|line| line.starts_with('[') && !line.contains('\r')), "{text}");
    let line = text.lines().rfind(|line| line.contains("validation NDCG@10")).unwrap_or_else(|| panic!("{text}"));
    for part in ["lumos: round ", " of 40; loss ", " left"] {
        assert!(line.contains(part), "`{part}` is not in: {line}");
    }
    assert!(!ran.stdout().contains("round 1 of"), "notes stay on stdout, progress does not go there");
    let quiet = train(&sandbox, "b", Some("0"), &[]);
    assert_eq!(quiet.stderr(), "");
    assert!(sandbox.read("a/checkpoints/last.safetensors") == sandbox.read("b/checkpoints/last.safetensors"));
    let json = train(&sandbox, "c", Some("0.003"), &["--json"]);
    assert_eq!(json.stdout().lines().count(), 1, "JSON alone on stdout: {}", json.stdout());
}

/// A number that is none is said, and the run goes on.
#[test]
fn a_broken_interval_is_said() {
    let sandbox = Sandbox::new();
    let ran = train(&sandbox, "a", Some("often"), &["--set", "federation.rounds=1"]);
    assert!(ran.0.status.success());
    assert!(ran.stderr().contains("LUMOS_PROGRESS_S is `often`"), "{}", ran.stderr());
}
