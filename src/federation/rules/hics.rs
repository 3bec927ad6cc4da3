//! `hics`: changes of item rows are clipped, saved up, and paid out where most has been saved.

use super::{Kind, Needs, Occasion, Options, Role, Rule};
use crate::engine::{Mean, NamedTensor, TensorData, Tensors};
use crate::{Error, Result};
use parking_lot::Mutex;

pub(super) const KIND: Kind = Kind {
    name: "hics",
    role: Role::Defence,
    summary: "shortens the averaged change of each item row to `bound`, adds it to a bank, and pays out the share `paid` of the bank's rows that are longest",
    paper: "HiCS, Yuan et al., Manipulating Federated Recommender Systems, SIGIR 2023; the share is ours to choose, the published code takes 1",
    options: &[("bound", 3.0), ("paid", 0.5)],
    build,
};

/// Rows that are saved up.
#[derive(Default)]
struct Bank {
    /// Items, ascending `[S]`.
    items: Vec<u32>,
    /// Their rows `[S, d]`.
    rows: Vec<f32>,
}

impl Bank {
    /// Adds the `rows [n, d]` of `items`, ascending `[n]`, each at most `bound` long.
    fn save(&mut self, items: &[u32], rows: &[f32], d: usize, bound: f64) {
        let mut all = self.items.clone();
        all.extend_from_slice(items);
        all.sort_unstable();
        all.dedup();
        let mut sums = vec![0f32; all.len() * d];
        let mut add = |items: &[u32], rows: &[f32], bound: f64| {
            let mut slot = 0;
            for (item, row) in items.iter().zip(rows.chunks_exact(d)) {
                slot += all[slot..].partition_point(|other| other < item);
                let norm = norm(row);
                let factor = if norm > bound { (bound / norm) as f32 } else { 1.0 };
                sums[slot * d..][..d].iter_mut().zip(row).for_each(|(s, x)| *s += factor * x);
            }
        };
        add(&self.items, &self.rows, f64::INFINITY);
        add(items, rows, bound);
        (self.items, self.rows) = (all, sums);
    }

    /// Takes out the share of the rows that are longest; of equal ones those of the first items.
    fn pay(&mut self, share: f64, d: usize) -> Bank {
        let mut order: Vec<(f64, usize)> = self.rows.chunks_exact(d).map(norm).zip(0..).collect();
        order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut paid = vec![false; order.len()];
        order[..(share * order.len() as f64).ceil() as usize].iter().for_each(|&(_, slot)| paid[slot] = true);
        let part = |taken: bool| {
            let own = || (0..paid.len()).filter(|&slot| paid[slot] == taken);
            Bank {
                items: own().map(|slot| self.items[slot]).collect(),
                rows: own().flat_map(|slot| &self.rows[slot * d..][..d]).copied().collect(),
            }
        };
        let (given, left) = (part(true), part(false));
        *self = left;
        given
    }
}

struct Hics {
    bound: f64,
    share: f64,
    bank: Mutex<Bank>,
}

fn build(options: &Options) -> Result<Box<dyn Rule>> {
    let bound = options.get("bound", |x| x > 0.0, "a number above 0")?;
    let share = options.get("paid", |x| x > 0.0 && x <= 1.0, "a share above 0 and at most 1")?;
    Ok(Box::new(Hics { bound, share, bank: Mutex::default() }))
}

fn norm(row: &[f32]) -> f64 {
    row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// Names of the bank in a checkpoint.
const ITEMS: &str = "hics.items";
const ROWS: &str = "hics.rows";

impl Rule for Hics {
    fn needs(&self) -> Needs {
        Needs::Linear
    }

    fn at_client(&self) -> bool {
        false
    }

    fn server(&self, _: &Occasion, mean: &mut Mean) {
        let mut bank = self.bank.lock();
        bank.save(&mean.items, &mean.rows, mean.d, self.bound);
        let paid = bank.pay(self.share, mean.d);
        (mean.items, mean.rows) = (paid.items, paid.rows);
    }

    fn tensors(&self) -> Vec<NamedTensor> {
        let bank = self.bank.lock();
        let items: Vec<u64> = bank.items.iter().map(|&item| item.into()).collect();
        let shape = vec![items.len()];
        vec![
            NamedTensor { name: ITEMS.into(), shape, data: TensorData::U64(items) },
            NamedTensor::f32(ROWS, &[bank.rows.len()], &bank.rows),
        ]
    }

    fn restore(&self, tensors: &Tensors) -> Result<()> {
        let (items, rows) = match (tensors.get(ITEMS).map(|t| &t.data), tensors.get(ROWS).map(|t| &t.data)) {
            (None, None) => (&Vec::new(), &Vec::new()),
            (Some(TensorData::U64(items)), Some(TensorData::F32(rows))) if rows.len().is_multiple_of(items.len().max(1)) => (items, rows),
            _ => return Err(Error::Usage(format!("checkpoint: tensors `{ITEMS}` and `{ROWS}` are damaged or of another defence"))),
        };
        *self.bank.lock() = Bank { items: items.iter().map(|&item| item as u32).collect(), rows: rows.clone() };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_by_hand() {
        let rule = Hics { bound: 2.0, share: 0.5, bank: Mutex::default() };
        let round = |rule: &Hics, rows: &[f32]| {
            let mut mean = Mean { d: 1, weight: 1, dense: vec![7.0], items: vec![3, 5], rows: rows.to_vec(), ..Mean::default() };
            rule.server(&Occasion { seed: 0, round: 1, weights: None }, &mut mean);
            assert_eq!(mean.dense, [7.0]);
            (mean.items, mean.rows)
        };
        // 9 is clipped to 2 and paid out; 1.5 is saved, and with the next .75 it is the longest.
        assert_eq!(round(&rule, &[9.0, 1.5]), (vec![3], vec![2.0]));
        let saved = rule.tensors();
        assert_eq!(round(&rule, &[2.0, 0.75]), (vec![5], vec![2.25]));
        // A resumed run goes on with what was saved.
        let fresh = Hics { bound: 2.0, share: 0.5, bank: Mutex::default() };
        fresh.restore(&Tensors::new(&saved)).unwrap();
        assert_eq!(round(&fresh, &[2.0, 0.75]), (vec![5], vec![2.25]));
        let damaged = [saved[0].clone(), NamedTensor::f32(ITEMS, &[1], &[0.5])];
        assert!(fresh.restore(&Tensors::new(&damaged[1..])).is_err());
    }
}
