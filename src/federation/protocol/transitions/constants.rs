//! The options of `transitions`.

use crate::base::options::Options;
use crate::config::{Contrast, Settings};
use crate::data::PairWeights;
use crate::{Error, Result};

/// Every option with its default: the setting that was best on validation over four data sets (docs/results.md).
pub const OPTIONS: &[(&str, f64)] = &[
    ("window", 20.0),
    ("gap", 0.25),
    ("back", 0.0),
    ("history", 20.0),
    ("recency", 1.0),
    ("prior", 30.0),
    ("rarity", 0.0),
    ("clip", 0.0),
    ("noise", 0.0),
    ("threshold", 3.0),
];

/// How pairs are counted and how a history is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constants {
    /// Largest distance of a pair in a history.
    pub window: usize,
    /// A pair at distance `g` counts `g^-gap`.
    pub gap: f64,
    /// What a pair counts from its later item to its earlier one, as a share of the other direction.
    pub back: f64,
    /// Last items of a history that are read.
    pub history: usize,
    /// The item at place `k` from the end (counted from 1) weighs `k^-recency`.
    pub recency: f64,
    /// Transitions by popularity that are added to those of an item before its shares are taken (Bayesian smoothing); 0: none.
    pub prior: f64,
    /// Scores are divided by the share of all transitions that lead to an item, to this power.
    pub rarity: f64,
    /// Largest Euclidean norm of what a participant adds; 0: no bound.
    pub clip: f64,
    /// Standard deviation of the noise on each sum of a round, as a multiple of `clip`; 0: none.
    pub noise: f64,
    /// Sums below this many standard deviations of their noise count as 0.
    pub threshold: f64,
}

impl Constants {
    /// The constants that `options` ask for, beside `settings`.
    ///
    /// # Errors
    /// [`Error::Setting`] for an option out of range and for settings that mean nothing to counts.
    pub fn read(options: &Options, settings: &Settings) -> Result<Constants> {
        suits(settings)?;
        let within = |name: &str, most: f64| options.get(name, |x| (0.0..=most).contains(&x), &format!("between 0 and {most}"));
        let clip = within("clip", 1e6)?;
        let noise = options.get("noise", |x| x == 0.0 || (x > 0.0 && x <= 1e3 && clip > 0.0), "0, or at most 1000 with a clip above 0")?;
        Ok(Constants {
            window: options.count("window", 1, 10_000)? as usize,
            gap: within("gap", 10.0)?,
            back: within("back", 1.0)?,
            history: options.count("history", 1, 10_000)? as usize,
            recency: within("recency", 10.0)?,
            prior: within("prior", 1e6)?,
            rarity: within("rarity", 1.0)?,
            clip,
            noise,
            threshold: within("threshold", 100.0)?,
        })
    }
}

impl Constants {
    /// What a pair counts.
    pub fn weights(&self) -> PairWeights {
        let Constants { window, gap, back, clip, .. } = *self;
        PairWeights { window, gap, back, clip }
    }
}

/// Refuses settings that mean nothing where pairs are counted.
fn suits(settings: &Settings) -> Result<()> {
    let refuse = |key: &str, value: &str, wanted: &str| {
        let message =
            format!("is {value}, and federation.protocol = \"transitions\" {wanted}; set method=fed-transitions for all it needs");
        Err(Error::setting(key, message))
    };
    if settings.loss.contrast != Contrast::None {
        return refuse("loss.contrast", settings.loss.contrast.name(), "looks at no views: wanted none");
    }
    if let Some(term) = settings.loss.terms.first() {
        return refuse("loss.terms", &format!("[\"{term}\", ..]"), "has no loss: wanted none");
    }
    if let Some(rule) = settings.federation.rules.first() {
        return refuse(
            "federation.rules",
            &format!("[\"{rule}\", ..]"),
            "uploads counts, no updates that a rule could change: wanted none",
        );
    }
    Ok(())
}
