//! Several methods on one data set, each in its own run folder; finished ones are reused, unfinished ones resumed.

use super::claim::{Claim, Start};
use super::device::Devices;
use super::folder::differences_key;
use super::notice::returning_notice;
use super::pipeline::{prepare, prepare_data};
use super::result::{RunResult, scores};
use super::train::{Job, train};
use super::{Observer, Scores};
use crate::config::{Effective, Settings, Validated};
use crate::data::Split;
use crate::{Error, Result, eval};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// One method's outcome.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its run folder.
    pub folder: PathBuf,
    /// Its figures.
    pub result: RunResult,
}

/// Folder of a run when none is named: `runs/<data>/<method>-<hash>`, where the hash is of every setting that a result depends on, so
/// that other settings never meet in one folder.
pub fn default_folder(settings: &Settings) -> Result<PathBuf> {
    let hash = hex::encode(&Sha256::digest(differences_key(settings)?.as_bytes())[..4]);
    Ok(Path::new("runs").join(&settings.data.name).join(format!("{}-{hash}", settings.method)))
}

/// Trains each of `methods` (the same file with another `method`), one after another, into `out/<method>` or its default folder.
pub fn side_by_side(
    methods: &[Effective],
    out: Option<&Path>,
    devices: &mut Devices,
    stop: &AtomicBool,
    observer: &dyn Observer,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    // All of them before anything is trained, so that a GPU which cannot be had is said at once.
    let devices = methods.iter().map(|m| devices.to_train(&m.settings)).collect::<Result<Vec<_>>>()?;
    let folder = |effective: &Effective| match out {
        Some(out) => Ok(out.join(&effective.settings.method)),
        None => default_folder(&effective.settings),
    };
    let folders = methods.iter().map(folder).collect::<Result<Vec<_>>>()?;
    // All of them as well, in one order: of two processes that want the same folders one has them and the other is refused at once.
    let wanted: BTreeSet<&PathBuf> = folders.iter().collect();
    let claims = wanted.into_iter().map(|f| Ok((f, Claim::take(f, Start::Either)?))).collect::<Result<BTreeMap<_, _>>>()?;
    for ((effective, device), folder) in methods.iter().zip(&devices).zip(&folders) {
        if stop.load(Ordering::SeqCst) {
            return Err(Error::Interrupted(format!("before method {}; finished methods are kept", effective.settings.method)));
        }
        let prepared = prepare(&effective.settings, observer)?;
        if rows.is_empty() {
            returning_notice(effective, &prepared.data).iter().for_each(|text| observer.warn(text));
        }
        let result = train(&Job { effective, prepared: &prepared, device, out: &claims[folder], stop }, observer)?;
        rows.push(Row { folder: folder.clone(), result });
    }
    Ok(rows)
}

/// Test metrics of recommending the most frequent training items.
pub fn popularity_row(settings: &Validated<Settings>, observer: &dyn Observer) -> Result<Scores> {
    let (data, _) = prepare_data(settings, false, &Quiet(observer))?;
    let users: Vec<u32> = (0..data.users() as u32).collect();
    scores(&eval::metrics(&eval::popularity_ranks(&data, settings.eval.mask, Split::Test, &users), &settings.eval.k))
}

/// Passes steps on but no notes: the data set has been spoken of.
struct Quiet<'a>(&'a dyn Observer);

impl Observer for Quiet<'_> {
    fn stage(&self, name: &str, done: u64, total: u64) {
        self.0.stage(name, done, total);
    }

    fn stage_end(&self, name: &str) {
        self.0.stage_end(name);
    }
}
