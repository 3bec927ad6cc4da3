//! The round's sums by way of secure aggregation: the server sees no update, and the sums have the bits that they have without it.

use crate::base::parallel;
use crate::base::rng::{Purpose, Stream};
use crate::config::{Group, NoiseBy, Settings};
use crate::engine::{Sums, Update, fixed};
use crate::model::ModelSpec;
use crate::privacy::{Cost, UserPrivacy};
use crate::{Error, Result};

/// How the vector of a client is laid out: dense weights `[P]`, its weight, and for each item of the table a row `[d]` and the client's weight, if it
/// uploads the row. Every row of the table is there, so that which ones a client has touched is not to be seen.
pub struct SecureSums {
    seed: u64,
    threads: usize,
    neighbours: usize,
    /// Dense weights `P` that are shared, width `d`, rows of the table.
    shape: [usize; 3],
    /// Standard deviation of the noise on a round's sum, where clients add it.
    noise: Option<f64>,
    /// Whether it learns how many clients uploaded a row. Not where privacy is on: nothing is divided by it.
    counts: bool,
}

impl SecureSums {
    /// The secure sums that `settings` ask for, of updates to a model of `spec` with a table of `rows` rows.
    pub fn of(settings: &Settings, privacy: Option<&UserPrivacy>, spec: &ModelSpec, rows: usize) -> Option<SecureSums> {
        let shared = |group| settings.federation.shared.contains(&group);
        settings.privacy.secure_sum.then(|| SecureSums {
            seed: settings.seed,
            threads: parallel::threads(settings.threads as usize),
            neighbours: settings.privacy.neighbours as usize,
            shape: [if shared(Group::Encoder) { spec.dense_len } else { 0 }, spec.dim(), if shared(Group::Items) { rows } else { 0 }],
            noise: privacy.filter(|_| settings.privacy.noise_by == NoiseBy::Clients).map(UserPrivacy::deviation),
            counts: privacy.is_none(),
        })
    }

    fn length(&self) -> usize {
        let [p, d, rows] = self.shape;
        p + 1 + rows * (d + 1)
    }

    /// The vector of `update`, one of `parties`; nothing where a number is not finite or too large.
    fn vector(&self, update: &Update, round: u64, parties: usize) -> Option<Vec<u64>> {
        let [p, d, _] = self.shape;
        let weight = i64::from(update.weight);
        let mut vector = vec![0i64; self.length()];
        let mut fine = update.dense.is_empty() || fixed::add_values(&mut vector[..p], &update.dense, weight);
        vector[p] = weight;
        for (&item, row) in update.items.iter().zip(update.rows.chunks_exact(d)) {
            let place = &mut vector[p + 1 + item as usize * (d + 1)..][..d + 1];
            fine &= fixed::add_values(&mut place[..d], row, weight);
            place[d] = if self.counts { weight } else { 0 };
        }
        if let Some(deviation) = self.noise {
            // Independent shares of the noise add up to all of it.
            let own = deviation / (parties as f64).sqrt();
            let mut stream = Stream::new(self.seed, Purpose::Privacy, round, u64::from(update.client));
            let mut disturb = |values: &mut [i64]| values.iter_mut().for_each(|x| *x += fixed::from_f64(own * f64::from(stream.normal())));
            let (dense, rows) = vector.split_at_mut(p + 1);
            disturb(&mut dense[..p]);
            rows.chunks_exact_mut(d + 1).for_each(|row| disturb(&mut row[..d]));
        }
        fine.then(|| vector.into_iter().map(|x| x as u64).collect())
    }

    /// The sums of `updates` in `round`, beside `silent` clients that shared their secrets and then dropped out.
    ///
    /// # Errors
    /// [`Error::Usage`] where the sum is lost because too many dropped out, [`Error::Training`] for a client whose update does not fit.
    #[cfg(feature = "secure")]
    pub fn sums(&self, spec: &ModelSpec, round: u64, updates: &[Update], silent: usize) -> Result<(Sums, Cost)> {
        use crate::privacy::secure_sum::{Plan, simulate};
        use sha2::{Digest, Sha256};
        let parties = updates.len() + silent;
        if parties < 2 {
            let message =
                format!("round {round} has {parties} client: a secure sum needs two; raise federation.fraction or federation.cohort");
            return Err(Error::setting("privacy.secure_sum", message));
        }
        let misfit =
            |update: &Update| Error::Training { round, client: update.client.into(), message: fixed::diverged(f64::NAN, f64::NAN) };
        if let Some(update) = updates.iter().find(|u| u.values().any(|x| !x.is_finite() || x.abs() > fixed::LIMIT)) {
            return Err(misfit(update));
        }
        let plan = std::sync::Arc::new(Plan::new(self.seed, round, parties, self.neighbours, self.length()));
        let quiet: Vec<u32> = (updates.len() as u32..parties as u32).collect();
        // A simulated party's randomness is a function, as all draws are. A party of its own has to draw it.
        let entropy = |party: u32| Sha256::digest(format!("lumos party {} {round} {party}", self.seed)).into();
        let input = |party: u32| self.vector(&updates[party as usize], round, updates.len()).unwrap_or_default();
        let (sum, cost) = simulate(&plan, &quiet, self.threads, entropy, input)
            .map_err(|refused| Error::Usage(format!("the secure sum of round {round} failed: {refused}")))?;
        Ok((self.read(spec, &sum), cost))
    }

