//! Views as targets, as inputs and as negatives: what is packed, what it weighs, which rows go up, and which settings are refused.

use crate::ring::world;
use lumos::backend::{Step, TableRow};
use lumos::config::{Anchor, Backbone, Contrast, CounterfactualStates, GeneratorKind, Pool, RecLoss, Resample, Settings, UploadRows};
use lumos::data::Dataset;
use lumos::engine::Packer;
use lumos::settings::validate;
use lumos::testing::valid;
use lumos::views::{UserViews, Views};
use std::collections::BTreeSet;

const ITEMS: u32 = 200;

pub fn settings() -> Settings {
    let mut s = Settings { seed: 3, threads: 1, ..Default::default() };
    (s.model.dim, s.model.max_len) = (8, 8);
    (s.loss.rec, s.loss.negatives, s.loss.resample, s.loss.contrast) = (RecLoss::SampledSoftmax, 5, Resample::Visit, Contrast::None);
    s.local.epochs = 2;
    s
}

/// Views in which the paraphrase has items of its own.
fn worlds() -> (Dataset, Views) {
    let (data, mut views) = world(24, ITEMS, 2);
    for view in &mut views.users {
        view.paraphrase.iter_mut().for_each(|item| *item = (*item + 50) % ITEMS);
    }
    (data, views)
}

/// An example: items of its sequence up to its output, its positive, its negatives, its share.
pub struct Example {
    pub input: Vec<u32>,
    pub positive: u32,
    pub negatives: Vec<u32>,
    pub share: f32,
}

/// Examples of the first step of `user`, and the step.
pub fn examples(settings: &Settings, (data, views): &(Dataset, Views), user: u32) -> (Vec<Example>, Step) {
    let mut packer = Packer::new(valid(settings), data.clone(), views.clone());
    let plan = packer.begin(&[user], 3);
    let mut step = Step::default();
    packer.pack(0, &mut step);
    let shares: Vec<f32> = step.shares().collect();
    let item = |row: &TableRow| packer.items()[row.index()];
    let of = |e: usize| {
        let (q, cands) = (step.example[e] as usize, &step.cands[e * step.width..][..step.width]);
        let input = step.row[step.out_start[q] as usize..=step.out_token[q] as usize].iter().map(item).collect();
        Example { input, positive: item(&cands[0]), negatives: cands[1..].iter().map(item).collect(), share: shares[e] }
    };
    assert_eq!(plan.examples as usize, step.training_positions());
    ((0..step.example.len()).map(of).collect(), step)
}

/// Sum of shares.
fn mass<'a>(of: impl Iterator<Item = &'a Example>) -> f32 {
    of.map(|e| e.share).sum()
}

#[test]
fn futures_are_positives_of_the_state_that_stands_for_the_history() {
    let world = worlds();
    for anchor in [Anchor::History, Anchor::Input] {
        let mut s = settings();
        (s.loss.future_targets, s.loss.anchor) = (0.3, anchor);
        for user in 0..24 {
            let train = world.0.train(user as usize);
            let (all, step) = examples(&s, &world, user);
            let future = &world.1.users[user as usize].future[train.len()..];
            let (own, plain): (Vec<_>, Vec<_>) = all.iter().partition(|e| future.contains(&e.positive) && !train.contains(&e.positive));
            let end = if anchor == Anchor::History { train.len() } else { train.len() - 1 };
            assert!(own.iter().all(|e| e.input == train[end.saturating_sub(8)..end]));
            assert_eq!(own.iter().map(|e| e.positive).collect::<BTreeSet<_>>(), future.iter().copied().collect());
            assert!(own.iter().all(|e| !e.negatives.contains(&e.positive)));
            assert_eq!((own.len(), step.weighted as usize), (future.len(), future.len()));
            if plain.is_empty() {
                continue;
            }
            // Both are means: the weight is that of the setting, whatever the lengths.
            assert!((mass(plain.into_iter()) - 1.0).abs() < 1e-5 && (mass(own.into_iter()) - 0.3).abs() < 1e-5);
        }
    }
}

