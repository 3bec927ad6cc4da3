//! Full ranking by the kernels: against the CPU backend, with the same bits however users are cut up.

use crate::ring::{come_back, world};
use crate::simt::device;
use lumos::config::{Backbone, Mask, Positions, Precision, Settings};
use lumos::data::{Dataset, Split};
use lumos::eval::MISS;
use lumos::federation::Trainer;
use lumos::testing::valid;
use lumos::views::Views;

const MEMORY: u64 = 1 << 30;

fn settings() -> Settings {
    let mut s = Settings { seed: 5, threads: 2, ..Default::default() };
    s.model.dim = 12;
    s.model.heads = 2;
    s.model.max_len = 6;
    s.local.epochs = 1;
    s.federation.fraction = 1.0;
    s
}

fn kinds() -> Vec<(&'static str, Settings)> {
    let base = settings();
    let with = |f: &dyn Fn(&mut Settings)| {
        let mut s = base.clone();
        f(&mut s);
        s
    };
    vec![
        ("sasrec", base.clone()),
        ("positions from the last, odd width", with(&|s| (s.model.positions, s.model.dim, s.model.heads) = (Positions::Last, 9, 1))),
        ("gru", with(&|s| s.model.backbone = Backbone::GRU4REC)),
        ("bert", with(&|s| s.model.backbone = Backbone::BERT4REC)),
    ]
}

/// A world with a user too short for a target.
fn ring(users: u32, items: u32) -> (Dataset, Views) {
    let (mut data, mut views) = world(users, items, 4);
    data.items.extend([1, 2]);
    data.offsets.push(data.items.len() as u64);
    data.user_tokens.push("short".into());
    views.users.push(Default::default());
    (data, views)
}

fn everyone(data: &Dataset) -> Vec<u32> {
    (0..data.users() as u32).collect()
}

fn rank(trainer: &mut Trainer, split: Split, users: &[u32]) -> Vec<u32> {
    trainer.rank(split, users, &|_, _| {}).unwrap()
}

