//! `little-is-enough`: an untargeted attack by clients who work together. Each uploads what lies just inside the spread of their honest updates.

use super::malicious::Malicious;
use super::{Kind, Needs, Occasion, Options, Role, Rule};
use crate::Result;
use crate::engine::Update;
use std::collections::BTreeMap;

pub(super) const KIND: Kind = Kind {
    name: "little-is-enough",
    role: Role::Attack,
    summary: "a `share` of the clients uploads the mean of its own changes minus `z` deviations, in every coordinate; `z` = 0: as many as still hide",
    paper: "Baruch, Baruch and Goldberg, A Little Is Enough, NeurIPS 2019",
    options: &[("share", 0.1), ("z", 0.0)],
    build,
};

struct Little {
    malicious: Malicious,
    z: f64,
}

fn build(options: &Options) -> Result<Box<dyn Rule>> {
    let z = options.get("z", |x| (0.0..=100.0).contains(&x), "a number from 0 to 100")?;
    Ok(Box::new(Little { malicious: Malicious::of(options)?, z }))
}

/// The deviations by which `m` of `n` clients may differ and still have a majority's support: the normal quantile of `(n - m - s) / (n - m)` with
/// `s = floor(n / 2 + 1) - m` honest clients who lie further out.
fn deviations(n: usize, m: usize) -> f64 {
    let supporters = (n / 2 + 1).saturating_sub(m);
    let share = (n - m).saturating_sub(supporters) as f64 / (n - m).max(1) as f64;
    // By halving: a quantile is asked for once a round.
    let (mut low, mut high) = (0.0, 8.0);
    for _ in 0..60 {
        let middle: f64 = (low + high) / 2.0;
        if 0.5 * libm::erfc(-middle / std::f64::consts::SQRT_2) < share { low = middle } else { high = middle }
    }
    low
}

/// `mean - z deviation` of each coordinate of `values`, slices of one length.
fn inside(values: &[&[f32]], z: f64) -> Vec<f32> {
    let n = values.len() as f64;
    let of = |k: usize| {
        let mean = values.iter().map(|v| f64::from(v[k])).sum::<f64>() / n;
        let variance = values.iter().map(|v| (f64::from(v[k]) - mean).powi(2)).sum::<f64>() / n;
        (mean - z * variance.sqrt()) as f32
    };
    (0..values[0].len()).map(of).collect()
}

impl Rule for Little {
    fn needs(&self) -> Needs {
        Needs::All
    }

    fn colludes(&self) -> bool {
        true
    }

    fn collude(&self, occasion: &Occasion, updates: &mut [Update]) -> Vec<usize> {
        let places: Vec<usize> = (0..updates.len()).filter(|&i| self.malicious.is(occasion.seed, updates[i].client)).collect();
        if places.is_empty() {
            return places;
        }
        let z = if self.z > 0.0 { self.z } else { deviations(updates.len(), places.len()) };
        let dense = inside(&places.iter().map(|&i| &updates[i].dense[..]).collect::<Vec<_>>(), z);
        let mut by_item: BTreeMap<u32, Vec<&[f32]>> = BTreeMap::new();
        for update in places.iter().map(|&i| &updates[i]).filter(|update| !update.items.is_empty()) {
            let d = update.rows.len() / update.items.len();
            update.items.iter().zip(update.rows.chunks_exact(d)).for_each(|(&item, row)| by_item.entry(item).or_default().push(row));
        }
        let rows: BTreeMap<u32, Vec<f32>> = by_item.into_iter().map(|(item, rows)| (item, inside(&rows, z))).collect();
        for &i in &places {
            updates[i].dense.clone_from(&dense);
            updates[i].rows = updates[i].items.iter().flat_map(|item| &rows[item]).copied().collect();
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_by_hand() {
        // 50 clients, 24 of them malicious: two supporters of 26, 24 / 26 = .923 (the paper's example has z = 1.43).
        assert!((deviations(50, 24) - 1.4261).abs() < 1e-3, "{}", deviations(50, 24));
        assert_eq!(inside(&[&[1.0, 5.0], &[3.0, 5.0]], 2.0), [0.0, 5.0]);
    }

    #[test]
    fn malicious_clients_upload_what_lies_inside_their_own_spread() {
        let update = |client: u32, x: f32| Update { client, weight: 1, dense: vec![x], items: vec![4], rows: vec![-x] };
        let rule = Little { malicious: Malicious::share(0.5), z: 1.0 };
        let honest: Vec<Update> = (0..40).map(|client| update(client, client as f32)).collect();
        let mut updates = honest.clone();
        let places = rule.collude(&Occasion { seed: 3, round: 1, weights: None }, &mut updates);
        assert!((8..32).contains(&places.len()), "{places:?}");
        let (n, own) = (places.len() as f64, || places.iter().map(|&i| i as f64));
        let mean = own().sum::<f64>() / n;
        let deviation = (own().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
        for (i, (update, honest)) in updates.iter().zip(&honest).enumerate() {
            if places.contains(&i) {
                assert!((f64::from(update.dense[0]) - (mean - deviation)).abs() < 1e-4);
                assert!((f64::from(update.rows[0]) - (-mean - deviation)).abs() < 1e-4);
            } else {
                assert_eq!(update, honest);
            }
        }
    }
}