#[test]
fn paraphrases_lead_to_the_next_items_of_the_history() {
    let world = worlds();
    for (contrast, anchor) in
        [(Contrast::None, Anchor::History), (Contrast::Decoupled, Anchor::History), (Contrast::Decoupled, Anchor::Input)]
    {
        let mut s = settings();
        (s.loss.paraphrase_inputs, s.loss.contrast, s.loss.anchor) = (0.2, contrast, anchor);
        for user in 0..24 {
            let train = world.0.train(user as usize);
            let (all, step) = examples(&s, &world, user);
            let shifted = |items: &[u32]| items.iter().map(|i| (i + 50) % ITEMS).collect::<Vec<u32>>();
            let (own, plain): (Vec<_>, Vec<_>) = all.iter().partition(|e| !train.contains(&e.input[0]));
            assert_eq!(own.len(), plain.len());
            for (a, b) in own.iter().zip(&plain) {
                assert_eq!((&a.input, a.positive, &a.negatives), (&shifted(&b.input), b.positive, &b.negatives));
            }
            assert!((mass(plain.into_iter()) - 1.0).abs() < 1e-5 && (mass(own.into_iter()) - 0.2).abs() < 1e-5);
            // With the whole history as the anchor the contrast has its view from the same sequence.
            let sequences = match (contrast, anchor) {
                (Contrast::None, _) => 2,
                (_, Anchor::History) => 4,
                _ => 5,
            };
            assert_eq!(step.bounds.len() - 1, sequences, "{contrast:?} {anchor:?}");
            assert_eq!(step.positives.len(), usize::from(contrast != Contrast::None));
        }
    }
}

#[test]
fn a_paraphrase_of_another_length_predicts_the_last_item_alone() {
    let (data, mut views) = worlds();
    views.users.iter_mut().for_each(|view| view.paraphrase.push(7));
    let mut s = settings();
    s.loss.paraphrase_inputs = 0.2;
    for user in 0..24 {
        let train = data.train(user as usize);
        let paraphrase = &views.users[user as usize].paraphrase;
        let (all, step) = examples(&s, &(data.clone(), views.clone()), user);
        let last = &all[all.len() - 1];
        assert_eq!((step.weighted, last.positive), (1, train[train.len() - 1]));
        assert_eq!(last.input, paraphrase[(paraphrase.len() - 1).saturating_sub(8)..paraphrase.len() - 1]);
        assert!((last.share - 0.2).abs() < 1e-6);
    }
}

#[test]
fn some_negatives_are_items_of_counterfactuals_and_none_is_a_positive() {
    let (data, mut views) = worlds();
    for (user, view) in views.users.iter_mut().enumerate() {
        // A second counterfactual holds the whole history, which no negative may come from; one user has none at all.
        view.counterfactuals.push(data.train(user).to_vec());
        if user == 5 {
            view.counterfactuals.clear();
        }
    }
    let world = (data, views);
    for (resample, rec) in
        [(Resample::Visit, RecLoss::SampledSoftmax), (Resample::Epoch, RecLoss::Bce), (Resample::Shared, RecLoss::SampledSoftmax)]
    {
        let mut s = settings();
        (s.loss.resample, s.loss.rec, s.loss.counterfactual_negatives) = (resample, rec, 2);
        let mut hard = 0;
        for user in 0..24 {
            let train = world.0.train(user as usize);
            let far: BTreeSet<u32> = world.1.users[user as usize].counterfactuals.iter().flatten().copied().collect();
            let (all, step) = examples(&s, &world, user);
            assert!(step.share.is_empty(), "weights are those of training positions");
            for e in &all {
                assert_eq!(e.negatives.len(), 5);
                assert!(e.negatives.iter().all(|item| !train.contains(item)));
                hard += e.negatives[..2].iter().filter(|item| far.contains(item)).count();
            }
            s.loss.counterfactual_negatives = 0;
            let (plain, _) = examples(&s, &world, user);
            s.loss.counterfactual_negatives = 2;
            let others = |all: &[Example]| all.iter().map(|e| e.negatives[2..].to_vec()).collect::<Vec<_>>();
            assert_eq!(others(&all), others(&plain), "the others are drawn as without");
            if user == 5 {
                assert!(all.iter().zip(&plain).all(|(a, b)| a.negatives == b.negatives));
            }
        }
        assert!(hard > 100, "{resample:?}: {hard}");
    }
}

