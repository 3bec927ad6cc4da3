//! An average of the rounds' models that ranks (`federation.ranking_average`): what it is, and that training does not notice.

use crate::kinds::{advance, settings, train, world};
use lumos::config::{Clients, CohortSampling, Contrast, ServerOptimizer, Settings};
use lumos::data::{Dataset, Split};
use lumos::engine::{NamedTensor, TensorData};
use lumos::federation::{AVERAGE, Trainer};
use lumos::settings::validate;
use lumos::testing::valid;
use lumos::views::Views;

const KEEP: f32 = 0.6;

fn averaged() -> Settings {
    let mut s = settings();
    (s.federation.ranking_average, s.local.lr) = (KEEP, 0.02);
    s
}

fn plain(s: &Settings) -> Settings {
    let mut s = s.clone();
    s.federation.ranking_average = 0.0;
    s
}

fn floats(tensor: &NamedTensor) -> &[f32] {
    match &tensor.data {
        TensorData::F32(values) => values,
        other => panic!("{other:?}"),
    }
}

/// The recurrence over the states of `rounds` rounds of a training without the setting, weights alone: `A = W` of the first round, then `A = c A + (1 - c) W`.
fn expected(s: &Settings, (data, views): &(Dataset, Views), rounds: u64) -> Vec<NamedTensor> {
    let mut trainer = Trainer::new(valid(&plain(s)), data.clone(), views.clone()).unwrap();
    let weights = |trainer: &Trainer| {
        let other = ["server.", "optimizer.", "private"];
        let all = trainer.tensors().unwrap().into_iter();
        all.filter(|t| other.iter().all(|name| !t.name.starts_with(name))).collect::<Vec<_>>()
    };
    advance(&mut trainer, 1);
    let mut average = weights(&trainer);
    for _ in 1..rounds {
        advance(&mut trainer, 1);
        for (average, now) in average.iter_mut().zip(weights(&trainer)) {
            let TensorData::F32(values) = &mut average.data else { panic!("{}", average.name) };
            values.iter_mut().zip(floats(&now)).for_each(|(a, w)| *a = KEEP * *a + (1.0 - KEEP) * w);
        }
    }
    average
}

fn ranks(trainer: &mut Trainer, data: &Dataset) -> Vec<u32> {
    trainer.rank(Split::Test, &(0..data.users() as u32).collect::<Vec<_>>(), &|_, _| {}).unwrap()
}

#[test]
fn the_average_is_the_recurrence_and_training_does_not_notice() {
    let world = world(50, 30, 2);
    let (data, views) = &world;
    let with = |f: &dyn Fn(&mut Settings)| {
        let mut s = averaged();
        f(&mut s);
        s
    };
    for (name, s) in [
        ("users", averaged()),
        ("fedadam", with(&|s| (s.federation.server, s.federation.server_lr) = (ServerOptimizer::Fedadam, 0.01))),
        ("rules", with(&|s| s.federation.rules = vec!["median".into()])),
        ("one participant", with(&|s| (s.federation.clients, s.local.batch, s.local.epochs) = (Clients::One, 7, 1))),
    ] {
        let mut trainer = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        assert!(trainer.tensors().unwrap().iter().all(|t| !t.name.starts_with(AVERAGE)), "{name}: nothing before the first round");
        for round in 1..=4 {
            // Between any two rounds users are ranked.
            ranks(&mut trainer, data);
            trainer.recommend(None, data.train(1), 3).unwrap();
            trainer.round().unwrap();
            let (average, rest): (Vec<_>, Vec<_>) = trainer.tensors().unwrap().into_iter().partition(|t| t.name.starts_with(AVERAGE));
            assert_eq!(rest, train(&plain(&s), data, views, round), "{name}: what is trained on in round {round}");
            let expected = expected(&s, &world, round);
            assert_eq!(average.len(), expected.len());
            for (found, expected) in average.iter().zip(&expected) {
                assert_eq!(found.name, format!("{AVERAGE}{}", expected.name), "{name}");
                assert_eq!((&found.shape, &found.data), (&expected.shape, &expected.data), "{name}: {} in round {round}", found.name);
            }
        }
    }
}

#[test]
fn the_average_ranks_recommends_and_is_the_model() {
    let world = world(60, 80, 3);
    let (data, views) = &world;
    for epochs in [0, 2] {
        let mut s = averaged();
        s.eval.local_epochs = epochs;
        let mut trainer = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        advance(&mut trainer, 3);
        let fresh = |state: &[NamedTensor]| {
            let mut trainer = Trainer::new(valid(&plain(&s)), data.clone(), views.clone()).unwrap();
            trainer.restore(state, 3).unwrap();
            trainer
        };
        let mut average = fresh(&expected(&s, &world, 3));
        assert_eq!(trainer.weights().unwrap(), average.weights().unwrap());
        let found = ranks(&mut trainer, data);
        assert_eq!(found, ranks(&mut average, data), "{epochs} local epochs");
        let top = |trainer: &mut Trainer| trainer.recommend(Some(4), data.train(4), 10).unwrap();
        assert_eq!(top(&mut trainer), top(&mut average), "{epochs} local epochs");
        let mut last = fresh(&train(&plain(&s), data, views, 3));
        assert_ne!(found, ranks(&mut last, data), "the last round's model ranks otherwise");
    }
}

/// A round without a client has no server step, with rules or without.
#[test]
fn rounds_without_a_client_resume_as_well() {
    let (data, views) = world(30, 30, 4);
    for rules in [&[][..], &["median"]] {
        let mut s = averaged();
        (s.federation.sampling, s.federation.fraction) = (CohortSampling::Poisson, 0.04);
        s.federation.rules = rules.iter().map(|r| r.to_string()).collect();
        let mut trainer = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        let mut states = vec![trainer.tensors().unwrap()];
        let mut empty = 0;
        for _ in 0..8 {
            empty += u32::from(trainer.round().unwrap().clients == 0);
            states.push(trainer.tensors().unwrap());
        }
        assert!((1..8).contains(&empty), "{empty} rounds of 8 have no client");
        for done in 0..8 {
            let mut again = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
            again.restore(&states[done], done as u64).unwrap();
            advance(&mut again, 8 - done as u64);
            assert_eq!(again.tensors().unwrap(), states[8], "from round {done}, rules {rules:?}");
        }
    }
}

#[test]
fn shares_out_of_range_and_protocols_without_an_average_are_refused() {
    let refused = |f: &dyn Fn(&mut Settings), word: &str| {
        let mut s = averaged();
        f(&mut s);
        let message = validate(&s).unwrap_err().to_string();
        assert!(message.contains("federation.ranking_average") && message.contains(word), "{message}");
    };
    for share in [-0.1, 1.0, f32::NAN] {
        refused(&|s| s.federation.ranking_average = share, "below 1");
    }
    refused(&|s| (s.federation.protocol, s.loss.contrast) = ("transitions".into(), Contrast::None), "federation.protocol");
    assert!(validate(&averaged()).is_ok());
}
