//! Ranges: what each setting may be by itself, beside the others, and beside a data set.

use super::*;
use crate::base::names;
use crate::data::{reader, reader_names};
use crate::eval::SelectMetric;
use crate::{Error, Result};

fn refuse<T>(key: &str, value: impl std::fmt::Display, wanted: &str) -> Result<T> {
    Err(Error::setting(key, format!("is {value}, wanted {wanted}")))
}

/// Refuses a number outside its range, whose ends `range` names: `between 1 and 64`.
fn range(ok: bool, key: &str, value: impl std::fmt::Display, range: &str) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::setting(key, format!("is {value}, must be {range}"))) }
}

fn check(ok: bool, key: &str, value: impl std::fmt::Display, wanted: &str) -> Result<()> {
    if ok { Ok(()) } else { refuse(key, value, wanted) }
}

/// Refuses settings that cannot be meant, with the key, the value and what is wanted.
pub fn validate(settings: &Settings) -> Result<()> {
    methods::find(&settings.method)?;
    for (i, name) in settings.compare.iter().enumerate() {
        methods::find(name).map_err(|e| match e {
            Error::Setting { message, .. } => Error::setting("compare", message),
            other => other,
        })?;
        check(!settings.compare[..i].contains(name), "compare", format!("a list with `{name}` twice"), "each method once")?;
    }
    range(settings.threads <= 4096, "threads", settings.threads, "between 0 and 4096 (0: all cores)")?;
    settings.device.parse::<crate::device::Choice>().map_err(|e| Error::setting("device", e.to_string()))?;
    let llm = &settings.views.llm.device;
    if llm != "candle" {
        llm.parse::<crate::device::Choice>().map_err(|e| Error::setting("views.llm.device", format!("{e}; or candle")))?;
    }
    data(&settings.data)?;
    views(&settings.views)?;
    model(&settings.model)?;
    loss(settings)?;
    crate::model::objectives::check(settings)?;
    local(&settings.local)?;
    federation(settings)?;
    gpu(settings)?;
    eval(&settings.eval)
}

/// A finite number inside a range whose ends are named by `wanted`.
fn number(ok: impl Fn(f32) -> bool, key: &str, value: f32, wanted: &str) -> Result<()> {
    range(value.is_finite() && ok(value), key, value, wanted)
}

fn at_least_one(key: &str, value: u32) -> Result<()> {
    range(value >= 1, key, value, "at least 1")
}

fn data(s: &DataSettings) -> Result<()> {
    if !reader_names().contains(&s.format.as_str()) {
        return Err(Error::setting("data.format", names::unknown("value", &s.format, reader_names())));
    }
    let plain = !s.name.is_empty() && s.name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c)) && !s.name.starts_with('.');
    check(plain, "data.name", format!("`{}`", s.name), "letters, digits, `-`, `_` and `.` (it names folders)")?;
    if s.format == "synthetic" {
        range(s.synth_users >= 2, "data.synth_users", s.synth_users, "at least 2")?;
        range(s.synth_items >= 2, "data.synth_items", s.synth_items, "at least 2")?;
        number(|x| (3.0..=10_000.0).contains(&x), "data.synth_mean_length", s.synth_mean_length, "between 3 and 10000")?;
    } else if reader(&s.format)?.reads_files() {
        let given = s.inter.as_ref().is_some_and(|p| !p.as_os_str().is_empty());
        if !given {
            return Err(Error::setting("data.inter", format!("is not set; format `{}` reads the interactions from this file", s.format)));
        }
        check(!s.user_column.is_empty(), "data.user_column", "empty", "the name of a column")?;
        check(!s.item_column.is_empty(), "data.item_column", "empty", "the name of a column")?;
        let catalogue = [
            ("data.title_column", &s.title_column),
            ("data.category_column", &s.category_column),
            ("data.brand_column", &s.brand_column),
            ("data.also_bought_column", &s.also_bought_column),
        ];
        if let Some((key, name)) = catalogue.into_iter().find(|(_, name)| !name.is_empty() && s.items.is_none()) {
            return Err(Error::setting(key, format!("`{name}` is a column of the catalogue, and data.items names none")));
        }
    }
    let long_enough = s.max_length == 0 || s.max_length >= 3;
    check(long_enough, "data.max_length", s.max_length, "0 (all) or at least 3 (training, validation and test item)")
}