#[test]
fn rows_of_views_stay_on_the_client() {
    let world = worlds();
    for upload in [UploadRows::Trained, UploadRows::Touched] {
        let mut s = settings();
        (s.federation.upload_rows, s.loss.anchor) = (upload, Anchor::Input);
        (s.loss.future_targets, s.loss.paraphrase_inputs, s.loss.counterfactual_negatives) = (0.3, 0.2, 2);
        let mut packer = Packer::new(valid(&s), world.0.clone(), world.1.clone());
        for user in 0..24u32 {
            let plan = packer.begin(&[user], 3);
            for number in 0..plan.steps {
                packer.pack(number, &mut Step::default());
            }
            let mut plain = Settings { loss: settings().loss, ..s.clone() };
            plain.loss.anchor = s.loss.anchor;
            let mut alone = Packer::new(valid(&plain), world.0.clone(), world.1.clone());
            alone.begin(&[user], 3);
            let without: BTreeSet<u32> = alone.items().iter().copied().collect();
            let UserViews { future, paraphrase, counterfactuals } = &world.1.users[user as usize];
            let seen: BTreeSet<u32> = future.iter().chain(paraphrase).chain(counterfactuals.iter().flatten()).copied().collect();
            let new: Vec<usize> = (0..plan.rows as usize).filter(|&row| !without.contains(&packer.items()[row])).collect();
            assert!(new.iter().all(|&row| seen.contains(&packer.items()[row])), "only views give rows");
            assert!(!new.is_empty() && new.iter().all(|&row| packer.uploads(row) == (upload == UploadRows::Touched)));
        }
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let refused = |change: &dyn Fn(&mut Settings), parts: &[&str]| {
        let mut s = settings();
        change(&mut s);
        let message = validate(&s).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    let mut good = settings();
    (good.loss.future_targets, good.loss.paraphrase_inputs, good.loss.counterfactual_negatives) = (0.3, 0.2, 5);
    validate(&good).unwrap();
    for (key, set) in [
        ("loss.future_targets", (|s, w| s.loss.future_targets = w) as fn(&mut Settings, f32)),
        ("loss.paraphrase_inputs", |s, w| s.loss.paraphrase_inputs = w),
    ] {
        refused(&|s| set(s, -0.1), &[key, "0 or more"]);
        refused(&|s| set(s, f32::NAN), &[key, "finite"]);
        refused(&|s| (set(s, 0.1), s.views.generator = GeneratorKind::NONE).1, &["views.generator", key]);
        refused(&|s| (set(s, 0.1), s.loss.rec = RecLoss::Softmax).1, &["loss.rec", "sampled-softmax", key]);
        refused(&|s| (set(s, 0.1), s.model.backbone = Backbone::BERT4REC).1, &["model.backbone", "forwards", key]);
    }
    refused(&|s| s.loss.counterfactual_negatives = 6, &["loss.counterfactual_negatives", "loss.negatives = 5"]);
    refused(&|s| (s.loss.counterfactual_negatives, s.loss.rec) = (1, RecLoss::Softmax), &["counterfactual_negatives", "softmax"]);
    refused(&|s| (s.loss.counterfactual_negatives, s.views.generator) = (1, GeneratorKind::NONE), &["views.generator", "counterfactual"]);
}

#[test]
fn means_of_states_make_every_item_of_a_view_an_output() {
    let world = worlds();
    for (pool, paraphrase_inputs) in [(Pool::Last, 0.0), (Pool::Mean, 0.0), (Pool::Mean, 0.2)] {
        let mut s = settings();
        (s.loss.contrast, s.loss.pool, s.loss.paraphrase_inputs) = (Contrast::Decoupled, pool, paraphrase_inputs);
        for user in 0..24 {
            let (_, step) = examples(&s, &world, user);
            let last = |q: u32| step.bounds.contains(&(step.out_token[q as usize] + 1));
            assert!(step.group.iter().all(|&q| last(q)), "an item at the end stands for its sequence");
            assert_eq!(step.outputs() == step.tokens(), pool == Pool::Mean);
        }
    }
    let mut s = settings();
    (s.loss.contrast, s.loss.pool, s.model.backbone) = (Contrast::Decoupled, Pool::Mean, Backbone::BERT4REC);
    let message = validate(&s).unwrap_err().to_string();
    assert!(message.contains("loss.pool") && message.contains("last"), "{message}");
}

#[test]
fn every_state_of_a_counterfactual_can_be_a_negative() {
    let world = worlds();
    for pool in [Pool::Last, Pool::Mean] {
        let mut s = settings();
        (s.loss.contrast, s.loss.pool, s.loss.counterfactual_states) = (Contrast::Decoupled, pool, CounterfactualStates::Every);
        for user in 0..24 {
            let (_, step) = examples(&s, &world, user);
            let views = &world.1.users[user as usize];
            let long: usize = views.counterfactuals.iter().map(|view| view.len().min(8)).sum();
            if step.positives.is_empty() {
                continue;
            }
            let far = &step.group[1 + step.positives[0] as usize..];
            assert_eq!(far.len(), long, "user {user}");
            // Every token of its sequences once, in their order.
            let tokens: Vec<u32> = far.iter().map(|&q| step.out_token[q as usize]).collect();
            assert_eq!(tokens, (tokens[0]..=tokens[long - 1]).collect::<Vec<u32>>());
            assert_eq!(tokens.last().map(|token| token + 1), step.bounds.last().copied());
        }
    }
    let mut s = settings();
    (s.loss.contrast, s.loss.counterfactual_states, s.model.backbone) =
        (Contrast::Decoupled, CounterfactualStates::Every, Backbone::BERT4REC);
    let message = validate(&s).unwrap_err().to_string();
    assert!(message.contains("loss.counterfactual_states") && message.contains("last"), "{message}");
    let mut s = settings();
    (s.loss.contrast, s.loss.counterfactual_states) = (Contrast::Decoupled, CounterfactualStates::Every);
    (s.views.counterfactuals, s.model.max_len) = (11, 100);
    let message = validate(&s).unwrap_err().to_string();
    assert!(message.contains("loss.counterfactual_states") && message.contains("1100"), "{message}");
}

#[test]
fn views_are_packed_in_the_first_epochs_alone() {
    let (data, views) = worlds();
    let mut s = settings();
    (s.loss.contrast, s.loss.contrast_epochs, s.local.epochs) = (Contrast::Decoupled, 2, 4);
    let mut packer = Packer::new(valid(&s), data.clone(), views.clone());
    s.loss.contrast_epochs = 0;
    let mut always = Packer::new(valid(&s), data, views);
    let [mut step, mut whole] = [Step::default(), Step::default()];
    let mut groups = 0;
    for user in 0..24 {
        packer.begin(&[user], 3);
        always.begin(&[user], 3);
        assert!(!packer.repeats() && !packer.steady());
        assert_eq!(packer.items(), always.items());
        for number in 0..4 {
            packer.pack(number, &mut step);
            always.pack(number, &mut whole);
            assert_eq!(step.example, whole.example, "next items are trained on in every epoch");
            if number < 2 {
                assert_eq!((&step.row, &step.group), (&whole.row, &whole.group));
                groups += step.positives.len();
            } else {
                assert!(step.group.is_empty() && step.bounds.len() == 2, "the history alone");
            }
        }
    }
    assert!(groups > 0);
}
