//! Users who train for themselves before they are ranked (`eval.local_epochs`): what they are ranked by, and what it leaves alone.

use crate::kinds::{advance, settings, train, world};
use crate::ranks::Thread;
use lumos::config::{Backbone, Clients, Group, LocalOptimizer, RecLoss, Settings, UploadRows};
use lumos::data::{Dataset, Split};
use lumos::engine::cpu::CpuEngine;
use lumos::engine::{Engine, NamedTensor, PrivateShape, PrivateStore, TensorData, Tensors, Work};
use lumos::federation::protocol::Parts;
use lumos::federation::{Trainer, rules};
use lumos::settings::validate;
use lumos::testing::valid;
use lumos::views::Views;

const SPLIT: Split = Split::Test;

fn users(data: &Dataset) -> Vec<u32> {
    (0..data.users() as u32).collect()
}

fn ranks(trainer: &mut Trainer, users: &[u32]) -> Vec<u32> {
    trainer.rank(SPLIT, users, &|_, _| {}).unwrap()
}

fn restored(s: &Settings, (data, views): &(Dataset, Views), state: &[NamedTensor], rounds: u64) -> Trainer {
    let mut trainer = Trainer::new(valid(s), data.clone(), views.clone()).unwrap();
    trainer.restore(state, rounds).unwrap();
    trainer
}

fn with_steps(epochs: u32) -> Settings {
    let mut s = settings();
    (s.eval.local_epochs, s.local.lr) = (epochs, 0.02);
    s
}

fn equal(a: &[u32], b: &[u32]) -> usize {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).filter(|(a, b)| a == b).count()
}

/// Ranks where the server takes over what one client alone has trained, every row of it, and ranks its user: the model after the client's steps but for
/// the rounding of an upload.
fn one_by_one(s: &Settings, (data, views): &(Dataset, Views), state: &[NamedTensor]) -> Vec<u32> {
    let mut plain = s.clone();
    (plain.local, plain.local.epochs) = (s.local_at(s.federation.rounds.into()), s.eval.local_epochs);
    (plain.eval.local_epochs, plain.federation.upload_rows) = (0, UploadRows::Touched);
    let mut engine = CpuEngine::new(valid(&plain), data.clone(), views.clone());
    let global = engine.last_snapshot().0.restored(&plain.federation, &Tensors::new(state)).unwrap();
    let d = plain.model.dim as usize;
    let shape = PrivateShape { clients: data.users(), items: global.weights.items.len() / d, dim: d, dense: global.weights.dense.len() };
    let bytes = state.iter().find(|t| t.name == "private").map_or(&[][..], |t| match &t.data {
        TensorData::U8(bytes) => bytes,
        other => panic!("{other:?}"),
    });
    let none = rules::build(&[]).unwrap();
    let rank = |user: u32| {
        let mut private = PrivateStore::new(1000).restored(bytes, shape, &|_| true).unwrap().unwrap();
        engine.set_global(global.clone(), 0);
        let round = u64::from(u32::MAX);
        let trained = engine.train(&Work { round, clients: &[user], next: None, rules: &none, private: &private }, &|_, _| {}).unwrap();
        engine.serve(None).unwrap();
        trained.private.into_iter().for_each(|(client, state)| private.put(client, &state).unwrap());
        engine.rank(SPLIT.into(), &[user], &private, &|_, _| {}).unwrap()[0]
    };
    users(data).into_iter().map(rank).collect()
}

#[test]
fn a_user_is_ranked_by_what_its_client_has_after_its_steps() {
    let world = world(40, 120, 3);
    let with = |f: &dyn Fn(&mut Settings)| {
        let mut s = with_steps(3);
        f(&mut s);
        s
    };
    for (name, s) in [
        ("sasrec", with(&|_| {})),
        ("bert", with(&|s| s.model.backbone = Backbone::BERT4REC)),
        ("full softmax", with(&|s| s.loss.rec = RecLoss::Softmax)),
        ("a rate that has fallen", with(&|s| (s.local.lr, s.local.decay, s.federation.rounds) = (0.05, 1.0, 4))),
        ("private encoder", with(&|s| s.federation.shared = vec![Group::Items])),
        ("private items", with(&|s| s.federation.shared = vec![Group::Encoder])),
        ("rules", with(&|s| s.federation.rules = vec!["norm-bound bound=0.4".into()])),
    ] {
        let state = train(&s, &world.0, &world.1, 2);
        let mut plain = s.clone();
        plain.federation.rules.clear();
        let (found, expected) = (ranks(&mut restored(&s, &world, &state, 2), &users(&world.0)), one_by_one(&plain, &world, &state));
        let same = equal(&found, &expected);
        assert!(same >= 38, "{name}: {same} of 40 alike\n{found:?}\n{expected:?}");
        let mut without = s.clone();
        without.eval.local_epochs = 0;
        let global = ranks(&mut restored(&without, &world, &state, 2), &users(&world.0));
        let same = equal(&found, &global);
        assert!(same < 30, "{name}: {same} of 40 are ranked as without local steps");
    }
}

