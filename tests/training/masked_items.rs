//! Backbones that read both ways: what is masked, and where the special row behind the catalogue takes part.

use super::ring::world;
use lumos::backend::Step;
use lumos::config::{Backbone, Clients, Contrast, RecLoss, Settings};
use lumos::data::{Dataset, Split};
use lumos::engine::{NamedTensor, Packer, TensorData};
use lumos::federation::Trainer;
use lumos::model::{ModelSpec, Weights};
use lumos::testing::valid;
use lumos::views::Views;

fn settings() -> Settings {
    let mut s = Settings { seed: 3, threads: 1, ..Default::default() };
    s.model.backbone = Backbone::BERT4REC;
    s.model.dim = 12;
    s.model.heads = 2;
    s.model.max_len = 8;
    s.local.epochs = 40;
    s.loss.contrast = Contrast::None;
    s.loss.negatives = 2;
    s
}

fn steps(settings: &Settings, data: &Dataset, user: u32) -> (Vec<u32>, Vec<Step>) {
    let views = Views::default();
    let mut packer = Packer::new(valid(settings), data.clone(), views.clone());
    let plan = packer.begin(&[user], 1);
    let steps = (0..plan.steps).map(|number| {
        let mut step = Step::default();
        packer.pack(number, &mut step);
        step
    });
    let steps = steps.collect();
    assert_eq!(plan.rows as usize, packer.items().len(), "every row was foreseen");
    (packer.items().to_vec(), steps)
}

#[test]
fn masked_positions_and_nothing_else_are_examples() {
    let (data, _) = world(12, 30, 2);
    for (rho, last) in [(0.2, 0.0), (0.6, 0.25), (1e-6, 0.0), (0.3, 1.0)] {
        let mut settings = settings();
        (settings.loss.masked.rho, settings.loss.masked.last) = (rho, last);
        let (mut hidden, mut positions, mut only_last, mut count) = (0, 0, 0, 0);
        let mut patterns = std::collections::BTreeSet::new();
        for user in 0..12 {
            let train = data.train(user as usize);
            let train = &train[train.len().saturating_sub(8)..];
            let (items, steps) = steps(&settings, &data, user);
            for step in steps {
                let read: Vec<u32> = step.row.iter().map(|&row| items[row.index()]).collect();
                let masked: Vec<usize> = (0..read.len()).filter(|&t| read[t] == 30).collect();
                assert_eq!(read.len(), train.len());
                assert!(!masked.is_empty(), "at least one item is masked");
                assert!((0..read.len()).all(|t| read[t] == train[t] || masked.contains(&t)), "other items stay");
                assert_eq!(step.out_token, masked.iter().map(|&t| t as u32).collect::<Vec<_>>());
                for (e, &t) in masked.iter().enumerate() {
                    let cands: Vec<u32> = step.cands[3 * e..3 * e + 3].iter().map(|&row| items[row.index()]).collect();
                    assert_eq!(cands[0], train[t]);
                    assert!(cands[1..].iter().all(|c| *c < 30 && !train.contains(c)), "negatives are items of the catalogue");
                }
                (hidden, positions, count) = (hidden + masked.len(), positions + read.len(), count + 1);
                only_last += usize::from(masked == [read.len() - 1]);
                patterns.insert(masked);
            }
        }
        let share = hidden as f64 / positions as f64;
        match (rho, last) {
            (0.2, _) => assert!((0.15..0.35).contains(&share) && patterns.len() > 20, "{share}"),
            (0.6, _) => assert!(only_last * 10 > count * 2 && only_last * 10 < count * 5, "{only_last} of {count}"),
            (_, 1.0) => assert_eq!(only_last, count),
            _ => assert!(hidden == count && only_last < count, "one each, not always the last"),
        }
    }
}

fn tensor<'a>(tensors: &'a [NamedTensor], name: &str) -> (&'a [usize], &'a [f32]) {
    let found = tensors.iter().find(|t| t.name == name).unwrap();
    match &found.data {
        TensorData::F32(v) => (&found.shape, v),
        _ => panic!("{name} holds floats"),
    }
}

#[test]
fn the_mask_row_is_trained_and_never_ranked_or_counted() {
    let (data, views) = world(40, 30, 4);
    for (clients, rec) in [(Clients::User, RecLoss::Bce), (Clients::User, RecLoss::Softmax), (Clients::One, RecLoss::Softmax)] {
        let mut settings = settings();
        settings.federation.clients = clients;
        settings.federation.fraction = 1.0;
        (settings.loss.rec, settings.local.epochs, settings.local.batch) = (rec, 2, 8);
        let mut trainer = Trainer::new(valid(&settings), data.clone(), views.clone()).unwrap();
        let before = trainer.tensors().unwrap();
        let report = trainer.round().unwrap();
        let after = trainer.tensors().unwrap();
        let ((shape, old), (_, new)) = (tensor(&before, "items"), tensor(&after, "items"));
        assert_eq!(shape, [31, 12], "the catalogue and the mask row");
        assert!(old[30 * 12..] != new[30 * 12..], "the mask row is trained");
        assert!(report.item_rows <= 30, "{} item rows", report.item_rows);
        // A mask row that scores above everything, were it scored.
        let mut loud = after.clone();
        let TensorData::F32(items) = &mut loud.iter_mut().find(|t| t.name == "items").unwrap().data else { panic!() };
        let ranks = trainer.rank(Split::Test, &(0..40).collect::<Vec<_>>(), &|_, _| {}).unwrap();
        assert!(ranks.iter().all(|&r| r == lumos::eval::MISS || (1..=30).contains(&r)));
        let best = trainer.recommend(None, data.train(0), 40).unwrap();
        assert!(best.iter().all(|(item, _)| *item < 30) && best.len() + data.train(0).len() >= 30);
        items[..30 * 12].fill(0.0);
        trainer.restore(&loud, 1).unwrap();
        assert!(trainer.recommend(None, data.train(0), 40).unwrap().iter().all(|(_, score)| *score == 0.0));
    }
}

#[test]
fn special_rows_leave_the_weights_of_items_as_they_were() {
    let mut settings = settings();
    settings.model.dropout = 0.1;
    let spec = ModelSpec::of(&settings);
    assert_eq!((spec.special.as_slice(), spec.rows(30), spec.asked_row(30)), (["mask"].as_slice(), 31, Some(30)));
    let own = Weights::init(&spec, 30, 9);
    settings.model.backbone = Backbone::SASREC;
    let plain = Weights::init(&ModelSpec::of(&settings), 30, 9);
    assert_eq!(own.catalogue(), plain.items, "items start as they do without a mask row");
}

/// A ring is learned: the next item ends up before most others.
#[test]
fn a_ring_is_learned() {
    let (data, views) = world(150, 40, 5);
    let mut settings = settings();
    settings.model.positions = lumos::config::Positions::Last;
    settings.federation.clients = Clients::One;
    settings.loss.rec = RecLoss::Softmax;
    (settings.local.epochs, settings.local.batch, settings.local.lr) = (1, 16, 3e-3);
    let users: Vec<u32> = (0..150).collect();
    let mut trainer = Trainer::new(valid(&settings), data.clone(), views.clone()).unwrap();
    let hits =
        |trainer: &mut Trainer| trainer.rank(Split::Test, &users, &|_, _| {}).unwrap().iter().filter(|r| (1..=5).contains(*r)).count();
    let before = hits(&mut trainer);
    for _ in 0..60 {
        trainer.round().unwrap();
    }
    let after = hits(&mut trainer);
    assert!(after > 75 && after > 2 * before, "{before} hits before, {after} after of 150");
}
