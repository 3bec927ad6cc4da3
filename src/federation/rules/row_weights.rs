//! `row-weights`: an item row is averaged by what each client knows of it, so that the many that met it as a negative or in a view do not dilute
//! the few that trained on it as a positive.
//!
//! A client multiplies its change of a row by a weight `w` in (0, 1] and uploads `w` beside the row. The server divides by the summed weights in
//! the place of the number of clients: with changes `c` and client weights `k` a row moves by `sum(k w c) / sum(k w)`. Under
//! `federation.average = "cohort"` that weighted mean is multiplied by the share of the cohort that uploaded the row, `sum(k) / K`, as the plain mean is
//! there: weights decide who is heard, not how far a row moves.
//!
//! With `count` the mean is multiplied by `(sum(k) / K)^count` besides, `K` what the cohort weighs: of a mean over a row's clients it makes, from 0 to 1, one over
//! the cohort; at 1/2 the sum is divided by the root of the number of clients.
//!
//! Sums of weights are integers, so that neither threads nor ranks leave a trace. In a secure sum the number of each row that holds the client's
//! weight can hold the row's weight in its place: the server divides by that sum alone, and the vector is no longer. The server sees the weights of single
//! clients where it sees single updates; with `power` 0 they say which items are in the history.

use super::{Kind, Needs, Occasion, Options, Role, Rule};
use crate::Result;
use crate::cluster::Reduce;
use crate::data::Dataset;
use crate::engine::{Mean, Participants, Update, fixed};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const KIND: Kind = Kind {
    name: "row-weights",
    role: Role::Other,
    summary: "averages item rows by weights: 1 where the item is in a client's training history, else `other`, times (norm / largest norm of the update)^`power`; the mean counts by (share of the cohort that uploaded the row)^`count`",
    paper: "ours",
    options: &[("other", 0.25), ("power", 0.0), ("count", 0.0)],
    build,
};

/// Steps of the fixed point in a weight of 1. A round's clients weigh at most 2^22 together ([`fixed::MAX_WEIGHT`]), so that sums stay below 2^43.
const STEPS: u32 = 1 << 20;

struct RowWeights {
    other: f64,
    power: f64,
    count: f64,
    /// Who holds what; before [`Rule::meet`] every row counts as one of the client's own history.
    clients: Option<(Participants, Arc<Dataset>)>,
    round: Mutex<Round>,
}

/// What was counted since the clients of a round began to train.
#[derive(Default)]
struct Round {
    /// Of each client its weight, and the steps of each row that it uploaded.
    clients: BTreeMap<u32, (u32, Vec<(u32, u32)>)>,
    /// The totals of all processes, where there are several.
    joined: Option<Totals>,
}

/// What the clients of a round weigh together, by row.
#[derive(Default)]
struct Totals {
    /// Items, ascending `[S]`.
    items: Vec<u32>,
    /// Of each the sum of the clients' weights and the sum of these times the steps of the row `[S]`.
    sums: Vec<[i64; 2]>,
}

fn build(options: &Options) -> Result<Box<dyn Rule>> {
    let other = options.get("other", |x| x > 0.0 && x <= 1.0, "a number above 0 and at most 1")?;
    let power = options.get("power", |x| x >= 0.0, "a number of at least 0")?;
    let count = options.get("count", |x| (0.0..=1.0).contains(&x), "a number from 0 to 1")?;
    Ok(Box::new(RowWeights { other, power, count, clients: None, round: Mutex::default() }))
}

impl Round {
    fn totals(&self) -> Totals {
        let rows = self.clients.values().flat_map(|(weight, rows)| rows.iter().map(|&(item, steps)| (item, *weight, steps)));
        let mut rows: Vec<(u32, u32, u32)> = rows.collect();
        rows.sort_unstable();
        let mut totals = Totals::default();
        for same in rows.chunk_by(|a, b| a.0 == b.0) {
            let add = |[count, sum]: [i64; 2], &(_, weight, steps): &(u32, u32, u32)| {
                [count + i64::from(weight), sum + i64::from(weight) * i64::from(steps)]
            };
            totals.items.push(same[0].0);
            totals.sums.push(same.iter().fold([0; 2], add));
        }
        totals
    }
}

