//! Running the real binary in a folder of its own.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A temporary working folder with `small.toml`: a world that trains in well under a second.
pub struct Sandbox(tempfile::TempDir);

/// The configuration's name inside every sandbox.
pub fn small() -> String {
    "small.toml".to_string()
}

const SMALL: &str = r#"
method = "lumos"
compare = ["fed-sasrec"]
[data]
name = "small"
format = "synthetic"
synth_users = 200
synth_items = 120
synth_mean_length = 8.0
[model]
dim = 8
[eval]
k = [5, 10]
select = "NDCG@10"
[methods.federated]
model.blocks = 1
local.epochs = 2
federation.rounds = 4
eval.every = 2
"#;

impl Sandbox {
    pub fn new() -> Sandbox {
        let sandbox = Sandbox(tempfile::tempdir().unwrap());
        sandbox.write("small.toml", SMALL.as_bytes());
        sandbox
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        let path = self.path().join(name);
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Lines of the trained rounds of the run in folder `out`.
    pub fn rounds(&self, out: &str) -> Vec<serde_json::Value> {
        let text = String::from_utf8(self.read(&format!("{out}/metrics.jsonl"))).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.filter(|line| line["rec_loss"].is_f64()).collect()
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lumos"));
        // A busy machine makes any run a long one.
        command.args(words).current_dir(self.path()).env("LUMOS_PROGRESS_S", "0");
        // Whoever runs the tests in a job of SLURM: their own exit codes are another matter.
        command.env_remove("SLURM_JOB_ID");
        command
    }

    #[track_caller]
    pub fn lumos(&self, words: &[&str]) -> Ran {
        Ran(self.command(words).output().unwrap(), words.join(" "))
    }
}

/// What a finished process left behind.
pub struct Ran(pub Output, String);

impl Ran {
    /// Of a process that was started otherwise.
    pub fn new(output: Output, words: &str) -> Ran {
        Ran(output, words.to_string())
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    /// Success with a silent stderr; gives stdout.
    #[track_caller]
    pub fn done(&self) -> String {
        assert!(self.0.status.success(), "lumos {}: {:?}\n{}", self.1, self.0.status, self.stderr());
        assert_eq!(self.stderr(), "", "lumos {} must be quiet when piped", self.1);
        self.stdout()
    }

    /// The JSON object in the last line of stdout.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let text = self.done();
        serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|e| panic!("lumos {}: {e}\n{text}", self.1))
    }

    /// Failure with exit code `code`, one message with all `parts`, nothing on stdout after the notes.
    #[track_caller]
    pub fn refused(&self, code: i32, parts: &[&str]) {
        let stderr = self.stderr();
        assert_eq!(self.0.status.code(), Some(code), "lumos {}\n{}{stderr}", self.1, self.stdout());
        for part in parts {
            assert!(stderr.contains(part), "lumos {}: `{part}` is not in: {stderr}", self.1);
        }
        assert!(!stderr.contains("panicked"), "{stderr}");
        if code == 1 {
            assert!(stderr.starts_with("error: ") && stderr.trim_end().lines().count() == 1, "one message: {stderr}");
        }
    }
}
