//! Groups of parameters that clients keep to themselves (`federation.shared`) on a device: what they keep and what the server gets is what it is on
//! the CPU, and no cutting leaves a trace.

use crate::personal::kept;
use crate::ranks::Thread;
use crate::ring::{come_back, world};
use crate::rounds::{MEMORY, distance, floats, on_cpu, on_device, settings};
use crate::simt::device;
use lumos::config::{Backbone, Clients, Group, LocalOptimizer, Mask, RecLoss, Resident, ServerOptimizer, Settings, UploadRows};
use lumos::data::{Dataset, Split};
use lumos::engine::NamedTensor;
use lumos::federation::Trainer;
use lumos::federation::protocol::Parts;
use lumos::testing::valid;
use lumos::views::Views;

const GROUPS: [Group; 2] = [Group::Encoder, Group::Items];

/// Clients that upload `shared` and keep the other group.
fn sharing(shared: Group) -> Settings {
    let mut s = settings();
    s.federation.shared = vec![shared];
    s
}

/// Global tensors, what clients keep, and what the rounds report, after `rounds`.
fn end(mut trainer: Trainer, rounds: u64) -> (Vec<NamedTensor>, Vec<[u64; 5]>) {
    let reports = (0..rounds).map(|_| trainer.round().unwrap());
    let reports = reports.map(|r| [r.clients, r.tokens, r.item_rows, r.bytes_up, r.bytes_down]).collect();
    (trainer.tensors().unwrap(), reports)
}

fn gpu(s: &Settings, (data, views): &(Dataset, Views)) -> Trainer {
    Trainer::on_device(valid(s), data.clone(), views.clone(), device(MEMORY)).unwrap()
}

fn cpu(s: &Settings, (data, views): &(Dataset, Views)) -> Trainer {
    Trainer::new(valid(s), data.clone(), views.clone()).unwrap()
}

fn ranks(trainer: &mut Trainer, users: usize) -> Vec<u32> {
    trainer.rank(Split::Test, &(0..users as u32).collect::<Vec<_>>(), &|_, _| {}).unwrap()
}

fn kinds(shared: Group) -> Vec<(&'static str, Settings)> {
    let with = |f: &dyn Fn(&mut Settings)| {
        let mut s = sharing(shared);
        // See `rounds::one_round_agrees_with_the_cpu`.
        s.local.eps = 1e-3;
        f(&mut s);
        s
    };
    let rules = |s: &mut Settings, rules: &[&str]| {
        (s.local.optimizer, s.local.lr) = (LocalOptimizer::Sgd, 0.05);
        s.federation.rules = rules.iter().map(|r| r.to_string()).collect();
    };
    vec![
        ("adam, resident where it may be", with(&|s| s.gpu.resident = Resident::Auto)),
        ("special rows, dropout", with(&|s| (s.model.backbone, s.model.dropout) = (Backbone::BERT4REC, 0.2))),
        ("the whole catalogue", with(&|s| s.loss.rec = RecLoss::Softmax)),
        (
            "every row, fedadam",
            with(&|s| {
                (s.federation.upload_rows, s.federation.server, s.federation.server_lr) =
                    (UploadRows::Touched, ServerOptimizer::Fedadam, 0.01);
            }),
        ),
        ("norms", with(&|s| rules(s, &["norm-bound bound=0.05"]))),
        ("updates", with(&|s| rules(s, &["quantise bits=16"]))),
        ("all updates", with(&|s| rules(s, &["median"]))),
        ("groups", with(&|s| (s.federation.clients, s.federation.fraction, s.local.batch) = (Clients::Groups(7), 1.0, 3))),
        ("one participant", with(&|s| (s.federation.clients, s.federation.fraction, s.local.batch) = (Clients::One, 1.0, 20))),
        (
            "groups, all updates",
            with(&|s| {
                rules(s, &["median"]);
                (s.federation.clients, s.federation.fraction, s.local.batch) = (Clients::Groups(7), 1.0, 3);
            }),
        ),
    ]
}

#[test]
fn clients_keep_and_show_what_they_do_on_the_cpu() {
    let world = world(30, 25, 4);
    for shared in GROUPS {
        for (name, s) in kinds(shared) {
            let name = format!("{name}, {} shared", shared.name());
            let ((gpu, there), (cpu, here)) = (end(gpu(&s, &world), 2), end(cpu(&s, &world), 2));
            assert_eq!(there, here, "{name}");
            let far = distance(&s, &world.0, &world.1, &gpu, &cpu);
            // A median hands on what one client's optimiser makes of a gradient near 0.
            let bound = if name.contains("all updates") { 2e-2 } else { 2e-3 };
            assert!(far < bound, "{name}: {far}");
            let start = floats(&on_cpu(&s, &world.0, &world.1, 0));
            for ((tensor, before), (_, after)) in start.iter().zip(&floats(&gpu)) {
                let private = tensor.ends_with("items") == (shared == Group::Encoder);
                assert!(!private || before == after, "{name}: {tensor} is not the server's to change");
            }
            let (gpu, cpu) = (kept(&gpu), kept(&cpu));
            assert_eq!(gpu.len(), cpu.len(), "{name}");
            for (gpu, cpu) in gpu.iter().zip(&cpu) {
                assert!(gpu.to_bits() == cpu.to_bits() || (gpu - cpu).abs() < 5e-4, "{name}: {gpu} or {cpu}");
            }
        }
    }
}

