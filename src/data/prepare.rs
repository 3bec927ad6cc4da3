//! From settings to a prepared folder, and the choice between making it and reusing it.

use std::path::{Path, PathBuf};

use super::dataset::Dataset;
use super::filter::{check_limits, filter};
use super::manifest::{FORMAT_VERSION, GROUPED_VERSION, Manifest, RawStats, SPLIT_VERSION, SourceFile, fingerprint, identity, member};
use super::reader::{Reader, also, data_error, reader, reads_text};
use super::source::{Source, checksum, resolve_source, size_and_time};
use super::stats::stats_with_times;
use super::store::{check_target, is_other_version, is_set, load, load_manifest, write};
use super::times::Times;
use crate::base::clean;
use crate::base::json;
use crate::base::lock::Lock;
use crate::config::DataSettings;
use crate::{Error, Result};

/// Progress of a long step: its name, how much is done, of how much.
pub type Progress<'a> = dyn Fn(&str, u64, u64) + Sync + 'a;

/// Where `settings` wants the prepared data set: `data.dir`, else `data/<name>` under the working folder, which is the first of the
/// folders that [`find_or_prepare`] considers.
pub fn prepared_dir(settings: &DataSettings) -> Result<PathBuf> {
    if let Some(dir) = &settings.dir {
        return Ok(dir.clone());
    }
    let name = settings.name.as_str();
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
        let message = format!("`{name}` cannot name a folder; use letters, digits and dashes, or set data.dir");
        return Err(Error::setting("data.name", message));
    }
    Ok(Path::new("data").join(name))
}

/// The sources that `settings` names, if the format reads files at all.
fn source_paths<'a>(settings: &'a DataSettings, reader: &dyn Reader) -> Result<(Option<&'a Path>, Option<&'a Path>)> {
    if !reader.reads_files() {
        return Ok((None, None));
    }
    let Some(inter) = settings.inter.as_deref() else {
        let message = format!("is not set; format `{}` needs the path of an interactions file", reader.name());
        return Err(Error::setting("data.inter", message));
    };
    Ok((Some(inter), settings.items.as_deref()))
}

/// Reads, filters and stores a data set in the folder `out`. Nothing is seen there before everything is written.
///
/// # Errors
/// [`Error::Setting`] for limits and formats out of range, [`Error::Data`] and [`Error::Io`] for the sources,
/// [`Error::Mismatch`] where `out` holds something that may not be overwritten, [`Error::InUse`] where another process writes it.
pub fn prepare(settings: &DataSettings, out: &Path, overwrite: bool, progress: &Progress) -> Result<Manifest> {
    check_target(out, overwrite)?;
    let _lock = Lock::take(&lock_file(out)?, &in_words(out))?;
    let (manifest, dataset, times) = make(settings, progress)?;
    put(out, overwrite, &manifest, &dataset, times.as_ref(), progress)?;
    Ok(manifest)
}

/// A data set and where it lies.
#[derive(Clone, Debug)]
pub struct Found {
    /// The data set.
    pub dataset: Dataset,
    /// Its folder.
    pub dir: PathBuf,
    /// Whether it was there already.
    pub reused: bool,
}

/// What [`find_or_prepare`] reports while it works.
pub struct Steps<'a> {
    /// Progress of each step.
    pub progress: &'a Progress<'a>,
    /// Something worth a line.
    pub note: &'a (dyn Fn(&str) + Sync),
    /// Whether to give up waiting for another process.
    pub stopped: &'a (dyn Fn() -> bool + Sync),
}

