//! Rounds of the real trainer on small worlds: same bits however they are run, and the meaning of each federation setting.

use crate::kinds::{kinds, settings, train, world};
use crate::ring::come_back;
use lumos::config::{
    Anchor, Average, Clients, Contrast, FederationSettings, Group, LocalOptimizer, Mask, OnDivergence, Settings, UploadRows,
};
use lumos::data::{Dataset, Split, UserGroups};
use lumos::engine::cpu::CpuEngine;
use lumos::engine::{Engine, NamedTensor, Participants, PrivateState, PrivateStore, TensorData, Update, Work, wire};
use lumos::eval::{MISS, metrics};
use lumos::federation::{Trainer, rules};
use lumos::settings::validate;
use lumos::testing::valid;
use lumos::views::UserViews;
use std::collections::BTreeSet;

#[test]
fn the_number_of_threads_leaves_no_trace() {
    let (data, views) = world(60, 40, 1);
    for (name, mut s) in kinds() {
        let one = train(&s, &data, &views, 3);
        for threads in [2, 5] {
            s.threads = threads;
            assert_eq!(one, train(&s, &data, &views, 3), "{name} with {threads} threads");
        }
    }
}

/// Each value of the column is a participant, whatever its size; without groups the choice is refused.
#[test]
fn a_column_makes_the_participants() {
    let (data, views) = world(20, 30, 3);
    let mut s = settings();
    (s.federation.clients, s.federation.fraction, s.data.group_column) = (Clients::Column, 1.0, "site".into());
    let report = Trainer::new(lumos::testing::valid(&s), data.clone(), views.clone()).unwrap().round().unwrap();
    assert_eq!(report.clients, 6, "main and five sites of two");
    let all = Participants::new(Clients::Column, &data);
    let main = all.of(0);
    assert_eq!(all.users(main), (0..20).step_by(2).collect::<Vec<u32>>());
    assert_eq!(all.users(all.of(1)), [1, 3]);
    // Groups that hold one user each train what the users themselves train.
    let single: Vec<String> = (0..20).map(|u| format!("{u:02}")).collect();
    let alone = Dataset { groups: Some(UserGroups::new("site", &single)), ..data.clone() };
    let users = Settings { federation: FederationSettings { clients: Clients::User, ..s.federation.clone() }, ..s.clone() };
    assert_eq!(train(&s, &alone, &views, 2), train(&users, &alone, &views, 2));
    let none = Dataset { groups: None, ..data };
    let message = Trainer::new(lumos::testing::valid(&s), none.clone(), views.clone()).err().expect("refused").to_string();
    assert!(message.contains("federation.clients") && message.contains("data.group_column"), "{message}");
    s.data.group_column.clear();
    let message = validate(&s).unwrap_err().to_string();
    assert!(message.contains("federation.clients") && message.contains("data.group_column"), "{message}");
}

#[test]
fn another_seed_gives_another_model() {
    let (data, views) = world(30, 20, 1);
    let mut s = settings();
    let one = train(&s, &data, &views, 1);
    s.seed = 4;
    assert_ne!(one, train(&s, &data, &views, 1));
}

fn items_of(tensors: &[NamedTensor]) -> &[f32] {
    match &tensors[0].data {
        TensorData::F32(v) => v,
        other => panic!("{other:?}"),
    }
}

/// Items whose row differs between two states.
fn changed(before: &[f32], after: &[f32], d: usize) -> Vec<u32> {
    before.chunks(d).zip(after.chunks(d)).enumerate().filter(|(_, (a, b))| a != b).map(|(i, _)| i as u32).collect()
}

#[test]
fn rows_met_only_in_a_view_stay_on_the_client() {
    let (mut data, views) = world(1, 200, 5);
    data.catalogue.truncate(200);
    let mut s = settings();
    s.model.dropout = 0.0;
    s.federation.fraction = 1.0;
    let start = train(&s, &data, &views, 0);
    for (rows, only_view_changed) in [(UploadRows::Trained, false), (UploadRows::Touched, true)] {
        s.federation.upload_rows = rows;
        let end = train(&s, &data, &views, 1);
        let moved = changed(items_of(&start), items_of(&end), 12);
        let view_only: Vec<u32> = views.users[0].counterfactuals[0].iter().copied().filter(|i| !data.train(0).contains(i)).collect();
        assert!(!view_only.is_empty());
        assert!(data.train(0).iter().all(|i| moved.contains(i)), "{rows:?}: history rows move");
        // A sampled negative may be one of the view's items, so most is what can be promised.
        let touched = view_only.iter().filter(|i| moved.contains(i)).count();
        assert_eq!(touched * 2 > view_only.len(), only_view_changed, "{rows:?}: {touched} of {}", view_only.len());
    }
}

