//! Views on disk: one folder for each (data set, settings), written beside and renamed when whole, checked when read. While they
//! are made they lie in a journal beside it (see `journal`).
//!
//! * `views.safetensors`, packed: `future.offsets` u64 `[U + 1]`, `future.items` u32 `[N]`; `paraphrase.*` alike;
//!   `counterfactual.counts` u32 `[U]` (sequences of a user), `counterfactual.offsets` u64 `[V + 1]`, `counterfactual.items` u32
//! * `manifest.json`: see [`Manifest`]
//! * `SHA256SUMS`: checksums of the two, in the form that `sha256sum -c` reads

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Views;
use super::account::{Failure, Generation};
use super::build::{self, Built, Options};
use super::check::check;
use super::generator::{Counts, ViewKind};
use super::generators;
use super::journal::{Contents, Journal};
use super::pack::{decode, encode};
use super::recipe::{Recipes, identity};
use super::statistics::Statistics;
use crate::base::files::{Draft, sha256_hex};
use crate::config::{GeneratorKind, ViewSettings};
use crate::data::Dataset;
use crate::{Error, Result};

/// Version of the folder's layout and of the generators' draws; views of another version are made anew.
pub const FORMAT_VERSION: u32 = 2;
const MANIFEST: &str = "manifest.json";
const VIEWS: &str = "views.safetensors";
const SUMS: &str = "SHA256SUMS";
const REMEDY: &str = "remove the folder and build the views again with `lumos views build`";

/// What a folder of views says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub version: u32,
    /// Version of the program that wrote the folder.
    pub program: String,
    /// Name of the generator.
    pub generator: String,
    /// Settings of the generator.
    pub settings: ViewSettings,
    /// Name of the data set.
    pub data: String,
    /// Fingerprint of the data set.
    pub data_fingerprint: String,
    /// Number of items that the views may name.
    pub items: u64,
    /// Number of users, from the first on, that have views; `None`: all.
    pub first: Option<u64>,
    /// Digests of all that future, paraphrase and counterfactual depend on, prompts and model included.
    pub recipes: Option<Vec<String>>,
    /// What a language model did.
    pub generation: Option<Generation>,
    /// What stands for the views of the users in `failures`.
    pub fallback: String,
    /// Users for whom a language model gave no views.
    pub failures: Vec<Failure>,
    /// Figures of the views.
    pub statistics: Statistics,
}

/// The folder under `root` that holds the views of `data` with `settings`: its name is a digest of both.
pub fn store_dir(root: &Path, data: &Dataset, settings: &ViewSettings) -> PathBuf {
    store_dir_of_first(root, data, settings, None)
}

/// [`store_dir`], or the folder that holds the views of the first users alone.
pub fn store_dir_of_first(root: &Path, data: &Dataset, settings: &ViewSettings, first: Option<usize>) -> PathBuf {
    let settings = identity(settings);
    let end = first.map_or_else(String::new, |n| format!("-first-{n}"));
    root.join(format!("{}-{}{end}", digest(&data.views_fingerprint()), digest(&format!("{FORMAT_VERSION} {settings}"))))
}

/// The journal of what a generator has finished for a data set.
fn journal_file(root: &Path, data: &Dataset, settings: &ViewSettings) -> PathBuf {
    root.join(format!("{}-{}.journal", digest(&data.views_fingerprint()), settings.generator.name()))
}

/// Sixteen hex digits that stand for `text`.
fn digest(text: &str) -> String {
    sha256_hex(text.as_bytes())[..16].to_owned()
}

/// Reads the views in the folder `dir`.
///
/// # Errors
/// [`Error::Io`] for files that cannot be read, [`Error::Mismatch`] for the views of another data set and for damage.
pub fn load(dir: &Path, data: &Dataset) -> Result<Views> {
    let manifest = load_manifest(dir)?;
    let fingerprint = data.views_fingerprint();
    if manifest.data_fingerprint != fingerprint {
        let message = format!(
            "holds views of data set `{}` with fingerprint {}, but `{}` has {fingerprint}; build views for this data set",
            manifest.data, manifest.data_fingerprint, data.name
        );
        return Err(Error::mismatch(dir, message));
    }
    let path = dir.join(VIEWS);
    let bytes = fs::read(&path).map_err(Error::io(&path, "read"))?;
    verify(dir, VIEWS, &bytes)?;
    decode(&bytes, data).map_err(|why| damaged(&path, &why))
}