/// The data set of `settings`: loaded where a folder of it is up to date, else prepared.
///
/// With `data.dir` it is that folder and no other. Without it the first set of a name lies in `data/<name>`, and every other one, made
/// from another source or with other settings, in `data/<name>-<start of its fingerprint>`. A data set is replaced only where
/// `overwrite` asks for it. Where a source cannot be found any more, a folder made with equal settings from files of the same names
/// is taken, so that a prepared folder can be carried to a machine without the sources. A process that is preparing the same data
/// set is waited for.
///
/// # Errors
/// As [`prepare`] and [`load`]; a damaged folder is reported, not silently replaced.
pub fn find_or_prepare(settings: &DataSettings, overwrite: bool, steps: &Steps) -> Result<Found> {
    let reader = reader(&settings.format)?;
    check_limits(settings)?;
    let first = prepared_dir(settings)?;
    let fixed = settings.dir.is_some();
    let look = || -> Result<Option<Found>> {
        let all = if fixed { vec![first.clone()] } else { candidates(&first) };
        for dir in all.into_iter().filter(|dir| is_set(dir)) {
            if up_to_date(settings, reader, &dir)? {
                let mut dataset = load(&dir)?;
                dataset.name = settings.name.clone();
                return Ok(Some(Found { dataset, dir, reused: true }));
            }
        }
        Ok(None)
    };
    // Damage is no reason to refuse where replacing was asked for.
    let look = || if overwrite { Ok(look().unwrap_or(None)) } else { look() };
    if let Some(found) = look()? {
        return Ok(found);
    }
    if fixed && !overwrite && is_set(&first) {
        let why = differences(settings, reader, &first);
        let message = format!(
            "holds a data set that was made otherwise ({why}) and is kept; `lumos data build CONFIG --overwrite` replaces it, another \
             data.dir leaves it alone"
        );
        return Err(Error::mismatch(first, message));
    }
    if fixed {
        check_target(&first, overwrite)?;
    }
    let _lock = Lock::wait(&lock_file(&first)?, &in_words(&first), steps.note, steps.stopped)?;
    // Another process may have made it meanwhile.
    if let Some(found) = look()? {
        return Ok(found);
    }
    let (manifest, dataset, times) = make(settings, steps.progress)?;
    manifest.notes().iter().for_each(|line| (steps.note)(line));
    let mut dir = first.clone();
    if !fixed && check_target(&first, overwrite).is_err() {
        dir = beside(&first, &manifest.fingerprint);
        let why = if is_set(&first) { differences(settings, reader, &first) } else { "it holds other files".into() };
        (steps.note)(&format!("data {}: {} is kept ({why}), this one goes to {}", settings.name, first.display(), dir.display()));
    }
    put(&dir, overwrite, &manifest, &dataset, times.as_ref(), steps.progress)?;
    Ok(Found { dataset, dir, reused: false })
}

/// Hex digits of the fingerprint that tell folders of one name apart.
const DIGITS: usize = 8;

/// The folder beside `first` for a data set with `fingerprint`.
fn beside(first: &Path, fingerprint: &str) -> PathBuf {
    let mut name = first.file_name().unwrap_or_default().to_os_string();
    name.push(format!("-{}", &fingerprint[..DIGITS]));
    first.with_file_name(name)
}

/// Folders that may hold a data set whose first folder is `first`, in a fixed order.
fn candidates(first: &Path) -> Vec<PathBuf> {
    let parent = first.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let prefix = format!("{}-", first.file_name().unwrap_or_default().to_string_lossy());
    let keyed = |name: &str| {
        let key = name.strip_prefix(&prefix).unwrap_or_default();
        key.len() == DIGITS && key.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let mut others: Vec<PathBuf> = entries.filter(|e| keyed(&e.file_name().to_string_lossy())).map(|e| e.path()).collect();
    others.sort();
    std::iter::once(first.to_path_buf()).chain(others).collect()
}

/// The lock file of the folder `out`, in a parent that exists.
fn lock_file(out: &Path) -> Result<PathBuf> {
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(Error::io(parent, "create"))?;
    Ok(Lock::beside(out))
}

fn in_words(out: &Path) -> String {
    format!("prepared data set {}", out.display())
}

/// In what `settings` differ from those that `dir` was made with.
fn differences(settings: &DataSettings, reader: &dyn Reader, dir: &Path) -> String {
    let manifest = match load_manifest(dir) {
        Ok(manifest) => manifest,
        Err(_) if is_other_version(dir) => return "by another version of LUMOS".into(),
        Err(_) => return "it cannot be read".into(),
    };
    let files = reader.reads_files();
    let fields = |s: &DataSettings| json::value(&identity(s, files)).unwrap_or_default();
    let (was, is) = (fields(&manifest.settings), fields(settings));
    let changed: Vec<String> = is
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value)| was.get(key.as_str()) != Some(value))
        .map(|(key, value)| format!("data.{key} was {}, is {value}", was.get(key.as_str()).unwrap_or(&serde_json::Value::Null)))
        .collect();
    if changed.is_empty() { "from another state of its source files".into() } else { changed.join("; ") }
}

