//! Participants with many sequences on a device: against the CPU, and with the same bits however their mini-batches are cut up.

use crate::rounds::{MEMORY, distance, on_cpu, on_device, settings};
use crate::simt::{Simt, device};
use lumos::config::{Backbone, Clients, Contrast, LocalOptimizer, Pool, Positions, RecLoss, Settings, Similarity};
use lumos::data::{Dataset, UserGroups};
use lumos::device::Geometry;
use lumos::engine::TensorData;
use lumos::federation::Trainer;
use lumos::testing::{HostDevice, HostKernels};
use lumos::views::Views;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The world with three sites.
fn world(users: u32, items: u32, seed: u64) -> (Dataset, Views) {
    let (mut data, views) = crate::ring::world(users, items, seed);
    data.groups = Some(UserGroups::new("site", &(0..users).map(|u| ["x", "y", "z"][u as usize % 3]).collect::<Vec<_>>()));
    (data, views)
}

/// Centralised training in mini-batches of 40 sequences: three parts, the last of them short.
pub fn central() -> Settings {
    let mut s = settings();
    s.federation.clients = Clients::One;
    s.federation.fraction = 1.0;
    (s.local.batch, s.local.epochs) = (40, 1);
    s.loss.contrast = Contrast::None;
    s
}

fn kinds() -> Vec<(&'static str, Settings)> {
    let with = |f: &dyn Fn(&mut Settings)| {
        let mut s = central();
        f(&mut s);
        s
    };
    vec![
        ("sasrec", with(&|s| s.local.epochs = 2)),
        ("views", with(&|s| s.loss.contrast = Contrast::Decoupled)),
        (
            "views as targets, inputs and negatives",
            with(&|s| {
                s.loss.contrast = Contrast::Decoupled;
                crate::rounds::every_view(s);
            }),
        ),
        ("views, means of states", with(&|s| (s.loss.contrast, s.loss.pool) = (Contrast::Decoupled, Pool::Mean))),
        ("dropout", with(&|s| (s.model.dropout, s.model.item_dropout) = (0.2, 0.1))),
        ("gru4rec", with(&|s| (s.model.backbone, s.model.dropout) = (Backbone::GRU4REC, 0.1))),
        ("bert4rec", with(&|s| (s.model.backbone, s.model.dropout) = (Backbone::BERT4REC, 0.2))),
        (
            "bert4rec, softmax, positions from the last",
            with(&|s| (s.model.backbone, s.model.positions, s.loss.rec) = (Backbone::BERT4REC, Positions::Last, RecLoss::Softmax)),
        ),
        ("softmax", with(&|s| s.loss.rec = RecLoss::Softmax)),
        ("softmax, item dropout", with(&|s| (s.loss.rec, s.model.item_dropout) = (RecLoss::Softmax, 0.1))),
        ("sampled softmax", with(&|s| (s.loss.rec, s.loss.negatives) = (RecLoss::SampledSoftmax, 5))),
        ("clip, adamw", with(&|s| (s.local.clip, s.local.optimizer, s.local.weight_decay) = (0.05, LocalOptimizer::Adamw, 0.01))),
        ("sgd", with(&|s| s.local.optimizer = LocalOptimizer::Sgd)),
        (
            "cl4srec",
            with(&|s| {
                (s.loss.in_batch.weight, s.loss.in_batch.similarity) = (0.1, Similarity::Cosine);
                s.model.dropout = 0.1;
            }),
        ),
        ("groups", with(&|s| (s.federation.clients, s.model.dropout) = (Clients::Groups(4), 0.1))),
        ("groups by a column", with(&|s| (s.federation.clients, s.data.group_column) = (Clients::Column, "site".into()))),
        (
            "groups, proximal",
            with(&|s| (s.federation.clients, s.local.optimizer, s.local.proximal) = (Clients::Groups(4), LocalOptimizer::Sgd, 9.0)),
        ),
        (
            "groups, preconditioned",
            with(&|s| {
                crate::rounds::preconditioned(s);
                s.federation.clients = Clients::Groups(4);
            }),
        ),
        // Some groups hold one sequence: those are trained like any client of one.
        ("groups of few", with(&|s| s.federation.clients = Clients::Groups(50))),
    ]
}

fn kind(name: &str) -> Settings {
    kinds().into_iter().find(|(n, _)| *n == name).expect("a kind").1
}

