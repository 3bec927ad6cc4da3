//! The run folder: where its files are, who may open it, what it says about itself.

use super::machine::Machine;
use super::pipeline::Prepared;
use super::result::RunResult;
use crate::base::{clock, files::write_file};
use crate::config::{self, Effective, Settings, Validated, methods};
use crate::settings;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Settings that may differ when a run is resumed: they change no finished round. Another device ends in other bits, of which a run
/// speaks; yet a run whose GPU is gone must not be lost. Where the data set lies does not matter, for its fingerprint is compared.
const FREE: [&str; 7] = ["threads", "device", "compare", "data.dir", "federation.rounds", "federation.private_memory_mb", "eval.patience"];

/// With one of them above 0, `federation.rounds` is no longer free.
const SHARES_OF_ROUNDS: [&str; 3] = ["federation.server_decay", "federation.server_warmup", "local.decay"];

/// `run.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunInfo {
    /// Method.
    pub method: String,
    /// Seed.
    pub seed: u64,
    /// Threads in use.
    pub threads: u64,
    /// Where the latest start trained.
    #[serde(default)]
    pub device: Option<String>,
    /// Name of the data set.
    pub data: String,
    /// Fingerprint of the data set.
    pub fingerprint: String,
    /// Folder of the prepared data set.
    pub data_dir: PathBuf,
    /// Folder of the views, where the method uses any.
    pub views_dir: Option<PathBuf>,
    /// What the views' folder says about them.
    pub views: Option<serde_json::Value>,
    /// Machine and build of the latest start.
    pub machine: Machine,
    /// Start, UTC.
    pub started: String,
    /// Every later start, UTC.
    pub resumed: Vec<String>,
    /// End, UTC; absent while the run is not finished.
    pub ended: Option<String>,
}

/// A run folder by its path.
#[derive(Clone, Debug)]
pub struct RunFolder {
    root: PathBuf,
}

impl RunFolder {
    /// The folder at `root`, whatever it holds.
    pub(super) fn at(root: &Path) -> RunFolder {
        RunFolder { root: root.to_path_buf() }
    }

    /// The folder at `root`, which must hold a run.
    pub fn open(root: &Path) -> Result<RunFolder> {
        let folder = RunFolder::at(root);
        if !root.is_dir() {
            let what = if root.exists() { "is a file" } else { "there is no such folder" };
            return Err(Error::mismatch(root, format!("{what}; give the folder of a run, as named by `lumos train --out`")));
        }
        if !folder.is_begun() {
            return Err(Error::mismatch(root, "holds no run (config.toml or run.json is missing); give the folder of a run"));
        }
        Ok(folder)
    }

    /// Whether a run was begun here.
    pub(super) fn is_begun(&self) -> bool {
        self.config().is_file() && self.run_json().is_file()
    }

    /// Refuses a folder that holds anything but a run, or what is left of one that was killed before it had begun.
    pub(super) fn refuse_foreign(&self) -> Result<()> {
        let entries = std::fs::read_dir(&self.root).map_err(Error::io(&self.root, "open as a folder"))?;
        if self.is_begun() {
            return Ok(());
        }
        // Written in this order: run.json, methods, config.toml.
        let described = self.info().is_ok() && !self.config().exists();
        let ours = |path: &Path| {
            let is_empty = |folder: &Path| std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
            let unfinished = path.extension().is_some_and(|e| e == "tmp");
            let early = path == self.lock() || unfinished || path == self.checkpoints() && is_empty(path);
            early || described && (path == self.run_json() || path == self.methods())
        };
        match entries.flatten().find(|e| !ours(&e.path())) {
            Some(_) => Err(Error::mismatch(&self.root, "exists and is not empty; choose another --out")),
            None => Ok(()),
        }
    }