fn make(settings: &DataSettings, progress: &Progress) -> Result<(Manifest, Dataset, Option<Times>)> {
    let reader = reader(&settings.format)?;
    check_limits(settings)?;
    let (inter, items) = source_paths(settings, reader)?;
    let open = |path: Option<&Path>| path.map(|p| resolve_source(p).and_then(|p| Source::open(&p))).transpose();
    let (mut inter, mut items) = (open(inter)?, open(items)?);
    for source in [&mut inter, &mut items].into_iter().flatten().filter(|_| reads_text(reader.name())) {
        let found = [(&b"PAR1"[..], "a Parquet file", "parquet"), (b"ARROW1", "an Arrow file", "arrow")];
        let head = source.peek()?;
        if let Some((_, what, format)) = found.into_iter().find(|(magic, ..)| head.starts_with(magic)) {
            return Err(data_error(source.path(), 1, format!("this is {what}; data.format={format} reads it")));
        }
    }
    let mut raw = reader.read(settings, inter.as_mut(), items.as_mut(), progress)?;
    if !settings.group_column.is_empty() && raw.groups.is_none() {
        let (column, name) = (clean::id(&settings.group_column), reader.name());
        let message = format!("is `{column}`, and the format `{name}` reads no groups of users; leave it empty");
        return Err(Error::setting("data.group_column", message));
    }
    let file = |source: Option<Source>| source.map(Source::finish).transpose();
    let (inter, items) = (file(inter)?, file(items)?);
    let (raw_stats, source_notes) = (RawStats::of(&raw), std::mem::take(&mut raw.notes));
    progress("filtering", 0, 1);
    let filtered = filter(raw, settings).map_err(|error| source_notes.recognised.iter().fold(error, |error, words| also(error, words)))?;
    progress("filtering", 1, 1);
    let (mut dataset, times, dropped, removed) = (filtered.dataset, filtered.times, filtered.dropped, filtered.removed);
    dataset.name = settings.name.clone();
    dataset.fingerprint = fingerprint(settings, reader.reads_files(), inter.as_ref(), items.as_ref());
    let manifest = Manifest {
        version: match (&dataset.cuts, &dataset.groups) {
            (Some(_), _) => SPLIT_VERSION,
            (None, Some(_)) => GROUPED_VERSION,
            (None, None) => FORMAT_VERSION,
        },
        program: env!("CARGO_PKG_VERSION").into(),
        name: dataset.name.clone(),
        fingerprint: dataset.fingerprint.clone(),
        settings: settings.clone(),
        inter,
        items,
        raw: raw_stats,
        source_notes,
        dropped,
        removed,
        stats: stats_with_times(&dataset, times.as_ref()),
    };
    Ok((manifest, dataset, times))
}

fn put(out: &Path, overwrite: bool, manifest: &Manifest, dataset: &Dataset, times: Option<&Times>, progress: &Progress) -> Result<()> {
    progress("writing", 0, 1);
    write(out, overwrite, manifest, dataset, times)?;
    progress("writing", 1, 1);
    Ok(())
}

/// Whether the folder holds what `settings` would prepare now.
fn up_to_date(settings: &DataSettings, reader: &dyn Reader, dir: &Path) -> Result<bool> {
    // Another layout is made anew; damage is not hidden.
    if is_other_version(dir) {
        return Ok(false);
    }
    let manifest = load_manifest(dir)?;
    let files = reader.reads_files();
    if identity(settings, files) != identity(&manifest.settings, files) {
        return Ok(false);
    }
    let (inter, items) = source_paths(settings, reader)?;
    Ok(unchanged(inter, manifest.inter.as_ref())? && unchanged(items, manifest.items.as_ref())?)
}

/// Whether the file named by `now` is the one that was read `then`: equal size and change time, else equal checksum.
fn unchanged(now: Option<&Path>, then: Option<&SourceFile>) -> Result<bool> {
    let (now, then) = match (now, then) {
        (Some(now), Some(then)) => (now, then),
        (now, then) => return Ok(now.is_none() && then.is_none()),
    };
    if member(now) != member(&then.path) {
        return Ok(false);
    }
    let Ok(path) = resolve_source(now) else { return Ok(now.file_name() == then.path.file_name()) };
    let (bytes, modified) = size_and_time(&path)?;
    if bytes != then.bytes {
        return Ok(false);
    }
    if modified != 0 && modified == then.modified && path == then.path {
        return Ok(true);
    }
    Ok(checksum(&path)? == then.sha256)
}
