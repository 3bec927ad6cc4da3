//! When negatives are drawn, and which rows a visit takes for them.

use super::ring::world;
use lumos::backend::Step;
use lumos::config::{Backbone, Contrast, RecLoss, Resample, Settings};
use lumos::engine::Packer;
use lumos::testing::valid;
use lumos::views::Views;
use std::collections::BTreeSet;

#[test]
fn negatives_are_drawn_for_a_visit_a_position_or_an_epoch() {
    let (data, _) = world(12, 200, 2);
    let views = Views::default();
    for backbone in [Backbone::SASREC, Backbone::BERT4REC] {
        for resample in [Resample::Shared, Resample::Visit, Resample::Epoch] {
            let mut s = Settings { seed: 3, threads: 1, ..Default::default() };
            (s.model.backbone, s.model.dim, s.model.max_len) = (backbone, 8, 8);
            (s.loss.rec, s.loss.negatives, s.loss.resample, s.loss.contrast) = (RecLoss::SampledSoftmax, 5, resample, Contrast::None);
            s.local.epochs = 4;
            let mut packer = Packer::new(valid(&s), data.clone(), views.clone());
            for user in 0..12 {
                let plan = packer.begin(&[user], 3);
                let train = data.train(user as usize);
                let (mut sets, mut named, mut draws) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
                for number in 0..plan.steps {
                    let mut step = Step::default();
                    packer.pack(number, &mut step);
                    assert_eq!(step.cands.len(), 6 * step.example.len());
                    for (cands, &output) in step.cands.chunks(6).zip(&step.example) {
                        let position = step.position[step.out_token[output as usize] as usize];
                        draws.insert(match resample {
                            Resample::Shared => (0, 0),
                            Resample::Visit => (0, position),
                            Resample::Epoch => (number, position),
                        });
                        let items: Vec<u32> = cands.iter().map(|&row| packer.items()[row.index()]).collect();
                        assert!(items[1..].iter().all(|item| *item < 200 && !train.contains(item)));
                        named.extend(items.iter().copied());
                        sets.insert(items[1..].to_vec());
                    }
                }
                assert_eq!(sets.len(), draws.len(), "{backbone:?} {resample:?}");
                assert_eq!(plan.rows as usize, packer.items().len(), "every row was foreseen");
                let foreseen: BTreeSet<u32> = packer.items().iter().copied().filter(|item| *item < 200).collect();
                named.extend(train);
                assert!(foreseen.is_subset(&named), "{backbone:?} {resample:?}: rows for nothing");
                // The same visit draws the same.
                let before = packer.items().to_vec();
                packer.begin(&[(user + 1) % 12], 3);
                packer.begin(&[user], 3);
                assert_eq!(packer.items(), before);
            }
        }
    }
}

/// Popular items are drawn more often, and what is taken off a score is the log of it, of the positive's as well.
#[test]
fn negatives_by_popularity_are_corrected_for_it() {
    let (data, _) = world(200, 50, 2);
    let counts = data.train_counts();
    let mean = counts.iter().map(|&count| f64::from(count) + 1.0).sum::<f64>() / 50.0;
    let mut seen = [0u32; 50];
    for resample in [Resample::Shared, Resample::Visit, Resample::Epoch] {
        let mut s = Settings { seed: 3, threads: 1, ..Default::default() };
        (s.model.dim, s.model.max_len, s.local.epochs) = (8, 8, 2);
        (s.loss.rec, s.loss.negatives, s.loss.resample, s.loss.contrast) = (RecLoss::SampledSoftmax, 7, resample, Contrast::None);
        s.loss.popularity = 1.0;
        let mut packer = Packer::new(valid(&s), data.clone(), Views::default());
        for user in 0..200 {
            let plan = packer.begin(&[user], 1);
            for number in 0..plan.steps {
                let mut step = Step::default();
                packer.pack(number, &mut step);
                assert_eq!(step.offset.len(), step.cands.len());
                for (c, (&row, &offset)) in step.cands.iter().zip(&step.offset).enumerate() {
                    let item = packer.items()[row.index()] as usize;
                    assert!((f64::from(offset) - ((f64::from(counts[item]) + 1.0) / mean).ln()).abs() < 1e-5, "item {item}");
                    if c % 8 > 0 {
                        assert!(!data.train(user as usize).contains(&(item as u32)));
                        seen[item] += 1;
                    }
                }
            }
        }
    }
    let drawn = |items: &[usize]| items.iter().map(|&i| f64::from(seen[i])).sum::<f64>() / items.len() as f64;
    let mut order: Vec<usize> = (0..50).collect();
    order.sort_by_key(|&i| counts[i]);
    assert!(drawn(&order[40..]) > 1.3 * drawn(&order[..10]), "{counts:?} {seen:?}");
}
