//! What a curious server learns of the clients of a run.

use super::folder::RunFolder;
use super::pipeline::prepare;
use super::score::open_trained;
use super::{Devices, Observer};
use crate::config::methods::{self, Family};
use crate::config::{Clients, Settings, Validated};
use crate::federation::inference::{Inference, infer as guess, uploads};
use crate::{Error, Result};
use std::sync::Arc;

/// Guesses of the histories of the first `clients` clients (0: all) from what they would upload after the checkpoint `name` of the run in `folder`.
///
/// # Errors
/// Where the run has no such checkpoint, or trains no clients with a user each; where nothing is uploaded.
pub fn infer(folder: &RunFolder, name: &str, settings: &Validated<Settings>, clients: usize, observer: &dyn Observer) -> Result<Inference> {
    let averaging = settings.federation.protocol.split_whitespace().next() == Some("averaging");
    if methods::find(&settings.method)?.family == Family::Baseline || settings.federation.clients != Clients::User || !averaging {
        let message = "trains no clients of one user each that upload item rows: there is nothing to infer from";
        return Err(Error::mismatch(folder.root(), message));
    }
    if settings.local.optimizer.takes_second() {
        let message = "trains with local.optimizer = \"preconditioned\", whose steps follow from more of the server than its weights: what its clients would upload cannot be made again";
        return Err(Error::mismatch(folder.root(), message));
    }
    let prepared = prepare(settings, observer)?;
    let data = &prepared.data;
    if data.fingerprint != folder.info()?.fingerprint {
        return Err(Error::mismatch(folder.root(), "was trained on another state of its data set; prepare that one again"));
    }
    // What goes down to clients is the model that is trained on, whichever ranks.
    let settings = &settings.clone().with(|s| s.federation.ranking_average = 0.0)?;
    let mut device = Devices::default().to_rank(settings, "cpu")?;
    let (trainer, meta) = open_trained(folder, name, settings, data, &mut device)?;
    let weights = trainer.weights()?;
    let count = if clients == 0 { data.users() } else { clients.min(data.users()) };
    let all: Vec<u32> = (0..count as u32).collect();
    let round = meta.round + 1;
    // Clients and who guesses work at the rate of that round.
    let settings = settings.clone().with(|s| s.local = s.local_at(round))?;
    let updates = uploads(&Arc::new(settings.clone()), data, &prepared.views, weights.clone(), round, &all)?;
    guess(&settings, data, &weights, &updates)
}
