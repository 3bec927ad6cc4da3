//! Differential privacy of the users of a federated training: what the settings ask for, and what it costs after each round.

use super::{Accountant, Sampling, Spending, noise_for};
use crate::config::range::{ensure, refuse};
use crate::config::{Average, ClientWeighting, Clients, CohortSampling, NoiseBy, PrivacySettings, Settings};
use crate::{Error, Result};

/// Fewest users that a round may draw on average: noise on the sum of less drowns it, and a round without any would show that it had none.
const FEWEST: f64 = 16.0;

/// The mechanism of a training: updates are shortened to `clip`, and noise of standard deviation `deviation` is added to each number of
/// their sum.
#[derive(Clone, Debug)]
pub struct UserPrivacy {
    /// Most Euclidean norm of an update.
    pub clip: f64,
    /// Standard deviation of the noise on a sum.
    pub deviation: f64,
    /// Users that a round draws on average: what a sum is divided by.
    pub expected: f64,
    delta: f64,
    spending: Spending,
}

impl UserPrivacy {
    /// What `settings` ask for in a training that draws `rate` of `users` a round; nothing where they ask for none.
    ///
    /// # Errors
    /// [`Error::Setting`] where a round draws too few, and for an epsilon that no noise reaches.
    pub fn of(settings: &Settings, users: usize, rate: f64) -> Result<Option<UserPrivacy>> {
        let s = &settings.privacy;
        if !s.is_on() {
            return Ok(None);
        }
        let expected = rate * users as f64;
        let few = format!("{expected:.1} users a round");
        ensure(
            expected >= FEWEST,
            "federation.fraction",
            few,
            "a share or cohort of at least 16 users under privacy.epsilon or privacy.noise",
        )?;
        let sampling = match settings.federation.sampling {
            CohortSampling::Poisson => Sampling::Poisson,
            CohortSampling::Fixed => Sampling::Fixed,
        };
        let rounds = u64::from(settings.federation.rounds);
        let noise = match s.noise {
            0.0 => noise_for(s.epsilon, s.delta, rounds, rate, sampling),
            noise => Some(noise),
        };
        let Some(noise) = noise else {
            let message =
                format!("is {}, which no noise reaches in {rounds} rounds at delta {}; raise it, or take fewer rounds", s.epsilon, s.delta);
            return Err(Error::setting("privacy.epsilon", message));
        };
        let spending = Accountant { noise, rate, sampling }.spending();
        Ok(Some(UserPrivacy { clip: s.clip, deviation: noise * s.clip, expected, delta: s.delta, spending }))
    }

    /// Epsilon after `rounds`.
    pub fn epsilon(&self, rounds: u64) -> f64 {
        self.spending.epsilon(rounds, self.delta)
    }
}

/// Refuses secure sums where they make no sense.
fn secure(settings: &Settings) -> Result<()> {
    let (s, federation) = (&settings.privacy, &settings.federation);
    if s.noise_by == NoiseBy::Clients {
        ensure(
            s.secure_sum,
            "privacy.noise_by",
            "clients",
            "`server` without privacy.secure_sum: a share of the noise protects no update",
        )?;
        ensure(s.is_on(), "privacy.noise_by", "clients", "privacy.epsilon or privacy.noise beside it, which say how much")?;
        let fixed = federation.sampling == CohortSampling::Fixed && federation.dropout_rate == 0.0;
        ensure(
            fixed,
            "privacy.noise_by",
            "clients",
            "federation.sampling = \"fixed\" and no drop-outs: each client adds its share of a known number",
        )?;
    }
    if !s.secure_sum {
        return ensure(s.neighbours == 0, "privacy.neighbours", s.neighbours, "0 without privacy.secure_sum");
    }
    ensure(cfg!(feature = "secure"), "privacy.secure_sum", true, "false, for this program was built without the feature `secure`")?;
    ensure(s.neighbours == 0 || s.neighbours >= 2, "privacy.neighbours", s.neighbours, "0 or at least 2")?;
    if federation.protocol.split_whitespace().next() != Some("averaging") {
        return refuse("federation.protocol", &federation.protocol, "`averaging` under privacy.secure_sum");
    }
    ensure(federation.clients != Clients::One, "federation.clients", "one", "several clients under privacy.secure_sum")
}

/// Refuses values out of range, and settings under which the sum of a round is not what the noise is made for.
///
/// # Errors
/// [`Error::Setting`] with the key and what to do.
pub fn check(settings: &Settings) -> Result<()> {
    let PrivacySettings { epsilon, delta, clip, noise, .. } = settings.privacy;
    let at_least_0 = "a finite number of at least 0";
    ensure(epsilon.is_finite() && epsilon >= 0.0, "privacy.epsilon", epsilon, at_least_0)?;
    ensure(noise.is_finite() && noise >= 0.0, "privacy.noise", noise, at_least_0)?;
    ensure(delta > 0.0 && delta < 1.0, "privacy.delta", delta, "above 0 and below 1 (a probability)")?;
    ensure(clip.is_finite() && clip > 0.0, "privacy.clip", clip, "a finite number above 0")?;
    secure(settings)?;
    if !settings.privacy.is_on() {
        return Ok(());
    }
    ensure(epsilon == 0.0 || noise == 0.0, "privacy.noise", noise, "0 beside privacy.epsilon, from which the noise follows")?;
    let federation = &settings.federation;
    if federation.average != Average::Cohort {
        let wanted = "`cohort` under user-level privacy: how many clients met an item is nothing that a sum may be divided by";
        return refuse("federation.average", federation.average.name(), wanted);
    }
    if federation.weights != ClientWeighting::Equal {
        return refuse("federation.weights", federation.weights.name(), "`equal` under user-level privacy");
    }
    if federation.clients != Clients::User {
        return refuse("federation.clients", federation.clients, "\"user\" under user-level privacy: a client is what is protected");
    }
    if federation.protocol.split_whitespace().next() != Some("averaging") {
        return refuse("federation.protocol", &federation.protocol, "`averaging` under user-level privacy");
    }
    Ok(())
}
