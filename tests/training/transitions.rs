//! Counted transitions: against plain counting, over clients and at once, with noise, and through the real binary.

use super::ring::world;
use super::sandbox::Sandbox;
use lumos::base::rng::{Purpose, Stream};
use lumos::config::{Clients, Contrast, GeneratorKind, Mask, Settings};
use lumos::data::{Dataset, Split};
use lumos::engine::{NamedTensor, TensorData};
use lumos::eval::{metrics, popularity_ranks, rank_of};
use lumos::federation::Trainer;
use lumos::testing::valid;
use lumos::views::Views;
use std::collections::BTreeMap;

fn settings(clients: Clients, options: &str) -> Settings {
    let mut s = Settings { seed: 3, threads: 1, ..Default::default() };
    s.loss.contrast = Contrast::None;
    s.views.generator = GeneratorKind::NONE;
    (s.federation.clients, s.federation.fraction) = (clients, 1.0);
    s.federation.protocol = format!("transitions {options}");
    s
}

fn trained(settings: &Settings, data: &Dataset, rounds: u64) -> Trainer {
    let mut trainer = Trainer::new(valid(settings), data.clone(), Views::default()).unwrap();
    for _ in 0..rounds {
        trainer.round().unwrap();
    }
    trainer
}

fn sums(tensors: &[NamedTensor]) -> BTreeMap<(u32, u32), f64> {
    let of = |name: &str| &tensors.iter().find(|t| t.name == name).unwrap().data;
    let (TensorData::U64(pairs), TensorData::I64(sums)) = (of("transitions.pairs"), of("transitions.sums")) else { panic!("integers") };
    pairs.iter().zip(sums).map(|(&pair, &sum)| (((pair >> 32) as u32, pair as u32), sum as f64 / 4_294_967_296.0)).collect()
}

/// The rule by its definition, over dense tables in f64.
fn plain(data: &Dataset, history: &[u32]) -> Vec<f64> {
    let (window, gap, back, read, recency, prior, rarity) = (3, 0.5, 0.25, 4, 1.5, 2.0, 0.3);
    let n = data.item_count();
    let mut table = vec![vec![0f64; n]; n];
    for user in 0..data.users() {
        let train = data.train(user);
        for i in 0..train.len() {
            for j in i + 1..train.len().min(i + window + 1) {
                let weight = 1.0 / ((j - i) as f64).powf(gap);
                table[train[i] as usize][train[j] as usize] += weight;
                table[train[j] as usize][train[i] as usize] += weight * back;
            }
        }
    }
    let all: f64 = table.iter().flatten().sum();
    let share: Vec<f64> = (0..n).map(|j| table.iter().map(|row| row[j]).sum::<f64>() / all).collect();
    let mut scores = vec![0.0; n];
    for k in 1..=read.min(history.len()) {
        let row = &table[history[history.len() - k] as usize];
        let mass: f64 = row.iter().sum();
        for j in 0..n {
            scores[j] += (k as f64).powf(-recency) * (row[j] + prior * share[j]) / (mass + prior);
        }
    }
    scores.iter().zip(&share).map(|(score, share)| if *share > 0.0 { score / share.powf(rarity) } else { *score }).collect()
}

const OPTIONS: &str = "window=3 gap=0.5 back=0.25 history=4 recency=1.5 prior=2 rarity=0.3";

#[test]
fn scores_and_ranks_are_those_of_plain_counting() {
    let (mut data, _) = world(90, 40, 5);
    super::ring::come_back(&mut data);
    let users: Vec<u32> = (0..data.users() as u32).collect();
    let mut trainer = trained(&settings(Clients::One, OPTIONS), &data, 1);
    for split in [Split::Validation, Split::Test] {
        let ranks = trainer.rank(split, &users, &|_, _| {}).unwrap();
        for &user in &users {
            let (input, target) = data.input_and_target(user as usize, split).unwrap();
            let scores: Vec<f32> = plain(&data, input).into_iter().map(|x| x as f32).collect();
            // Equal scores of the definition may differ in their last bits here: a rank lies between those with and without them.
            let moved = |by: f32| {
                let mut scores = scores.clone();
                scores[target as usize] *= by;
                rank_of(&scores, target, input)
            };
            let rank = ranks[user as usize];
            assert!((moved(1.00001)..=moved(0.99999)).contains(&rank), "user {user}: {rank} and {}", moved(1.0));
        }
    }
    let best = trainer.recommend(None, &[3, 9, 10], 5).unwrap();
    let exact = plain(&data, &[3, 9, 10]);
    assert!(best.iter().all(|(item, score)| (f64::from(*score) - exact[*item as usize]).abs() < 1e-5), "{best:?}");
}

