//! Which settings of the model and of its objective can be meant.

use super::{backbones, objectives};
use crate::Result;
use crate::config::range::{at_least_one, ensure, number, range, refuse};
use crate::config::{Contrast, GeneratorKind, ModelSettings, RecLoss, Settings};

/// Refuses shapes and rates out of range, and terms of the objective that cannot be meant or rule each other out.
///
/// # Errors
/// [`crate::Error::Setting`] with the key and what to do.
pub fn check(settings: &Settings) -> Result<()> {
    model(&settings.model)?;
    loss(settings)?;
    objectives::check(settings)
}

/// Refuses an objective that `items` items are too few for.
///
/// # Errors
/// [`crate::Error::Setting`] with the key and what to do.
pub fn fits(settings: &Settings, items: u64) -> Result<()> {
    if settings.loss.rec != RecLoss::Softmax {
        let n = settings.loss.negatives;
        let fewer = format!("fewer than {items}, the number of items of `{}`", settings.data.name);
        ensure(u64::from(n) < items, "loss.negatives", n, &fewer)?;
    }
    Ok(())
}

fn model(s: &ModelSettings) -> Result<()> {
    range((1..=4096).contains(&s.dim), "model.dim", s.dim, "between 1 and 4096")?;
    range((1..=64).contains(&s.blocks), "model.blocks", s.blocks, "between 1 and 64")?;
    at_least_one("model.heads", s.heads)?;
    if !s.dim.is_multiple_of(s.heads) {
        let near: Vec<String> = (1..=s.dim).filter(|h| s.dim.is_multiple_of(*h)).map(|h| h.to_string()).collect();
        return refuse("model.heads", s.heads, &format!("a divisor of model.dim = {}: {}", s.dim, near.join(", ")));
    }
    range(s.ffn <= 65_536, "model.ffn", s.ffn, "between 0 and 65536 (0: model.dim)")?;
    number(|x| (0.0..1.0).contains(&x), "model.dropout", s.dropout, "at least 0 and below 1 (a rate)")?;
    number(|x| (0.0..1.0).contains(&x), "model.item_dropout", s.item_dropout, "at least 0 and below 1 (a rate)")?;
    range((1..=65_536).contains(&s.max_len), "model.max_len", s.max_len, "between 1 and 65536")?;
    number(|x| x > 0.0 && x <= 10.0, "model.init_std", s.init_std, "above 0 and at most 10")?;
    backbones::check(s)
}

fn loss(settings: &Settings) -> Result<()> {
    let s = &settings.loss;
    range((1..=65_536).contains(&s.negatives), "loss.negatives", s.negatives, "between 1 and 65536")?;
    number(|x| (0.0..=1.0).contains(&x), "loss.gbce_t", s.gbce_t, "between 0 and 1")?;
    number(|x| x >= 0.0, "loss.lambda", s.lambda, "a finite number, 0 or more")?;
    number(|x| x > 0.0, "loss.tau", s.tau, "a finite number above 0")?;
    if s.contrast == Contrast::None {
        return Ok(());
    }
    let name = s.contrast.name();
    if settings.views.generator == GeneratorKind::NONE {
        return refuse("views.generator", "none", &format!("a generator, because loss.contrast is `{name}`; or set loss.contrast=none"));
    }
    if !(s.future || s.paraphrase) {
        return refuse("loss.contrast", name, "a positive view: set loss.future or loss.paraphrase to true, or loss.contrast=none");
    }
    if !s.counterfactual && s.contrast == Contrast::Decoupled {
        let wanted = "loss.counterfactual = true, for nothing else stands in its denominator; or set loss.contrast=joint";
        return refuse("loss.contrast", name, wanted);
    }
    let views = [s.future, s.paraphrase, s.counterfactual];
    if views.iter().filter(|&&on| on).count() < 2 {
        return refuse("loss.contrast", name, "at least two views; with one alone it is always 0");
    }
    Ok(())
}
