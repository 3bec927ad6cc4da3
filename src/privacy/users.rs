//! Differential privacy of the users of a federated training: what the settings ask for, and what it costs after each round.

use super::{Accountant, Sampling, Spending, noise_beside, noise_for};
use crate::config::range::{ensure, refuse};
use crate::config::{Average, ClientWeighting, Clients, CohortSampling, CountsUse, GeneratorKind, NoiseBy, PrivacySettings, Settings};
use crate::{Error, Result};

/// Fewest users that a round may draw on average: noise on the sum of less drowns it, and a round without any would show that it had none.
const FEWEST: f64 = 16.0;

/// The mechanism of a training: updates are shortened to `clip`, and noise of standard deviation `deviation` is added to each number of
/// their sum.
#[derive(Clone, Debug)]
pub struct UserPrivacy {
    /// Most Euclidean norm of an update; in the first round where it adapts.
    pub clip: f64,
    /// Most norms of dense weights and of item rows, where each has its own; `clip` is then the root of the sum of their squares.
    pub groups: Option<[f64; 2]>,
    /// How the clip adapts, if it does.
    pub adaptive: Option<AdaptiveClip>,
    /// Standard deviation of the noise on a sum, in clips.
    pub multiplier: f64,
    /// Users that a round draws on average: what a sum is divided by.
    pub expected: f64,
    delta: f64,
    spending: Spending,
    counts: Option<Spending>,
}

/// A clip that follows a quantile of the norms of updates (Andrew, Thakkar, McMahan and Ramaswamy, NeurIPS 2021).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptiveClip {
    /// Share of the updates that are to be within the clip.
    pub quantile: f64,
    /// Step of the clip's logarithm.
    pub rate: f64,
    /// Standard deviation of the noise on the number of updates within the clip.
    pub deviation: f64,
}

impl AdaptiveClip {
    /// The clip after a round with `clip`, of whose `clients` updates `within` were within it; `noise` is standard normal. `expected` clients are drawn
    /// on average. A client's say is one half more or less, so that the count is protected by `deviation` at a cost of `(2 deviation)^-2`.
    pub fn next(&self, clip: f64, within: f64, clients: f64, expected: f64, noise: f64) -> f64 {
        let share = (within - clients / 2.0 + self.deviation * noise) / expected + 0.5;
        clip * (self.rate * (self.quantile - share)).exp()
    }
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
        let sampling = sampling(settings);
        let rounds = u64::from(settings.federation.rounds);
        let counts = counts_noise(settings)?.map(|noise| Accountant { noise, rate: 1.0, sampling }.spending());
        let noise = match s.noise {
            0.0 => noise_beside(counts.as_ref(), s.epsilon, s.delta, rounds, rate, sampling),
            noise => Some(noise),
        };
        let Some(noise) = noise else {
            let message =
                format!("is {}, which no noise reaches in {rounds} rounds at delta {}; raise it, or take fewer rounds", s.epsilon, s.delta);
            return Err(Error::setting("privacy.epsilon", message));
        };
        let (multiplier, adaptive) = adaptive(s, noise, expected)?;
        let groups = <[f64; 2]>::try_from(&s.clip_groups[..]).ok();
        let clip = groups.map_or(s.clip, |[dense, rows]| dense.hypot(rows));
        let spending = Accountant { noise, rate, sampling }.spending();
        Ok(Some(UserPrivacy { clip, groups, adaptive, multiplier, expected, delta: s.delta, spending, counts }))
    }

    /// Standard deviation of the noise on a sum under the first clip.
    pub fn deviation(&self) -> f64 {
        self.multiplier * self.clip
    }

    /// Epsilon after `rounds`, noisy counts included.
    pub fn epsilon(&self, rounds: u64) -> f64 {
        self.spending.epsilon_beside(self.counts.as_ref(), rounds, self.delta)
    }
}

/// How the accountant takes the cohorts of `settings`.
fn sampling(settings: &Settings) -> Sampling {
    match settings.federation.sampling {
        CohortSampling::Poisson => Sampling::Poisson,
        CohortSampling::Fixed => Sampling::Fixed,
    }
}

/// Standard deviation of the noise on each of the counts that users add up once, in clips; nothing where counts have no noise.
///
/// # Errors
/// [`Error::Setting`] for an epsilon that no noise reaches.
pub fn counts_noise(settings: &Settings) -> Result<Option<f64>> {
    let s = &settings.privacy;
    if s.counts != CountsUse::Noisy {
        return Ok(None);
    }
    match noise_for(s.counts_epsilon, s.delta, 1, 1.0, sampling(settings)) {
        Some(noise) => Ok(Some(noise)),
        None => {
            let message = format!("is {}, which no noise reaches at delta {}; raise it", s.counts_epsilon, s.delta);
            Err(Error::setting("privacy.counts_epsilon", message))
        }
    }
}