    /// Writes what describes a new run.
    pub(super) fn create(&self, effective: &Effective, prepared: &Prepared) -> Result<()> {
        self.sweep();
        let checkpoints = self.checkpoints();
        std::fs::create_dir_all(&checkpoints).map_err(Error::io(&checkpoints, "create"))?;
        self.write_info(&RunInfo {
            method: effective.settings.method.clone(),
            seed: effective.settings.seed,
            threads: super::pipeline::threads(&effective.settings) as u64,
            device: None,
            data: prepared.data.name.clone(),
            fingerprint: prepared.data.fingerprint.clone(),
            data_dir: absolute(&prepared.data_dir),
            views_dir: prepared.views_dir.as_deref().map(absolute),
            views: prepared.views_manifest.clone(),
            machine: Machine::here(),
            started: clock::now(),
            resumed: Vec::new(),
            ended: None,
        })?;
        // Last, because its presence says that the run has begun.
        self.write_config(effective)
    }

    /// Makes ready to continue the run with `effective`, which may differ only where no finished round depends on it.
    pub(super) fn resume(&self, effective: &Effective, prepared: &Prepared) -> Result<()> {
        let was = self.settings()?;
        self.same_settings(&was, &effective.settings)?;
        let mut info = self.info()?;
        if info.fingerprint != prepared.data.fingerprint {
            let message =
                format!("was trained on another state of the data set `{}`; prepare that one again or start a new run", info.data);
            return Err(Error::mismatch(&self.root, message));
        }
        self.sweep();
        info.resumed.push(clock::now());
        info.ended = None;
        info.machine = Machine::here();
        info.threads = super::pipeline::threads(&effective.settings) as u64;
        self.write_config(effective)?;
        self.write_info(&info)
    }

    /// The figures of the run, where it was trained with `settings` to the end that they ask for.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for a run of other settings and for damage.
    pub(super) fn finished(&self, settings: &Settings) -> Result<Option<RunResult>> {
        if !self.result().exists() {
            return Ok(None);
        }
        let was = self.settings()?;
        self.same_settings(&was, settings)?;
        let result: RunResult = read_json(&self.result())?;
        let rounds = result.rounds >= u64::from(settings.federation.rounds);
        let ended = match result.ended_by.as_str() {
            "rounds" => rounds,
            "patience" => rounds || (1..=was.eval.patience).contains(&settings.eval.patience),
            _ => true,
        };
        // A run that was started again has the result of its end before.
        Ok((ended && self.info()?.ended.is_some()).then_some(result))
    }

    /// Refuses `is` where a finished round depends on a setting that was another in `was`.
    fn same_settings(&self, was: &Settings, is: &Settings) -> Result<()> {
        let differs = differences(was, is)?;
        if differs.is_empty() {
            return Ok(());
        }
        let list = differs.join("; ");
        let remedy = "resume with the settings it was started with, or choose another --out";
        Err(Error::mismatch(&self.root, format!("was trained with other settings: {list}; {remedy}")))
    }

