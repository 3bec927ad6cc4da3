//! Clients resident in one block of threads: the bits of the step-by-step kernels, near the CPU, and refusals in words.

use crate::foreign;
use crate::simt;
use crate::simt::Simt;
use lumos::config::{
    Anchor, Contrast, CounterfactualStates, LocalOptimizer, Pool, Positions, Precision, RecLoss, Resident, Residual, Settings, UploadRows,
};
use lumos::data::{Dataset, ItemText};
use lumos::device::{Device, Geometry};
use lumos::engine::{NamedTensor, TensorData};
use lumos::federation::Trainer;
use lumos::settings::validate;
use lumos::testing::{HostDevice, HostKernels, valid};
use lumos::views::{UserViews, Views};
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const MEMORY: u64 = 1 << 30;

fn settings() -> Settings {
    let mut s = Settings { seed: 3, threads: 2, ..Default::default() };
    s.model.dim = 12;
    s.model.heads = 2;
    s.model.max_len = 8;
    s.local.epochs = 2;
    s.federation.fraction = 1.0;
    s.gpu.resident = Resident::On;
    s
}

/// Users of every length from nothing to more than the longest input: clients without tokens, with one, with all views and some.
fn world(users: u32, items: u32) -> (Dataset, Views) {
    let mut data = Dataset { name: "odd".into(), offsets: vec![0], ..Default::default() };
    data.item_tokens = (0..items).map(|i| format!("i{i}")).collect();
    data.catalogue = vec![ItemText::default(); items as usize];
    let mut views = Views::default();
    for u in 0..users {
        // The last two items are held out. Repeated items share a row.
        let n = 2 + (5 * u) % 13;
        let sequence: Vec<u32> = (0..n).map(|k| (7 * u + k + k * k / 5) % items).collect();
        let train = &sequence[..n as usize - 2];
        let shifted = |by: u32| train.iter().map(|i| (i + by) % items).collect::<Vec<u32>>();
        let future = if u % 4 == 3 { Vec::new() } else { [train, &[(u + 1) % items, (u + 4) % items]].concat() };
        let counterfactuals = (0..u % 4).map(|k| shifted(items / 2 + k)).collect();
        views.users.push(UserViews { future, paraphrase: if u % 5 == 4 { Vec::new() } else { shifted(1) }, counterfactuals });
        data.user_tokens.push(format!("u{u}"));
        data.items.extend(&sequence);
        data.offsets.push(data.items.len() as u64);
    }
    (data, views)
}

