//! From settings to a prepared folder, and the choice between making it and reusing it.

use std::path::{Path, PathBuf};

use super::dataset::Dataset;
use super::filter::{check_limits, filter};
use super::manifest::{FORMAT_VERSION, Manifest, RawStats, SourceFile, fingerprint, identity};
use super::reader::{Reader, reader};
use super::source::{Source, read_source, resolve_source, sha256_hex, size_and_time};
use super::stats::stats_with_times;
use super::store::{MANIFEST, check_target, is_other_version, load, load_manifest, write};
use crate::config::DataSettings;
use crate::{Error, Result};

/// Progress of a long step: its name, how much is done, of how much.
pub type Progress<'a> = dyn Fn(&str, u64, u64) + Sync + 'a;

/// Where `settings` wants the prepared data set: `data.dir`, else `data/<name>` under the working folder.
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
/// [`Error::Mismatch`] where `out` holds something that may not be overwritten.
pub fn prepare(settings: &DataSettings, out: &Path, overwrite: bool, progress: &(dyn Fn(&str, u64, u64) + Sync)) -> Result<Manifest> {
    make(settings, out, overwrite, progress).map(|(manifest, _)| manifest)
}

fn make(settings: &DataSettings, out: &Path, overwrite: bool, progress: &Progress) -> Result<(Manifest, Dataset)> {
    let reader = reader(&settings.format)?;
    check_limits(settings)?;
    check_target(out, overwrite)?;
    let (inter, items) = source_paths(settings, reader)?;
    let open = |path: Option<&Path>| path.map(|p| resolve_source(p).and_then(|p| read_source(&p))).transpose();
    let (inter, items) = (open(inter)?, open(items)?);
    let raw = reader.read(settings, inter.as_ref(), items.as_ref(), progress)?;
    let file = |source: Option<Source>| source.map(|s| s.file);
    let (inter, items) = (file(inter), file(items));
    let raw_stats = RawStats::of(&raw);
    progress("filtering", 0, 1);
    let filtered = filter(raw, settings)?;
    progress("filtering", 1, 1);
    let (mut dataset, times) = (filtered.dataset, filtered.times);
    dataset.name = settings.name.clone();
    dataset.fingerprint = fingerprint(settings, reader.reads_files(), inter.as_ref(), items.as_ref());
    let manifest = Manifest {
        version: FORMAT_VERSION,
        program: env!("CARGO_PKG_VERSION").into(),
        name: dataset.name.clone(),
        fingerprint: dataset.fingerprint.clone(),
        settings: settings.clone(),
        inter,
        items,
        raw: raw_stats,
        stats: stats_with_times(&dataset, times.as_deref()),
    };
    progress("writing", 0, 1);
    write(out, overwrite, &manifest, &dataset, times.as_deref())?;
    progress("writing", 1, 1);
    Ok((manifest, dataset))
}

/// The data set of `settings` out of the folder `dir`: loaded where the folder is up to date (the flag is true), else
/// prepared anew. Where a source cannot be found any more, a folder made with equal settings from files of the same names
/// is taken, so that a prepared folder can be carried to a machine without the sources.
///
/// # Errors
/// As [`prepare`] and [`load`]; a damaged folder is reported, not silently replaced.
pub fn ensure(settings: &DataSettings, dir: &Path, progress: &(dyn Fn(&str, u64, u64) + Sync)) -> Result<(Dataset, bool)> {
    let reader = reader(&settings.format)?;
    check_limits(settings)?;
    if dir.join(MANIFEST).exists() && up_to_date(settings, reader, dir)? {
        let mut dataset = load(dir)?;
        dataset.name = settings.name.clone();
        return Ok((dataset, true));
    }
    make(settings, dir, true, progress).map(|(_, dataset)| (dataset, false))
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
    let Ok(path) = resolve_source(now) else { return Ok(now.file_name() == then.path.file_name()) };
    let (bytes, modified) = size_and_time(&path)?;
    if bytes != then.bytes {
        return Ok(false);
    }
    if modified != 0 && modified == then.modified && path == then.path {
        return Ok(true);
    }
    Ok(sha256_hex(&std::fs::read(&path).map_err(Error::io(&path, "read"))?) == then.sha256)
}
