//! Several processes that train one model, as threads of this one: the same bits as one process, for every kind of training.

use crate::kinds::{kinds, settings, train, world};
use crate::ranks::Thread;
use lumos::cluster::Reduce;
use lumos::config::{LocalOptimizer, OnDivergence, Settings};
use lumos::data::{Dataset, Split};
use lumos::engine::NamedTensor;
use lumos::federation::Trainer;
use lumos::federation::protocol::Parts;
use lumos::testing::valid;
use lumos::views::Views;
use std::sync::Arc;

fn trainer(s: &Settings, data: &Dataset, views: &Views, reduce: Arc<dyn Reduce>) -> Trainer {
    Trainer::of(Parts { reduce, ..Parts::new(valid(s), data.clone(), views.clone()) }).unwrap()
}

/// What a report must not owe to who trained whom.
fn counted(trainer: &mut Trainer, rounds: u64) -> Vec<serde_json::Value> {
    let one = |_| {
        let mut report = serde_json::to_value(trainer.round().unwrap()).unwrap();
        let clock = |key: &str| key == "seconds" || key.ends_with("_s");
        let parts = report.as_object_mut().unwrap();
        parts.retain(|key, _| !clock(key));
        parts.values_mut().filter_map(|part| part.as_object_mut()).for_each(|part| part.retain(|key, _| !clock(key)));
        report
    };
    (0..rounds).map(one).collect()
}

fn every_kind() -> Vec<(&'static str, Settings)> {
    let mut all = kinds();
    // What clients keep of their rounding lies in one process.
    all.retain(|(name, _)| *name != "feedback");
    for rank in ["server", "uploaded", "own"] {
        let mut s = settings();
        s.loss.contrast = lumos::config::Contrast::None;
        s.views.generator = lumos::config::GeneratorKind::NONE;
        let number = ["server", "uploaded", "own"].iter().position(|r| *r == rank).unwrap();
        s.federation.protocol = format!("ptf-fsr server-dim=12 server-heads=2 rank={number}");
        all.push(("ptf-fsr", s));
    }
    for (name, protocol, clients) in
        [("transitions", "transitions", lumos::config::Clients::User), ("transitions of all", "transitions", lumos::config::Clients::One)]
    {
        let mut s = settings();
        (s.loss.contrast, s.views.generator) = (lumos::config::Contrast::None, lumos::config::GeneratorKind::NONE);
        (s.federation.protocol, s.federation.clients) = (protocol.into(), clients);
        all.push((name, s));
    }
    for rule in [
        "krum",
        "multi-krum",
        "trimmed-mean",
        "geometric-median",
        "row-clip",
        "flame",
        "hics",
        "median-norm",
        "separation",
        "quantise bits=4",
        "row-weights power=1",
    ] {
        let mut s = settings();
        s.federation.rules = ["gaussian share=0.2", rule].map(String::from).to_vec();
        all.push((rule, s));
    }
    for attack in ["label-flip", "little-is-enough", "random-items items=5", "a-hum", "fed-rec-attack", "poison-frs", "dv-fsr"] {
        let mut s = settings();
        (s.attack.name, s.attack.share) = (attack.into(), 0.2);
        all.push((attack, s));
    }
    let mut secure = settings();
    secure.privacy.secure_sum = true;
    all.push(("secure sums", secure));
    let private = |change: fn(&mut lumos::config::PrivacySettings)| {
        let mut s = settings();
        (s.federation.fraction, s.federation.cohort, s.federation.average) = (0.6, 0, lumos::config::Average::Cohort);
        (s.privacy.noise, s.privacy.clip) = (0.5, 0.05);
        change(&mut s.privacy);
        s
    };
    let mut average = settings();
    (average.federation.ranking_average, average.eval.local_epochs) = (0.5, 1);
    all.push(("ranked by an average after a local epoch", average));
    all.push(("a clip that adapts", private(|p| p.clip_quantile = 0.5)));
    all.push(("clips for groups", private(|p| p.clip_groups = vec![0.05, 0.1])));
    let mut local = settings();
    local.federation.rules = vec!["dx-noise epsilon=50".into()];
    all.push(("noise on rows", local));
    let mut few = settings();
    (few.federation.cohort, few.federation.shared) = (1, vec![lumos::config::Group::Items]);
    all.push(("one client a round, private encoder", few));
    all
}