/// The noise on the sum of updates in clips, and the clip's adaptation, where together they cost what `noise` clips on the sum alone would: the count
/// of updates within the clip takes its share (theorem 1 of Andrew et al.).
fn adaptive(settings: &PrivacySettings, noise: f64, expected: f64) -> Result<(f64, Option<AdaptiveClip>)> {
    if settings.clip_quantile == 0.0 {
        return Ok((noise, None));
    }
    let deviation = settings.clip_count_noise * expected;
    let left = noise.powi(-2) - (2.0 * deviation).powi(-2);
    if left <= 0.0 {
        let message = format!(
            "is {}, too little: with {expected:.0} clients a round and noise of {noise:.3} clips the count alone costs more than there is; set it              above {:.3}",
            settings.clip_count_noise,
            noise / (2.0 * expected)
        );
        return Err(Error::setting("privacy.clip_count_noise", message));
    }
    let adaptive = AdaptiveClip { quantile: settings.clip_quantile, rate: settings.clip_rate, deviation };
    Ok((left.powf(-0.5), Some(adaptive)))
}

/// Refuses clips for groups and clips that adapt where they cannot be meant.
fn clips(settings: &Settings) -> Result<()> {
    let s = &settings.privacy;
    let groups = &s.clip_groups;
    let written = || format!("{groups:?}");
    if !groups.is_empty() {
        let fine = groups.len() == 2 && groups.iter().all(|clip| clip.is_finite() && *clip > 0.0);
        ensure(fine, "privacy.clip_groups", written(), "two finite numbers above 0: for the dense weights and for the item rows")?;
        ensure(
            s.is_on(),
            "privacy.clip_groups",
            written(),
            "empty without privacy.epsilon or privacy.noise, which say how much noise they get",
        )?;
        ensure(
            settings.federation.shared.len() == 2,
            "privacy.clip_groups",
            written(),
            "empty where a group is not shared: set privacy.clip",
        )?;
    }
    let quantile = s.clip_quantile;
    ensure((0.0..1.0).contains(&quantile), "privacy.clip_quantile", quantile, "0, or a share above 0 and below 1")?;
    ensure(s.clip_rate.is_finite() && s.clip_rate > 0.0, "privacy.clip_rate", s.clip_rate, "a finite number above 0")?;
    let share = s.clip_count_noise;
    ensure(share.is_finite() && share > 0.0, "privacy.clip_count_noise", share, "a finite number above 0")?;
    if quantile == 0.0 {
        return Ok(());
    }
    ensure(s.is_on(), "privacy.clip_quantile", quantile, "0 without privacy.epsilon or privacy.noise")?;
    ensure(
        groups.is_empty(),
        "privacy.clip_groups",
        written(),
        "empty beside privacy.clip_quantile: one clip adapts, that of the whole update",
    )?;
    ensure(
        !s.secure_sum,
        "privacy.clip_quantile",
        quantile,
        "0 under privacy.secure_sum: the count of updates within the clip is no part of that sum",
    )
}