fn kinds() -> Vec<(&'static str, Settings)> {
    // One epoch where nothing goes from step to step that the first kinds do not have.
    let with = |f: &dyn Fn(&mut Settings)| {
        let mut s = settings();
        s.local.epochs = 1;
        f(&mut s);
        s
    };
    let optimiser = |o, decay, clip| {
        let mut s = with(&move |s| (s.local.optimizer, s.local.weight_decay, s.local.clip) = (o, decay, clip));
        s.local.epochs = 2;
        s
    };
    vec![
        ("lumos", settings()),
        ("20 wide, 24 inside, 5 heads, 3 blocks", with(&|s| (s.model.dim, s.model.ffn, s.model.heads, s.model.blocks) = (20, 24, 5, 3))),
        ("64 wide", with(&|s| (s.model.dim, s.model.heads, s.model.blocks) = (64, 1, 1))),
        ("dropout", with(&|s| (s.model.dropout, s.model.item_dropout, s.local.epochs) = (0.2, 0.1, 2))),
        ("dropout, residuals after the norm", with(&|s| (s.model.dropout, s.model.residual) = (0.3, Residual::Normed))),
        ("positions from the last", with(&|s| s.model.positions = Positions::Last)),
        ("residuals after the norm", with(&|s| s.model.residual = Residual::Normed)),
        ("joint", with(&|s| s.loss.contrast = Contrast::Joint)),
        ("no views", with(&|s| s.loss.contrast = Contrast::None)),
        ("lambda falls to nothing", with(&|s| s.loss.lambda_rounds = 1)),
        ("adamw, clip", optimiser(LocalOptimizer::Adamw, 2.0, 0.5)),
        ("adam, decay, some clipped", optimiser(LocalOptimizer::Adam, 0.1, 1.1)),
        ("sgd", optimiser(LocalOptimizer::Sgd, 0.01, 0.0)),
        ("momentum", optimiser(LocalOptimizer::Momentum, 0.01, 0.0)),
        ("adagrad, clip", optimiser(LocalOptimizer::Adagrad, 0.0, 0.5)),
        ("every state of a counterfactual, in the first epoch", {
            let mut s = with(&|s| (s.loss.counterfactual_states, s.loss.contrast_epochs) = (CounterfactualStates::Every, 1));
            s.local.epochs = 2;
            s
        }),
        ("sgd, clip, dropout", {
            let mut s = optimiser(LocalOptimizer::Sgd, 0.0, 0.3);
            (s.model.dropout, s.model.item_dropout) = (0.2, 0.3);
            s
        }),
        ("sampled softmax", with(&|s| (s.loss.rec, s.loss.negatives) = (RecLoss::SampledSoftmax, 35))),
        ("gbce", with(&|s| (s.loss.rec, s.loss.negatives) = (RecLoss::Gbce, 3))),
        ("views as targets, inputs and negatives", with(&crate::rounds::every_view)),
        ("means of states", with(&|s| (s.loss.pool, s.local.epochs) = (Pool::Mean, 2))),
        (
            "means of states, 20 wide, dropout, residuals after the norm, clip",
            with(&|s| {
                (s.loss.pool, s.loss.anchor, s.loss.paraphrase_inputs) = (Pool::Mean, Anchor::Input, 0.05);
                (s.model.dim, s.model.ffn, s.model.heads, s.model.dropout) = (20, 24, 5, 0.2);
                (s.model.blocks, s.model.residual, s.model.positions) = (1, Residual::Normed, Positions::Last);
                (s.local.optimizer, s.local.clip, s.loss.contrast) = (LocalOptimizer::Sgd, 0.3, Contrast::Joint);
            }),
        ),
        ("every touched row", with(&|s| s.federation.upload_rows = UploadRows::Touched)),
    ]
}

fn trained(device: Arc<dyn Device>, settings: &Settings, (data, views): &(Dataset, Views), chunk_bytes: Option<u64>) -> Vec<NamedTensor> {
    let mut trainer = Trainer::on_device(valid(settings), data.clone(), views.clone(), device).unwrap();
    if let Some(bytes) = chunk_bytes {
        trainer.limit_chunks(bytes);
    }
    for _ in 0..=settings.loss.lambda_rounds {
        trainer.round().unwrap();
    }
    trainer.tensors().unwrap()
}

fn step_by_step(settings: &Settings) -> Settings {
    let mut s = settings.clone();
    s.gpu.resident = Resident::Off;
    s
}

/// A device whose blocks have `shared` bytes of shared memory, its multiprocessors `total`.
fn with_shared(shared: usize, total: usize) -> Arc<dyn Device> {
    simt::with_shared(MEMORY, shared, total)
}

/// A device with the shared memory of an H100.
pub fn h100() -> Arc<dyn Device> {
    with_shared(227 << 10, 228 << 10)
}

#[test]
fn the_bits_are_those_of_step_by_step() {
    let world = world(13, 45);
    for (name, s) in kinds() {
        assert!(trained(h100(), &s, &world, None) == trained(h100(), &step_by_step(&s), &world, None), "{name}");
    }
}

#[test]
fn tensor_cores_give_the_bits_of_step_by_step() {
    let world = world(9, 25);
    for precision in [Precision::Tf32, Precision::Bf16] {
        for dims in [(12, 0, 2), (20, 24, 1)] {
            let mut s = Settings { precision, ..settings() };
            (s.model.dim, s.model.ffn, s.model.heads) = dims;
            assert!(trained(h100(), &s, &world, None) == trained(h100(), &step_by_step(&s), &world, None), "{precision:?}, {dims:?}");
        }
    }
}