/// Reads what the folder `dir` says of itself.
///
/// # Errors
/// See [`load`].
pub fn load_manifest(dir: &Path) -> Result<Manifest> {
    if !dir.join(MANIFEST).is_file() {
        return Err(Error::mismatch(dir, "holds no views; make some with `lumos views build`"));
    }
    let path = dir.join(MANIFEST);
    let bytes = fs::read(&path).map_err(Error::io(&path, "read"))?;
    verify(dir, MANIFEST, &bytes)?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| damaged(&path, &e.to_string()))?;
    let version = value.get("version").and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(FORMAT_VERSION)) {
        let found = version.map_or("none".into(), |v| v.to_string());
        return Err(Error::mismatch(path, format!("has format version {found}, this program has {FORMAT_VERSION}; {REMEDY}")));
    }
    serde_json::from_value(value).map_err(|e| damaged(&path, &e.to_string()))
}

/// The views of `data` with `settings` from the store under `root`, made and stored first where they are not there or not
/// whole. The second value says whether they were there. The generator `none` touches no file.
///
/// # Errors
/// [`Error::Setting`] for settings out of range, [`Error::Io`] for the store, and whatever the generator reports.
pub fn ensure(
    data: &Dataset,
    settings: &ViewSettings,
    root: &Path,
    threads: usize,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<(Views, bool)> {
    ensure_with(data, settings, root, &Options { threads, progress, ..Default::default() })
}

/// [`ensure`] with more to choose.
///
/// # Errors
/// See [`ensure`].
pub fn ensure_with(data: &Dataset, settings: &ViewSettings, root: &Path, options: &Options<'_>) -> Result<(Views, bool)> {
    check(settings)?;
    if settings.generator == GeneratorKind::NONE {
        return Ok((Views::default(), false));
    }
    let options = Options { first: options.first.filter(|n| *n < data.users()), ..*options };
    let dir = store_dir_of_first(root, data, settings, options.first);
    let recipes = Recipes::new(settings)?;
    if let Some(views) = up_to_date(&dir, data, recipes.as_ref())? {
        return Ok((views, true));
    }
    let journal = Journal::open(&journal_file(root, data, settings), options.note, options.stopped).map_err(|e| match e {
        Error::InUse { .. } => Error::Interrupted(e.to_string()),
        other => other,
    })?;
    // Another process may have made them while this one waited for the journal.
    if let Some(views) = up_to_date(&dir, data, recipes.as_ref())? {
        return Ok((views, true));
    }
    let built = build::run(data, settings, &options, Some(&journal), true)?;
    if options.batch.is_some_and(|batch| batch.only_asks()) {
        return Ok((Views::default(), false));
    }
    let views = put(&dir, data, settings, options.first, recipes.as_ref(), built)?;
    if !costly(settings) {
        journal.remove()?;
    }
    Ok((views, false))
}

/// Whether the views that [`ensure_with`] would give lie there, of the `first` users alone where that says so.
///
/// # Errors
/// Where they cannot be read.
pub fn is_made(data: &Dataset, settings: &ViewSettings, root: &Path, first: Option<usize>) -> Result<bool> {
    let dir = store_dir_of_first(root, data, settings, first.filter(|n| *n < data.users()));
    Ok(up_to_date(&dir, data, Recipes::new(settings)?.as_ref())?.is_some())
}

/// Whether finished views are worth more than the space of their journal, as those of a language model are.
pub fn costly(settings: &ViewSettings) -> bool {
    generators::find(settings.generator).is_some_and(|entry| entry.costly)
}

/// Every finished view in the journal under `root` that a build with `settings` would not make again, and what was counted for it.
/// Another process may be writing the journal.
///
/// # Errors
/// Where the journal cannot be read.
pub fn journaled(root: &Path, data: &Dataset, settings: &ViewSettings) -> Result<Vec<(u32, ViewKind, Counts)>> {
    let path = journal_file(root, data, settings);
    let (mut journal, Some(recipes)) = (Contents::load(&path)?, Recipes::new(settings)?) else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for part in ViewKind::all(settings) {
        let rows = journal.views(&path, &recipes.table(part), data.users(), data.item_count())?;
        all.extend(rows.into_iter().map(|(user, made)| (user, part, made.counts)));
    }
    all.sort_unstable_by_key(|(user, part, _)| (*user, *part));
    Ok(all)
}

/// The views in `dir`, where they are there, whole and made as they would be made now.
fn up_to_date(dir: &Path, data: &Dataset, recipes: Option<&Recipes>) -> Result<Option<Views>> {
    if !dir.exists() {
        return Ok(None);
    }
    let same = |manifest: Manifest| recipes.zip(manifest.recipes.as_ref()).is_none_or(|(now, then)| now.all()[..] == then[..]);
    match load_manifest(dir).and_then(|manifest| if same(manifest) { load(dir, data).map(Some) } else { Ok(None) }) {
        Ok(found) => Ok(found),
        // Views can be made again from data and settings, which the folder's name stands for: damage costs time, no work.
        Err(Error::Mismatch { .. }) => Ok(None),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(other) => Err(other),
    }
}

/// Writes the folder `dir` in one step; views that lie there give way, other files stay.
///
/// # Errors
/// [`Error::Mismatch`] where `views` is not of `data`, [`Error::Io`] where writing fails.
pub fn save(dir: &Path, data: &Dataset, settings: &ViewSettings, views: &Views, statistics: &Statistics) -> Result<()> {
    let built = Built { views: views.clone(), statistics: statistics.clone(), ..Default::default() };
    put(dir, data, settings, None, None, built).map(|_| ())
}

fn put(
    dir: &Path,
    data: &Dataset,
    settings: &ViewSettings,
    first: Option<usize>,
    recipes: Option<&Recipes>,
    built: Built,
) -> Result<Views> {
    let views = built.views;
    if views.users.len() != data.users() {
        let message = format!("{} users have views but `{}` has {} users", views.users.len(), data.name, data.users());
        return Err(Error::mismatch(dir, message));
    }
    let manifest = Manifest {
        version: FORMAT_VERSION,
        program: env!("CARGO_PKG_VERSION").into(),
        generator: settings.generator.name().into(),
        settings: settings.clone(),
        data: data.name.clone(),
        data_fingerprint: data.views_fingerprint(),
        items: data.item_count() as u64,
        first: first.map(|n| n as u64),
        recipes: recipes.map(|r| r.all().to_vec()),
        generation: built.generation,
        fallback: settings.fallback.name().into(),
        failures: built.failures,
        statistics: built.statistics,
    };
    let json = serde_json::to_string_pretty(&manifest).map_err(|e| Error::mismatch(dir, format!("cannot write the manifest: {e}")))?;
    let draft = Draft::of(dir)?;
    let mut sums = String::new();
    for (name, bytes) in [(MANIFEST, json.into_bytes()), (VIEWS, encode(&views).map_err(|e| Error::mismatch(dir, e))?)] {
        sums.push_str(&sum_line(name, &bytes));
        draft.put(name, &bytes)?;
    }
    draft.put(SUMS, sums.as_bytes())?;
    // Without checksums a folder is not taken for views.
    draft.replace(dir, &[MANIFEST, VIEWS, SUMS])?;
    Ok(views)
}

fn sum_line(name: &str, bytes: &[u8]) -> String {
    format!("{}  {name}\n", sha256_hex(bytes))
}

fn verify(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = dir.join(SUMS);
    let sums = fs::read(&path).map_err(Error::io(&path, "read"))?;
    let line = sum_line(name, bytes);
    let found = sums.split_inclusive(|b| *b == b'\n').any(|l| l == line.as_bytes());
    if found { Ok(()) } else { Err(damaged(&dir.join(name), &format!("its checksum is not in {SUMS}"))) }
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::mismatch(path, format!("is damaged ({why}); {REMEDY}"))
}