/// The first round has all of lambda, and once it is spent a round is that of a client without views.
#[test]
fn lambda_falls_to_nothing() {
    let (data, views) = world(40, 30, 2);
    let whole = settings();
    let mut falling = whole.clone();
    falling.loss.lambda_rounds = 3;
    assert!(
        [(1, 3.0), (2, 2.0), (3, 1.0), (4, 0.0), (9, 0.0)].iter().all(|&(r, x)| falling.loss.lambda_at(r) == whole.loss.lambda * (x / 3.0))
    );
    assert_eq!(whole.loss.lambda_at(9), whole.loss.lambda);
    assert!(train(&whole, &data, &views, 1) == train(&falling, &data, &views, 1), "round 1 has all of lambda");
    assert!(train(&whole, &data, &views, 2) != train(&falling, &data, &views, 2), "round 2 has two thirds of it");
    let mut trainer = Trainer::new(valid(&falling), data.clone(), views.clone()).unwrap();
    let reports: Vec<_> = (0..5).map(|_| trainer.round().unwrap()).collect();
    assert!(reports[..3].iter().all(|r| r.contrast_loss != 0.0) && reports[3..].iter().all(|r| r.contrast_loss == 0.0));
    let mut without = falling.clone();
    without.loss.contrast = Contrast::None;
    let mut plain = Trainer::new(valid(&without), data.clone(), views.clone()).unwrap();
    plain.restore(&train(&falling, &data, &views, 3), 3).unwrap();
    plain.round().unwrap();
    plain.round().unwrap();
    assert!(plain.tensors().unwrap() == trainer.tensors().unwrap(), "without lambda no view is packed");
}

#[test]
fn an_item_row_is_averaged_over_the_clients_that_trained_it() {
    // Two clients, far apart on the ring: no negative is drawn from the other's items in this seed for most rows.
    let (data, views) = world(2, 2000, 9);
    let mut s = settings();
    s.model.dropout = 0.0;
    s.federation.fraction = 1.0;
    s.loss.contrast = Contrast::None;
    let start = train(&s, &data, &views, 0);
    s.federation.average = Average::PerItem;
    let per_item = train(&s, &data, &views, 1);
    s.federation.average = Average::Cohort;
    let cohort = train(&s, &data, &views, 1);
    let (a, p, c) = (items_of(&start), items_of(&per_item), items_of(&cohort));
    let both: Vec<u32> = data.train(0).iter().copied().filter(|i| data.train(1).contains(i)).collect();
    assert!(both.is_empty(), "the seed must keep the two apart");
    let mut compared = 0;
    for &item in data.train(0) {
        for k in item as usize * 12..item as usize * 12 + 12 {
            let (one, half) = (p[k] - a[k], c[k] - a[k]);
            assert!((one - 2.0 * half).abs() <= 1e-6 + one.abs() * 1e-3, "item {item}: {one} and {half}");
            compared += usize::from(one != 0.0);
        }
    }
    assert!(compared > 12);
    // Dense weights are averaged over the cohort either way.
    assert_eq!(per_item[1..], cohort[1..]);
}

#[test]
fn private_groups_never_reach_the_server() {
    let (data, views) = world(20, 30, 4);
    let mut s = settings();
    let start = train(&s, &data, &views, 0);
    s.federation.shared = vec![Group::Items];
    let end = train(&s, &data, &views, 3);
    assert_ne!(items_of(&start), items_of(&end));
    let dense = |t: &[NamedTensor]| t.iter().filter(|t| t.name != "items" && t.name != "private").cloned().collect::<Vec<_>>();
    assert_eq!(dense(&start), dense(&end));
    s.federation.shared = vec![Group::Encoder];
    let end = train(&s, &data, &views, 3);
    assert_eq!(items_of(&start), items_of(&end));
    assert_ne!(dense(&start), dense(&end));
}

#[test]
fn private_weights_serve_their_own_user() {
    let (data, views) = world(40, 30, 4);
    let mut s = settings();
    s.federation.fraction = 1.0;
    s.federation.shared = vec![Group::Encoder];
    let mut trainer = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
    let users: Vec<u32> = (0..40).collect();
    for _ in 0..3 {
        trainer.round().unwrap();
    }
    let ranks = trainer.rank(Split::Validation, &users, &|_, _| {}).unwrap();
    for &user in &users[..5] {
        let (input, target) = data.input_and_target(user as usize, Split::Validation).unwrap();
        let list = trainer.recommend(Some(user), input, 30).unwrap();
        let place = list.iter().position(|&(i, _)| i == target);
        if let Some(place) = place {
            assert!(ranks[user as usize] > place as u32, "ties count against the model");
            let tied = list.iter().filter(|&&(_, s)| s == list[place].1).count() as u32;
            assert!(ranks[user as usize] <= place as u32 + tied);
        }
        assert_ne!(list, trainer.recommend(None, input, 30).unwrap(), "the user's own rows differ from the server's");
    }
}