impl RowWeights {
    /// The weight of each row of `update` in steps `[R]`.
    fn steps(&self, update: &Update) -> Vec<u32> {
        // What the sums would refuse stays as it is, and they refuse it.
        if !update.rows.iter().all(|x| x.abs() <= fixed::LIMIT) {
            return vec![STEPS; update.items.len()];
        }
        let d = (update.rows.len() / update.items.len().max(1)).max(1);
        let norms: Vec<f64> = match self.power > 0.0 {
            true => update.rows.chunks_exact(d).map(|row| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()).collect(),
            false => Vec::new(),
        };
        let largest = norms.iter().copied().fold(0.0, f64::max);
        let own = self.clients.as_ref().map(|(participants, data)| {
            let users = participants.users(update.client).iter();
            let mut own: Vec<u32> = users.flat_map(|&user| data.train(user as usize)).copied().collect();
            own.sort_unstable();
            // Rows behind those of the items, such as that of a mask, count as each client's own.
            move |item: u32| item as usize >= data.item_count() || own.binary_search(&item).is_ok()
        });
        let weight = |(row, &item): (usize, &u32)| {
            let known = own.as_ref().is_none_or(|own| own(item));
            let moved = if largest > 0.0 { (norms[row] / largest).powf(self.power) } else { 1.0 };
            let weight = if known { moved } else { self.other * moved };
            ((weight * f64::from(STEPS)).round() as u32).clamp(1, STEPS)
        };
        update.items.iter().enumerate().map(weight).collect()
    }
}

impl Rule for RowWeights {
    fn needs(&self) -> Needs {
        Needs::Each
    }

    fn weighs_rows(&self) -> bool {
        true
    }

    fn meet(&mut self, participants: &Participants, data: &Arc<Dataset>) {
        self.clients = Some((participants.clone(), data.clone()));
    }

    fn begin(&self) {
        *self.round.lock() = Round::default();
    }

    fn client(&self, _: &Occasion, update: &mut Update) {
        let steps = self.steps(update);
        {
            let mut round = self.round.lock();
            // Who comes again is a malicious client that has made another update out of weighted ones: its weights are uploaded already.
            if round.joined.is_some() || round.clients.contains_key(&update.client) {
                return;
            }
            let rows = update.items.iter().copied().zip(steps.iter().copied()).collect();
            round.clients.insert(update.client, (update.weight, rows));
        }
        let d = (update.rows.len() / update.items.len().max(1)).max(1);
        for (row, &steps) in update.rows.chunks_exact_mut(d).zip(&steps).filter(|(_, steps)| **steps < STEPS) {
            // A whole number of steps below 2^24 is exact in single precision, and so is its quotient by a power of two.
            let weight = steps as f32 / STEPS as f32;
            row.iter_mut().for_each(|x| *x *= weight);
        }
    }

    fn left_out(&self, client: u32) {
        self.round.lock().clients.remove(&client);
    }

    fn join(&self, reduce: &dyn Reduce) -> Result<()> {
        let own = self.round.lock().totals();
        let items = reduce.union(&own.items)?;
        let mut sums = vec![0; 2 * items.len()];
        for (item, [count, sum]) in own.items.iter().zip(&own.sums) {
            let place = items.partition_point(|other| other < item);
            (sums[2 * place], sums[2 * place + 1]) = (*count, *sum);
        }
        reduce.sum(&mut sums)?;
        self.round.lock().joined = Some(Totals { items, sums: sums.as_chunks::<2>().0.to_vec() });
        Ok(())
    }

