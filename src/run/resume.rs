//! Which checkpoint a run goes on from: the last one, or the one before it where the last is damaged.

use super::Observer;
use super::checkpoint::Checkpoint;
use super::folder::RunFolder;
use crate::config::Settings;
use crate::data::Dataset;
use crate::{Error, Result};

/// The newest state that the run in `folder` can be gone on from; `None` where nothing was saved yet. Afterwards it lies in `last`, and
/// `best` is what it says. Damage is reported to `observer`.
///
/// # Errors
/// [`Error::Mismatch`] where neither checkpoint serves, or one is of another run.
pub(super) fn newest(folder: &RunFolder, settings: &Settings, data: &Dataset, observer: &dyn Observer) -> Result<Option<Checkpoint>> {
    let run = Saved { folder, settings, data };
    let (failure, lacking) = match run.load("last") {
        Ok(Some(last)) => match run.lacks(&last)? {
            None => return Ok(Some(last)),
            Some(_) if last.is_best() => {
                // Killed between the two, or damaged: the state itself is the best one.
                last.save(&folder.checkpoint("best"))?;
                return Ok(Some(last));
            }
            Some(why) => (why, Some(last)),
        },
        Ok(None) if !folder.checkpoint("previous").exists() => return Ok(None),
        Ok(None) => (Error::mismatch(folder.checkpoint("last"), "is missing"), None),
        Err(damage) => (damage, None),
    };
    let Ok(Some(previous)) = run.load("previous") else { return Err(failure) };
    if let Some(last) = lacking.filter(|last| previous.meta.round == last.meta.best_round) {
        previous.save(&folder.checkpoint("best"))?;
        observer.warn(&format!("{failure}. It is made anew from the checkpoint before the last one"));
        return Ok(Some(last));
    }
    match run.lacks(&previous)? {
        Some(_) if previous.is_best() => previous.save(&folder.checkpoint("best"))?,
        Some(why) => return Err(why),
        None => (),
    }
    let (from, to) = (folder.checkpoint("previous"), folder.checkpoint("last"));
    std::fs::rename(&from, &to).map_err(Error::io(&to, "replace"))?;
    observer.warn(&format!("{failure}. Going on from the checkpoint before it, of round {}", previous.meta.round));
    Ok(Some(previous))
}

/// The checkpoints of a run.
struct Saved<'a> {
    folder: &'a RunFolder,
    settings: &'a Settings,
    data: &'a Dataset,
}

impl Saved<'_> {
    /// The checkpoint `name`; `None` where there is none.
    fn load(&self, name: &str) -> Result<Option<Checkpoint>> {
        let path = self.folder.checkpoint(name);
        match Checkpoint::load(&path) {
            Ok(checkpoint) => Ok(Some(checkpoint)),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Why `best` is not what a run that stands at `state` needs, if so.
    fn lacks(&self, state: &Checkpoint) -> Result<Option<Error>> {
        let wanted = state.meta.best_round;
        if wanted == 0 {
            return Ok(None);
        }
        let path = self.folder.checkpoint("best");
        let best = match self.load("best") {
            Ok(Some(best)) => best,
            Ok(None) => return Ok(Some(Error::mismatch(&path, "is missing; restore it from a copy, or train a new run"))),
            Err(damage) => return Ok(Some(damage)),
        };
        best.belongs_to(&path, self.settings, self.data)?;
        let round = best.meta.round;
        // One of a later round will be made again when the run gets there.
        let serves = round == wanted || round > state.meta.round;
        let message = || format!("is of round {round}, and the best so far is round {wanted}; restore it from a copy, or train a new run");
        Ok((!serves).then(|| Error::mismatch(&path, message())))
    }
}
