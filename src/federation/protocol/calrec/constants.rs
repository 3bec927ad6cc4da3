//! The options of `calrec`.

use crate::base::options::Options;
use crate::config::{LocalOptimizer, Settings};
use crate::federation::protocol::central;
use crate::{Error, Result};

/// Every option with its default.
pub const OPTIONS: &[(&str, f64)] = &[
    ("first", 1.0),
    ("alpha", 0.125),
    ("beta", 0.025),
    ("tau", 0.5),
    ("rank", 8.0),
    ("scale", 16.0),
    ("samples", 8.0),
    ("temperature", 0.5),
    ("tokens", 32.0),
];

/// How the model is trained and asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constants {
    /// Rounds of the first stage: every item of a history is a target, and there is no contrast.
    pub first: u64,
    /// Weight of the contrast of the target in its context with the target alone.
    pub alpha: f64,
    /// Weight of the contrast of the user with the target alone.
    pub beta: f64,
    /// Temperature of both.
    pub tau: f64,
    /// Columns of the low-rank change of each projection; 0: all weights are trained.
    pub rank: usize,
    /// Factor of the change, divided by the rank.
    pub scale: f64,
    /// Texts drawn for a user.
    pub samples: usize,
    /// Temperature at which they are drawn; 0: the likeliest text, once.
    pub temperature: f32,
    /// Most tokens of a text.
    pub tokens: usize,
}

impl Constants {
    /// The constants that `options` ask for, beside `settings`.
    ///
    /// # Errors
    /// [`Error::Setting`] for an option out of range and for settings that mean nothing to a language model.
    pub fn read(options: &Options, settings: &Settings) -> Result<Constants> {
        central::suits(settings, "calrec", &[LocalOptimizer::Adamw])?;
        let within = |name: &str, most: f64| options.get(name, |x| (0.0..=most).contains(&x), &format!("between 0 and {most}"));
        let (alpha, beta) = (within("alpha", 1.0)?, within("beta", 1.0)?);
        if alpha + beta >= 1.0 {
            let message = format!("calrec: alpha + beta is {}, wanted below 1: the next-item loss weighs what they leave", alpha + beta);
            return Err(Error::setting("federation.protocol", message));
        }
        Ok(Constants {
            first: options.count("first", 0, 1_000_000)?.into(),
            alpha,
            beta,
            tau: options.get("tau", |x| x > 0.0 && x <= 100.0, "above 0 and at most 100")?,
            rank: options.count("rank", 0, 1024)? as usize,
            scale: options.get("scale", |x| x > 0.0 && x <= 1024.0, "above 0 and at most 1024")?,
            samples: options.count("samples", 1, 256)? as usize,
            temperature: within("temperature", 10.0)? as f32,
            tokens: options.count("tokens", 1, 1024)? as usize,
        })
    }
}
