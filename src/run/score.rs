//! Full ranking of a finished run's checkpoint.

use super::checkpoint::Checkpoint;
use super::claim::lock;
use super::exposure::add_exposure;
use super::folder::RunFolder;
use super::pipeline::{load_run_data, load_run_views};
use super::ranks::write_ranks;
use super::result::{Scores, scores, split_name};
use super::several::add_several;
use super::team::Team;
use super::{CheckpointMeta, Devices, Observer, RunDevice};
use crate::config::methods::{self, Family};
use crate::config::{Settings, Validated};
use crate::data::{Dataset, Sought, Split};
use crate::{Error, Result, eval};
use std::sync::Arc;

/// Metrics of one split and what they are of.
#[derive(Clone, Debug)]
pub struct Scored {
    /// Method.
    pub method: String,
    /// Data set.
    pub data: String,
    /// Split.
    pub split: &'static str,
    /// Round of the checkpoint; 0 for a method that trains nothing.
    pub round: u64,
    /// Where it was ranked.
    pub device: String,
    /// Cut-offs.
    pub ks: Vec<u32>,
    /// The metrics.
    pub scores: Scores,
    /// Whether the ranks are now in the folder; only those of `best` are kept.
    pub ranks_kept: bool,
    /// Why ranks that were to be kept are not.
    pub not_kept: Option<String>,
}

/// A trainer on `device` in the state of a checkpoint of `folder` (`best` or `last`), ready to rank and recommend.
pub fn open_trained(
    folder: &RunFolder,
    name: &str,
    settings: &Validated<Settings>,
    data: &Arc<Dataset>,
    device: &mut RunDevice,
) -> Result<(Team, CheckpointMeta)> {
    let path = folder.checkpoint(name);
    if !path.exists() {
        let message = "is not there yet; the run has saved no such checkpoint: let it train further with `lumos train ... --resume`";
        return Err(Error::mismatch(path, message));
    }
    let checkpoint = Checkpoint::load(&path)?;
    checkpoint.belongs_to(&path, settings, data)?;
    // Views are looked at in training alone, which a ranking may begin with.
    let views = if settings.eval.local_epochs > 0 { load_run_views(folder, settings, data)? } else { Arc::default() };
    let mut trainer = device.trainer(settings, data, &views)?;
    // Away from the run's own folder, which a running training may be using.
    trainer.set_spill_folder(std::env::temp_dir().join(format!("lumos-private-{}", std::process::id())));
    trainer.restore(&checkpoint).map_err(|e| Error::mismatch(&path, e.to_string()))?;
    Ok((trainer, checkpoint.meta))
}

/// Ranks every user of the run in `folder` under its checkpoint `name`. The ranks of `best` are kept in the folder.
pub fn score(
    folder: &RunFolder,
    settings: &Validated<Settings>,
    split: Split,
    name: &str,
    device: &RunDevice,
    observer: &dyn Observer,
) -> Result<Scored> {
    let mut device = device.clone();
    let data = Arc::new(load_run_data(folder, settings, observer)?);
    let users: Vec<u32> = (0..data.users() as u32).collect();
    let mut more = Scores::new();
    let (ranks, meta) = if methods::find(&settings.method)?.family == Family::Baseline {
        let mut rank = |sought: Sought, users: &[u32]| Ok(eval::popularity_ranks(&data, settings.eval.mask, sought, users));
        let ranks = rank(split.into(), &users)?;
        add_several(settings, &data, split, (&users, &ranks), &mut more, &mut rank)?;
        add_exposure(settings, &data, split, &users, &mut more, rank)?;
        (ranks, None)
    } else {
        let (mut trainer, meta) = open_trained(folder, name, settings, &data, &mut device)?;
        device.tell(observer);
        let ranks = trainer.rank(split, &users, &|done, total| observer.stage("ranking", done, total))?;
        let mut rank = |sought: Sought, users: &[u32]| trainer.rank(sought, users, &|_, _| ());
        add_several(settings, &data, split, (&users, &ranks), &mut more, &mut rank)?;
        add_exposure(settings, &data, split, &users, &mut more, rank)?;
        observer.stage_end("ranking");
        (ranks, Some(meta))
    };
    let best = name == "best";
    let keep = || match lock(folder) {
        Ok(_lock) if is_newer(folder, meta.as_ref()) => Ok(Some("the run has a better checkpoint by now".to_string())),
        Ok(_lock) => unless_read_only(write_ranks(&folder.ranks(split), &ranks, &data.fingerprint)),
        // Whoever trains there writes the ranks of its own best checkpoint.
        Err(owned @ Error::InUse { .. }) => Ok(Some(owned.to_string())),
        Err(other) => unless_read_only(Err(other)),
    };
    let not_kept = match best {
        true if folder.settings()?.eval.local_epochs != settings.eval.local_epochs => {
            Some("they are of another eval.local_epochs than the run's".to_string())
        }
        true => keep()?,
        false => None,
    };
    let mut scores = scores(&eval::metrics(&ranks, &settings.eval.k))?;
    scores.extend(more);
    Ok(Scored {
        method: settings.method.clone(),
        data: data.name.clone(),
        split: split_name(split),
        round: meta.map_or(0, |m| m.round),
        device: device.name().to_string(),
        ks: settings.eval.k.clone(),
        scores,
        ranks_kept: best && not_kept.is_none(),
        not_kept,
    })
}

/// Whether the best checkpoint is not the one of `meta` any more.
fn is_newer(folder: &RunFolder, meta: Option<&CheckpointMeta>) -> bool {
    meta.is_some_and(|meta| Checkpoint::load_meta(&folder.checkpoint("best")).map_or(true, |now| now.sha256 != meta.sha256))
}

/// The reason, where nothing may be written: the figures do not depend on it.
fn unless_read_only(written: Result<()>) -> Result<Option<String>> {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    match written {
        Err(Error::Io { ref source, .. }) if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem) => {
            Ok(written.err().map(|e| e.to_string()))
        }
        written => written.map(|()| None),
    }
}

/// The `k` best items for `history` (oldest first) under the checkpoint `name` of the run in `folder`, with their scores, best first;
/// items that `eval.mask` hides are left out. With `user` that user's private weights are used, where there are any.
///
/// # Errors
/// Where the checkpoint is missing or of another run, and for an empty history.
pub fn recommend(
    folder: &RunFolder,
    name: &str,
    settings: &Validated<Settings>,
    data: &Arc<Dataset>,
    user: Option<u32>,
    history: &[u32],
    k: usize,
) -> Result<Vec<(u32, f32)>> {
    if methods::find(&settings.method)?.family == Family::Baseline {
        return Ok(eval::popularity_items(data, settings.eval.mask, history, k));
    }
    // One history is encoded before a GPU has as much as started.
    let mut device = Devices::default().to_rank(settings, "cpu")?;
    let (mut trainer, _) = open_trained(folder, name, settings, data, &mut device)?;
    trainer.recommend(user, history, k)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    #[test]
    fn figures_are_withheld_for_any_failure_but_a_folder_that_may_only_be_read() {
        let failed = |kind: ErrorKind| unless_read_only(Err(Error::io("run/ranks", "create")(kind.into())));
        for kind in [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem] {
            assert!(failed(kind).unwrap().unwrap().contains("run/ranks"));
        }
        assert!(failed(ErrorKind::StorageFull).is_err());
        assert_eq!(unless_read_only(Ok(())).unwrap(), None);
    }
}
