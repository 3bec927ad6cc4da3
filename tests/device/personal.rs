//! Clients that keep dense weights (`federation.personal`) on a device: what they keep and what the server gets is what it is on the CPU, and
//! no cutting leaves a trace.

use crate::ranks::Thread;
use crate::ring::world;
use crate::rounds::{MEMORY, distance, on_cpu, on_device, settings};
use crate::simt::device;
use lumos::config::{LocalOptimizer, Settings};
use lumos::data::Split;
use lumos::engine::{NamedTensor, TensorData};
use lumos::federation::Trainer;
use lumos::federation::protocol::Parts;
use lumos::testing::valid;

/// Gradient descent: under Adam the first step changes all weights alike, and which are kept would be a matter of the last bits.
fn keeping(share: f32, rules: &[&str]) -> Settings {
    let mut s = settings();
    (s.local.optimizer, s.local.lr, s.federation.personal) = (LocalOptimizer::Sgd, 0.05, share);
    s.federation.rules = rules.iter().map(|r| r.to_string()).collect();
    s
}

/// Numbers of all clients' private state: clients, lengths and items as they are, weights that a client does not keep NaN.
pub fn kept(tensors: &[NamedTensor]) -> Vec<f32> {
    let TensorData::U8(bytes) = &tensors.iter().find(|t| t.name == "private").expect("clients keep weights").data else { panic!() };
    let (mut rest, mut numbers) = (&bytes[..], Vec::new());
    let word = |rest: &mut &[u8]| {
        let (word, tail) = rest.split_first_chunk::<4>().expect("whole words");
        *rest = tail;
        u32::from_le_bytes(*word)
    };
    while !rest.is_empty() {
        let (client, head) = (word(&mut rest), word(&mut rest));
        // With the highest bit a bit for each weight that says whether it is kept.
        let n = head as usize & !(1 << 31);
        let (bits, tail) = rest.split_at(if head >> 31 == 1 { n.div_ceil(8) } else { 0 });
        rest = tail;
        numbers.extend([client, n as u32].map(f32::from_bits));
        let own = |i: usize| bits.is_empty() || bits[i / 8] >> (i % 8) & 1 == 1;
        numbers.extend((0..n).map(|i| if own(i) { f32::from_bits(word(&mut rest)) } else { f32::NAN }));
        for _ in 0..word(&mut rest) {
            let (item, d) = (word(&mut rest), word(&mut rest));
            numbers.extend((0..d).map(|_| f32::from_bits(word(&mut rest))));
            numbers.push(f32::from_bits(item));
        }
    }
    numbers
}

#[test]
fn clients_keep_and_show_what_they_do_on_the_cpu() {
    let (data, views) = world(30, 25, 4);
    for (share, rules) in [(0.1, &[][..]), (0.6, &[]), (0.3, &["norm-bound bound=0.05"]), (0.3, &["median"])] {
        let s = keeping(share, rules);
        let (gpu, cpu) = (on_device(&s, &data, &views, 3, None), on_cpu(&s, &data, &views, 3));
        let far = distance(&s, &data, &views, &gpu, &cpu);
        assert!(far < 2e-4, "{share}, {rules:?}: {far}");
        let (gpu, cpu) = (kept(&gpu), kept(&cpu));
        assert_eq!(gpu.len(), cpu.len());
        let held = cpu.iter().filter(|x| !x.is_nan()).count() as f32 / cpu.len() as f32;
        assert!((held - share).abs() < 0.02, "{share}: {held} are kept");
        for (gpu, cpu) in gpu.iter().zip(&cpu) {
            assert!(gpu.to_bits() == cpu.to_bits() || (gpu - cpu).abs() < 1e-4, "{share}, {rules:?}: {gpu} or {cpu}");
        }
    }
}