#[test]
fn any_number_of_ranks_trains_and_ranks_the_same_bits() {
    let (data, views) = world(50, 30, 2);
    let users: Vec<u32> = (0..data.users() as u32).rev().collect();
    for (name, s) in every_kind() {
        let mut alone = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        let counts = counted(&mut alone, 3);
        let ranks = alone.rank(Split::Test, &users, &|_, _| {}).unwrap();
        let whole = alone.tensors().unwrap();
        for size in [2, 3] {
            let all = Thread::run(size, |reduce| {
                let mut trainer = trainer(&s, &data, &views, reduce);
                let counts = counted(&mut trainer, 3);
                (counts, trainer.rank(Split::Test, &users, &|_, _| {}).unwrap(), trainer.tensors().unwrap())
            });
            for (rank, (their_counts, their_ranks, tensors)) in all.into_iter().enumerate() {
                assert_eq!(their_counts, counts, "{name}: rank {rank} of {size}");
                assert_eq!(their_ranks, ranks, "{name}: rank {rank} of {size}");
                assert!(rank > 0 || tensors == whole, "{name}: the state at rank 0 of {size}");
            }
        }
    }
}

#[test]
fn a_state_is_gone_on_from_by_another_number_of_ranks() {
    let (data, views) = world(40, 30, 5);
    let go_on = |s: &Settings, size: usize, state: Option<&[NamedTensor]>, to: u64| {
        let all = Thread::run(size, |reduce| {
            let mut trainer = trainer(s, &data, &views, reduce);
            if let Some(state) = state {
                trainer.restore(state, to - 1).unwrap();
            }
            trainer.round().unwrap();
            trainer.tensors().unwrap()
        });
        all.into_iter().next().unwrap()
    };
    for (name, s) in every_kind() {
        let whole = train(&s, &data, &views, 3);
        let first = go_on(&s, 4, None, 1);
        let second = go_on(&s, 1, Some(&first), 2);
        assert!(go_on(&s, 3, Some(&second), 3) == whole, "{name}");
    }
}

/// A client that diverges is named and counted alike, whichever process met it.
#[test]
fn divergence_is_reported_as_by_one_process() {
    let (data, views) = world(40, 30, 1);
    let mut s = settings();
    s.local.lr = 1e6;
    let alone = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap().round().unwrap_err().to_string();
    let all = Thread::run(3, |reduce| trainer(&s, &data, &views, reduce).round().unwrap_err().to_string());
    assert!(alone.contains("local.lr"), "{alone}");
    assert_eq!(all, vec![alone; 3]);

    (s.federation.on_divergence, s.federation.max_diverged) = (OnDivergence::Drop, 0.99);
    (s.local.optimizer, s.local.lr, s.local.epochs) = (LocalOptimizer::Sgd, 24.0, 3);
    let mut one = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
    // In the next round all of them would diverge.
    let (counts, whole) = (counted(&mut one, 1), one.tensors().unwrap());
    let all = Thread::run(3, |reduce| {
        let mut trainer = trainer(&s, &data, &views, reduce);
        (counted(&mut trainer, 1), trainer.tensors().unwrap())
    });
    assert!(counts[0]["diverged"].as_u64() > Some(0));
    assert!(all.into_iter().all(|rank| rank == (counts.clone(), whole.clone())));
}

/// The sum of all processes is what may not overflow, though each of them is far from it.
#[test]
fn clients_that_weigh_too_much_together_are_refused_before_they_are_added() {
    use lumos::engine::{Sums, fixed};
    use lumos::model::ModelSpec;
    let all = Thread::run(3, |reduce| {
        let mut sums = Sums::new(&ModelSpec::of(&settings()), 30);
        sums.weight = fixed::MAX_WEIGHT as i64 / 2;
        let refused = sums.reduce(&*reduce).unwrap_err().to_string();
        (refused, sums.weight)
    });
    for (refused, weight) in all {
        assert!(refused.contains("federation.weights") && refused.contains("6291456"), "{refused}");
        assert_eq!(weight, fixed::MAX_WEIGHT as i64 / 2, "nothing was added");
    }
}

/// A process that fails takes the others with it, by name.
#[test]
fn a_failure_of_one_rank_is_one_of_all() {
    let all = Thread::run(3, |reduce| {
        let outcome = if reduce.rank() == 1 { Err(lumos::Error::Usage("the disk is full".into())) } else { Ok(reduce.rank()) };
        lumos::cluster::agree(&*reduce, outcome).unwrap_err().to_string()
    });
    assert_eq!(all, ["rank 1: the disk is full", "the disk is full", "rank 1: the disk is full"]);
}

#[test]
fn what_rounding_takes_is_kept_by_one_process_alone() {
    let (data, views) = world(20, 30, 2);
    let mut s = settings();
    s.federation.rules = vec!["quantise bits=4 feedback=1".into()];
    let refused = |reduce| Trainer::of(Parts { reduce, ..Parts::new(valid(&s), data.clone(), views.clone()) }).err().unwrap().to_string();
    for message in Thread::run(2, refused) {
        assert!(message.contains("federation.rules") && message.contains("run one process"), "{message}");
    }
}