/// Refuses noisy counts, or none, where they cannot be meant.
fn counts(settings: &Settings) -> Result<()> {
    let s = &settings.privacy;
    ensure(s.counts_epsilon.is_finite() && s.counts_epsilon > 0.0, "privacy.counts_epsilon", s.counts_epsilon, "a finite number above 0")?;
    ensure(s.counts_clip.is_finite() && s.counts_clip > 0.0, "privacy.counts_clip", s.counts_clip, "a finite number above 0")?;
    if s.counts == CountsUse::None && settings.loss.popularity > 0.0 {
        return refuse("loss.popularity", settings.loss.popularity, "0 beside privacy.counts = \"none\": there is nothing to draw by");
    }
    if s.counts != CountsUse::Exact && settings.federation.protocol.split_whitespace().next() == Some("transitions") {
        let wanted = "`exact` under protocol `transitions`, whose own options clip and noise protect what it counts";
        return refuse("privacy.counts", s.counts.name(), wanted);
    }
    if settings.views.generator == GeneratorKind::TRANSITIONS && (s.is_on() || s.counts != CountsUse::Exact) {
        let wanted = "another generator under user-level privacy (privacy.noise, privacy.epsilon, privacy.counts): the sums of counted pairs have no noise";
        return refuse("views.generator", "transitions", wanted);
    }
    if s.counts == CountsUse::Noisy && s.epsilon > 0.0 && s.counts_epsilon >= s.epsilon {
        return refuse("privacy.counts_epsilon", s.counts_epsilon, "less than privacy.epsilon, of which it is a part");
    }
    Ok(())
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
    let PrivacySettings { epsilon, delta, clip, noise, .. } = settings.privacy.clone();
    let at_least_0 = "a finite number of at least 0";
    ensure(epsilon.is_finite() && epsilon >= 0.0, "privacy.epsilon", epsilon, at_least_0)?;
    ensure(noise.is_finite() && noise >= 0.0, "privacy.noise", noise, at_least_0)?;
    ensure(delta > 0.0 && delta < 1.0, "privacy.delta", delta, "above 0 and below 1 (a probability)")?;
    ensure(clip.is_finite() && clip > 0.0, "privacy.clip", clip, "a finite number above 0")?;
    clips(settings)?;
    counts(settings)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(change: impl Fn(&mut PrivacySettings)) -> Result<UserPrivacy> {
        let mut settings = Settings::default();
        settings.privacy.noise = 1.0;
        change(&mut settings.privacy);
        UserPrivacy::of(&settings, 1000, 0.1).map(|privacy| privacy.unwrap())
    }

    #[test]
    fn groups_move_the_sum_by_the_root_of_their_squares() {
        let privacy = of(|s| (s.noise, s.clip_groups) = (2.0, vec![3.0, 4.0])).unwrap();
        assert_eq!((privacy.clip, privacy.deviation(), privacy.groups), (5.0, 10.0, Some([3.0, 4.0])));
    }

    /// `z^-2 = z_delta^-2 + (2 sigma_b)^-2`, and epsilon is that of z.
    #[test]
    fn the_count_of_an_adaptive_clip_is_paid_from_the_same_noise() {
        let flat = of(|_| ()).unwrap();
        let adaptive = of(|s| s.clip_quantile = 0.5).unwrap();
        assert_eq!(adaptive.epsilon(50), flat.epsilon(50));
        let sigma = adaptive.adaptive.unwrap().deviation;
        assert_eq!(sigma, 5.0);
        let together = (adaptive.multiplier.powi(-2) + (2.0 * sigma).powi(-2)).powf(-0.5);
        assert!((together - 1.0).abs() < 1e-12 && adaptive.multiplier > 1.0);
        let message = of(|s| (s.clip_quantile, s.clip_count_noise) = (0.5, 0.004)).unwrap_err().to_string();
        assert!(message.contains("privacy.clip_count_noise") && message.contains("0.005"), "{message}");
    }

    #[test]
    fn a_clip_moves_towards_its_quantile() {
        let clip = AdaptiveClip { quantile: 0.5, rate: 0.2, deviation: 5.0 };
        // All of a hundred within it: too wide by half.
        assert!((clip.next(2.0, 100.0, 100.0, 100.0, 0.0) - 2.0 * (-0.1f64).exp()).abs() < 1e-12);
        // None: too narrow. Half: right. Noise of one deviation counts as five clients.
        assert!((clip.next(2.0, 0.0, 100.0, 100.0, 0.0) - 2.0 * 0.1f64.exp()).abs() < 1e-12);
        assert_eq!(clip.next(2.0, 50.0, 100.0, 100.0, 0.0), 2.0);
        assert_eq!(clip.next(2.0, 45.0, 100.0, 100.0, 1.0), 2.0);
        // Clients that did not come count for neither side.
        assert_eq!(clip.next(2.0, 40.0, 80.0, 100.0, 0.0), 2.0);
    }

    #[test]
    fn noisy_counts_are_a_part_of_epsilon() {
        let mut settings = Settings::default();
        (settings.privacy.epsilon, settings.privacy.counts) = (4.0, CountsUse::Noisy);
        let with = UserPrivacy::of(&settings, 1000, 0.1).unwrap().unwrap();
        settings.privacy.counts = CountsUse::Exact;
        let without = UserPrivacy::of(&settings, 1000, 0.1).unwrap().unwrap();
        assert!(with.multiplier > without.multiplier);
        let spent = with.epsilon(u64::from(settings.federation.rounds));
        assert!(spent <= 4.0 && spent > 3.99, "{spent}");
        assert!((with.epsilon(0) - 1.0).abs() < 1e-3 && without.epsilon(0) == 0.0, "{}", with.epsilon(0));
    }
}
