//! Which settings of views can be meant.

use crate::config::range::{at_least_one, number, range, refuse};
use crate::config::{GeneratorKind, ViewSettings};
use crate::device::Choice;
use crate::{Error, Result};

/// Refuses settings out of range, and a language model that is not named.
///
/// # Errors
/// [`crate::Error::Setting`] with the key and what to do.
pub fn check(s: &ViewSettings) -> Result<()> {
    let device = &s.llm.device;
    if device != "candle" {
        device.parse::<Choice>().map_err(|e| Error::setting("views.llm.device", format!("{e}; or candle")))?;
    }
    at_least_one("views.future_min", s.future_min)?;
    if s.future_min > s.future_max {
        return refuse("views.future_min", s.future_min, &format!("at most views.future_max, which is {}", s.future_max));
    }
    range(s.future_max <= 1000, "views.future_max", s.future_max, "between 0 and 1000")?;
    range((1..=64).contains(&s.counterfactuals), "views.counterfactuals", s.counterfactuals, "between 1 and 64")?;
    number(|x| (0.0..=1.0).contains(&x), "views.substitute", s.substitute, "between 0 and 1 (a share)")?;
    number(|x| (0.0..=1.0).contains(&x), "views.reorder", s.reorder, "between 0 and 1 (a share)")?;
    range((1..=1000).contains(&s.neighbours), "views.neighbours", s.neighbours, "between 1 and 1000")?;
    number(|x| (0.0..=1.0).contains(&x), "views.max_failed", s.max_failed, "between 0 and 1 (a share)")?;
    written(s)
}

/// Views written by a language model.
fn written(s: &ViewSettings) -> Result<()> {
    let t = &s.text;
    range((1..=10_000).contains(&t.history), "views.text.history", t.history, "between 1 and 10000")?;
    range(t.categories <= 20, "views.text.categories", t.categories, "between 0 and 20")?;
    range((8..=2000).contains(&t.title_chars), "views.text.title_chars", t.title_chars, "between 8 and 2000")?;
    range((1..=1000).contains(&t.most_items), "views.text.most_items", t.most_items, "between 1 and 1000")?;
    range((1..=1000).contains(&t.line_tokens), "views.text.line_tokens", t.line_tokens, "between 1 and 1000")?;
    number(|x| (0.0..=1.0).contains(&x), "views.text.threshold", t.threshold, "between 0 and 1 (a likeness)")?;
    number(|x| (-1.0..=1.0).contains(&x), "views.text.embed_threshold", t.embed_threshold, "between -1 and 1 (a cosine)")?;
    let l = &s.llm;
    range(l.batch <= 65_536, "views.llm.batch", l.batch, "between 0 and 65536 (0: as many as suit the device)")?;
    number(|x| (0.0..=10.0).contains(&x), "views.llm.temperature", l.temperature, "between 0 (no draws) and 10")?;
    number(|x| x > 0.0 && x <= 1.0, "views.llm.top_p", l.top_p, "above 0 and at most 1 (a probability)")?;
    number(|x| x > 0.0 && x <= 10.0, "views.llm.repetition_penalty", l.repetition_penalty, "above 0 and at most 10 (1: none)")?;
    let v = &s.served;
    range((1..=4096).contains(&v.concurrency), "views.served.concurrency", v.concurrency, "between 1 and 4096")?;
    number(|x| (0.01..=86_400.0).contains(&x), "views.served.timeout_s", v.timeout_s, "between 0.01 and 86400 seconds")?;
    range(v.retries <= 1000, "views.served.retries", v.retries, "between 0 and 1000")?;
    number(|x| (0.0..=3600.0).contains(&x), "views.served.backoff_s", v.backoff_s, "between 0 and 3600 seconds")?;
    number(|x| (0.0..=604_800.0).contains(&x), "views.served.longest_wait_s", v.longest_wait_s, "between 0 and 604800 seconds (a week)")?;
    number(|x| (0.0..=10.0).contains(&x), "views.served.temperature", v.temperature, "between 0 and 10")?;
    number(|x| x > 0.0 && x <= 1.0, "views.served.top_p", v.top_p, "above 0 and at most 1 (a probability)")?;
    let wanted =
        |key: &str, what: &str| Err(Error::setting(key, format!("is not set; views.generator = \"{}\" needs {what}", s.generator.name())));
    let empty = |text: &Option<String>| text.as_ref().is_none_or(|t| t.trim().is_empty());
    match s.generator {
        GeneratorKind::LLM if l.model.as_ref().is_none_or(|p| p.as_os_str().is_empty()) => {
            wanted("views.llm.model", "the folder of a model")
        }
        GeneratorKind::SERVED if empty(&v.url) => wanted("views.served.url", "an address such as http://localhost:8000/v1"),
        GeneratorKind::SERVED if empty(&v.model) => wanted("views.served.model", "the model's name at the endpoint"),
        GeneratorKind::LLM if l.temperature == 0.0 && s.counterfactuals > 1 => {
            let several = "above 0: without draws all counterfactuals of a user would be one and the same";
            refuse("views.llm.temperature", 0, several)
        }
        _ => Ok(()),
    }
}
