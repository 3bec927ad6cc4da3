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

/// A clip that follows the norms: it is the same for any number of threads, a resumed run goes on with it, and it ends where it belongs.
#[test]
fn an_adaptive_clip_finds_the_norms_and_survives_a_resumption() {
    let adaptive = |threads| {
        let mut s = Settings { threads, ..settings(1.0, 1e-3) };
        (s.privacy.clip_quantile, s.privacy.clip_rate) = (0.5, 1.0);
        s
    };
    let run = |threads, rounds| {
        let (data, views) = world(60, 40, 1);
        let mut trainer = Trainer::new(valid(&adaptive(threads)), data, views).unwrap();
        let clips: Vec<f64> = (0..rounds).map(|_| trainer.round().unwrap().clip.unwrap()).collect();
        (trainer, clips)
    };
    let (one, clips) = run(1, 12);
    let (three, same) = run(3, 12);
    assert_eq!(clips, same);
    assert!(one.tensors().unwrap() == three.tensors().unwrap());
    assert_eq!(clips[0], 1e-3);
    // No update is within a thousandth, so that the clip first grows by about half of its logarithm's step in each round.
    assert!(clips.windows(2).take(4).all(|pair| pair[1] > 1.3 * pair[0]), "{clips:?}");
    let (half, _) = run(2, 6);
    let (mut resumed, _) = run(2, 0);
    resumed.restore(&half.tensors().unwrap(), 6).unwrap();
    let rest: Vec<f64> = (6..12).map(|_| resumed.round().unwrap().clip.unwrap()).collect();
    assert_eq!(rest, clips[6..]);
    assert!(resumed.tensors().unwrap() == one.tensors().unwrap());
}

#[test]
fn groups_of_weights_have_clips_of_their_own() {
    let mut s = settings(1e-6, 1.0);
    s.privacy.clip_groups = vec![1e3, 1e-2];
    let (rows_clipped, _) = trained(&s, 2);
    let (plain, _) = trained(&settings(0.0, 1.0), 2);
    s.privacy.clip_groups = vec![1e-2, 1e3];
    let (dense_clipped, _) = trained(&s, 2);
    let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    let dense = |trainer: &Trainer| trainer.weights().unwrap().dense.clone();
    // After one round of clipping a group the other one follows but little.
    assert!(apart(&items(&rows_clipped), &items(&plain)) > apart(&items(&dense_clipped), &items(&plain)));
    assert!(apart(&dense(&dense_clipped), &dense(&plain)) > apart(&dense(&rows_clipped), &dense(&plain)));
}

#[test]
fn counts_of_items_are_known_as_far_as_the_setting_says() {
    use lumos::config::{CountsUse, RecLoss};
    let trained = |counts, seed| {
        let mut s = Settings { seed, ..settings(0.0, 1.0) };
        (s.loss.rec, s.loss.negatives, s.loss.popularity) = (RecLoss::SampledSoftmax, 4, 1.0);
        s.privacy.counts = counts;
        items(&trained(&s, 2).0)
    };
    assert_ne!(trained(CountsUse::Exact, 3), trained(CountsUse::Noisy, 3));
    assert_eq!(trained(CountsUse::Noisy, 3), trained(CountsUse::Noisy, 3));
    let mut s = settings(0.0, 1.0);
    (s.loss.rec, s.loss.popularity, s.privacy.counts) = (RecLoss::SampledSoftmax, 1.0, CountsUse::None);
    assert!(lumos::settings::validate(&s).unwrap_err().to_string().contains("privacy.counts"));
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
