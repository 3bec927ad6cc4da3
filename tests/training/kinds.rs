//! Every kind of training that the tests of rounds and of resumption go through, on a small world.

use crate::foreign;
use lumos::config::*;
use lumos::data::{Dataset, UserGroups};
use lumos::engine::NamedTensor;
use lumos::federation::Trainer;
use lumos::testing::valid;
use lumos::views::Views;

pub fn settings() -> Settings {
    let mut s = Settings { seed: 3, threads: 1, ..Default::default() };
    s.model.dim = 12;
    s.model.heads = 2;
    s.model.max_len = 8;
    s.model.dropout = 0.1;
    s.local.epochs = 2;
    s.federation.fraction = 0.4;
    s
}

/// The world with users of even number at one site and two each at others.
pub fn world(users: u32, items: u32, seed: u64) -> (Dataset, Views) {
    let (mut data, views) = crate::ring::world(users, items, seed);
    let site = |u: u32| if u.is_multiple_of(2) { "main".to_string() } else { format!("site {}", u / 4) };
    data.groups = Some(UserGroups::new("site", &(0..users).map(site).collect::<Vec<_>>()));
    (data, views)
}

pub fn train(settings: &Settings, data: &Dataset, views: &Views, rounds: u64) -> Vec<NamedTensor> {
    let mut trainer = Trainer::new(valid(settings), data.clone(), views.clone()).unwrap();
    for _ in 0..rounds {
        trainer.round().unwrap();
    }
    trainer.tensors().unwrap()
}

/// Terms that learn from views beside the contrast, all of them.
fn every_view(s: &mut Settings) {
    (s.loss.rec, s.loss.negatives, s.loss.anchor) = (RecLoss::SampledSoftmax, 5, Anchor::Input);
    (s.loss.future_targets, s.loss.paraphrase_inputs, s.loss.counterfactual_negatives) = (0.3, 0.2, 2);
}

/// A client's own contrast with random sequences.
fn strangers(s: &mut Settings) {
    s.loss.contrast = Contrast::None;
    (s.loss.in_batch.weight, s.loss.in_batch.strangers, s.loss.in_batch.similarity) = (0.3, 3, Similarity::Cosine);
}

/// Every kind of training that keeps different state.
pub fn kinds() -> Vec<(&'static str, Settings)> {
    let base = settings();
    let with = |f: &dyn Fn(&mut Settings)| {
        let mut s = base.clone();
        f(&mut s);
        s
    };
    vec![
        ("lumos", base.clone()),
        ("positions from the last", with(&|s| s.model.positions = Positions::Last)),
        ("literal", with(&|s| s.loss.contrast = Contrast::Joint)),
        ("no views", with(&|s| s.loss.contrast = Contrast::None)),
        ("gru", with(&|s| s.model.backbone = Backbone::GRU4REC)),
        ("bert", with(&|s| s.model.backbone = Backbone::BERT4REC)),
        ("bert, private items", with(&|s| (s.model.backbone, s.federation.shared) = (Backbone::BERT4REC, vec![Group::Encoder]))),
        ("strangers", with(&strangers)),
        ("personal", with(&|s| s.federation.personal = 0.3)),
        ("clip, adamw", with(&|s| (s.local.clip, s.local.optimizer, s.local.weight_decay) = (0.5, LocalOptimizer::Adamw, 0.01))),
        ("adagrad, proximal", with(&|s| (s.local.optimizer, s.local.proximal) = (LocalOptimizer::Adagrad, 5.0))),
        (
            "preconditioned",
            with(&|s| {
                (s.federation.server, s.federation.server_lr) = (ServerOptimizer::Fedadam, 0.01);
                (s.local.optimizer, s.local.eps) = (LocalOptimizer::Preconditioned, 0.01);
            }),
        ),
        ("sampled softmax", with(&|s| (s.loss.rec, s.loss.negatives) = (RecLoss::SampledSoftmax, 5))),
        ("shared negatives", with(&|s| (s.loss.rec, s.loss.negatives, s.loss.resample) = (RecLoss::SampledSoftmax, 6, Resample::Shared))),
        ("prefixes", with(&|s| s.loss.examples = Examples::Prefixes)),
        ("by popularity", with(&|s| (s.loss.rec, s.loss.negatives, s.loss.popularity) = (RecLoss::SampledSoftmax, 6, 0.8))),
        ("full softmax", with(&|s| s.loss.rec = RecLoss::Softmax)),
        ("fedadam", with(&|s| (s.federation.server, s.federation.server_lr) = (ServerOptimizer::Fedadam, 0.01))),
        (
            "fedyogi, corrected by the steps of each row",
            with(&|s| {
                (s.federation.server, s.federation.server_lr) = (ServerOptimizer::Fedyogi, 0.01);
                s.federation.server_correction = true;
            }),
        ),
        ("momentum, examples", with(&|s| (s.federation.server_momentum, s.federation.weights) = (0.5, ClientWeighting::Examples))),
        ("private encoder", with(&|s| s.federation.shared = vec![Group::Items])),
        ("private items", with(&|s| s.federation.shared = vec![Group::Encoder])),
        ("private on disk", with(&|s| (s.federation.shared, s.federation.private_memory_mb) = (vec![Group::Items], 0))),
        ("backbone and term of another crate", foreign::with_foreign(base.clone())),
        ("views as targets, inputs and negatives", with(&every_view)),
        ("contrasted in the first epoch", with(&|s| s.loss.contrast_epochs = 1)),
        ("means of states", with(&|s| s.loss.pool = Pool::Mean)),
        (
            "views as targets, inputs and negatives, in groups",
            with(&|s| {
                every_view(s);
                (s.federation.clients, s.local.batch) = (Clients::Groups(4), 7);
            }),
        ),
        ("item dropout", with(&|s| s.model.item_dropout = 0.3)),
        ("lambda falls", with(&|s| s.loss.lambda_rounds = 2)),
        (
            "privacy, each client by itself",
            with(&|s| {
                (s.federation.average, s.federation.sampling) = (Average::Cohort, CohortSampling::Poisson);
                (s.federation.fraction, s.privacy.noise, s.privacy.clip) = (1.0, 0.5, 0.3);
            }),
        ),
        ("an average ranks", with(&|s| s.federation.ranking_average = 0.7)),
        ("dropouts", with(&|s| s.federation.dropout_rate = 0.4)),
        ("feedback", with(&|s| s.federation.rules = vec!["quantise bits=3 feedback=1".into()])),
        ("rules", with(&|s| s.federation.rules = ["sign-flip share=0.3", "norm-bound bound=0.4", "median"].map(String::from).to_vec())),
        ("centralised", with(&|s| (s.federation.clients, s.local.batch, s.local.epochs) = (Clients::One, 7, 1))),
        ("groups by a column", with(&|s| (s.federation.clients, s.data.group_column, s.local.batch) = (Clients::Column, "site".into(), 7))),
        ("four groups", with(&|s| (s.federation.clients, s.local.batch, s.federation.fraction) = (Clients::Groups(4), 7, 0.6))),
    ]
}

pub fn advance(trainer: &mut Trainer, rounds: u64) {
    for _ in 0..rounds {
        trainer.round().unwrap();
    }
}
