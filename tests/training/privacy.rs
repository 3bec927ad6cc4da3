//! User-level differential privacy in real rounds.

use crate::ring::world;
use lumos::config::{Average, CohortSampling, Contrast, LocalOptimizer, Settings};
use lumos::engine::TensorData;
use lumos::federation::Trainer;
use lumos::privacy::{Accountant, Sampling};
use lumos::testing::valid;

fn settings(noise: f64, clip: f64) -> Settings {
    let mut s = Settings { seed: 3, threads: 2, ..Default::default() };
    (s.model.dim, s.model.max_len, s.local.epochs) = (12, 8, 2);
    (s.local.optimizer, s.local.lr) = (LocalOptimizer::Sgd, 0.1);
    s.loss.contrast = Contrast::None;
    (s.federation.fraction, s.federation.average) = (0.4, Average::Cohort);
    (s.privacy.noise, s.privacy.clip) = (noise, clip);
    s
}

fn trained(settings: &Settings, rounds: u64) -> (Trainer, Vec<Option<f64>>) {
    let (data, views) = world(60, 40, 1);
    let mut trainer = Trainer::new(valid(settings), data, views).unwrap();
    let spent = (0..rounds).map(|_| trainer.round().unwrap().epsilon).collect();
    (trainer, spent)
}

fn items(trainer: &Trainer) -> Vec<f32> {
    let tensors = trainer.tensors().unwrap();
    match &tensors.iter().find(|t| t.name == "items").unwrap().data {
        TensorData::F32(values) => values.to_vec(),
        _ => panic!("items are numbers"),
    }
}

#[test]
fn epsilon_is_counted_round_by_round_and_goes_on_after_a_resumption() {
    for (sampling, as_counted) in [(CohortSampling::Fixed, Sampling::Fixed), (CohortSampling::Poisson, Sampling::Poisson)] {
        let mut s = settings(2.0, 0.5);
        s.federation.sampling = sampling;
        let (mut trainer, spent) = trained(&s, 3);
        let by_hand = |rounds| Some(Accountant { noise: 2.0, rate: 0.4, sampling: as_counted }.epsilon(rounds, 1e-5));
        assert_eq!(spent, [by_hand(1), by_hand(2), by_hand(3)]);
        let (mut again, _) = trained(&s, 0);
        let tensors = trainer.tensors().unwrap();
        again.restore(&tensors, 3).unwrap();
        assert_eq!(again.round().unwrap().epsilon, by_hand(4));
        trainer.round().unwrap();
        assert!(items(&again) == items(&trainer), "noise is a function of the round");
    }
    assert_eq!(trained(&settings(0.0, 1.0), 1).1, [None]);
}

#[test]
fn a_target_epsilon_is_reached_in_the_last_round() {
    let mut s = settings(0.0, 0.5);
    (s.privacy.epsilon, s.federation.rounds) = (3.0, 6);
    let (_, spent) = trained(&s, 6);
    let last = spent[5].unwrap();
    assert!(last <= 3.0 && last > 2.99, "{spent:?}");
}

#[test]
fn the_model_has_the_same_bits_for_any_number_of_threads() {
    let with = |threads| {
        let (trainer, _) = trained(&Settings { threads, ..settings(1.0, 0.1) }, 2);
        trainer.tensors().unwrap()
    };
    assert!(with(1) == with(3));
}

/// A clip that never binds and noise far below the changes leave the model where it was without, up to the noise.
#[test]
fn without_clip_and_noise_it_is_plain_training() {
    let (plain, _) = trained(&settings(0.0, 1.0), 2);
    let (private, _) = trained(&settings(1e-6, 1e3), 2);
    let (clipped, _) = trained(&settings(1e-6, 1e-2), 2);
    let apart = |other: &Trainer| items(&plain).iter().zip(items(other)).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(apart(&private) < 1e-3 && apart(&private) > 0.0, "{}", apart(&private));
    assert!(apart(&clipped) > 2e-3, "{}", apart(&clipped));
}
