//! What happens to updates between a client's visit and the server's step: attacks, bounds, noise, robust averages.
//!
//! `federation.rules` lists them in the order in which a client applies them; the server goes through the same list backwards. Each entry
//! is a name with options: `"sign-flip share=0.1"`, `"norm-bound bound=0.5"`, `"median"`. `attack.name` goes before the list, `defence.name` behind it. A rule is one file here and one line in
//! [`KINDS`]; one of another crate is made known by [`register`]. Without rules updates are added to the sums as they come, and none of this runs.

mod coordinates;
mod delay;
mod distances;
mod dx_noise;
mod flame;
mod gaussian;
mod geometric_median;
mod hics;
mod krum;
mod little;
mod malicious;
mod median;
mod median_norm;
mod norm_bound;
mod quantise;
mod row_clip;
mod row_weights;
mod separation;
mod sign_flip;
mod trimmed_mean;
mod user_privacy;

use super::attacks;
use crate::base::options::{self, Choice, Options};
use crate::base::{names, parallel};
use crate::config::Settings;
use crate::privacy::UserPrivacy;
use crate::{Error, Result};
use parking_lot::RwLock;

pub use crate::engine::{Needs, Occasion, Rule, Rules};

/// What a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Malicious clients: `attack.name`. It has an option `share`.
    Attack,
    /// The server's protection: `defence.name`.
    Defence,
    /// Neither.
    Other,
}

/// A rule by name.
pub struct Kind {
    /// Name, the first word of an entry.
    pub name: &'static str,
    /// What it is for.
    pub role: Role,
    /// One line: what it does.
    pub summary: &'static str,
    /// Where it was published.
    pub paper: &'static str,
    /// Every option with its default.
    pub options: &'static [(&'static str, f64)],
    /// Makes the rule, or says what is wrong with an option.
    pub build: fn(&Options) -> Result<Box<dyn Rule>>,
}

/// The rules of LUMOS.
pub const KINDS: &[Kind] = &[
    norm_bound::KIND,
    row_clip::KIND,
    row_weights::KIND,
    median::KIND,
    trimmed_mean::KIND,
    krum::KRUM,
    krum::MULTI_KRUM,
    geometric_median::KIND,
    median_norm::KIND,
    flame::KIND,
    hics::KIND,
    separation::KIND,
    sign_flip::KIND,
    gaussian::KIND,
    little::KIND,
    dx_noise::KIND,
    quantise::KIND,
];

/// Rules that were registered.
static REGISTERED: RwLock<Vec<&'static Kind>> = RwLock::new(Vec::new());

/// Makes a rule known in this process, for settings that are used from now on.
///
/// # Errors
/// [`Error::Usage`] where its name is taken.
pub fn register(kind: Kind) -> Result<()> {
    let mut registered = REGISTERED.write();
    if KINDS.iter().chain(registered.iter().copied()).any(|k| k.name == kind.name) {
        return Err(Error::Usage(format!("there is a rule `{}` already; give this one another name", kind.name)));
    }
    registered.push(Box::leak(Box::new(kind)));
    Ok(())
}

impl Choice for Kind {
    fn name(&self) -> &'static str {
        self.name
    }

    fn options(&self) -> &'static [(&'static str, f64)] {
        self.options
    }
}

/// The rules that `entries` of `federation.rules` ask for, in their order.
///
/// # Errors
/// [`crate::Error::Setting`] for unknown names and options and for values out of range.
pub fn build(entries: &[String]) -> Result<Rules> {
    Ok(Rules::new(entries.iter().map(|entry| one("federation.rules", None, entry, 0)).collect::<Result<_>>()?))
}

/// The rules that `settings` ask for: the attack, those of `federation.rules`, the defence.
///
/// # Errors
/// As [`build`].
pub fn asked(settings: &Settings) -> Result<Vec<Box<dyn Rule>>> {
    let mut list = Vec::new();
    if settings.attack.name != "none" && attacks::chosen(settings)?.is_none() {
        known_attack(&settings.attack.name)?;
        let entry = format!("{} share={}", settings.attack.name, settings.attack.share);
        list.push(delayed(one("attack.name", Some(Role::Attack), &entry, settings.threads)?, settings.attack.from));
    }
    for entry in &settings.federation.rules {
        list.push(one("federation.rules", None, entry, settings.threads)?);
    }
    if settings.defence.name != "none" {
        list.push(one("defence.name", Some(Role::Defence), &settings.defence.name, settings.threads)?);
    }
    Ok(list)
}

/// Refuses the name of an attack that is neither a rule nor one with clients of its own.
fn known_attack(entry: &str) -> Result<()> {
    let registered = REGISTERED.read();
    let rules = KINDS.iter().chain(registered.iter().copied()).filter(|kind| kind.role == Role::Attack).map(|kind| kind.name);
    let mut all = rules.chain(attacks::KINDS.iter().map(|kind| kind.name));
    let name = entry.split_whitespace().next().unwrap_or_default();
    if all.clone().any(|known| known == name) {
        Ok(())
    } else {
        Err(Error::setting("attack.name", names::unknown("attack", name, &mut all)))
    }
}

