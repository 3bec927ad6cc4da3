//! What of a run goes to TensorBoard.

use super::hparams;
use super::metrics::Line;
use super::result::Scores;
use super::tensorboard::{Events, TEST};
use crate::Result;
use crate::config::Settings;
use crate::device::telemetry::Spread;
use serde_json::Value;
use std::path::Path;

/// The event file of this start of a run.
pub(super) struct Board(Events);

impl Board {
    /// A file in `folder` for what comes after `round`; the first one says the settings.
    pub fn open(folder: &Path, round: u64, settings: &Settings) -> Result<Board> {
        let mut events = Events::open(folder, round)?;
        if round == 0 {
            events.summary(0, &hparams::start(settings)?)?;
        }
        Ok(Board(events))
    }

    /// A round, with its validation and its telemetry if any.
    pub fn line(&mut self, line: &Line) -> Result<()> {
        let r = &line.report;
        let mut out = Scalars::default();
        out.put("loss/next_item", r.rec_loss);
        // None was trained in a round without a loss: the curve ends where the contrast does.
        if r.contrast_loss != 0.0 {
            out.put("loss/contrast", r.contrast_loss);
        }
        if r.diverged > 0 {
            out.put("clients/diverged", r.diverged as f64);
        }
        out.put("speed/client_epochs_per_s", r.client_epochs as f64 / r.seconds);
        out.put("speed/round_seconds", r.seconds);
        out.put("bytes/up", r.bytes_up as f64);
        out.put("bytes/down", r.bytes_down as f64);
        if let Some(d) = &r.device {
            out.put("device/launches", d.launches as f64);
            out.put("device/replays", d.replays as f64);
            out.put("device/chunks", d.chunks as f64);
            out.put("device/busy_share", d.busy_share);
            out.put("device/predicted_bytes", d.predicted_bytes as f64);
            out.put("device/peak_bytes", d.peak_bytes as f64);
        }
        if let Some(gpu) = &line.gpu {
            let s = &gpu.summary;
            let mut mean = |name: &str, spread: Option<Spread>| spread.into_iter().for_each(|s| out.put(name, s.mean));
            mean("gpu/utilisation_percent", s.utilisation);
            mean("gpu/sm_mhz", s.sm_mhz);
            mean("gpu/memory_mhz", s.memory_mhz);
            mean("gpu/memory_bytes", s.memory_bytes);
            mean("gpu/watts", s.watts);
            mean("gpu/celsius", s.celsius);
            gpu.joules_per_round.into_iter().for_each(|j| out.put("gpu/joules_per_round", j));
        }
        if let Some(Value::Object(scores)) = &line.valid {
            out.scores("validation/", scores);
        }
        self.0.scalars(r.round, &out.0)
    }

    /// The test of the best checkpoint, at the round that it is of.
    pub fn test(&mut self, round: u64, scores: &Scores) -> Result<()> {
        let mut out = Scalars::default();
        out.scores(TEST, scores);
        self.0.scalars(round, &out.0)?;
        self.0.summary(round, &hparams::end())
    }
}

/// Tags and values.
#[derive(Default)]
struct Scalars(Vec<(String, f64)>);

impl Scalars {
    fn put(&mut self, tag: &str, value: f64) {
        self.0.push((tag.to_string(), value));
    }

    /// Metrics with a cut-off, such as `HR@10`.
    fn scores(&mut self, prefix: &str, scores: &Scores) {
        for (name, value) in scores.iter().filter(|(name, _)| name.contains('@')) {
            value.as_f64().into_iter().for_each(|v| self.put(&format!("{prefix}{name}"), v));
        }
    }
}