#[test]
fn neither_the_others_nor_blocks_threads_and_processes_matter() {
    let world = world(150, 40, 4);
    let s = with_steps(1);
    let state = train(&s, &world.0, &world.1, 1);
    let all = users(&world.0);
    let mut trainer = restored(&s, &world, &state, 1);
    let whole = ranks(&mut trainer, &all);
    assert_eq!(ranks(&mut trainer, &all), whole, "once more");
    for user in [7, 77, 149] {
        assert_eq!(ranks(&mut trainer, &[user]), [whole[user as usize]], "user {user} alone");
    }
    let backwards: Vec<u32> = all.iter().rev().copied().collect();
    let mut turned = ranks(&mut trainer, &backwards);
    turned.reverse();
    assert_eq!(turned, whole, "from the last user on");
    let mut other = Settings { threads: 3, ..s.clone() };
    // Blocks of the fewest clients: three of them.
    other.federation.private_memory_mb = 0;
    assert_eq!(ranks(&mut restored(&other, &world, &state, 1), &all), whole, "in blocks, with more threads");
    for shared in [vec![Group::Items, Group::Encoder], vec![Group::Items]] {
        let mut s = s.clone();
        s.federation.shared = shared;
        let of = |parts: Parts| {
            let mut trainer = Trainer::of(parts).unwrap();
            advance(&mut trainer, 1);
            ranks(&mut trainer, &all)
        };
        let parts = || Parts::new(valid(&s), world.0.clone(), world.1.clone());
        let alone = of(parts());
        for found in Thread::run(2, |reduce| of(Parts { reduce, ..parts() })) {
            assert_eq!(found, alone);
        }
    }
}

#[test]
fn a_ranking_leaves_no_trace_in_training() {
    let (data, views) = world(50, 30, 5);
    for shared in [vec![Group::Items, Group::Encoder], vec![Group::Encoder]] {
        let mut s = with_steps(2);
        s.federation.shared = shared;
        let undisturbed = train(&s, &data, &views, 3);
        let mut trainer = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        for _ in 0..3 {
            ranks(&mut trainer, &users(&data));
            trainer.recommend(Some(3), data.train(3), 2).unwrap();
            trainer.round().unwrap();
        }
        assert_eq!(trainer.tensors().unwrap(), undisturbed);
        s.eval.local_epochs = 0;
        assert_eq!(train(&s, &data, &views, 3), undisturbed, "the setting is one of ranking alone");
    }
}

#[test]
fn a_client_that_diverges_is_ranked_by_the_global_model() {
    let world = world(40, 30, 6);
    let mut s = with_steps(2);
    let state = train(&s, &world.0, &world.1, 2);
    s.eval.local_epochs = 0;
    let global = ranks(&mut restored(&s, &world, &state, 2), &users(&world.0));
    (s.eval.local_epochs, s.local.lr, s.local.optimizer) = (2, 1e30, LocalOptimizer::Adam);
    assert_eq!(ranks(&mut restored(&s, &world, &state, 2), &users(&world.0)), global);
}

#[test]
fn a_user_of_the_data_set_is_recommended_what_it_is_ranked_by() {
    let world = world(30, 40, 7);
    let s = with_steps(3);
    let state = train(&s, &world.0, &world.1, 1);
    let mut trainer = restored(&s, &world, &state, 1);
    let mut without = s.clone();
    without.eval.local_epochs = 0;
    let mut global = restored(&without, &world, &state, 1);
    let mut changed = 0;
    for user in 0..30 {
        let (history, target) = world.0.input_and_target(user as usize, SPLIT).unwrap();
        let list = trainer.recommend(Some(user), history, 40).unwrap();
        let place = list.iter().position(|(item, _)| *item == target).map_or(lumos::eval::MISS, |at| at as u32 + 1);
        assert_eq!(ranks(&mut trainer, &[user]), [place]);
        let of_all = global.recommend(Some(user), history, 40).unwrap();
        assert_eq!(trainer.recommend(None, history, 40).unwrap(), of_all, "no client trains on a history without a user");
        changed += u32::from(list != of_all);
    }
    assert_eq!(changed, 30);
}

#[test]
fn local_steps_without_weights_of_one_user_are_refused() {
    let refused = |f: &dyn Fn(&mut Settings), word: &str| {
        let mut s = with_steps(1);
        f(&mut s);
        let message = validate(&s).unwrap_err().to_string();
        assert!(message.contains("eval.local_epochs") && message.contains(word), "{message}");
    };
    refused(&|s| s.federation.clients = Clients::One, "federation.clients = \"user\"");
    refused(&|s| s.federation.clients = Clients::Groups(4), "federation.clients = \"user\"");
    refused(&|s| s.federation.personal = 0.2, "federation.personal = 0");
    refused(&|s| (s.federation.protocol, s.loss.contrast) = ("transitions".into(), lumos::config::Contrast::None), "federation.protocol");
    assert!(validate(&with_steps(1)).is_ok());
}