/// What is measured is what is recommended: a target has the rank of its place in the user's list, and none where it is in no list.
#[test]
fn a_rank_is_a_place_in_the_list_of_recommendations_under_either_mask() {
    let (mut data, views) = world(70, 53, 6);
    come_back(&mut data);
    let users: Vec<u32> = (0..70).collect();
    let returns = |split| users.iter().filter(|&&u| data.input_and_target(u as usize, split).is_some_and(|(i, t)| i.contains(&t))).count();
    assert!(returns(Split::Validation) >= 8 && returns(Split::Test) >= 24);
    // The second kind ranks each user under weights of its own.
    for (mask, shared) in [Mask::History, Mask::None].into_iter().flat_map(|m| [(m, Group::Items), (m, Group::Encoder)]) {
        let mut s = settings();
        s.eval.mask = mask;
        if shared == Group::Encoder {
            s.federation.shared = vec![Group::Encoder];
        }
        let mut trainer = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        trainer.round().unwrap();
        for split in [Split::Validation, Split::Test] {
            let ranks = trainer.rank(split, &users, &|_, _| {}).unwrap();
            for user in users.iter().copied() {
                let (input, target) = data.input_and_target(user as usize, split).unwrap();
                let list = trainer.recommend(Some(user), input, 53).unwrap();
                assert_eq!(list.len(), 53 - input.iter().filter(|_| mask == Mask::History).collect::<std::collections::HashSet<_>>().len());
                let place = list.iter().position(|&(i, _)| i == target);
                assert_eq!(ranks[user as usize], place.map_or(MISS, |p| p as u32 + 1), "user {user}, {mask:?}");
            }
            let masked = if mask == Mask::History { returns(split) as u64 } else { 0 };
            assert_eq!(metrics(&ranks, &[5]).masked_targets, masked);
        }
    }
}

#[test]
fn training_learns_the_ring_and_beats_an_untrained_model() {
    let (data, views) = world(200, 30, 8);
    let mut s = settings();
    s.model.dropout = 0.0;
    let users: Vec<u32> = (0..200).collect();
    for contrast in [Contrast::None, Contrast::Decoupled] {
        s.loss.contrast = contrast;
        let mut trainer = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        let hits = |t: &mut Trainer| t.rank(Split::Test, &users, &|_, _| {}).unwrap().iter().filter(|&&r| r <= 3).count();
        let before = hits(&mut trainer);
        let first = trainer.round().unwrap();
        for _ in 0..25 {
            trainer.round().unwrap();
        }
        let last = trainer.round().unwrap();
        assert!(last.rec_loss < 0.7 * first.rec_loss, "{contrast:?}: {} then {}", first.rec_loss, last.rec_loss);
        assert!(hits(&mut trainer) > 2 * before.max(30), "{contrast:?}: {before} then {}", hits(&mut trainer));
    }
}

#[test]
fn a_diverging_client_stops_the_round_with_its_name_and_leaves_the_weights() {
    let (data, views) = world(30, 20, 1);
    let mut s = settings();
    s.local.lr = 1e6;
    for (policy, part) in [(OnDivergence::Stop, "local.lr"), (OnDivergence::Drop, "more than federation.max_diverged = 0.1 lets pass")] {
        s.federation.on_divergence = policy;
        let mut trainer = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        let before = trainer.tensors().unwrap();
        let error = trainer.round().unwrap_err().to_string();
        assert!(error.starts_with("round 1, client ") && error.contains(part), "{error}");
        assert_eq!(before, trainer.tensors().unwrap());
        assert_eq!(trainer.rounds_done(), 0);
    }
}