#[test]
fn two_rounds_agree_with_the_cpu() {
    let (data, views) = world(90, 40, 4);
    for (name, mut settings) in kinds() {
        // See `rounds::one_round_agrees_with_the_cpu`.
        settings.local.eps = 1e-3;
        let (gpu, cpu) = (on_device(&settings, &data, &views, 2, None), on_cpu(&settings, &data, &views, 2));
        let d = distance(&settings, &data, &views, &gpu, &cpu);
        assert!(d < 2e-4, "{name}: {d}");
    }
}

#[test]
fn chunks_and_threads_leave_no_trace() {
    let (data, views) = world(90, 40, 5);
    for (name, settings) in kinds().into_iter().filter(|(n, _)| ["dropout", "bert4rec", "softmax", "clip, adamw", "groups"].contains(n)) {
        let whole = on_device(&settings, &data, &views, 2, None);
        // A launch for each part.
        assert!(whole == on_device(&settings, &data, &views, 2, Some(1)), "{name}: cut");
        let one = Settings { threads: 1, ..settings };
        assert!(whole == on_device(&one, &data, &views, 2, None), "{name}: one thread");
    }
}

#[test]
fn reports_agree_with_the_cpu() {
    let (data, views) = world(90, 40, 6);
    for name in ["views", "groups of few"] {
        let settings = kind(name);
        let mut cpu = Trainer::new(lumos::testing::valid(&settings), data.clone(), views.clone()).unwrap();
        let mut gpu = Trainer::on_device(lumos::testing::valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
        let (a, b) = (cpu.round().unwrap(), gpu.round().unwrap());
        assert_eq!((a.clients, a.client_epochs, a.tokens, a.item_rows), (b.clients, b.client_epochs, b.tokens, b.item_rows), "{name}");
        assert_eq!((a.bytes_down, a.bytes_up), (b.bytes_down, b.bytes_up), "{name}");
        assert!((a.rec_loss - b.rec_loss).abs() < 1e-5 && (a.contrast_loss - b.contrast_loss).abs() < 1e-4, "{name}: {a:?} {b:?}");
        // The plan holds what is then held, and not much more.
        let used = gpu.device_use().unwrap().unwrap();
        let spare = used.predicted_bytes.checked_sub(used.peak_bytes);
        assert!(spare.is_some_and(|bytes| bytes < 40_000), "{name}: {used:?}");
    }
}

#[test]
fn moments_go_on_from_round_to_round_and_through_a_checkpoint() {
    let (data, views) = world(60, 30, 7);
    for name in ["sasrec", "sgd", "groups"] {
        let settings = kind(name);
        let whole = on_device(&settings, &data, &views, 3, None);
        assert_eq!(whole.iter().any(|t| t.name.starts_with("optimizer.")), name != "groups", "{name}");
        let mut first = Trainer::on_device(lumos::testing::valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
        first.round().unwrap();
        let after_one = first.tensors().unwrap();
        first.snapshot().unwrap();
        assert!(first.last_snapshot().unwrap() == (after_one.clone(), 1), "{name}: the snapshot");
        let mut other = Trainer::on_device(lumos::testing::valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
        other.round().unwrap();
        other.round().unwrap();
        other.restore(&after_one, 1).unwrap();
        assert!(other.tensors().unwrap() == after_one, "{name}: restored");
        other.round().unwrap();
        other.round().unwrap();
        assert!(other.tensors().unwrap() == whole, "{name}: gone on");
    }
}

#[test]
fn too_little_memory_trains_fewer_parts_at_a_time() {
    let (data, views) = world(150, 40, 8);
    let mut settings = kind("softmax");
    settings.local.batch = 150;
    let plenty = on_device(&settings, &data, &views, 1, None);
    let mut all = Trainer::on_device(lumos::testing::valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
    all.round().unwrap();
    let peak = all.device_use().unwrap().unwrap().peak_bytes;
    let mut short = Trainer::on_device(lumos::testing::valid(&settings), data.clone(), views.clone(), device(peak * 2 / 3)).unwrap();
    short.limit_chunks(u64::MAX);
    let report = short.round().unwrap();
    assert!(report.device.unwrap().chunks > 2, "{report:?}");
    assert!(short.tensors().unwrap() == plenty);
    let mut none = Trainer::on_device(lumos::testing::valid(&settings), data.clone(), views.clone(), device(60_000)).unwrap();
    let message = none.round().unwrap_err().to_string();
    assert!(message.contains("memory"), "{message}");
}

/// A round that is refused in the middle leaves a lone participant's moments as they were, and the round is trained again with the bits of a
/// run without it.
#[test]
fn a_refused_round_leaves_the_moments_alone() {
    let (mut data, views) = world(40, 30, 9);
    // The last user alone reaches position 12, in one of five mini-batches.
    data.items.extend(0..12);
    *data.offsets.last_mut().expect("a user") += 12;
    let mut settings = kind("sasrec");
    (settings.model.max_len, settings.local.batch, settings.local.epochs) = (20, 8, 1);
    let d = settings.model.dim as usize;
    for on in ["cpu", "device"] {
        let start = || match on {
            "cpu" => Trainer::new(lumos::testing::valid(&settings), data.clone(), views.clone()).unwrap(),
            _ => Trainer::on_device(lumos::testing::valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap(),
        };
        let mut trainer = start();
        trainer.round().unwrap();
        let good = trainer.tensors().unwrap();
        trainer.round().unwrap();
        let second = trainer.tensors().unwrap();

        let mut bad = good.clone();
        let positions = bad.iter_mut().find(|t| t.name == "positions").expect("learned positions");
        let TensorData::F32(values) = &mut positions.data else { panic!("floats") };
        let whole = std::mem::replace(&mut values[12 * d], f32::INFINITY);
        trainer.restore(&bad, 1).unwrap();
        for attempt in 0..2 {
            let message = trainer.round().unwrap_err().to_string();
            assert!(message.contains("not finite"), "{on}: {message}");
            assert!(trainer.tensors().unwrap() == bad, "{on}: after attempt {attempt}");
        }
        trainer.restore(&good, 1).unwrap();
        trainer.round().unwrap();
        assert!(trainer.tensors().unwrap() == second, "{on}: trained again, position {whole}");
    }
}

/// Kernels of which one fails at its nth launch.
pub struct Breaks {
    pub kernel: usize,
    pub left: AtomicU64,
}

impl HostKernels for Breaks {
    fn find(&self, name: &str) -> Option<usize> {
        Simt.find(name)
    }

    fn parameters(&self, handle: usize) -> Option<Vec<usize>> {
        Simt.parameters(handle)
    }

    unsafe fn launch(&self, handle: usize, geometry: Geometry, args: &[*const c_void]) -> Result<(), String> {
        if handle == self.kernel && self.left.fetch_sub(1, Relaxed) == 1 {
            return Err("an illegal address was read".into());
        }
        // SAFETY: the caller's promise.
        unsafe { Simt.launch(handle, geometry, args) }
    }
}

#[test]
fn a_device_that_fails_leaves_the_last_snapshot() {
    let (data, views) = world(90, 40, 10);
    let mut settings = kind("sasrec");
    settings.local.epochs = 1;
    let whole = on_device(&settings, &data, &views, 3, None);
    // Three mini-batches a round, two launches each: the sixteenth is in round 3.
    let breaks = Breaks { kernel: Simt.find("step_span").expect("a kernel"), left: AtomicU64::new(16) };
    let mut trainer =
        Trainer::on_device(lumos::testing::valid(&settings), data.clone(), views.clone(), Arc::new(HostDevice::new(breaks, MEMORY)))
            .unwrap();
    trainer.round().unwrap();
    trainer.round().unwrap();
    let after_two = trainer.tensors().unwrap();
    trainer.snapshot().unwrap();
    let message = trainer.round().unwrap_err().to_string();
    assert!(message.contains("kernel `step_span`") && message.contains("in round 3, client 0"), "{message}");
    assert!(trainer.last_snapshot().unwrap() == (after_two.clone(), 2));
    let mut other = Trainer::on_device(lumos::testing::valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
    other.restore(&after_two, 2).unwrap();
    other.round().unwrap();
    assert!(other.tensors().unwrap() == whole);
}

#[test]
fn rules_hold_for_participants_with_many_sequences() {
    let (data, views) = world(60, 30, 11);
    // A factor a client, a change of every value, and all updates together.
    for rule in ["norm-bound bound=0.05", "sign-flip share=0.5", "median"] {
        let mut settings = kind("groups");
        settings.local.eps = 1e-3;
        settings.federation.rules = vec![rule.into()];
        let (gpu, cpu) = (on_device(&settings, &data, &views, 1, None), on_cpu(&settings, &data, &views, 1));
        let d = distance(&settings, &data, &views, &gpu, &cpu);
        assert!(d < 2e-4, "{rule}: {d}");
    }
}
