//! `separation`: contributors of an item row who lie far from its others weigh less, and rows that few clients met are kept from moving to where
//! popular items lie.

use super::median::median;
use super::{Kind, Needs, Occasion, Options, Role, Rule};
use crate::Result;
use crate::base::parallel;
use crate::engine::Mean;

pub(super) const KIND: Kind = Kind {
    name: "separation",
    role: Role::Defence,
    summary: "a row's contributor that is `spread` times as far from the row's median as the one in the middle weighs less in proportion; rows of the \
              `cold` share with the fewest contributors lose what draws them to the rows with the most",
    paper: "ours, after the aims of FORTRESS, arXiv 2602.23982, whose formulas are not public",
    options: &[("spread", 2.0), ("cold", 0.5)],
    build,
};

/// Share of the rows, those with the most contributors, whose place counts as popular.
const HOT: f64 = 0.1;

struct Separation {
    spread: f64,
    cold: f64,
    threads: usize,
}

fn build(options: &Options) -> Result<Box<dyn Rule>> {
    Ok(Box::new(Separation {
        spread: options.get("spread", |x| x >= 1.0, "a number of at least 1")?,
        cold: options.get("cold", |x| (0.0..1.0).contains(&x), "a share of at least 0 and below 1")?,
        threads: options.threads(),
    }))
}

/// The mean of `rows` of width `d`, each weighed by how far it lies from their median; their plain mean where most are equal.
fn agreed(rows: &[&[f32]], d: usize, spread: f64) -> Vec<f32> {
    let mut column = Vec::with_capacity(rows.len());
    let middle: Vec<f32> = (0..d)
        .map(|k| {
            column.clear();
            column.extend(rows.iter().map(|row| row[k]));
            median(&mut column)
        })
        .collect();
    let far: Vec<f64> = rows.iter().map(|row| row.iter().zip(&middle).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()).collect();
    let mut sorted = far.clone();
    sorted.sort_unstable_by(f64::total_cmp);
    let bound = spread * sorted[sorted.len() / 2];
    let weights: Vec<f64> = far.iter().map(|&far| if far > bound && far > 0.0 { bound / far } else { 1.0 }).collect();
    let total: f64 = weights.iter().sum();
    (0..d).map(|k| (rows.iter().zip(&weights).map(|(row, weight)| weight * f64::from(row[k])).sum::<f64>() / total) as f32).collect()
}

impl Rule for Separation {
    fn needs(&self) -> Needs {
        Needs::All
    }

    fn at_client(&self) -> bool {
        false
    }

    fn reads_weights(&self) -> bool {
        true
    }

    fn server(&self, occasion: &Occasion, mean: &mut Mean) {
        let Mean { d, items, rows, updates, .. } = mean;
        let d = *d;
        if d == 0 || items.is_empty() {
            return;
        }
        let mut contributors: Vec<Vec<&[f32]>> = vec![Vec::new(); items.len()];
        for update in updates.iter() {
            for (item, row) in update.items.iter().zip(update.rows.chunks_exact(d)) {
                if let Ok(slot) = items.binary_search(item) {
                    contributors[slot].push(row);
                }
            }
        }
        // Of one or two none can be called far out.
        let judged = rows.chunks_exact_mut(d).zip(&contributors).filter(|(_, from)| from.len() > 2).collect();
        parallel::consume(self.threads, judged, |(to, from): (&mut [f32], &Vec<&[f32]>)| {
            to.copy_from_slice(&agreed(from, d, self.spread));
        });
        let Some(weights) = occasion.weights else { return };
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by_key(|&slot| (contributors[slot].len(), items[slot]));
        let mut popular = vec![0f64; d];
        for &slot in order.iter().rev().take((HOT * order.len() as f64).ceil() as usize) {
            popular.iter_mut().zip(weights.item(items[slot] as usize)).for_each(|(p, x)| *p += f64::from(*x));
        }
        let length = popular.iter().map(|x| x * x).sum::<f64>().sqrt();
        if length == 0.0 {
            return;
        }
        popular.iter_mut().for_each(|x| *x /= length);
        for &slot in &order[..(self.cold * order.len() as f64) as usize] {
            let row = &mut rows[slot * d..][..d];
            let along: f64 = row.iter().zip(&popular).map(|(x, p)| f64::from(*x) * p).sum();
            if along > 0.0 {
                row.iter_mut().zip(&popular).for_each(|(x, p)| *x -= (along * p) as f32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelSettings;
    use crate::engine::Update;
    use crate::model::{ModelSpec, Weights};

    #[test]
    fn who_lies_far_out_weighs_less() {
        let rows: [&[f32]; 4] = [&[1.0], &[2.0], &[2.0], &[100.0]];
        let found = agreed(&rows, 1, 2.0);
        // Distances from the median 2: 1, 0, 0, 98; the middle one (third of four) is 1.
        assert!((f64::from(found[0]) - (1.0 + 2.0 + 2.0 + 100.0 * 2.0 / 98.0) / (3.0 + 2.0 / 98.0)).abs() < 1e-5, "{found:?}");
    }

    #[test]
    fn a_row_that_few_met_is_not_drawn_to_popular_ones() {
        let mut settings = crate::config::Settings::default();
        settings.model = ModelSettings { dim: 2, heads: 1, ..settings.model };
        let mut weights = Weights::init(&ModelSpec::of(&settings), 3, 1);
        weights.items[..6].copy_from_slice(&[0.0, 0.0, 0.0, 0.0, 3.0, 0.0]);
        let update = |client: u32, items: &[u32], rows: &[f32]| Update {
            client,
            weight: 1,
            items: items.to_vec(),
            rows: rows.to_vec(),
            ..Update::default()
        };
        // Item 2 is popular and lies to the right. Item 0 was met by one client, who draws it there; item 1 is drawn away.
        let updates =
            vec![update(0, &[0, 2], &[5.0, 1.0, 1.0, 0.0]), update(1, &[1, 2], &[-5.0, 1.0, 1.0, 0.0]), update(2, &[2], &[1.0, 0.0])];
        let mut mean =
            Mean { d: 2, weight: 3, items: vec![0, 1, 2], rows: vec![5.0, 1.0, -5.0, 1.0, 1.0, 0.0], updates, ..Mean::default() };
        Separation { spread: 2.0, cold: 0.7, threads: 2 }.server(&Occasion { seed: 0, round: 1, weights: Some(&weights) }, &mut mean);
        assert_eq!(mean.rows, [0.0, 1.0, -5.0, 1.0, 1.0, 0.0]);
    }
}
