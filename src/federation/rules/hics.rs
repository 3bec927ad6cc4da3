//! `hics`: changes of item rows are clipped, saved up, and paid out where most has been saved.

use super::{Kind, Needs, Occasion, Options, Role, Rule};
use crate::engine::{Mean, NamedTensor, TensorData, Tensors, Update};
use crate::{Error, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;

pub(super) const KIND: Kind = Kind {
    name: "hics",
    role: Role::Defence,
    summary: "shortens the averaged change of each item row to `bound`, adds it to a bank, and pays out the share `paid` of the bank's rows that are longest",
    paper: "HiCS, Yuan et al., Manipulating Federated Recommender Systems, SIGIR 2023; the share is ours to choose, the published code takes 1",
    options: &[("bound", 3.0), ("paid", 0.5)],
    build,
};

/// Rows that are saved up, by item.
type Bank = BTreeMap<u32, Vec<f32>>;

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

    fn client(&self, _: &Occasion, _: &mut Update) {}

    fn server(&self, _: &Occasion, mean: &mut Mean) {
        let mut bank = self.bank.lock();
        for (&item, row) in mean.items.iter().zip(mean.rows.chunks_exact(mean.d)) {
            let norm = norm(row);
            let factor = if norm > self.bound { (self.bound / norm) as f32 } else { 1.0 };
            let saved = bank.entry(item).or_insert_with(|| vec![0.0; mean.d]);
            saved.iter_mut().zip(row).for_each(|(s, x)| *s += factor * x);
        }
        let mut order: Vec<(f64, u32)> = bank.iter().map(|(&item, row)| (norm(row), item)).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        order.truncate((self.share * order.len() as f64).ceil() as usize);
        let mut paid: Vec<u32> = order.into_iter().map(|(_, item)| item).collect();
        paid.sort_unstable();
        mean.rows = paid.iter().flat_map(|item| bank.remove(item).unwrap_or_default()).collect();
        mean.items = paid;
    }

    fn tensors(&self) -> Vec<NamedTensor> {
        let bank = self.bank.lock();
        let items: Vec<u64> = bank.keys().map(|&item| item.into()).collect();
        let rows: Vec<f32> = bank.values().flatten().copied().collect();
        let shape = vec![items.len()];
        vec![NamedTensor { name: ITEMS.into(), shape, data: TensorData::U64(items) }, NamedTensor::f32(ROWS, &[rows.len()], &rows)]
    }

    fn restore(&self, tensors: &Tensors) -> Result<()> {
        let (items, rows) = match (tensors.get(ITEMS).map(|t| &t.data), tensors.get(ROWS).map(|t| &t.data)) {
            (None, None) => (&Vec::new(), &Vec::new()),
            (Some(TensorData::U64(items)), Some(TensorData::F32(rows))) if rows.len().is_multiple_of(items.len().max(1)) => (items, rows),
            _ => return Err(Error::Usage(format!("checkpoint: tensors `{ITEMS}` and `{ROWS}` are damaged or of another defence"))),
        };
        let d = rows.len() / items.len().max(1);
        *self.bank.lock() = items.iter().zip(rows.chunks_exact(d.max(1))).map(|(&item, row)| (item as u32, row.to_vec())).collect();
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