#[test]
fn chunks_and_an_interruption_leave_no_trace() {
    let (data, views) = world(140, 40, 5);
    for rules in [&[][..], &["median"]] {
        let mut s = keeping(0.3, rules);
        // A whole piece and a short one.
        (s.federation.fraction, s.local.epochs) = (0.5, 1);
        let whole = on_device(&s, &data, &views, 3, None);
        assert!(whole == on_device(&s, &data, &views, 3, Some(1)), "{rules:?}: pieces of a cohort");
        if !rules.is_empty() {
            continue;
        }
        let shared = Settings { federation: lumos::config::FederationSettings { personal: 0.0, ..s.federation.clone() }, ..s.clone() };
        assert!(distance(&s, &data, &views, &whole, &on_device(&shared, &data, &views, 3, None)) > 1e-2, "{rules:?}: it matters");
        let mut again = Trainer::on_device(valid(&s), data.clone(), views.clone(), device(MEMORY)).unwrap();
        again.restore(&on_device(&s, &data, &views, 1, None), 1).unwrap();
        again.round().unwrap();
        again.round().unwrap();
        assert!(whole == again.tensors().unwrap(), "{rules:?}: after an interruption");
    }
}

#[test]
fn too_little_memory_and_several_processes_leave_no_trace() {
    let (data, views) = world(100, 40, 8);
    let mut s = keeping(0.3, &["norm-bound bound=0.05"]);
    s.federation.fraction = 1.0;
    let users: Vec<u32> = (0..data.users() as u32).collect();
    let parts = |bytes: u64| Parts { device: Some(device(bytes)), ..Parts::new(valid(&s), data.clone(), views.clone()) };
    let end = |mut trainer: Trainer| {
        trainer.round().unwrap();
        trainer.round().unwrap();
        let ranks = trainer.rank(Split::Test, &users, &|_, _| {}).unwrap();
        (trainer.tensors().unwrap(), ranks, trainer.device_use().unwrap().unwrap().peak_bytes)
    };
    let (state, ranks, peak) = end(Trainer::of(parts(MEMORY)).unwrap());
    let mut tight = Trainer::of(parts(peak * 2 / 3)).unwrap();
    // The plan counts on more memory than there is.
    tight.limit_chunks(u64::MAX);
    let tight = end(tight);
    assert!(tight.0 == state && tight.1 == ranks && tight.2 < peak);
    for (rank, found) in Thread::run(2, |reduce| end(Trainer::of(Parts { reduce, ..parts(MEMORY) }).unwrap())).into_iter().enumerate() {
        // What clients keep is gathered at the first of them.
        assert!(found.1 == ranks && (found.0 == state || rank > 0), "process {rank}");
    }
}

#[test]
fn users_are_ranked_by_the_weights_that_they_keep() {
    let (data, views) = world(90, 140, 6);
    let users: Vec<u32> = (0..data.users() as u32).collect();
    let mut s = keeping(0.5, &[]);
    (s.local.lr, s.federation.fraction) = (0.5, 0.6);
    let ranks = |trainer: &mut Trainer| trainer.rank(Split::Test, &users, &|_, _| {}).unwrap();
    let mut gpu = Trainer::on_device(valid(&s), data.clone(), views.clone(), device(MEMORY)).unwrap();
    gpu.round().unwrap();
    gpu.round().unwrap();
    let (state, found) = (gpu.tensors().unwrap(), ranks(&mut gpu));
    let mut cpu = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
    cpu.restore(&state, 2).unwrap();
    let equal = |other: &[u32]| found.iter().zip(other).filter(|(a, b)| a == b).count();
    assert!(equal(&ranks(&mut cpu)) * 10 >= 9 * users.len(), "the CPU ranks {} of {} alike", equal(&ranks(&mut cpu)), users.len());
    // Few users at a time, and once more.
    let mut cut = Trainer::on_device(valid(&s), data.clone(), views.clone(), device(MEMORY)).unwrap();
    cut.restore(&state, 2).unwrap();
    cut.limit_chunks(1);
    assert_eq!((ranks(&mut cut), ranks(&mut cut)), (found.clone(), found.clone()));
    // The global model ranks otherwise.
    let global: Vec<NamedTensor> = state.into_iter().filter(|t| t.name != "private").collect();
    cut.restore(&global, 2).unwrap();
    let other = ranks(&mut cut);
    assert!(equal(&other) < users.len(), "kept weights change ranks");
    cpu.restore(&global, 2).unwrap();
    let same = other.iter().zip(&ranks(&mut cpu)).filter(|(a, b)| a == b).count();
    assert!(same * 10 >= 9 * users.len(), "{same} of {}", users.len());
}
