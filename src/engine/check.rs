//! Which settings of local training, and of a GPU, can be meant.

use crate::Result;
use crate::config::range::{at_least_one, number, refuse};
use crate::config::{LocalSettings, Resident, Settings};

/// Refuses rates out of range, and clients resident on a multiprocessor where they cannot be.
///
/// # Errors
/// [`crate::Error::Setting`] with the key and what to do.
pub fn check(settings: &Settings) -> Result<()> {
    local(&settings.local)?;
    gpu(settings)
}

fn local(s: &LocalSettings) -> Result<()> {
    at_least_one("local.epochs", s.epochs)?;
    number(|x| x > 0.0, "local.lr", s.lr, "a finite number above 0")?;
    number(|x| (0.0..=1.0).contains(&x), "local.decay", s.decay, "between 0 and 1 (a share)")?;
    number(|x| x >= 0.0, "local.weight_decay", s.weight_decay, "a finite number, 0 or more")?;
    number(|x| x >= 0.0, "local.proximal", s.proximal, "a finite number, 0 or more")?;
    number(|x| x >= 0.0, "local.clip", s.clip, "a finite number above 0, or 0 for none")?;
    number(|x| (0.0..1.0).contains(&x), "local.beta1", s.beta1, "at least 0 and below 1 (a rate)")?;
    number(|x| (0.0..1.0).contains(&x), "local.beta2", s.beta2, "at least 0 and below 1 (a rate)")?;
    number(|x| x > 0.0, "local.eps", s.eps, "a finite number above 0")?;
    at_least_one("local.batch", s.batch)
}

fn gpu(settings: &Settings) -> Result<()> {
    match settings.why_not_resident() {
        Some(reason) if settings.gpu.resident == Resident::On => {
            refuse("gpu.resident", "`on`", &format!("`auto` or `off`, because {reason}"))
        }
        _ => Ok(()),
    }
}