#[test]
fn ranks_are_those_of_the_cpu_up_to_ties() {
    let (data, views) = ring(60, 140);
    let users = everyone(&data);
    for (name, settings) in kinds() {
        let mut gpu = Trainer::on_device(valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
        gpu.round().unwrap();
        let mut cpu = Trainer::new(valid(&settings), data.clone(), views.clone()).unwrap();
        cpu.restore(&gpu.tensors().unwrap(), 1).unwrap();
        for split in [Split::Validation, Split::Test] {
            let (a, b) = (rank(&mut gpu, split, &users), rank(&mut cpu, split, &users));
            assert_eq!((a.len(), *a.last().unwrap()), (users.len(), 0));
            assert!(a[0] != a[1] || a[1] != a[2], "{name}: ranks differ from user to user");
            for &user in users.iter().filter(|&&u| a[u as usize] != b[u as usize]) {
                // The rank may be any within the scores that no sum can tell from the target's.
                let (input, target) = data.input_and_target(user as usize, split).unwrap();
                let scores = cpu.recommend(None, input, data.item_count()).unwrap();
                let own = scores.iter().find(|(item, _)| *item == target).map(|(_, s)| *s).expect("a target that is no repeat");
                let above = |limit: f32| scores.iter().filter(|(item, s)| *item != target && *s >= limit).count() as u32 + 1;
                let (least, most) = (above(own + 1e-5), above(own - 1e-5));
                assert!((least..=most).contains(&a[user as usize]), "{name}, user {user}: {} not in {least}..{most}", a[user as usize]);
            }
            let equal = a.iter().zip(&b).filter(|(a, b)| a == b).count();
            assert!(equal * 10 >= a.len() * 9, "{name}: {equal} of {} ranks agree", a.len());
        }
    }
}

#[test]
fn users_who_come_back_are_ranked_as_on_the_cpu_under_either_mask() {
    let (mut data, views) = world(70, 140, 6);
    come_back(&mut data);
    let users = everyone(&data);
    for mask in [Mask::History, Mask::None] {
        let mut settings = settings();
        settings.eval.mask = mask;
        let mut gpu = Trainer::on_device(valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
        gpu.round().unwrap();
        let mut cpu = Trainer::new(valid(&settings), data.clone(), views.clone()).unwrap();
        cpu.restore(&gpu.tensors().unwrap(), 1).unwrap();
        for split in [Split::Validation, Split::Test] {
            let (a, b) = (rank(&mut gpu, split, &users), rank(&mut cpu, split, &users));
            for &user in &users {
                let (input, target) = data.input_and_target(user as usize, split).unwrap();
                let masked = mask == Mask::History && input.contains(&target);
                assert_eq!((a[user as usize] == MISS, b[user as usize] == MISS), (masked, masked), "user {user}, {mask:?}");
            }
            assert!(a.contains(&MISS) == (mask == Mask::History));
            let equal = a.iter().zip(&b).filter(|(a, b)| a == b).count();
            assert!(equal * 10 >= a.len() * 9, "{mask:?}: {equal} of {} ranks agree", a.len());
        }
    }
}

#[test]
fn chunks_leave_no_trace() {
    let (data, views) = ring(120, 60);
    // Validation during training takes some users, in any order.
    let users: Vec<u32> = everyone(&data).into_iter().filter(|u| u % 17 != 3).rev().collect();
    for (name, settings) in kinds() {
        let mut whole = Trainer::on_device(valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
        let expected = rank(&mut whole, Split::Test, &users);
        assert_eq!(rank(&mut whole, Split::Test, &users), expected, "{name}: twice");
        let mut cut = Trainer::on_device(valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
        cut.limit_chunks(1);
        let told = std::sync::Mutex::new(Vec::new());
        let ranks = cut.rank(Split::Test, &users, &|done, total| told.lock().unwrap().push((done, total))).unwrap();
        assert_eq!(ranks, expected, "{name}: in chunks");
        let told = told.into_inner().unwrap();
        assert!(told.len() > 3 && told.last() == Some(&(users.len() as u64 - 1, users.len() as u64 - 1)), "{told:?}");
        // Others are asked for in between.
        rank(&mut whole, Split::Validation, &users[..9]);
        assert_eq!(rank(&mut whole, Split::Test, &users[..40]), expected[..40], "{name}: some");
    }
    let settings = settings();
    let mut none = Trainer::on_device(valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
    assert!(rank(&mut none, Split::Test, &[]).is_empty());
    assert_eq!(rank(&mut none, Split::Test, &[120]), [0]);
}

#[test]
fn ranks_follow_training_and_do_not_depend_on_its_precision() {
    let (data, views) = ring(60, 50);
    let users = everyone(&data);
    let settings = settings();
    let mut trainer = Trainer::on_device(valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
    let before = rank(&mut trainer, Split::Test, &users);
    trainer.round().unwrap();
    trainer.round().unwrap();
    let after = rank(&mut trainer, Split::Test, &users);
    assert_ne!(before, after);
    let mean = |ranks: &[u32]| ranks.iter().map(|&r| f64::from(r)).sum::<f64>();
    assert!(mean(&after) < mean(&before), "training helps: {} {}", mean(&before), mean(&after));
    let rough = Settings { precision: Precision::Bf16, ..settings.clone() };
    let mut other = Trainer::on_device(valid(&rough), data.clone(), views.clone(), device(MEMORY)).unwrap();
    other.restore(&trainer.tensors().unwrap(), 2).unwrap();
    assert_eq!(rank(&mut other, Split::Test, &users), after);
}

#[test]
fn too_little_memory_splits_the_users() {
    let (data, views) = ring(130, 40);
    let users = everyone(&data);
    let settings = settings();
    let mut plenty = Trainer::on_device(valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
    plenty.round().unwrap();
    let launches = |t: &Trainer| t.device_use().unwrap().unwrap().launches;
    let before = launches(&plenty);
    let expected = rank(&mut plenty, Split::Test, &users);
    let whole = launches(&plenty) - before;
    let trained = plenty.tensors().unwrap();
    // ChunkMemory for the weights and little else.
    let mut small = Trainer::on_device(valid(&settings), data.clone(), views.clone(), device(300_000)).unwrap();
    small.limit_chunks(u64::MAX);
    small.restore(&trained, 1).unwrap();
    assert_eq!(rank(&mut small, Split::Test, &users), expected);
    assert!(launches(&small) >= 2 * whole, "{} launches, {whole} for one chunk", launches(&small));
    // What training holds is given back to a ranking that needs it.
    let peak = plenty.device_use().unwrap().unwrap().peak_bytes;
    let mut tight = Trainer::on_device(valid(&settings), data.clone(), views.clone(), device(peak + 1000)).unwrap();
    tight.limit_chunks(u64::MAX);
    tight.round().unwrap();
    assert_eq!(rank(&mut tight, Split::Test, &users), expected);
    tight.round().unwrap();
    // Where nothing fits, an error says so.
    let mut none = Trainer::on_device(valid(&settings), data.clone(), views.clone(), device(60_000)).unwrap();
    let message = none.rank(Split::Test, &users, &|_, _| {}).unwrap_err().to_string();
    assert!(message.contains("out of memory"), "{message}");
}

/// Mean of a value over users, and its standard error.
fn mean(ranks: &[u32], value: impl Fn(u32) -> f64) -> (f64, f64) {
    let n = ranks.len() as f64;
    let m = ranks.iter().map(|&r| value(r)).sum::<f64>() / n;
    (m, (ranks.iter().map(|&r| (value(r) - m).powi(2)).sum::<f64>() / n / n).sqrt())
}

#[test]
fn a_whole_run_ends_as_well_as_on_the_cpu() {
    let (data, views) = world(120, 40, 23);
    let mut settings = settings();
    settings.local.lr = 0.02;
    settings.federation.fraction = 0.5;
    let users = everyone(&data);
    let end = |mut trainer: Trainer| {
        let start = rank(&mut trainer, Split::Test, &users);
        for _ in 0..12 {
            trainer.round().unwrap();
        }
        (start, rank(&mut trainer, Split::Test, &users))
    };
    let (_, cpu) = end(Trainer::new(valid(&settings), data.clone(), views.clone()).unwrap());
    let (start, gpu) = end(Trainer::on_device(valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap());
    let hr = |r: u32| f64::from(u8::from((1..=5).contains(&r)));
    let ndcg = |r: u32| hr(r) / f64::from(r.max(1) + 1).log2();
    for (name, value) in [("HR@5", &hr as &dyn Fn(u32) -> f64), ("NDCG@5", &ndcg)] {
        let ((before, _), (there, error), (here, _)) = (mean(&start, value), mean(&gpu, value), mean(&cpu, value));
        assert!(there > before + 3.0 * error, "{name}: from {before} to {there} on the device, so nothing was learned");
        assert!((there - here).abs() < 2.0 * error, "{name}: {there} on the device, {here} on the CPU");
    }
}
