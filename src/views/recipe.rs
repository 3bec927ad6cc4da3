//! Which settings a view depends on, so that a changed one makes anew only what it concerns.

use parking_lot::Mutex;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::generator::ViewKind;
use super::generators::{self, Reads};
use super::store::FORMAT_VERSION;
use super::text::Prompts;
use crate::config::{Grounding, Mask, ViewSettings};
use crate::{Error, Result};

/// `settings` with everything at its default that changes no view: how fast and how patiently.
fn essential(settings: &ViewSettings) -> ViewSettings {
    let plain = ViewSettings::default();
    let mut kept = settings.clone();
    kept.max_failed = plain.max_failed;
    (kept.llm.batch, kept.llm.device) = (plain.llm.batch, plain.llm.device);
    let served = &mut kept.served;
    (served.url, served.key_env, served.ca_file) = (None, None, None);
    (served.concurrency, served.timeout_s, served.retries) = (plain.served.concurrency, plain.served.timeout_s, plain.served.retries);
    (served.backoff_s, served.per_minute) = (plain.served.backoff_s, plain.served.per_minute);
    served.longest_wait_s = plain.served.longest_wait_s;
    if kept.llm.grounding == Grounding::Retrieval {
        kept.llm.list_mark = plain.llm.list_mark;
    } else if reads(settings).any("llm") {
        // Nothing is matched, and a line is as long as the catalogue's.
        (kept.text.threshold, kept.text.line_tokens) = (plain.text.threshold, plain.text.line_tokens);
        kept.text.embedder = None;
    }
    if kept.text.encoder().is_some() {
        kept.text.threshold = plain.text.threshold;
    } else {
        kept.text.embedder = None;
    }
    kept
}

/// `settings` as JSON; what concerns an encoder only where there is one, so that views without one are those of earlier versions.
fn plain(settings: impl serde::Serialize, encoder: bool) -> serde_json::Value {
    // Settings are plain numbers and names, so writing them as JSON cannot fail; were it to, the text would still name one folder.
    let mut all = serde_json::to_value(settings).unwrap_or_default();
    if let Some(text) = all.as_object_mut().filter(|_| !encoder) {
        text.retain(|key, _| !key.starts_with("embed"));
    }
    all
}

/// Which settings change what the generator of `settings` writes.
fn reads(settings: &ViewSettings) -> Reads {
    generators::find(settings.generator).map_or(Reads::USUAL, |entry| entry.reads)
}

/// Version of what the generator of `settings` writes; 0 where that of the program says it all.
fn version(settings: &ViewSettings) -> u32 {
    generators::find(settings.generator).map_or(0, |entry| entry.version)
}

/// What the views of `settings` depend on as text: [`essential`] settings without the tables that the generator does not read, so
/// that a new setting of one generator leaves the folders of the others where they are.
pub(super) fn identity(settings: &ViewSettings) -> String {
    let (reads, costly) = (reads(settings), generators::find(settings.generator).is_some_and(|entry| entry.costly));
    let settings = essential(settings);
    let mut all = plain(&settings, true);
    if let Some(all) = all.as_object_mut() {
        all.insert("text".into(), plain(&settings.text, settings.text.encoder().is_some()));
        let unread = ["text", "llm", "served"].into_iter().filter(|table| !reads.any(table));
        let spared = unread.chain(["max_failed"]).chain((!costly).then_some("fallback"));
        spared.for_each(|name| drop(all.remove(name)));
        // Left out where it is what it always was, so that such views stay where they are. The same holds for the version.
        if settings.mask != Mask::History {
            all.insert("mask".into(), settings.mask.name().into());
        }
        if version(&settings) > 0 {
            all.insert("version".into(), version(&settings).into());
        }
    }
    all.to_string()
}

/// A digest of all that a view of a kind depends on besides the data set and the user, for each kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recipes([String; 3]);

