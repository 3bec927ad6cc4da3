//! Data set and views of a run: reused where they are up to date, else made.

use super::Observer;
use super::folder::{RunFolder, RunInfo};
use super::team::Others;
use crate::base::json;
use crate::base::parallel;
use crate::config::{Contrast, CountsUse, Fallback, GeneratorKind, Settings, Validated};
use crate::data::{self, Dataset, Found};
use crate::device::telemetry::Sampler;
use crate::federation::attacks::with_titles;
use crate::settings::validate_against;
use crate::views::{self, Batch, Views};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What training needs.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The data set, shared with whoever trains on it.
    pub data: Arc<Dataset>,
    /// Its views, shared alike; none where the method uses none.
    pub views: Arc<Views>,
    /// Folder of the data set.
    pub data_dir: PathBuf,
    /// Folder of the views.
    pub views_dir: Option<PathBuf>,
    /// `manifest.json` of the views' folder.
    pub views_manifest: Option<serde_json::Value>,
    /// Whether the views were there already.
    pub views_reused: bool,
}

/// Threads that `settings` asks for; 0 means every core.
pub(super) fn threads(settings: &Settings) -> usize {
    parallel::threads(settings.threads as usize)
}

/// Whether training reads views at all.
pub fn needs_views(settings: &Settings) -> bool {
    settings.loss.contrast != Contrast::None && settings.views.generator != GeneratorKind::NONE
}

/// What the method of `settings` takes from users outside the promise that `privacy.epsilon` or `privacy.noise` makes, if it does.
pub fn outside_promise(settings: &Settings) -> Option<String> {
    if !settings.privacy.is_on() || settings.privacy.counts != CountsUse::Exact {
        return None;
    }
    let views = &settings.views;
    let written = [GeneratorKind::LLM, GeneratorKind::SERVED, GeneratorKind::CODEBOOK].contains(&views.generator);
    let by_views = needs_views(settings) && (!written || views.fallback == Fallback::Catalogue);
    let reader = match (by_views, settings.loss.popularity > 0.0) {
        (true, true) => "the generator of views and loss.popularity read",
        (true, false) => "the generator of views reads",
        (false, true) => "loss.popularity reads",
        (false, false) => return None,
    };
    Some(format!("how often each item was met, which {reader} (privacy.counts = \"exact\")"))
}

/// Folder that holds the views of a prepared data set, one folder in it for each data set and setting.
fn views_root(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.file_name().unwrap_or_default().to_os_string();
    name.push("-views");
    data_dir.with_file_name(name)
}

/// The data set of `settings` and its folder; one that lies there already is replaced only where `overwrite` says so.
pub fn prepare_data(settings: &Validated<Settings>, overwrite: bool, observer: &dyn Observer) -> Result<(Dataset, PathBuf)> {
    let steps = data::Steps {
        progress: &|what, done, total| observer.stage(what, done, total),
        note: &|text| observer.note(text),
        stopped: &|| observer.stopped(),
    };
    let Found { dataset: data, dir, reused } = data::find_or_prepare(&settings.data, overwrite, &steps)?;
    observer.stage_end("data");
    note_data(&data, &dir, if reused { "up to date, reused" } else { "prepared" }, observer);
    note_changes(settings, observer);
    Ok((as_seen(data, settings)?, dir))
}

/// One line on the data set in use.
fn note_data(data: &Dataset, dir: &Path, how: &str, observer: &dyn Observer) {
    let (users, items, n) = (data.users(), data.item_count(), data.items.len());
    observer.note(&format!("data {}: {how} ({users} users, {items} items, {n} interactions; {})", data.name, dir.display()));
}

/// `data` as a run with `settings` sees it: noise in histories and titles, titles by an attacker, and what is known of how often items were met.
fn as_seen(data: Dataset, settings: &Settings) -> Result<Dataset> {
    let noise = &settings.noise;
    let data = data::with_exchanged_titles(data::disturbed(data, noise.share, settings.seed), noise.titles, settings.seed);
    let data = with_titles(data, settings)?;
    data::with_counts(data, settings)
}