#[test]
fn clients_add_up_to_the_central_count_whoever_comes_first() {
    let (data, _) = world(80, 30, 2);
    let central = trained(&settings(Clients::One, OPTIONS), &data, 1).tensors().unwrap();
    for (fraction, rounds, threads) in [(1.0, 1, 1), (1.0, 3, 3), (0.3, 60, 2)] {
        let mut s = settings(Clients::User, OPTIONS);
        (s.federation.fraction, s.threads) = (fraction, threads);
        let federated = trained(&s, &data, rounds).tensors().unwrap();
        // Pairs and sums; who has added what is another list.
        assert!(federated[..2] == central[..2], "{fraction} of the clients in {rounds} rounds");
    }
}

#[test]
fn a_client_adds_once_and_its_bytes_are_those_of_its_pairs() {
    let (data, _) = world(50, 30, 2);
    let mut trainer = trained(&settings(Clients::User, "window=1"), &data, 0);
    let first = trainer.round().unwrap();
    let distinct = |user: usize| data.train(user).windows(2).collect::<std::collections::BTreeSet<_>>().len() as u64;
    assert_eq!((first.clients, first.bytes_up), (50, 16 * (0..50).map(distinct).sum::<u64>()));
    let before = trainer.tensors().unwrap();
    let second = trainer.round().unwrap();
    assert_eq!((second.clients, second.bytes_up), (0, 0));
    assert!(before == trainer.tensors().unwrap());
}

#[test]
fn a_clip_bounds_what_one_client_adds() {
    let (data, _) = world(1, 30, 2);
    let norm = |options: &str| {
        let tensors = trained(&settings(Clients::User, options), &data, 1).tensors().unwrap();
        sums(&tensors).values().map(|x| x * x).sum::<f64>().sqrt()
    };
    let open = norm("window=5");
    assert!(open > 1.0, "{open}");
    let clipped = norm("window=5 clip=0.5");
    assert!(clipped <= 0.5 && clipped > 0.499_999, "{clipped}");
    assert_eq!(norm("window=5 clip=1000"), open);
}

/// The server's sums are in the checkpoint without noise: the noise is a function of the seed, and whoever ranks adds it.
#[test]
fn noise_is_drawn_by_seed_and_round_and_weak_sums_are_left_out() {
    let (data, _) = world(60, 20, 2);
    let history = [4u32];
    let scores = |seed: u64, options: &str| {
        let mut s = settings(Clients::User, &format!("window=1 prior=0 history=1 {options}"));
        s.seed = seed;
        let mut trainer = trained(&s, &data, 1);
        let mut all = trainer.recommend(None, &history, 19).unwrap();
        all.sort_by_key(|(item, _)| *item);
        all
    };
    assert_eq!(scores(1, ""), scores(2, ""), "without noise the seed says nothing");
    assert!(scores(1, "clip=2 noise=0.5 threshold=0") != scores(2, "clip=2 noise=0.5 threshold=0"));
    // Against the definition: one draw a pair of round 1, in the order of the items.
    let mut clean = settings(Clients::User, "window=1 clip=2");
    clean.seed = 1;
    let pairs = sums(&trained(&clean, &data, 1).tensors().unwrap());
    let mut stream = Stream::new(1, Purpose::Noise, 1, u64::from(history[0]));
    let noisy: Vec<f64> = (0..20).map(|to| pairs.get(&(history[0], to)).unwrap_or(&0.0) + f64::from(stream.normal())).collect();
    let kept: Vec<f64> = noisy.iter().map(|&x| if x >= 2.0 { x } else { 0.0 }).collect();
    let mass: f64 = kept.iter().sum();
    for (item, score) in scores(1, "clip=2 noise=0.5 threshold=2") {
        assert!((f64::from(score) - kept[item as usize] / mass).abs() < 1e-6, "item {item}");
    }
    assert!(kept.iter().any(|x| *x > 0.0) && kept.iter().filter(|x| **x == 0.0).count() > 10, "{kept:?}");
}