#[test]
fn one_round_agrees_with_the_cpu() {
    let (data, views) = world(13, 25);
    for (name, mut s) in kinds().into_iter().filter(|(n, _)| ["lumos", "dropout", "adamw, clip", "gbce", "means of states"].contains(n)) {
        // Adam's first steps turn the sign of a gradient near zero into a whole step; they agree where epsilon is not tiny.
        s.local.eps = 1e-3;
        let values = |t: &Trainer| -> Vec<f32> {
            let tensors = t.tensors().unwrap();
            tensors.iter().filter_map(|t| if let TensorData::F32(v) = &t.data { Some(v.to_vec()) } else { None }).flatten().collect()
        };
        let mut cpu = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        let start = values(&cpu);
        let mut gpu = Trainer::on_device(valid(&s), data.clone(), views.clone(), h100()).unwrap();
        let (a, b) = (cpu.round().unwrap(), gpu.round().unwrap());
        let (cpu, gpu) = (values(&cpu), values(&gpu));
        let worst =
            |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from((x - y).abs())).fold(0f64, |m, e| if e <= m { m } else { e });
        let (error, change) = (worst(&cpu, &gpu), worst(&cpu, &start));
        assert!(error < 2e-4 * change, "{name}: {error} of a change of {change}");
        assert_eq!(
            (a.clients, a.client_epochs, a.tokens, a.item_rows, a.bytes_up),
            (b.clients, b.client_epochs, b.tokens, b.item_rows, b.bytes_up)
        );
        assert!((a.rec_loss - b.rec_loss).abs() < 1e-5 && (a.contrast_loss - b.contrast_loss).abs() < 1e-4, "{name}: {a:?} {b:?}");
    }
}

#[test]
fn chunks_threads_and_shared_memory_leave_no_trace() {
    let world = world(70, 40);
    let mut s = settings();
    (s.model.dropout, s.model.item_dropout, s.local.clip, s.local.epochs) = (0.2, 0.1, 0.5, 1);
    // Blocks of 256 threads, two a multiprocessor.
    let whole = trained(h100(), &s, &world, None);
    assert!(whole == trained(h100(), &s, &world, Some(1)), "pieces of 64 clients");
    // Blocks of 512 threads, with hardly any activations in shared memory.
    let little = with_shared(17 << 10, 17 << 10);
    assert!(whole == trained(little, &s, &world, None), "512 threads, little shared memory");
}

/// The kernels, and the most shared memory that a launch asked for.
struct Watched(Arc<AtomicUsize>);

impl HostKernels for Watched {
    fn find(&self, name: &str) -> Option<usize> {
        Simt.find(name)
    }

    fn parameters(&self, handle: usize) -> Option<Vec<usize>> {
        Simt.parameters(handle)
    }