fn views(s: &ViewSettings) -> Result<()> {
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
    crate::model::check(s)
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

fn local(s: &LocalSettings) -> Result<()> {
    at_least_one("local.epochs", s.epochs)?;
    number(|x| x > 0.0, "local.lr", s.lr, "a finite number above 0")?;
    number(|x| x >= 0.0, "local.weight_decay", s.weight_decay, "a finite number, 0 or more")?;
    number(|x| x >= 0.0, "local.clip", s.clip, "a finite number above 0, or 0 for none")?;
    number(|x| (0.0..1.0).contains(&x), "local.beta1", s.beta1, "at least 0 and below 1 (a rate)")?;
    number(|x| (0.0..1.0).contains(&x), "local.beta2", s.beta2, "at least 0 and below 1 (a rate)")?;
    number(|x| x > 0.0, "local.eps", s.eps, "a finite number above 0")?;
    at_least_one("local.batch", s.batch)
}

fn federation(settings: &Settings) -> Result<()> {
    let s = &settings.federation;
    number(|x| x > 0.0 && x <= 1.0, "federation.fraction", s.fraction, "above 0 and at most 1 (a share)")?;
    at_least_one("federation.rounds", s.rounds)?;
    for (i, group) in s.shared.iter().enumerate() {
        let twice = s.shared[..i].contains(group);
        check(!twice, "federation.shared", format!("a list with `{}` twice", group.name()), "each group once")?;
    }
    check(!s.shared.is_empty(), "federation.shared", "empty", "at least one group; with none the clients would learn alone")?;
    number(|x| (0.0..1.0).contains(&x), "federation.max_diverged", s.max_diverged, "at least 0 and below 1 (a share)")?;
    number(|x| (0.0..1.0).contains(&x), "federation.dropout_rate", s.dropout_rate, "at least 0 and below 1 (a share)")?;
    number(|x| x > 0.0, "federation.server_lr", s.server_lr, "a finite number above 0")?;
    number(|x| (0.0..1.0).contains(&x), "federation.server_momentum", s.server_momentum, "at least 0 and below 1 (a rate)")?;
    number(|x| (0.0..1.0).contains(&x), "federation.server_beta2", s.server_beta2, "at least 0 and below 1 (a rate)")?;
    number(|x| x > 0.0, "federation.server_eps", s.server_eps, "a finite number above 0")?;
    if s.clients == Clients::Column && settings.data.group_column.is_empty() {
        let wanted = "data.group_column, which names the column; or \"groups:N\" for groups by chance";
        return refuse("federation.clients", "column", wanted);
    }
    crate::federation::protocol::chosen(settings)?;
    crate::federation::rules::build(&s.rules).map(|_| ())
}

fn gpu(settings: &Settings) -> Result<()> {
    match settings.why_not_resident() {
        Some(reason) if settings.gpu.resident == Resident::On => {
            refuse("gpu.resident", "`on`", &format!("`auto` or `off`, because {reason}"))
        }
        _ => Ok(()),
    }
}

fn eval(s: &EvalSettings) -> Result<()> {
    at_least_one("eval.every", s.every)?;
    check(!s.k.is_empty(), "eval.k", "empty", "at least one cut-off, such as [5, 10, 20]")?;
    for (i, k) in s.k.iter().enumerate() {
        check(*k >= 1, "eval.k", format!("a list with {k}"), "cut-offs of at least 1")?;
        check(!s.k[..i].contains(k), "eval.k", format!("a list with {k} twice"), "each cut-off once")?;
    }
    select(s).map(|_| ())
}

/// The metric of `eval.select`, whose K must be among `eval.k`.
pub fn select(s: &EvalSettings) -> Result<SelectMetric> {
    let metric = SelectMetric::parse("eval.select", &s.select)?;
    if s.k.contains(&metric.k) {
        return Ok(metric);
    }
    let list: Vec<String> = s.k.iter().map(u32::to_string).collect();
    let wanted = format!("a K out of eval.k = [{}]; add {} there or choose one of them", list.join(", "), metric.k);
    refuse("eval.select", format!("`{}`", s.select), &wanted)
}

/// Refuses settings that do not fit a data set of `users` and `items`.
pub fn validate_against(settings: &Settings, users: usize, items: usize) -> Result<()> {
    let (users, items) = (users as u64, items as u64);
    for &k in &settings.eval.k {
        let wanted = format!("cut-offs of at most {items}, the number of items of `{}`", settings.data.name);
        check(u64::from(k) <= items, "eval.k", format!("a list with {k}"), &wanted)?;
    }
    let cohort = settings.federation.cohort;
    match settings.federation.clients {
        Clients::User => {
            let wanted = format!("between 0 and {users}, the number of users of `{}`", settings.data.name);
            range(u64::from(cohort) <= users, "federation.cohort", cohort, &wanted)?;
        }
        Clients::One => {
            check(cohort <= 1, "federation.cohort", cohort, "0 or 1, because federation.clients = \"one\" has one participant")?
        }
        Clients::Column => {
            let wanted = format!("between 0 and the number of groups, at most {users}");
            range(u64::from(cohort) <= users, "federation.cohort", cohort, &wanted)?;
        }
        Clients::Groups(n) => {
            range(cohort <= n, "federation.cohort", cohort, &format!("between 0 and {n}, the number of groups"))?;
            let wanted = format!("\"groups:N\" with at most {users} groups, the number of users of `{}`", settings.data.name);
            check(u64::from(n) <= users, "federation.clients", settings.federation.clients, &wanted)?;
        }
    }
    if settings.loss.rec != RecLoss::Softmax {
        let n = settings.loss.negatives;
        let wanted = format!("fewer than {items}, the number of items of `{}`", settings.data.name);
        check(u64::from(n) < items, "loss.negatives", n, &wanted)?;
    }
    let chosen = u64::from(settings.eval.users);
    range(chosen <= users, "eval.users", chosen, &format!("between 0 and {users}, the number of users (0: all)"))
}