    fn server(&self, _: &Occasion, mean: &mut Mean) {
        let mut round = std::mem::take(&mut *self.round.lock());
        let totals = round.joined.take().unwrap_or_else(|| round.totals());
        for (item, row) in mean.items.iter().zip(mean.rows.chunks_exact_mut(mean.d.max(1))) {
            let Ok(place) = totals.items.binary_search(item) else { continue };
            let [clients, sum] = totals.sums[place];
            let count = clients * i64::from(STEPS);
            let mut factor = count as f64 / sum as f64;
            if self.count > 0.0 {
                factor *= (clients as f64 / mean.weight as f64).powf(self.count);
            }
            // Rows of nothing but whole weights keep their bits.
            if factor != 1.0 {
                row.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Clients;
    use proptest::prelude::*;

    const OCCASION: Occasion = Occasion { seed: 1, round: 1, weights: None };

    /// Two users a participant, each with two training items (the last two of a sequence are held out): participant `p` holds `4 p` to `4 p + 3` of
    /// 40 items.
    fn rule(entry: &str, participants: u32) -> Box<dyn Rule> {
        let (users, item_tokens) = (2 * participants, (0..40).map(|i| i.to_string()).collect());
        let data = Dataset {
            offsets: (0..=u64::from(users)).map(|u| 4 * u).collect(),
            items: (0..users).flat_map(|u| [2 * u, 2 * u + 1, 39, 38]).collect(),
            user_tokens: (0..users).map(|u| u.to_string()).collect(),
            groups: Some(crate::data::UserGroups::new("site", &(0..users).map(|u| format!("{:03}", u / 2)).collect::<Vec<_>>())),
            item_tokens,
            ..Dataset::default()
        };
        let all = Participants::new(Clients::Column, &data);
        assert_eq!(all.len() as u32, participants);
        let kinds = [&KIND];
        let (kind, options) = crate::base::options::read("federation.rules", "rule", entry, &kinds).unwrap();
        let mut rule = (kind.build)(&options).unwrap();
        rule.meet(&all, &Arc::new(data));
        rule
    }

    fn update(client: u32, weight: u32, rows: &[(u32, [f32; 2])]) -> Update {
        let (items, rows) = (rows.iter().map(|row| row.0).collect(), rows.iter().flat_map(|row| row.1).collect());
        Update { client, weight, dense: vec![0.5], items, rows }
    }

    /// The mean of `updates` as the server makes it under `rule`, and the same by plain loops over the weights that `weight` says.
    fn means(rule: &dyn Rule, updates: &[Update], weight: impl Fn(&Update, usize) -> f64) -> [Vec<(u32, Vec<f64>)>; 2] {
        let mut sums: BTreeMap<u32, [[f64; 3]; 2]> = BTreeMap::new();
        for update in updates {
            let mut sent = update.clone();
            rule.client(&OCCASION, &mut sent);
            assert_eq!((sent.dense, sent.weight, &sent.items), (vec![0.5], update.weight, &update.items));
            for (row, &item) in update.items.iter().enumerate() {
                let (k, w) = (f64::from(update.weight), weight(update, row));
                let [server, plain] = sums.entry(item).or_default();
                for axis in 0..2 {
                    server[axis] += k * f64::from(sent.rows[2 * row + axis]);
                    plain[axis] += k * w * f64::from(update.rows[2 * row + axis]);
                }
                server[2] += k;
                plain[2] += k * w;
            }
        }
        let rows = sums.values().flat_map(|[server, _]| [(server[0] / server[2]) as f32, (server[1] / server[2]) as f32]).collect();
        let mut mean = Mean { d: 2, weight: 1, items: sums.keys().copied().collect(), rows, ..Mean::default() };
        rule.server(&OCCASION, &mut mean);
        let found = mean.items.iter().zip(mean.rows.chunks(2)).map(|(item, row)| (*item, row.iter().map(|&x| f64::from(x)).collect()));
        let plain = sums.iter().map(|(item, [_, [x, y, w]])| (*item, vec![x / w, y / w]));
        [found.collect(), plain.collect()]
    }

    fn near(found: &[(u32, Vec<f64>)], plain: &[(u32, Vec<f64>)]) -> bool {
        found.len() == plain.len()
            && found
                .iter()
                .zip(plain)
                .all(|(a, b)| a.0 == b.0 && a.1.iter().zip(&b.1).all(|(x, y)| (x - y).abs() <= 1e-5 * (1.0 + y.abs())))
    }

    fn norm(update: &Update, row: usize) -> f64 {
        update.rows[2 * row..][..2].iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
    }

    /// Of a row that two of the five in the cohort uploaded.
    #[test]
    fn a_mean_counts_by_a_power_of_who_uploaded_the_row() {
        for (count, share) in [(0.0, 1.0), (0.5, (2.0f64 / 5.0).sqrt()), (1.0, 2.0 / 5.0)] {
            let rule = rule(&format!("row-weights other=1 count={count}"), 3);
            rule.begin();
            for client in 0..2 {
                rule.client(&OCCASION, &mut update(client, 1, &[(7, [3.0, -6.0])]));
            }
            let mut mean = Mean { d: 2, weight: 5, items: vec![7], rows: vec![3.0, -6.0], ..Mean::default() };
            rule.server(&OCCASION, &mut mean);
            let wanted = [3.0 * share, -6.0 * share];
            assert!(mean.rows.iter().zip(wanted).all(|(x, wanted)| (f64::from(*x) - wanted).abs() < 1e-6), "{count}: {:?}", mean.rows);
        }
        assert!(super::super::build(&["row-weights count=1.5".into()]).is_err());
    }

    #[test]
    fn a_row_of_the_history_outweighs_the_rest() {
        // Item 5 is of the second participant's history, held out items are of no client's, row 40 is no item.
        let updates = [
            update(0, 1, &[(5, [4.0, 0.0]), (0, [1.0, 1.0]), (39, [2.0, 2.0]), (40, [2.0, 0.0])]),
            update(1, 3, &[(5, [-2.0, 8.0]), (40, [6.0, 0.0])]),
            update(2, 1, &[(5, [4.0, 0.0]), (39, [4.0, 2.0])]),
        ];
        let weight = |u: &Update, row: usize| if u.items[row] / 4 == u.client || u.items[row] == 40 { 1.0 } else { 0.25 };
        let [found, plain] = means(&*rule("row-weights", 3), &updates, weight);
        assert!(near(&found, &plain), "{found:?} {plain:?}");
        // (2 * 4 / 4 - 3 * 2) / (3 + 2 / 4) and 3 * 8 / 3.5; rows that all weigh alike have the plain mean.
        assert!((plain[1].1[0] + 4.0 / 3.5).abs() < 1e-12 && (plain[1].1[1] - 24.0 / 3.5).abs() < 1e-12);
        assert_eq!((found[2].1.clone(), found[3].1.clone()), (vec![3.0, 2.0], vec![5.0, 0.0]));
    }

    #[test]
    fn power_weighs_rows_by_how_far_they_move() {
        let updates =
            [update(0, 1, &[(1, [3.0, 4.0]), (9, [0.6, 0.8])]), update(2, 2, &[(1, [0.0, -1.0]), (9, [2.0, 0.0]), (30, [1.0, 0.0])])];
        let weight = |u: &Update, row: usize| {
            let largest = (0..u.items.len()).map(|row| norm(u, row)).fold(0.0, f64::max);
            let known = if u.items[row] / 4 == u.client { 1.0 } else { 0.5 };
            known * (norm(u, row) / largest).powf(1.5)
        };
        let [found, plain] = means(&*rule("row-weights other=0.5 power=1.5", 3), &updates, weight);
        assert!(near(&found, &plain), "{found:?} {plain:?}");
        // A row that moves nowhere still has a weight to be divided by.
        let still = [update(0, 1, &[(7, [0.0, 0.0]), (1, [1.0, 0.0])]), update(2, 1, &[(8, [0.0, 0.0])])];
        let [found, _] = means(&*rule("row-weights power=2", 3), &still, |_, _| 1.0);
        assert_eq!(found, [(1, vec![1.0, 0.0]), (7, vec![0.0; 2]), (8, vec![0.0; 2])]);
    }

    /// Who is left out, or was there in an attempt that is made again, does not count; a second update of a client is left as it is.
    #[test]
    fn only_clients_in_the_sums_are_counted() {
        let (first, other) = (update(1, 1, &[(5, [2.0, 0.0])]), update(0, 1, &[(5, [4.0, 4.0])]));
        let weight = |u: &Update, _: usize| if u.client == 1 { 1.0 } else { 0.25 };
        let clean = means(&*rule("row-weights", 3), &[first.clone(), other.clone()], weight);
        let stray = || update(2, 1, &[(5, [1.0, 1.0]), (9, [1.0, 1.0])]);
        let left_out = rule("row-weights", 3);
        left_out.client(&OCCASION, &mut stray());
        left_out.left_out(2);
        left_out.left_out(0);
        assert_eq!(means(&*left_out, &[first.clone(), other.clone()], weight), clean);
        let again = rule("row-weights", 3);
        [stray(), first.clone()].iter_mut().for_each(|update| again.client(&OCCASION, update));
        again.begin();
        assert_eq!(means(&*again, &[first.clone(), other.clone()], weight), clean);
        // The server's step has used up what was counted.
        assert_eq!(means(&*again, &[first.clone(), other.clone()], weight), clean);
        let twice = rule("row-weights", 3);
        let mut sent = other.clone();
        twice.client(&OCCASION, &mut sent);
        assert_eq!(sent.rows, [1.0, 1.0]);
        twice.client(&OCCASION, &mut sent);
        assert_eq!(sent.rows, [1.0, 1.0]);
        // What the sums refuse is handed on as it is.
        for bad in [f32::NAN, f32::INFINITY, 300.0] {
            let mut lost = update(2, 1, &[(5, [bad, 1.0])]);
            rule("row-weights power=1", 3).client(&OCCASION, &mut lost);
            assert!(lost.rows[0].to_bits() == bad.to_bits() && lost.rows[1] == 1.0);
        }
    }

    #[test]
    fn options_out_of_range_and_rules_that_do_not_go_with_it_are_refused() {
        for entry in ["row-weights other=0", "row-weights other=1.5", "row-weights power=-1", "row-weights powers=1"] {
            let message = super::super::build(&[entry.into()]).err().unwrap().to_string();
            assert!(message.contains("federation.rules"), "{message}");
        }
        for (sets, rules, part) in [
            (&["defence.name=median"][..], "\"row-weights\"", "defence.name"),
            (&["privacy.noise=1", "federation.average=cohort"], "\"row-weights\"", "privacy.noise"),
            (&[], "\"row-weights\", \"row-weights other=1\"", "one rule that weighs rows"),
            (&[], "\"median\", \"row-weights\"", "defence.name"),
            (&["defence.name=row-clip"], "\"row-weights\"", ""),
            (&["attack.name=little-is-enough", "attack.share=0.1"], "\"row-weights\", \"quantise\"", ""),
        ] {
            let rules = format!("federation.rules=[{rules}]");
            let sets: Vec<String> = sets.iter().chain(&["method=fed-sasrec", &rules]).map(|set| set.to_string()).collect();
            match crate::load_settings(None, &sets).err().map(|e| e.to_string()) {
                None => assert!(part.is_empty(), "{sets:?}"),
                Some(message) => {
                    assert!(!part.is_empty() && message.contains("federation.rules") && message.contains(part), "{sets:?}: {message}")
                }
            }
        }
    }

    proptest! {
        #[test]
        fn neither_order_nor_the_place_where_clients_are_counted_matters(
            rows in prop::collection::vec((0u32..6, 1u32..5, prop::collection::btree_set(0u32..40, 1..9)), 1..20),
            seed in any::<u64>(),
        ) {
            use crate::base::rng::{Purpose, Stream};
            let mut stream = Stream::new(seed, Purpose::Bench, 0, 0);
            let mut updates: Vec<Update> = Vec::new();
            for (client, weight, items) in rows {
                if updates.iter().all(|u| u.client != client) {
                    let rows: Vec<(u32, [f32; 2])> = items.iter().map(|&item| (item, [stream.normal(), stream.normal()])).collect();
                    updates.push(update(client, weight, &rows));
                }
            }
            let data = || Dataset { offsets: vec![0; 7], item_tokens: vec![String::new(); 40], ..Dataset::default() };
            let totals = |updates: &[Update]| {
                let mut rule = RowWeights { other: 0.3, power: 0.7, count: 0.0, clients: None, round: Mutex::default() };
                rule.meet(&Participants::new(Clients::User, &data()), &Arc::new(data()));
                updates.iter().for_each(|update| rule.client(&OCCASION, &mut update.clone()));
                let totals = rule.round.lock().totals();
                (totals.items, totals.sums)
            };
            let (items, sums) = totals(&updates);
            // By halves, added up item by item.
            let (left, right) = updates.split_at(updates.len() / 2);
            let mut added: BTreeMap<u32, [i64; 2]> = BTreeMap::new();
            for part in [left, right] {
                let (items, sums) = totals(part);
                for (item, [count, sum]) in items.into_iter().zip(sums) {
                    let all = added.entry(item).or_default();
                    (all[0], all[1]) = (all[0] + count, all[1] + sum);
                }
            }
            prop_assert!(added.keys().eq(&items) && added.values().eq(&sums));
            let mut shuffled = updates.clone();
            stream.shuffle(&mut shuffled);
            prop_assert_eq!((items, sums), totals(&shuffled));
        }
    }
}
