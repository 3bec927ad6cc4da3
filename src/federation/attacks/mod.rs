//! Malicious clients of an attacker's own: participants beside the users, each with a history that the attacker has written and, for some attacks,
//! item rows that it has computed from the global weights in the place of what training gives.
//!
//! `attack.name` names one, with options; `attack.share` says how many there are for each user, `attack.target` which items they promote, and
//! `attack.from` when they begin. An attack is one file here and one line in [`KINDS`]. Attacks in which clients of the federation turn malicious
//! are rules ([`super::rules`]).

mod a_hum;
mod a_ra;
mod bandwagon;
mod boosting;
mod classifier;
mod crafted;
mod dv_fsr;
mod encoded;
mod fed_rec_attack;
mod label_flip;
mod pip_attack;
mod poison_frs;
mod psmu;
mod random_items;
mod scene;
mod titles;

use crate::base::options::{self, Choice, Options};
use crate::config::Settings;
use crate::data::{Cuts, Dataset};
use crate::engine::{Occasion, Rule, Update};
use crate::{Result, eval};
use std::sync::Arc;

pub use scene::Scene;
pub use titles::{Titles, with_titles};

/// Item rows that a malicious client uploads: an item and the change of its row `[d]`, each item once.
pub type Rows = Vec<(u32, Vec<f32>)>;

/// What the malicious clients of an attack do. Equal scenes, occasions and honest updates must give equal bits.
pub trait Attacker: Send + Sync {
    /// Training items of malicious client `n`, counted from 0; at least two.
    fn history(&self, scene: &Scene, n: u32) -> Vec<u32>;

    /// What the client uploads in the place of `honest`, the update that training on its history gives; nothing where it is that one. Dense weights
    /// stay those of honest training.
    fn craft(&self, _scene: &Scene, _occasion: &Occasion, _honest: &Update) -> Option<Rows> {
        None
    }

    /// Whether [`Attacker::craft`] gives anything.
    fn crafts(&self) -> bool {
        false
    }
}

/// An attack by name.
pub struct Kind {
    /// Name, the first word of `attack.name`.
    pub name: &'static str,
    /// One line: what a malicious client does.
    pub summary: &'static str,
    /// Where it was published.
    pub paper: &'static str,
    /// What the attacker has to know besides the global weights that every client gets.
    pub knows: &'static str,
    /// Every option with its default.
    pub options: &'static [(&'static str, f64)],
    /// Whether it promotes the items of `attack.target`.
    pub promotes: bool,
    /// Makes the attacker, or says what is wrong with an option.
    pub build: fn(&Options) -> Result<Box<dyn Attacker>>,
}

/// The attacks of LUMOS with clients of their own.
pub const KINDS: &[Kind] = &[
    random_items::KIND,
    boosting::KIND,
    bandwagon::KIND,
    a_ra::KIND,
    a_hum::KIND,
    fed_rec_attack::KIND,
    pip_attack::KIND,
    psmu::KIND,
    poison_frs::KIND,
    dv_fsr::KIND,
    label_flip::KIND,
];

impl Choice for Kind {
    fn name(&self) -> &'static str {
        self.name
    }

    fn options(&self) -> &'static [(&'static str, f64)] {
        self.options
    }
}

/// The attack with clients of its own that `settings` name, with its options; nothing where they name none or a rule.
///
/// # Errors
/// [`crate::Error::Setting`] for an option that is not known.
pub fn chosen(settings: &Settings) -> Result<Option<(&'static Kind, Options)>> {
    let name = settings.attack.name.split_whitespace().next();
    if !KINDS.iter().any(|kind| Some(kind.name) == name) {
        return Ok(None);
    }
    options::read("attack.name", "attack", &settings.attack.name, KINDS).map(Some)
}

/// Malicious participants beside `users` users: `attack.share` of them, at least one; 0 without such an attack.
pub fn count(settings: &Settings, users: usize) -> u32 {
    match chosen(settings) {
        Ok(Some(_)) => ((settings.attack.share * users as f64).round() as u32).max(1),
        _ => 0,
    }
}

/// The items whose exposure is measured: those of `attack.target`, for an attack that promotes, by clients or by titles, at least the least popular one.
///
/// # Errors
/// As [`eval::targets`].
pub fn promoted(settings: &Settings, data: &Dataset) -> Result<Vec<u32>> {
    let promotes = !settings.attack.titles.is_empty() || chosen(settings)?.is_some_and(|(kind, _)| kind.promotes);
    if settings.attack.target.is_empty() && promotes {
        return eval::targets("attack.target", &["least-popular".into()], data);
    }
    eval::targets("attack.target", &settings.attack.target, data)
}

/// The malicious clients of a training.
pub struct Plan {
    /// The data set with their histories behind those of the users.
    pub data: Arc<Dataset>,
    /// What happens to their updates, where they compute any.
    pub rule: Option<Box<dyn Rule>>,
}

/// The malicious clients that `settings` put beside the users of `data`; nothing where they put none.
///
/// # Errors
/// As [`chosen`] and [`promoted`].
pub fn plan(settings: &Settings, data: &Arc<Dataset>) -> Result<Option<Plan>> {
    let Some((kind, options)) = chosen(settings)? else { return Ok(None) };
    let attacker = (kind.build)(&options)?;
    let scene = Scene::new(settings, data, promoted(settings, data)?);
    let mut with = (**data).clone();
    for n in 0..count(settings, data.users()) {
        let history = attacker.history(&scene, n);
        match &mut with.cuts {
            Some(cuts) => {
                with.items.extend(&history);
                cuts.train.push(history.len() as u32);
                cuts.validation.push(Cuts::NONE);
                cuts.test.push(Cuts::NONE);
            }
            // They are not ranked: the places of the validation and the test item hold the last one again.
            None => with.items.extend(history.iter().chain([history.last().unwrap_or(&0); 2])),
        }
        with.offsets.push(with.items.len() as u64);
        with.user_tokens.push(format!("malicious client {}", n + 1));
    }
    let rule = attacker.crafts().then(|| Box::new(crafted::Crafted { attacker, scene }) as Box<dyn Rule>);
    Ok(Some(Plan { data: Arc::new(with), rule }))
}

#[cfg(test)]
mod tests;