#[test]
fn chunks_threads_and_an_interruption_leave_no_trace() {
    let world = world(140, 40, 5);
    for shared in GROUPS {
        let mut s = sharing(shared);
        // A whole piece and a short one.
        (s.federation.fraction, s.local.epochs, s.model.dropout) = (0.5, 1, 0.1);
        let whole = on_device(&s, &world.0, &world.1, 3, None);
        let other = Settings { threads: 3, ..s.clone() };
        assert!(whole == on_device(&other, &world.0, &world.1, 3, Some(1)), "pieces of a cohort, {} shared", shared.name());
        let mut again = gpu(&s, &world);
        again.restore(&on_device(&s, &world.0, &world.1, 1, None), 1).unwrap();
        again.round().unwrap();
        again.round().unwrap();
        assert!(whole == again.tensors().unwrap(), "after an interruption, {} shared", shared.name());
        // On disk, too.
        s.federation.private_memory_mb = 0;
        assert!(whole == on_device(&s, &world.0, &world.1, 3, None), "on disk, {} shared", shared.name());
    }
}

#[test]
fn too_little_memory_and_several_processes_leave_no_trace() {
    let (data, views) = world(100, 40, 8);
    for shared in GROUPS {
        let mut s = sharing(shared);
        s.federation.fraction = 1.0;
        s.federation.rules = vec!["norm-bound bound=0.05".into()];
        let parts = |bytes: u64| Parts { device: Some(device(bytes)), ..Parts::new(valid(&s), data.clone(), views.clone()) };
        let end = |mut trainer: Trainer| {
            trainer.round().unwrap();
            trainer.round().unwrap();
            let ranks = ranks(&mut trainer, data.users());
            let used = trainer.device_use().unwrap().unwrap();
            (trainer.tensors().unwrap(), ranks, used)
        };
        let (state, ranks, used) = end(Trainer::of(parts(MEMORY)).unwrap());
        assert!(used.peak_bytes <= used.predicted_bytes, "{used:?}");
        let mut tight = Trainer::of(parts(used.peak_bytes * 2 / 3)).unwrap();
        // The plan counts on more memory than there is.
        tight.limit_chunks(u64::MAX);
        let tight = end(tight);
        assert!(tight.0 == state && tight.1 == ranks && tight.2.peak_bytes < used.peak_bytes, "{} shared", shared.name());
        for (rank, found) in Thread::run(2, |reduce| end(Trainer::of(Parts { reduce, ..parts(MEMORY) }).unwrap())).into_iter().enumerate() {
            // What clients keep is gathered at the first of them.
            assert!(found.1 == ranks && (found.0 == state || rank > 0), "process {rank}, {} shared", shared.name());
        }
    }
}

#[test]
fn users_are_ranked_by_what_they_keep() {
    let mut world = world(90, 140, 6);
    come_back(&mut world.0);
    let users = world.0.users();
    for (shared, mask, backbone) in [
        (Group::Items, Mask::History, Backbone::SASREC),
        (Group::Encoder, Mask::History, Backbone::SASREC),
        (Group::Encoder, Mask::None, Backbone::BERT4REC),
    ] {
        let mut s = sharing(shared);
        (s.federation.fraction, s.eval.mask, s.model.backbone) = (0.6, mask, backbone);
        (s.local.lr, s.local.epochs) = (0.02, 4);
        let mut there = gpu(&s, &world);
        there.round().unwrap();
        there.round().unwrap();
        let (state, found) = (there.tensors().unwrap(), ranks(&mut there, users));
        let mut here = cpu(&s, &world);
        here.restore(&state, 2).unwrap();
        let equal = |a: &[u32], b: &[u32]| a.iter().zip(b).filter(|(a, b)| a == b).count();
        let expected = ranks(&mut here, users);
        assert!(equal(&found, &expected) * 10 >= 9 * users, "{shared:?}: the CPU ranks {} of {users} alike", equal(&found, &expected));
        // Few users at a time, and once more.
        let mut cut = gpu(&s, &world);
        cut.restore(&state, 2).unwrap();
        cut.limit_chunks(1);
        assert_eq!((ranks(&mut cut, users), ranks(&mut cut, users)), (found.clone(), found.clone()), "{shared:?}");
        // The global model ranks otherwise.
        let global: Vec<NamedTensor> = state.into_iter().filter(|t| t.name != "private").collect();
        cut.restore(&global, 2).unwrap();
        let other = ranks(&mut cut, users);
        assert!(equal(&found, &other) * 10 < 9 * users, "{shared:?}: what is kept changes ranks");
        here.restore(&global, 2).unwrap();
        let same = equal(&other, &ranks(&mut here, users));
        assert!(same * 10 >= 9 * users, "{shared:?}: {same} of {users}");
    }
}
