//! The options of `gcl4sr`.

use crate::base::options::Options;
use crate::config::{Backbone, LocalOptimizer, Settings};
use crate::federation::protocol::central;
use crate::{Error, Result};

/// Every option with its default: those of the published code.
pub const OPTIONS: &[(&str, f64)] = &[
    ("contrast", 1.0),
    ("tau", 0.5),
    ("mmd", 0.1),
    ("neighbours", 20.0),
    ("hops", 2.0),
    ("graph-dropout", 0.5),
    ("decay", 0.7),
    ("every", 5.0),
    ("prefixes", 0.0),
];

/// How the model is built and trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constants {
    /// Weight of the contrast of the two samples.
    pub contrast: f64,
    /// Its temperature.
    pub tau: f64,
    /// Weight of each maximum mean discrepancy.
    pub mmd: f64,
    /// Most neighbours of an item in a sample.
    pub neighbours: usize,
    /// Graph layers, and how far a sample reaches.
    pub hops: usize,
    /// Dropout between graph layers and behind the gates.
    pub graph_dropout: f32,
    /// Factor of the rate ...
    pub decay: f64,
    /// ... after this number of rounds.
    pub every: u64,
    /// Most prefixes of a user in a local epoch, drawn anew in each; 0: all.
    pub prefixes: usize,
}

impl Constants {
    /// The constants that `options` ask for, beside `settings`.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] for an option out of range and for settings that mean nothing here.
    pub fn read(options: &Options, settings: &Settings) -> Result<Constants> {
        central::suits(settings, "gcl4sr", &[LocalOptimizer::Adam, LocalOptimizer::Adamw])?;
        if settings.model.backbone != Backbone::SASREC {
            let message = format!("is {}, and gcl4sr has a transformer of its own: wanted sasrec", settings.model.backbone.name());
            return Err(Error::setting("model.backbone", message));
        }
        // Places of a mini-batch are numbered by 32 bits.
        if u64::from(settings.local.batch) * u64::from(settings.model.max_len) > u64::from(u32::MAX) {
            let most = u32::MAX / settings.model.max_len.max(1);
            return Err(Error::setting("local.batch", format!("is {}, wanted at most {most} at this model.max_len", settings.local.batch)));
        }
        let within = |name: &str, most: f64| options.get(name, |x| (0.0..=most).contains(&x), &format!("between 0 and {most}"));
        Ok(Constants {
            contrast: within("contrast", 100.0)?,
            tau: options.get("tau", |x| x > 0.0 && x <= 100.0, "above 0 and at most 100")?,
            mmd: within("mmd", 100.0)?,
            neighbours: options.count("neighbours", 1, 10_000)? as usize,
            hops: options.count("hops", 1, 4)? as usize,
            graph_dropout: options.get("graph-dropout", |x| (0.0..1.0).contains(&x), "at least 0 and below 1")? as f32,
            decay: options.get("decay", |x| x > 0.0 && x <= 1.0, "above 0 and at most 1")?,
            every: options.count("every", 1, 1_000_000)?.into(),
            prefixes: options.count("prefixes", 0, 1_000_000)? as usize,
        })
    }

    /// What the rate is multiplied by in `round` (counted from 1).
    #[cfg(feature = "llm")]
    pub fn rate_at(&self, round: u64) -> f64 {
        self.decay.powf((round.saturating_sub(1) / self.every) as f64)
    }
}
