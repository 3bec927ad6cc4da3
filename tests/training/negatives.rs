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