#[test]
fn clients_that_diverge_leave_no_trace_in_the_round() {
    let (data, views) = world(40, 30, 1);
    for (rules, shared) in [
        (vec![], vec![Group::Items, Group::Encoder]),
        (vec!["norm-bound bound=1e9".to_string()], vec![Group::Items, Group::Encoder]),
        (vec!["median".to_string()], vec![Group::Items, Group::Encoder]),
        (vec![], vec![Group::Items]),
    ] {
        let mut s = settings();
        (s.local.optimizer, s.local.lr, s.local.epochs) = (LocalOptimizer::Sgd, 24.0, 3);
        s.federation.shared = shared;
        let rules = rules::build(&rules).unwrap();
        let private = PrivateStore::new(16);
        let trained = |clients: &[u32], threads: u32| {
            let s = Settings { threads, ..s.clone() };
            let mut engine = CpuEngine::new(valid(&s), data.clone(), views.clone());
            let work = Work { round: 1, clients, next: None, rules: &rules, private: &private };
            let trained = engine.train(&work, &|_, _| ()).unwrap();
            let rows = engine.touched_rows();
            let mean = if rules.is_empty() { None } else { engine.mean().unwrap() };
            engine.serve(mean).unwrap();
            (trained, rows, engine.global().unwrap().tensors())
        };
        let everyone: Vec<u32> = (0..40).collect();
        let healthy: Vec<u32> = everyone.iter().copied().filter(|&c| trained(&[c], 1).0.totals.counts[6] == 0).collect();
        assert!((5..36).contains(&healthy.len()), "{} of 40 are healthy", healthy.len());
        let (expected, rows, weights) = trained(&healthy, 1);
        assert!(expected.diverged.is_none());
        for threads in [1, 3] {
            let (all, all_rows, all_weights) = trained(&everyone, threads);
            let (client, message) = all.diverged.unwrap();
            assert!(!healthy.contains(&client) && (0..client).all(|c| healthy.contains(&c)) && message.contains("local.lr"), "{message}");
            let mut counts = expected.totals.counts;
            counts[6] = (40 - healthy.len()) as u64;
            assert_eq!((all.totals.counts, all.totals.losses, all_rows), (counts, expected.totals.losses, rows));
            assert_eq!(all_weights, weights);
            let kept = |t: &[(u32, PrivateState)]| t.iter().map(|(client, _)| *client).collect::<BTreeSet<_>>();
            assert_eq!(kept(&all.private), kept(&expected.private));
        }
    }
}

#[test]
fn bytes_on_the_wire_are_those_of_the_encoding() {
    let (data, views) = world(1, 50, 3);
    let mut s = settings();
    s.federation.fraction = 1.0;
    s.federation.upload_rows = UploadRows::Touched;
    let mut trainer = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
    let before = items_of(&trainer.tensors().unwrap()).to_vec();
    let report = trainer.round().unwrap();
    let after = trainer.tensors().unwrap();
    let moved = changed(&before, items_of(&after), 12);
    let update = Update {
        client: 0,
        weight: 1,
        dense: vec![0.0; trainer.weights().unwrap().dense.len()],
        rows: vec![0.0; moved.len() * 12],
        items: moved,
    };
    assert_eq!(report.bytes_up, wire::encode(&update).len() as u64);
    assert!(report.bytes_down >= report.bytes_up);
}

#[test]
fn users_too_short_for_a_target_are_left_out_and_do_not_stop_training() {
    let (mut data, mut views) = world(10, 20, 1);
    for short in [vec![1u32], vec![1, 2], vec![1, 2, 3]] {
        let train = short[..short.len().saturating_sub(2)].to_vec();
        data.items.extend(&short);
        data.offsets.push(data.items.len() as u64);
        data.user_tokens.push(format!("short{}", short.len()));
        views.users.push(UserViews { future: train.clone(), paraphrase: train.clone(), counterfactuals: vec![train] });
    }
    let mut s = settings();
    s.federation.fraction = 1.0;
    for anchor in [Anchor::History, Anchor::Input] {
        s.loss.anchor = anchor;
        let mut trainer = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        trainer.round().unwrap();
        let ranks = trainer.rank(Split::Test, &[0, 10, 11, 12], &|_, _| {}).unwrap();
        assert!(ranks[0] > 0 && ranks[1] == 0 && ranks[2] == 0 && ranks[3] > 0, "{ranks:?}");
    }
}

#[test]
fn who_trains_alone_never_drops_out() {
    let (data, views) = world(30, 20, 5);
    let trained = |clients: Clients, rate: f32| {
        let mut s = settings();
        (s.federation.clients, s.federation.dropout_rate, s.local.batch) = (clients, rate, 7);
        train(&s, &data, &views, 3)
    };
    for clients in [Clients::One, Clients::Groups(1)] {
        assert!(trained(clients, 0.95) == trained(clients, 0.0), "{clients}");
    }
}

#[test]
fn one_participant_sends_nothing() {
    let (data, views) = world(30, 20, 5);
    let sent = |clients: Clients| {
        let mut s = settings();
        (s.federation.clients, s.local.batch) = (clients, 7);
        let report = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap().round().unwrap();
        (report.bytes_down > 0, report.bytes_up > 0)
    };
    assert_eq!(sent(Clients::One), (false, false));
    // A group sends to the server even where it is the only one.
    assert_eq!(sent(Clients::Groups(1)), (true, true));
}