impl Recipes {
    /// Of `settings`. `None` where the model that they name is not here to be looked at.
    ///
    /// # Errors
    /// Where a prompt file or the model cannot be read.
    pub(super) fn new(settings: &ViewSettings) -> Result<Option<Recipes>> {
        let s = essential(settings);
        let (reads, version) = (reads(&s), version(&s));
        let written = reads.any("text");
        let prompts = if written { Some(Prompts::read(s.text.prompts.as_deref())?) } else { None };
        let model = match &s.llm.model {
            Some(path) if reads.any("llm") => match model_hash(path)? {
                Some(hash) => hash,
                None => return Ok(None),
            },
            _ => String::new(),
        };
        let encoder = match s.text.encoder().filter(|_| written) {
            Some(path) => match encoder_hash(path)? {
                Some(hash) => Some(hash),
                None => return Ok(None),
            },
            None => None,
        };
        // The prompt's text counts, not where it lies; the same holds for a model.
        let (mut text, mut llm) = (s.text.clone(), s.llm.clone());
        (text.prompts, llm.model) = (None, None);
        text.embedder = encoder.as_ref().map(PathBuf::from);
        let text = plain(text, encoder.is_some());
        let settings = plain(&s, true);
        let values = |keys: &[&str]| -> Vec<serde_json::Value> {
            let of = |key: &&str| match *key {
                "text" => vec![text.clone()],
                "llm" => vec![json!(llm), json!(model)],
                // Left out where it is what it always was, so that such views stay where they are.
                "mask" if s.mask == Mask::History => Vec::new(),
                "mask" => vec![json!(s.mask)],
                other => vec![settings[other].clone()],
            };
            keys.iter().flat_map(of).collect()
        };
        let shared = values(reads.all);
        Ok(Some(Recipes([ViewKind::Future, ViewKind::Paraphrase, ViewKind::Counterfactual(0)].map(|part| {
            let own = values(reads.own(part));
            let prompt = prompts.as_ref().map(|p| p.hash(part));
            let mut all = vec![json!(FORMAT_VERSION), json!(s.generator), json!(s.seed), json!(part.name()), json!(own), json!(shared)];
            all.push(json!(prompt));
            if version > 0 {
                all.push(json!(version));
            }
            hex(&Sha256::digest(json!(all).to_string().as_bytes())[..8])
        }))))
    }

    /// The digests in the order future, paraphrase, counterfactual.
    pub(super) fn all(&self) -> &[String; 3] {
        &self.0
    }

    /// Name of the journal's table for `part`.
    pub(super) fn table(&self, part: ViewKind) -> String {
        format!("{}-{}", self.0[part.index().min(2) as usize], part.index())
    }
}

fn hex(bytes: &[u8]) -> String {
    hex::encode(bytes)
}

/// SHA-256 over what determines a model's texts: its description, tokenizer, template and weights. `None` where there is nothing at
/// `path`. A file is read once in the life of the program.
///
/// # Errors
/// Where a file cannot be read.
pub fn model_hash(path: &Path) -> Result<Option<String>> {
    static KNOWN: Mutex<Vec<(PathBuf, String)>> = Mutex::new(Vec::new());
    let known = || KNOWN.lock();
    if let Some((_, hash)) = known().iter().find(|(p, _)| p == path) {
        return Ok(Some(hash.clone()));
    }
    if !path.exists() {
        return Ok(None);
    }
    let folder = if path.is_dir() { path } else { path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")) };
    // A GGUF file without a configuration beside it is read by itself.
    let alone = path.is_file() && !folder.join("config.json").is_file();
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "open as a folder"))? {
        let file = entry.map_err(Error::io(folder, "read"))?.path();
        let ending = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let weights = matches!(ending, "safetensors" | "gguf");
        if (!alone && matches!(ending, "json" | "jinja")) || (weights && (path.is_dir() || file == path)) {
            files.push(file);
        }
    }
    files.sort();
    let mut all = Sha256::new();
    let mut block = vec![0u8; 1 << 20];
    for file in &files {
        let mut reader = std::fs::File::open(file).map_err(Error::io(file, "open"))?;
        all.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        all.update([0]);
        loop {
            match std::io::Read::read(&mut reader, &mut block).map_err(Error::io(file, "read"))? {
                0 => break,
                n => all.update(&block[..n]),
            }
        }
    }
    let hash = hex(&all.finalize());
    known().push((path.to_path_buf(), hash.clone()));
    Ok(Some(hash))
}