/// A word on what [`as_seen`] changes in histories and titles.
fn note_changes(settings: &Settings, observer: &dyn Observer) {
    if settings.noise.share > 0.0 {
        observer.note(&format!("noise: {} of each user's training items are replaced (noise.share)", settings.noise.share));
    }
    if settings.noise.titles > 0.0 {
        observer.note(&format!("noise: {} of the catalogue's titles have changed places (noise.titles)", settings.noise.titles));
    }
    if !settings.attack.titles.is_empty() {
        observer.note("attack: titles of the catalogue carry a text of the attacker's (attack.titles)");
    }
}

/// The prepared data set in the folder `dir` as it is, but for the noise of `settings`; its sources are not looked for.
pub fn open_data(dir: &Path, settings: &Settings, observer: &dyn Observer) -> Result<(Dataset, PathBuf)> {
    let data = data::load(dir)?;
    note_data(&data, dir, "taken as it is", observer);
    // Views lie beside the folder, so it needs a name even where it is called `.`.
    let named = if dir.file_name().is_some() { dir.to_path_buf() } else { dir.canonicalize().map_err(Error::io(dir, "open"))? };
    note_changes(settings, observer);
    Ok((as_seen(data, settings)?, named))
}

/// Data set and views of `settings`.
pub fn prepare(settings: &Validated<Settings>, observer: &dyn Observer) -> Result<Prepared> {
    let (data, data_dir) = prepare_data(settings, false, observer)?;
    prepare_on(settings, data, data_dir, observer)
}

/// The views that `settings` need of the data set in the folder `data_dir`.
pub fn prepare_on(settings: &Validated<Settings>, data: Dataset, data_dir: PathBuf, observer: &dyn Observer) -> Result<Prepared> {
    validate_against(settings, data.users(), data.item_count())?;
    if !needs_views(settings) {
        return Ok(Prepared {
            data: Arc::new(data),
            views: Arc::default(),
            data_dir,
            views_dir: None,
            views_manifest: None,
            views_reused: false,
        });
    }
    prepare_views(settings, data, data_dir, None, observer)
}

/// A look at the GPU that a local language model computes on, for its energy.
#[cfg(feature = "cuda")]
fn watch(settings: &Settings) -> Option<Sampler> {
    use crate::device::{Choice, probe};
    if settings.views.generator != GeneratorKind::LLM {
        return None;
    }
    let ordinal = match settings.views.llm.device.parse() {
        Ok(Choice::Cpu) => return None,
        Ok(Choice::CudaNumber(n)) => n,
        _ => 0,
    };
    Sampler::start(&probe::gpus().ok()?.get(ordinal)?.uuid)
}

/// Without the GPU backend there is no telemetry.
#[cfg(not(feature = "cuda"))]
fn watch(_: &Settings) -> Option<Sampler> {
    None
}

/// Whether [`prepare_views`] finds its views made.
pub fn views_made(settings: &Settings, data: &Dataset, data_dir: &Path, first: Option<usize>) -> Result<bool> {
    views::is_made(data, &settings.views, &views_root(data_dir), first)
}

/// The views of a prepared data set; only of its first users where `first` says so.
pub fn prepare_views(
    settings: &Validated<Settings>,
    data: Dataset,
    data_dir: PathBuf,
    first: Option<usize>,
    observer: &dyn Observer,
) -> Result<Prepared> {
    prepare_views_by(None, settings, data, data_dir, first, observer)
}

/// Passes questions about the views that a prepared data set lacks to `batch`, which answers none of them; gives whether there are views already.
///
/// # Errors
/// As for [`prepare_views`].
pub fn ask_for_views(
    batch: &dyn Batch,
    settings: &Validated<Settings>,
    data: &Dataset,
    data_dir: &Path,
    first: Option<usize>,
    observer: &dyn Observer,
) -> Result<bool> {
    let options = views::Options {
        threads: threads(settings),
        first,
        progress: &|done, total| observer.stage("views", done, total),
        stopped: &|| observer.stopped(),
        note: &|text| observer.warn(text),
        batch: Some(batch),
        ..Default::default()
    };
    let (_, made) = views::ensure_with(data, &settings.views, &views_root(data_dir), &options)?;
    observer.stage_end("views");
    Ok(made)
}