    /// Without the feature there is none; settings that ask for it are refused.
    #[cfg(not(feature = "secure"))]
    pub fn sums(&self, _: &ModelSpec, _: u64, _: &[Update], _: usize) -> Result<(Sums, Cost)> {
        Err(Error::setting("privacy.secure_sum", "this program was built without secure aggregation (feature `secure`)"))
    }

    /// Sums as the server uses them.
    #[cfg_attr(not(feature = "secure"), allow(dead_code))]
    fn read(&self, spec: &ModelSpec, sum: &[u64]) -> Sums {
        let [p, d, rows] = self.shape;
        let signed = |values: &[u64]| values.iter().map(|&x| x as i64).collect::<Vec<i64>>();
        let dense = if p > 0 { signed(&sum[..p]) } else { vec![0; spec.dense_len] };
        let (mut values, mut weights) = (Vec::with_capacity(rows * d), Vec::with_capacity(rows));
        for row in sum[p + 1..].chunks_exact(d + 1) {
            values.extend(signed(&row[..d]));
            // Under privacy every row that could have moved counts.
            weights.push(if self.counts { row[d] as i64 } else { sum[p] as i64 });
        }
        let items: Vec<u32> = (0..rows as u32).collect();
        Sums::from_parts(spec, rows.max(1), (dense, sum[p] as i64), &items, &values, &weights)
    }
}

#[cfg(all(test, feature = "secure"))]
mod tests {
    use super::*;

    fn update(client: u32) -> Update {
        let mut stream = Stream::new(3, Purpose::Bench, 0, client.into());
        let items: Vec<u32> = (0..7).filter(|item| !(item + client).is_multiple_of(3)).collect();
        let rows = (0..items.len() * 4).map(|_| stream.normal()).collect();
        Update { client, weight: 1 + client % 3, dense: (0..settings().1.dense_len).map(|_| 0.1 * stream.normal()).collect(), items, rows }
    }

    fn settings() -> (Settings, ModelSpec) {
        let mut settings = Settings::default();
        (settings.model.dim, settings.model.blocks, settings.privacy.secure_sum) = (4, 1, true);
        let spec = ModelSpec::of(&settings);
        (settings, spec)
    }

    #[test]
    fn sums_have_the_bits_of_plain_ones() {
        let (settings, spec) = settings();
        let updates: Vec<Update> = (0..9).map(update).collect();
        let secure = SecureSums::of(&settings, None, &spec, 8).unwrap();
        let (found, cost) = secure.sums(&spec, 5, &updates, 2).unwrap();
        let mut plain = Sums::new(&spec, 8);
        for update in &updates {
            plain.weight += i64::from(update.weight);
            assert!(plain.add(update));
        }
        plain.lay_out(&plain.touched());
        assert_eq!((found.dense, found.weight), (plain.dense, plain.weight));
        assert_eq!((found.items, found.rows, found.row_weight), (plain.items, plain.rows, plain.row_weight));
        assert_eq!((cost.parties, cost.dropped), (11, 2));
    }

    #[test]
    fn shares_of_noise_add_up_to_all_of_it() {
        let (settings, spec) = settings();
        let secure = SecureSums { noise: Some(2.0), counts: false, ..SecureSums::of(&settings, None, &spec, 4000).unwrap() };
        let silence = |client| Update { client, weight: 1, dense: vec![0.0; spec.dense_len], ..Update::default() };
        let (sums, _) = secure.sums(&spec, 1, &(0..5).map(silence).collect::<Vec<_>>(), 0).unwrap();
        assert_eq!((sums.items.len(), sums.weight), (4000, 5));
        let values: Vec<f64> = sums.rows.iter().map(|&x| fixed::to_f64(x)).collect();
        let deviation = (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt();
        assert!((deviation - 2.0).abs() < 0.05, "{deviation}");
    }
}