    unsafe fn launch(&self, handle: usize, geometry: Geometry, args: &[*const c_void]) -> Result<(), String> {
        self.0.fetch_max(geometry.shared, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { Simt.launch(handle, geometry, args) }
    }
}

#[test]
fn short_clients_take_little_shared_memory() {
    let (world, limits) = (world(20, 25), h100().limits());
    let most = |max_len: u32| {
        let (mut s, most) = (settings(), Arc::default());
        (s.model.max_len, s.local.epochs) = (max_len, 1);
        let device = HostDevice::new(Watched(Arc::clone(&most)), MEMORY).with_limits(limits);
        trained(Arc::new(device), &s, &world, None);
        most.load(Relaxed)
    };
    let (short, long) = (most(3), most(8));
    assert!(short < long && long < limits.shared_per_block / 2, "{short} {long}");
}

/// Short enough for a sanitizer.
#[test]
fn a_visit_that_clips_has_the_bits_of_step_by_step() {
    let world = world(6, 12);
    let mut s = settings();
    (s.local.clip, s.local.epochs) = (0.1, 1);
    assert!(trained(h100(), &s, &world, None) == trained(h100(), &step_by_step(&s), &world, None));
}

/// The same for blocks of 512 threads, with hardly any activations in shared memory.
#[test]
fn a_visit_of_512_threads_has_the_bits_of_256() {
    let world = world(4, 12);
    let mut s = settings();
    (s.local.clip, s.local.epochs) = (0.1, 1);
    assert!(trained(h100(), &s, &world, None) == trained(with_shared(17 << 10, 17 << 10), &s, &world, None));
}

#[test]
fn a_visit_is_one_launch() {
    let world = world(20, 25);
    let s = settings();
    let mut trainer = Trainer::on_device(valid(&s), world.0.clone(), world.1.clone(), h100()).unwrap();
    trainer.round().unwrap();
    let used = trainer.device_use().unwrap().unwrap();
    // The visits, two kernels that average and two that take the server's step.
    assert_eq!((used.launches, used.replays, used.replayed), (5, 0, 0), "{used:?}");
    let s = step_by_step(&s);
    let mut steps = Trainer::on_device(valid(&s), world.0.clone(), world.1.clone(), h100()).unwrap();
    steps.round().unwrap();
    let steps = steps.device_use().unwrap().unwrap();
    // A graph a local step; besides, global weights and rows to the clients, two that average and two of the server's step.
    assert_eq!((steps.launches, steps.replays, steps.replayed), (6, 2, 2 * 78), "{steps:?}");
    assert!(!steps.resident && used.peak_bytes < steps.peak_bytes, "{used:?} {steps:?}");
    assert!(used.resident && used.peak_bytes > 0 && used.peak_bytes <= used.predicted_bytes, "{used:?}");
}

#[test]
fn a_client_that_diverges_is_named() {
    let (data, views) = world(13, 25);
    let mut s = settings();
    (s.local.optimizer, s.local.lr) = (LocalOptimizer::Sgd, 1e20);
    let message = Trainer::on_device(valid(&s), data.clone(), views.clone(), h100()).unwrap().round().unwrap_err().to_string();
    assert!(message.contains("client") && message.contains("local.lr"), "{message}");
}

#[test]
fn what_does_not_fit_is_refused_or_goes_step_by_step() {
    let (data, views) = world(20, 25);
    let mut s = settings();
    (s.model.dim, s.model.heads) = (64, 1);
    let small = || with_shared(99 << 10, 100 << 10);
    let message = Trainer::on_device(valid(&s), data.clone(), views.clone(), small()).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("gpu.resident") && message.contains("shared memory"), "{message}");
    s.gpu.resident = Resident::Auto;
    let trainer = Trainer::on_device(valid(&s), data.clone(), views.clone(), small()).unwrap();
    assert!(!trainer.device_use().unwrap().unwrap().resident);
    // What an H100 has holds them.
    assert!(Trainer::on_device(valid(&s), data.clone(), views.clone(), h100()).unwrap().device_use().unwrap().unwrap().resident);
    for f in [
        |s: &mut Settings| s.model.dim = 68,
        |s: &mut Settings| (s.model.dim, s.model.heads) = (10, 1),
        |s: &mut Settings| s.loss.rec = RecLoss::Softmax,
        |s: &mut Settings| s.model.backbone = lumos::config::Backbone::GRU4REC,
        |s: &mut Settings| s.loss.terms = foreign::with_foreign(s.clone()).loss.terms,
    ] {
        let mut s = settings();
        f(&mut s);
        let message = validate(&s).unwrap_err().to_string();
        assert!(message.contains("gpu.resident") && message.contains("because"), "{message}");
        s.gpu.resident = Resident::Auto;
        validate(&s).unwrap();
        assert!(!Trainer::on_device(valid(&s), data.clone(), views.clone(), h100()).unwrap().device_use().unwrap().unwrap().resident);
    }
}