/// [`prepare_views`] with answers that come by way of `batch`, where there is one.
pub fn prepare_views_by(
    batch: Option<&dyn Batch>,
    settings: &Validated<Settings>,
    data: Dataset,
    data_dir: PathBuf,
    first: Option<usize>,
    observer: &dyn Observer,
) -> Result<Prepared> {
    let root = views_root(&data_dir);
    let progress = |done, total| observer.stage("views", done, total);
    let gpu = watch(settings);
    let joules = || {
        let gpu = gpu.as_ref()?;
        gpu.now();
        gpu.samples(0.0).last()?.joules
    };
    let helpers = observer.ranks().map(Others);
    let options = views::Options {
        helpers: helpers.as_ref().map(|others| others as &dyn views::Helpers),
        threads: threads(settings),
        first,
        progress: &progress,
        joules: &joules,
        stopped: &|| observer.stopped(),
        note: &|text| observer.warn(text),
        batch,
    };
    let (views, reused) = views::ensure_with(&data, &settings.views, &root, &options)?;
    observer.stage_end("views");
    let dir = views::store_dir_of_first(&root, &data, &settings.views, first.filter(|n| *n < data.users()));
    let how = if reused { "up to date, reused" } else { "made" };
    observer.note(&format!("views {}: {how} ({})", settings.views.generator.name(), dir.display()));
    let manifest = views::load_manifest(&dir)?;
    let manifest = json::value(&manifest).map_err(|e| Error::mismatch(&dir, format!("manifest cannot be copied: {e}")))?;
    Ok(Prepared {
        data: Arc::new(data),
        views: Arc::new(views),
        data_dir,
        views_dir: Some(dir),
        views_manifest: Some(manifest),
        views_reused: reused,
    })
}

/// Fingerprint of what a run with `settings` sees of the data set with `fingerprint`.
fn run_fingerprint(fingerprint: &str, settings: &Settings) -> String {
    match settings.noise.share {
        0.0 => fingerprint.to_string(),
        share => data::noisy_fingerprint(fingerprint, share, settings.seed),
    }
}

/// Fingerprint of the data set that a run with `settings` put its noise into, as far as its folder is still there; the run's own without noise. Noise
/// leaves what is to be found as it is, so that runs with and without it can be compared.
pub(super) fn clean_fingerprint(info: &RunInfo, settings: &Settings) -> String {
    if settings.noise.share > 0.0
        && let Ok(manifest) = data::load_manifest(&info.data_dir)
        && run_fingerprint(&manifest.fingerprint, settings) == info.fingerprint
    {
        return manifest.fingerprint;
    }
    info.fingerprint.clone()
}

/// The data set that a finished or interrupted run was trained on.
pub fn load_run_data(folder: &RunFolder, settings: &Validated<Settings>, observer: &dyn Observer) -> Result<Dataset> {
    let info = folder.info()?;
    let data = match data::load_manifest(&info.data_dir) {
        Ok(manifest) if run_fingerprint(&manifest.fingerprint, settings) == info.fingerprint => {
            as_seen(data::load(&info.data_dir)?, settings)?
        }
        // Prepared elsewhere, moved or made anew: whatever the settings give now must have the same fingerprint.
        _ => prepare_data(settings, false, observer)?.0,
    };
    if data.fingerprint != info.fingerprint {
        let message = format!("was trained on another state of the data set `{}`; prepare that one again", info.data);
        return Err(Error::mismatch(folder.root(), message));
    }
    Ok(data)
}

/// The views that a finished or interrupted run was trained with on `data`; none where its method looks at none. Nothing is made.
///
/// # Errors
/// [`Error::Mismatch`] where they are not there.
pub(super) fn load_run_views(folder: &RunFolder, settings: &Validated<Settings>, data: &Dataset) -> Result<Arc<Views>> {
    if !needs_views(settings) {
        return Ok(Arc::default());
    }
    let root = views_root(&folder.info()?.data_dir);
    if !views::is_made(data, &settings.views, &root, None)? {
        let message = "holds no views as the run was trained with, which eval.local_epochs trains on; make them with `lumos views build`";
        return Err(Error::mismatch(root, message));
    }
    Ok(Arc::new(views::ensure_with(data, &settings.views, &root, &views::Options { threads: threads(settings), ..Default::default() })?.0))
}