    /// Removes what a killed program left half-written. Whoever writes here holds the lock, so that nothing of another process goes.
    fn sweep(&self) {
        for folder in [self.root.clone(), self.checkpoints()] {
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            for path in entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "tmp")) {
                // Not being able to remove a left-over harms nothing.
                let _ = std::fs::remove_file(path);
            }
        }
        let _ = std::fs::remove_dir_all(self.private());
    }

    /// The settings, and the files of methods that are not LUMOS's own.
    fn write_config(&self, effective: &Effective) -> Result<()> {
        let method = methods::find(&effective.settings.method)?;
        let others = effective.settings.compare.iter().map(|name| methods::find(name)).collect::<Result<Vec<_>>>()?;
        for method in std::iter::once(method).chain(others) {
            if let Some(text) = &method.source {
                let path = self.methods().join(format!("{}.toml", method.name));
                std::fs::create_dir_all(self.methods()).map_err(Error::io(&path, "create"))?;
                write_file(&path, text.as_bytes())?;
            }
        }
        let head = "# Effective settings of this run, written by lumos; the comment says where each value came from.\n";
        write_file(&self.config(), format!("{head}{}", effective.to_toml()?).as_bytes())
    }

    /// Writes `run.json`.
    pub(super) fn write_info(&self, info: &RunInfo) -> Result<()> {
        write_json(&self.run_json(), info)
    }

    /// Notes where the run trains from now on; gives where it did before.
    pub(super) fn note_device(&self, name: &str) -> Result<Option<String>> {
        let info = self.info()?;
        let before = info.device.clone();
        self.write_info(&RunInfo { device: Some(name.to_string()), ..info })?;
        Ok(before)
    }

    /// Notes the end of the run.
    pub(super) fn ended(&self) -> Result<()> {
        self.write_info(&RunInfo { ended: Some(clock::now()), ..self.info()? })
    }

    /// The settings of the run. Methods of files that it names are made known.
    pub fn settings(&self) -> Result<Validated<Settings>> {
        for entry in std::fs::read_dir(self.methods()).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|e| e == "toml") {
                methods::register_file(&entry.path())?;
            }
        }
        settings::load_written(&self.config())
    }

    /// `run.json`.
    pub fn info(&self) -> Result<RunInfo> {
        read_json(&self.run_json())
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `config.toml`.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    fn run_json(&self) -> PathBuf {
        self.root.join("run.json")
    }

    /// `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// `result.json`.
    pub fn result(&self) -> PathBuf {
        self.root.join("result.json")
    }

    /// Folder of TensorBoard's event files.
    pub fn tensorboard(&self) -> PathBuf {
        self.root.join("tensorboard")
    }

    /// `report.html`.
    pub fn report(&self) -> PathBuf {
        self.root.join("report.html")
    }

    /// Folder of the files of methods that are not LUMOS's own.
    fn methods(&self) -> PathBuf {
        self.root.join("methods")
    }

    fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// The lock file, there while a process writes in the folder.
    pub(super) fn lock(&self) -> PathBuf {
        self.root.join(".lumos.lock")
    }

    /// `checkpoints/<name>.safetensors`, where `name` is `last`, `previous` or `best`.
    pub fn checkpoint(&self, name: &str) -> PathBuf {
        self.checkpoints().join(format!("{name}.safetensors"))
    }

    /// Folder for private client state that does not fit in memory.
    pub fn private(&self) -> PathBuf {
        self.root.join("private")
    }

    /// `ranks-<split>.safetensors`.
    pub fn ranks(&self, split: crate::data::Split) -> PathBuf {
        self.root.join(format!("ranks-{}.safetensors", super::result::split_name(split)))
    }
}

/// Every setting that differs and matters, as `key was A, is B`.
pub(crate) fn differences(was: &Settings, is: &Settings) -> Result<Vec<String>> {
    let (was, is) = (config::flat(was)?, config::flat(is)?);
    let keys: std::collections::BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    // Where a rate rises from the first round or falls towards the last one, every round depends on how many there are.
    let share = |key: &&str| was.get(*key).or(is.get(*key)).and_then(toml::Value::as_float).is_some_and(|share| share > 0.0);
    let counted = SHARES_OF_ROUNDS.iter().any(share);
    let free = |key: &str| FREE.contains(&key) && !(counted && key == "federation.rounds");
    let shown = |v: Option<&toml::Value>| v.map_or("not set".to_string(), |v| v.to_string());
    Ok(keys
        .into_iter()
        .filter(|k| !free(k) && was.get(*k) != is.get(*k))
        .map(|k| format!("{k} was {}, is {}", shown(was.get(k)), shown(is.get(k))))
        .collect())
}

/// Every setting that a result depends on, as text.
pub(super) fn differences_key(settings: &Settings) -> Result<String> {
    let all = config::flat(settings)?;
    Ok(all
        .iter()
        .filter(|(k, _)| !FREE.contains(&k.as_str()) || ["federation.rounds", "device", "data.dir"].contains(&k.as_str()))
        .map(|(k, v)| format!("{k} = {v}\n"))
        .collect())
}

/// Pretty JSON in one step.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| Error::mismatch(path, format!("cannot be written: {e}")))?;
    text.push('\n');
    write_file(path, text.as_bytes())
}

/// JSON from a file that this program wrote.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::mismatch(path, format!("damaged ({e}); restore it from a copy or train anew")))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