/// `rule` from round `from` on.
fn delayed(rule: Box<dyn Rule>, from: u32) -> Box<dyn Rule> {
    if from > 1 { Box::new(delay::Delayed { rule, from: from.into() }) } else { rule }
}

/// What honest clients do to their updates under `settings`: `federation.rules`, then the clip of `privacy` for a table of `rows` item rows.
///
/// # Errors
/// As [`build`].
pub fn of_clients(settings: &Settings, privacy: Option<UserPrivacy>, rows: usize) -> Result<Rules> {
    let mut honest = settings.clone();
    (honest.attack, honest.defence, honest.privacy.secure_sum) = Default::default();
    of(&honest, None, privacy, rows)
}

/// The rules of a training: that of an attack with clients of its own, those of [`asked`], then, where `settings` ask for privacy, its clip and noise on a table of `rows` item rows.
///
/// # Errors
/// As [`build`].
pub fn of(settings: &Settings, attack: Option<Box<dyn Rule>>, privacy: Option<UserPrivacy>, rows: usize) -> Result<Rules> {
    let mut list: Vec<Box<dyn Rule>> = attack.into_iter().collect();
    list.extend(asked(settings)?);
    if let Some(privacy) = privacy {
        list.push(Box::new(user_privacy::Noise::new(
            privacy,
            rows,
            parallel::threads(settings.threads as usize),
            settings.privacy.noise_by,
        )));
    }
    if settings.privacy.secure_sum {
        if list.iter().any(|rule| rule.bits().is_some()) {
            let message =
                "`quantise` saves nothing beside privacy.secure_sum, whose masks take all bits of every number; leave one of them out";
            return Err(crate::Error::setting("federation.rules", message));
        }
        list.push(Box::new(Uploads));
    }
    Ok(Rules::new(list))
}

/// No rule: updates are to be there one by one, for the clients' part of a secure sum.
struct Uploads;

impl Rule for Uploads {
    fn needs(&self) -> Needs {
        Needs::All
    }

    fn at_client(&self) -> bool {
        false
    }
}

fn one(key: &'static str, role: Option<Role>, entry: &str, threads: u32) -> Result<Box<dyn Rule>> {
    let known: Vec<&Kind> =
        KINDS.iter().chain(REGISTERED.read().iter().copied()).filter(|kind| role.is_none_or(|role| kind.role == role)).collect();
    let what = match role {
        Some(Role::Attack) => "attack",
        Some(Role::Defence) => "defence",
        _ => "rule",
    };
    let (kind, options) = options::read(key, what, entry, &known)?;
    (kind.build)(&options.with_threads(parallel::threads(threads as usize)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_and_mistakes_are_named() {
        let all = |list: &[&str]| build(&list.iter().map(|s| s.to_string()).collect::<Vec<_>>());
        assert_eq!(all(&["sign-flip", " norm-bound  bound=0.5 "]).unwrap().needs(), Needs::Linear);
        assert_eq!(all(&["sign-flip", "median", "norm-bound"]).unwrap().needs(), Needs::All);
        assert!(all(&[]).unwrap().is_empty());
        for (entry, part) in [
            ("norm-bond", "did you mean `norm-bound`"),
            ("norm-bound bund=1", "did you mean `bound`"),
            ("norm-bound bound", "NAME=VALUE"),
            ("norm-bound bound=x", "`x` is no number"),
            ("norm-bound bound=0", "above 0"),
            ("norm-bound bound=inf", "above 0"),
            ("sign-flip share=1.5", "from 0 to 1"),
            ("median k=3", "no options"),
            ("", "empty entry"),
        ] {
            let message = all(&[entry]).err().unwrap().to_string();
            assert!(message.contains(part) && message.contains("federation.rules"), "{entry}: {message}");
        }
    }

    #[test]
    fn fewer_bits_are_refused_where_masks_take_them_all() {
        let mut settings = Settings::default();
        settings.federation.rules = vec!["quantise bits=4".into()];
        assert!(of(&settings, None, None, 10).is_ok());
        settings.privacy.secure_sum = true;
        let message = of(&settings, None, None, 10).err().unwrap().to_string();
        assert!(message.contains("federation.rules") && message.contains("privacy.secure_sum"), "{message}");
    }

    #[test]
    fn names_are_unique_and_defaults_are_in_range() {
        for (i, kind) in KINDS.iter().enumerate() {
            assert!(KINDS[..i].iter().all(|k| k.name != kind.name), "{}", kind.name);
            one("federation.rules", None, kind.name, 0).unwrap();
            assert_eq!(kind.role == Role::Attack, kind.options.iter().any(|(name, _)| *name == "share"), "{}", kind.name);
        }
    }
}
