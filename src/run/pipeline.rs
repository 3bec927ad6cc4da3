//! Data set and views of a run: reused where they are up to date, else made.

use super::Observer;
use super::folder::RunFolder;
use crate::config::{Contrast, GeneratorKind, Settings, ViewSettings};
use crate::data::{self, Dataset};
use crate::views::{self, Views};
use crate::{Error, Result, parallel};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// What training needs.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The data set.
    pub data: Dataset,
    /// Its views; none where the method uses none.
    pub views: Views,
    /// Folder of the data set.
    pub data_dir: PathBuf,
    /// Folder of the views.
    pub views_dir: Option<PathBuf>,
    /// `manifest.json` of the views' folder.
    pub views_manifest: Option<serde_json::Value>,
}

/// Threads that `settings` asks for; 0 means every core.
pub(super) fn threads(settings: &Settings) -> usize {
    if settings.threads == 0 { parallel::default_threads() } else { settings.threads as usize }
}

/// Whether training reads views at all.
pub fn needs_views(settings: &Settings) -> bool {
    settings.loss.contrast != Contrast::None && settings.views.generator != GeneratorKind::None
}

/// Folder of the views that `settings` describes, beside the prepared data set; other settings have another folder.
pub fn views_dir(data_dir: &Path, settings: &ViewSettings) -> Result<PathBuf> {
    let text = toml::to_string(settings).map_err(|e| Error::Usage(format!("view settings cannot be written: {e}")))?;
    let hash: String = Sha256::digest(text.as_bytes()).iter().take(4).map(|b| format!("{b:02x}")).collect();
    let mut name = data_dir.file_name().unwrap_or_default().to_os_string();
    name.push("-views");
    Ok(data_dir.with_file_name(name).join(format!("{}-{hash}", settings.generator.name())))
}

/// The data set of `settings` and its folder.
pub fn prepare_data(settings: &Settings, observer: &dyn Observer) -> Result<(Dataset, PathBuf)> {
    let dir = data::prepared_dir(&settings.data)?;
    let (data, reused) = data::ensure(&settings.data, &dir, &|what, done, total| observer.stage(what, done, total))?;
    observer.stage_end("data");
    let how = if reused { "up to date, reused" } else { "prepared" };
    let (users, items, n) = (data.users(), data.item_count(), data.items.len());
    observer.note(&format!("data {}: {how} ({users} users, {items} items, {n} interactions; {})", data.name, dir.display()));
    Ok((data, dir))
}

/// Data set and views of `settings`.
pub fn prepare(settings: &Settings, observer: &dyn Observer) -> Result<Prepared> {
    let (data, data_dir) = prepare_data(settings, observer)?;
    crate::config::validate_against(settings, data.users(), data.item_count())?;
    if !needs_views(settings) {
        return Ok(Prepared { data, views: Views::default(), data_dir, views_dir: None, views_manifest: None });
    }
    let dir = views_dir(&data_dir, &settings.views)?;
    let progress = |done, total| observer.stage("views", done, total);
    let (views, reused) = views::ensure(&data, &settings.views, &dir, threads(settings), &progress)?;
    observer.stage_end("views");
    let how = if reused { "up to date, reused" } else { "made" };
    observer.note(&format!("views {}: {how} ({})", settings.views.generator.name(), dir.display()));
    // The manifest is kept for the record; views that could be read need no second opinion on it.
    let manifest = std::fs::read(dir.join("manifest.json")).ok().and_then(|b| serde_json::from_slice(&b).ok());
    Ok(Prepared { data, views, data_dir, views_dir: Some(dir), views_manifest: manifest })
}

/// The data set that a finished or interrupted run was trained on.
pub fn load_run_data(folder: &RunFolder, settings: &Settings, observer: &dyn Observer) -> Result<Dataset> {
    let info = folder.info()?;
    let data = match data::load_manifest(&info.data_dir) {
        Ok(manifest) if manifest.fingerprint == info.fingerprint => data::load(&info.data_dir)?,
        // Prepared elsewhere, moved or made anew: whatever the settings give now must have the same fingerprint.
        _ => prepare_data(settings, observer)?.0,
    };
    if data.fingerprint != info.fingerprint {
        let message = format!("was trained on another state of the data set `{}`; prepare that one again", info.data);
        return Err(Error::mismatch(folder.root(), message));
    }
    Ok(data)
}
