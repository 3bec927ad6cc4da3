//! What the settings of terms on views have in common.

use crate::config::range::{number, refuse};
use crate::config::{GeneratorKind, RecLoss, Settings};
use crate::model::ModelSpec;
use crate::{Error, Result};

/// Refuses a weight of examples beside the training positions that is out of range, and settings that it cannot be meant with.
///
/// # Errors
/// [`Error::Setting`] with the key and what to do.
pub(super) fn weight(settings: &Settings, key: &str, weight: f32) -> Result<()> {
    number(|x| x >= 0.0, key, weight, "a finite number, 0 or more")?;
    if weight == 0.0 {
        return Ok(());
    }
    if settings.loss.rec == RecLoss::Softmax {
        return refuse("loss.rec", "softmax", &format!("`bce`, `gbce` or `sampled-softmax`, because {key} is on; or set {key}=0"));
    }
    if ModelSpec::new(&settings.model).asked.is_some() {
        let wanted = format!("a backbone that reads forwards, because {key} is on; or set {key}=0");
        return refuse("model.backbone", settings.model.backbone.name(), &wanted);
    }
    views(settings, key)
}

/// Refuses a setting that is on in a run without views.
///
/// # Errors
/// [`Error::Setting`] with the key and what to do.
pub(super) fn views(settings: &Settings, key: &str) -> Result<()> {
    if settings.views.generator == GeneratorKind::NONE {
        return Err(Error::setting("views.generator", format!("is none, wanted a generator, because {key} is on; or set {key}=0")));
    }
    Ok(())
}