#[test]
fn a_resumed_run_ends_with_the_same_bits_and_a_damaged_checkpoint_is_refused() {
    let (data, _) = world(50, 30, 2);
    let mut s = settings(Clients::User, "clip=1 noise=0.1");
    s.federation.fraction = 0.3;
    let (whole, half) = (trained(&s, &data, 6), trained(&s, &data, 3).tensors().unwrap());
    let mut resumed = trained(&s, &data, 0);
    resumed.restore(&half, 3).unwrap();
    (0..3).for_each(|_| _ = resumed.round().unwrap());
    assert!(whole.tensors().unwrap() == resumed.tensors().unwrap());
    for name in ["transitions.pairs", "transitions.sums", "transitions.done", "transitions.rounds"] {
        let mut bad = half.clone();
        bad.retain(|t| t.name != name);
        assert!(resumed.restore(&bad, 3).unwrap_err().to_string().contains(name));
    }
    let mut bad = half.clone();
    let TensorData::U64(pairs) = &mut bad[0].data else { panic!("integers") };
    pairs[0] = u64::MAX;
    assert!(resumed.restore(&bad, 3).unwrap_err().to_string().contains("transitions.pairs"));
    assert!(whole.tensors().unwrap() == resumed.tensors().unwrap(), "what is refused changes nothing");
}

#[test]
fn the_next_item_of_a_ring_is_found() {
    let (data, _) = world(300, 40, 1);
    let users: Vec<u32> = (0..data.users() as u32).collect();
    let hit = |ranks: &[u32]| metrics(ranks, &[1]).get("HR@1").unwrap();
    let mut trainer = trained(&settings(Clients::User, ""), &data, 1);
    let found = hit(&trainer.rank(Split::Test, &users, &|_, _| {}).unwrap());
    let popular = hit(&popularity_ranks(&data, Mask::History, Split::Test, &users));
    assert!(found > 0.7 && popular < 0.2, "{found} and {popular}");
}

#[test]
fn the_binary_counts_ranks_and_recommends() {
    let sandbox = Sandbox::new();
    let train =
        |method: &str| sandbox.lumos(&["train", "small.toml", "--out", method, "--set", &format!("method={method}"), "--json"]).json();
    let (central, federated) = (train("transitions"), train("fed-transitions"));
    assert_eq!((&central["rounds"], &central["test"]), (&1.into(), &federated["test"]));
    assert!(sandbox.read("transitions/ranks-test.safetensors") == sandbox.read("fed-transitions/ranks-test.safetensors"));
    let eval = sandbox.lumos(&["eval", "fed-transitions", "--json"]).json();
    assert_eq!(eval["NDCG@10"], federated["test"]["NDCG@10"]);
    for (set, parts) in [
        ("federation.protocol=transitions windw=5", &["unknown option `windw`", "did you mean `window`"][..]),
        ("federation.protocol=transitions noise=1", &["noise is 1", "a clip above 0"]),
        ("federation.protocol=transitions back=2", &["back is 2", "between 0 and 1"]),
        ("federation.rules=[\"median\"]", &["federation.rules", "counts"]),
    ] {
        sandbox.lumos(&["train", "small.toml", "--out", "a", "--set", "method=fed-transitions", "--set", set]).refused(1, parts);
    }
    let words = ["train", "small.toml", "--out", "a", "--set", "method=fed-transitions", "--device", "cuda"];
    let text = sandbox.lumos(&words).done();
    assert!(text.contains("device: CPU (cuda was asked for, but protocol `transitions` counts and ranks on the CPU)"), "{text}");
    assert!(sandbox.read("a/ranks-test.safetensors") == sandbox.read("fed-transitions/ranks-test.safetensors"));
}