/// [`model_hash`] of a sentence encoder, whose pooling lies in a folder of its own.
///
/// # Errors
/// Where a file cannot be read.
pub fn encoder_hash(path: &Path) -> Result<Option<String>> {
    // A hash that the program remembers is not enough: the pooling is read each time.
    let Some(whole) = model_hash(path)?.filter(|_| path.exists()) else { return Ok(None) };
    let mut all = Sha256::new();
    all.update(whole);
    let mut inside: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(path).map_err(Error::io(path, "open as a folder"))? {
        inside.push(entry.map_err(Error::io(path, "read"))?.path());
    }
    inside.sort();
    for folder in inside {
        // `1_Pooling` and its like; other folders hold the same weights in other forms.
        let name = folder.file_name().unwrap_or_default().as_encoded_bytes();
        let file = folder.join("config.json");
        if name.first().is_some_and(u8::is_ascii_digit) && file.is_file() {
            all.update(name);
            all.update([0]);
            all.update(Sha256::digest(std::fs::read(&file).map_err(Error::io(&file, "read"))?));
        }
    }
    Ok(Some(hex(&all.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{GeneratorKind, LlmSettings, ServedSettings, TextSettings};

    #[test]
    fn what_a_generator_does_not_read_changes_nothing() {
        let base = ViewSettings::default();
        let text = TextSettings { history: 3, ..Default::default() };
        let served = ServedSettings { model: Some("m".into()), concurrency: 3, ..Default::default() };
        let llm = LlmSettings { top_k: 3, batch: 3, ..Default::default() };
        let all = ViewSettings { max_failed: 1.0, text, served, llm, ..base.clone() };
        assert_eq!(identity(&all), identity(&base));
        assert_eq!(Recipes::new(&all).unwrap(), Recipes::new(&base).unwrap());
        let with = |generator, change: fn(&mut ViewSettings)| {
            let mut settings = ViewSettings { generator, ..all.clone() };
            change(&mut settings);
            settings
        };
        let same = |generator, change| identity(&with(generator, change)) == identity(&with(generator, |_| ()));
        assert!(same(GeneratorKind::SERVED, |s| (s.served.url, s.served.timeout_s, s.llm.top_k) = (Some("x".into()), 1.0, 9)));
        assert!(!same(GeneratorKind::SERVED, |s| s.served.top_p = 0.5) && !same(GeneratorKind::SERVED, |s| s.text.threshold = 0.3));
        assert!(same(GeneratorKind::LLM, |s| (s.llm.batch, s.text.threshold, s.served.top_p) = (9, 0.3, 0.5)));
        assert!(!same(GeneratorKind::LLM, |s| s.llm.top_k = 9) && !same(GeneratorKind::LLM, |s| s.seed = 9));
    }

    #[test]
    fn an_encoder_counts_only_where_lines_are_matched() {
        let root = tempfile::tempdir().unwrap();
        let folder = |name: &str, pooling: &str| {
            let folder = root.path().join(name);
            std::fs::create_dir_all(folder.join("1_Pooling")).unwrap();
            std::fs::write(folder.join("config.json"), "{}").unwrap();
            std::fs::write(folder.join("1_Pooling/config.json"), pooling).unwrap();
            folder
        };
        let with = |generator, change: &dyn Fn(&mut ViewSettings)| {
            let mut settings = ViewSettings { generator, ..Default::default() };
            change(&mut settings);
            (Recipes::new(&settings).unwrap(), identity(&settings))
        };
        let served = GeneratorKind::SERVED;
        let (a, b, c) = (folder("a", "mean"), folder("b", "mean"), folder("c", "cls"));
        let encoder = |path: &Path| {
            let path = path.to_path_buf();
            move |s: &mut ViewSettings| s.text.embedder = Some(path.clone())
        };
        let words = with(served, &|_| ());
        assert!(!words.1.contains("embed"), "as before there were encoders");
        assert_eq!(with(served, &|s| (s.text.embed_threshold, s.text.embedder) = (0.1, Some("".into()))), words);
        let base = with(served, &encoder(&a));
        assert!(base.0 != words.0 && base.1 != words.1);
        assert_eq!(with(served, &encoder(&b)).0, base.0, "where it lies is no part of a view");
        assert_ne!(with(served, &encoder(&c)).0, base.0, "how it pools is");
        assert_ne!(with(served, &|s| (encoder(&a)(s), s.text.embed_threshold = 0.1).1).0, base.0);
        assert_ne!(with(served, &|s| (encoder(&a)(s), s.text.embed_prefix = "query: ".into()).1).0, base.0);
        assert_eq!(with(served, &|s| (encoder(&a)(s), s.text.threshold = 0.1).1), base);
        assert_eq!(with(served, &encoder(&root.path().join("none"))).0, None);
        // Nothing is matched where nothing but titles can be written.
        let constrained = with(GeneratorKind::LLM, &|_| ());
        assert_eq!(with(GeneratorKind::LLM, &encoder(&a)), constrained);
        let retrieval = with(GeneratorKind::LLM, &|s| s.llm.grounding = Grounding::Retrieval);
        assert_ne!(with(GeneratorKind::LLM, &|s| (encoder(&a)(s), s.llm.grounding = Grounding::Retrieval).1).0, retrieval.0);
        assert_eq!(with(GeneratorKind::CATALOGUE, &encoder(&a)), with(GeneratorKind::CATALOGUE, &|_| ()));
    }

    #[test]
    fn a_setting_of_one_view_leaves_the_others() {
        let new = |settings: &ViewSettings| Recipes::new(settings).unwrap().unwrap().all().clone();
        let served = ViewSettings { generator: GeneratorKind::SERVED, ..Default::default() };
        for base in [ViewSettings::default(), served] {
            let before = new(&base);
            let changed = |s: ViewSettings| -> Vec<usize> { (0..3).filter(|i| new(&s)[*i] != before[*i]).collect() };
            assert_eq!(changed(ViewSettings { future_max: 9, ..base.clone() }), [0]);
            assert_eq!(changed(ViewSettings { reorder: 0.9, ..base.clone() }), [1]);
            let open = ViewSettings { mask: Mask::None, ..base.clone() };
            assert_ne!(identity(&open), identity(&base));
            assert_eq!(changed(open), [0], "a future alone may come back to items");
            assert!(changed(ViewSettings { counterfactuals: 3, ..base.clone() }).is_empty());
            assert_eq!(changed(ViewSettings { seed: 3, ..base.clone() }), [0, 1, 2]);
        }
    }

    #[test]
    fn a_models_hash_is_of_what_it_says_not_of_where_it_lies() {
        let root = tempfile::tempdir().unwrap();
        let folder = |name: &str, weights: &str| {
            let folder = root.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("config.json"), "{}").unwrap();
            std::fs::write(folder.join("model.safetensors"), weights).unwrap();
            std::fs::write(folder.join("README.md"), name).unwrap();
            model_hash(&folder).unwrap().unwrap()
        };
        assert_eq!(folder("a", "x"), folder("b", "x"));
        assert_ne!(folder("c", "y"), folder("d", "x"));
        assert_eq!(model_hash(&root.path().join("none")).unwrap(), None);
    }
}
