//! Doors for fuzzing: everything of LUMOS that reads bytes which others may have written. None of them may panic, run for long, or allocate
//! much more than it is given. Doors that need what is private to a layer live there (`lumos::llm::fuzz` and the like).

use lumos::base::files::sha256_hex;
use lumos::config::{self, Group, ServerOptimizer, Settings, Validated};
use lumos::data;
use lumos::engine::{NamedTensor, TensorData, wire};
use lumos::federation::Trainer;
use lumos::run::{self, Checkpoint, RunInfo};
use lumos::settings;
use lumos::views::{Views, fuzz::world};
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};

/// A door.
pub type Door = fn(&[u8]);

/// Every door with the name of its target.
pub const DOORS: &[(&str, Door)] = &[
    ("answer", lumos::views::fuzz::answer),
    ("answers", lumos::views::fuzz::answers),
    ("chat", lumos::llm::fuzz::chat),
    ("checkpoint", checkpoint),
    ("config_json", lumos::llm::fuzz::config),
    ("csv", lumos::data::fuzz::csv),
    ("gguf", lumos::llm::fuzz::gguf),
    ("grounding", lumos::views::fuzz::grounding),
    ("journal", lumos::views::fuzz::journal),
    ("prepared", prepared),
    ("prompt", lumos::views::fuzz::prompt),
    ("ranks", ranks),
    ("recbole", lumos::data::fuzz::recbole),
    ("settings", settings),
    ("tokenizer", lumos::llm::fuzz::tokenizer),
    ("views", lumos::views::fuzz::stored),
    ("weights", lumos::run::import::fuzz::weights),
    ("wire", wire_update),
];

/// A client's update for rows of several widths.
pub fn wire_update(bytes: &[u8]) {
    for d in [1, 8, 64] {
        if let Ok(update) = wire::decode(bytes, d) {
            assert_eq!(wire::encode(&update), bytes, "what is read is what was written");
        }
    }
}

/// Parts the files of a folder in one input.
pub const BETWEEN: &[u8] = b"\n%%%%\n";

/// `bytes` between every [`BETWEEN`].
fn parts(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while let Some(at) = bytes.windows(BETWEEN.len()).position(|w| w == BETWEEN) {
        all.push(&bytes[..at]);
        bytes = &bytes[at + BETWEEN.len()..];
    }
    all.push(bytes);
    all
}

/// Files of a prepared folder in the order of [`prepared`].
pub const PREPARED: [&str; 4] = ["sequences.safetensors", "users.csv", "items.csv", "manifest.json"];

/// A prepared folder: its files in the order of [`PREPARED`], with [`BETWEEN`] them. Their checksums are made to fit.
pub fn prepared(bytes: &[u8]) {
    in_folder(|folder| {
        let mut sums = String::new();
        for (name, part) in PREPARED.iter().zip(parts(bytes)) {
            put(folder, name, part);
            sums += &format!("{}  {name}\n", sha256_hex(part));
        }
        put(folder, "SHA256SUMS", sums.as_bytes());
        let times = data::load_times(folder);
        if let Ok(set) = data::load(folder) {
            for user in 0..set.users() {
                assert!(set.sequence(user).iter().all(|item| (*item as usize) < set.item_count()));
                assert_eq!(set.sequence(user).len(), set.train(user).len() + 2);
            }
            let _ = data::stats_with_times(&set, times.ok().flatten().as_ref());
        }
    });
}

/// Settings of a run: a file of the user, a file that a run wrote, and every line as `--set`.
pub fn settings(bytes: &[u8]) {
    in_folder(|folder| {
        let path = put(folder, "settings.toml", bytes);
        let _ = settings::load_written(&path);
        if let Ok(effective) = settings::load(Some(&path), &[])
            && let Ok(text) = effective.to_toml()
        {
            let written = put(folder, "config.toml", text.as_bytes());
            let read = settings::load_written(&written).unwrap_or_else(|e| panic!("{e}\n{text}"));
            assert_eq!(config::flat(&read).ok(), config::flat(&effective.settings).ok(), "settings come back as they were written");
        }
        let text = String::from_utf8_lossy(bytes);
        for line in text.lines().filter(|line| line.contains('=')).take(3) {
            let _ = settings::load(None, &[line.to_string()]);
        }
    });
}

/// A checkpoint behind its checksum, and its tensors taken back by two kinds of trainer.
pub fn checkpoint(bytes: &[u8]) {
    let _ = Checkpoint::parse(Path::new("checkpoint"), bytes);
    let _ = serde_json::from_slice::<RunInfo>(bytes);
    let Ok(file) = SafeTensors::deserialize(bytes) else { return };
    let tensors: Vec<NamedTensor> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let bytes = view.data();
            let data = match view.dtype() {
                Dtype::F32 => TensorData::F32(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
                Dtype::F64 => TensorData::F64(bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()),
                Dtype::U64 => TensorData::U64(bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect()),
                Dtype::I64 => TensorData::I64(bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
                _ => TensorData::U8(bytes.to_vec()),
            };
            NamedTensor { name, shape: view.shape().to_vec(), data }
        })
        .collect();
    let (data, views) = (world(), Views::default());
    for settings in runs().map(|settings| Validated::new(settings).expect("settings of a seed are valid")) {
        let Ok(mut trainer) = Trainer::new(&settings, data.clone(), views.clone()) else { panic!("the settings of a seed do not train") };
        let before = trainer.tensors().ok();
        match trainer.restore(&tensors, 1) {
            Ok(()) => drop(trainer.tensors()),
            Err(_) => assert_eq!(trainer.tensors().ok(), before, "a refused state changes nothing"),
        }
    }
}

/// Settings of the runs whose checkpoints are tried: all shared with FedAdam; a private encoder.
pub fn runs() -> [Settings; 2] {
    let mut shared = Settings { threads: 1, ..Settings::default() };
    shared.loss.contrast = config::Contrast::None;
    (shared.model.dim, shared.model.heads, shared.model.blocks, shared.model.max_len) = (4, 1, 1, 8);
    let mut private = shared.clone();
    shared.federation.server = ServerOptimizer::Fedadam;
    private.federation.shared = vec![Group::Items];
    [shared, private]
}

/// Ranks behind their checksum, and a round's line of metrics.
pub fn ranks(bytes: &[u8]) {
    let _ = run::parse_ranks(Path::new("ranks"), bytes);
    in_folder(|folder| drop(run::read_lines(&put(folder, "metrics.jsonl", bytes))));
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    path
}

/// Calls `work` with a folder that this thread has for itself.
fn in_folder(work: impl FnOnce(&Path)) {
    thread_local!(static FOLDER: tempfile::TempDir = tempfile::tempdir().unwrap_or_else(|e| panic!("no temporary folder: {e}")));
    FOLDER.with(|folder| work(folder.path()));
}
