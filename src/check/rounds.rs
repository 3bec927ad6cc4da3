//! Whole rounds: against the CPU for every backbone and loss, and with the same bits however often and in whatever pieces.

use super::Progress;
use super::report::CheckLine;
use crate::bench;
use crate::config::{
    Average, Backbone, ClientWeighting, Clients, Contrast, EpsUnit, LocalOptimizer, Positions, Precision, RecLoss, Resident, Residual,
    ServerOptimizer, Settings, Similarity, UploadRows, Validated,
};
use crate::data::Dataset;
use crate::device::interface::Device;
use crate::engine::{NamedTensor, TensorData};
use crate::federation::Trainer;
use crate::views::Views;
use crate::{Error, Result};
use std::sync::Arc;

/// Difference after one round: the norm of all relative to the norm of the change that the round made, and the one that only one weight in
/// ten thousand exceeds relative to the largest change of a weight.
const NEAR: f64 = 3e-4;
/// The worst weight in the same measure. A sum that falls on the other side of zero before a ReLU moves a few weights by this much.
const NEAR_WORST: f64 = 1e-2;
/// The same where products are rounded to TF32 and to bfloat16.
const NEAR_TF32: f64 = 1e-2;
/// See `NEAR_TF32`.
const NEAR_BF16: f64 = 8e-2;

/// What rounds are trained with, named.
pub type Kind = (String, Settings);

fn base(quick: bool) -> Settings {
    let mut s = Settings { seed: 3, ..Default::default() };
    (s.model.dim, s.model.heads, s.model.max_len) = if quick { (12, 2, 9) } else { (64, 2, 50) };
    s.model.blocks = if quick { 1 } else { 2 };
    s.local.epochs = 2;
    s.federation.fraction = 1.0;
    s.gpu.resident = Resident::Off;
    // Adam's first steps turn the sign of a gradient near zero into a whole step where epsilon is tiny.
    s.local.eps = 1e-3;
    s
}

fn with(base: &Settings, change: impl Fn(&mut Settings)) -> Settings {
    let mut s = base.clone();
    change(&mut s);
    s
}

/// Ending of the names of kinds whose clients are resident in one block of threads.
pub const RESIDENT: &str = ", resident";

/// Every backbone, loss, optimiser and way of averaging, step by step, and resident where the model may be (`quick`: a few of those).
pub fn kinds(quick: bool) -> Vec<Kind> {
    let mut all = steps(quick);
    for (name, settings) in steps(quick) {
        let few = ["sasrec, dropout", "adamw, clipped", "bf16"].contains(&name.as_str());
        if settings.federation.clients == Clients::User && settings.why_not_resident().is_none() && (few || !quick) {
            // Not `on`: on a GPU with too little shared memory they are trained step by step, and that is no fault.
            all.push((name + RESIDENT, with(&settings, |s| s.gpu.resident = Resident::Auto)));
        }
    }
    all
}

fn steps(quick: bool) -> Vec<Kind> {
    let b = base(quick);
    let kinds = [
        ("sasrec, decoupled", b.clone()),
        ("sasrec, joint", with(&b, |s| s.loss.contrast = Contrast::Joint)),
        ("sasrec, no contrast", with(&b, |s| s.loss.contrast = Contrast::None)),
        ("sasrec, odd width", with(&b, |s| (s.model.dim, s.model.heads, s.model.blocks) = (33, 3, 1))),
        ("sasrec, dropout", with(&b, |s| (s.model.dropout, s.model.item_dropout) = (0.2, 0.1))),
        ("sasrec, positions from the last", with(&b, |s| (s.model.positions, s.model.residual) = (Positions::Last, Residual::Normed))),
        ("sasrec, sampled softmax", with(&b, |s| (s.loss.rec, s.loss.negatives) = (RecLoss::SampledSoftmax, 5))),
        ("sasrec, gbce", with(&b, |s| (s.loss.rec, s.loss.negatives) = (RecLoss::Gbce, 3))),
        ("sasrec, full softmax", with(&b, |s| s.loss.rec = RecLoss::Softmax)),
        ("gru4rec, decoupled", with(&b, |s| s.model.backbone = Backbone::GRU4REC)),
        ("gru4rec, full softmax", with(&b, |s| (s.model.backbone, s.loss.rec) = (Backbone::GRU4REC, RecLoss::Softmax))),
        ("bert4rec, decoupled", with(&b, |s| s.model.backbone = Backbone::BERT4REC)),
        (
            "bert4rec, full softmax, no contrast, dropout",
            with(&b, |s| {
                (s.model.backbone, s.loss.rec, s.loss.contrast) = (Backbone::BERT4REC, RecLoss::Softmax, Contrast::None);
                (s.model.dropout, s.model.positions) = (0.2, Positions::Last);
            }),
        ),
        (
            "contrast with strangers",
            with(&b, |s| {
                (s.loss.contrast, s.loss.in_batch.weight, s.loss.in_batch.strangers) = (Contrast::None, 0.3, 4);
                (s.loss.in_batch.similarity, s.loss.in_batch.tau) = (Similarity::Cosine, 0.5);
            }),
        ),
        ("kept weights", with(&b, |s| (s.federation.personal, s.local.optimizer) = (0.1, LocalOptimizer::Sgd))),
        ("adamw, clipped", with(&b, |s| (s.local.clip, s.local.optimizer, s.local.weight_decay) = (0.5, LocalOptimizer::Adamw, 0.01))),
        ("gradient descent", with(&b, |s| s.local.optimizer = LocalOptimizer::Sgd)),
        ("adagrad, proximal", with(&b, |s| (s.local.optimizer, s.local.proximal) = (LocalOptimizer::Adagrad, 5.0))),
        (
            "preconditioned by the server's moments",
            with(&b, |s| {
                (s.federation.server, s.federation.server_lr) = (ServerOptimizer::Fedadam, 0.01);
                (s.local.optimizer, s.local.eps) = (LocalOptimizer::Preconditioned, 0.01);
            }),
        ),
        ("fedadam", with(&b, |s| (s.federation.server, s.federation.server_lr) = (ServerOptimizer::Fedadam, 0.01))),
        (
            "fedadam, corrected",
            with(&b, |s| {
                (s.federation.server, s.federation.server_lr) = (ServerOptimizer::Fedadam, 0.01);
                (s.federation.server_momentum, s.federation.server_correction) = (0.5, true);
            }),
        ),
        (
            "the recipe of fed-sasrec",
            with(&b, |s| {
                (s.local.optimizer, s.local.lr, s.local.clip) = (LocalOptimizer::Sgd, 0.1, 0.6);
                (s.federation.average, s.federation.server, s.federation.server_lr) = (Average::Cohort, ServerOptimizer::Fedadagrad, 0.03);
                (s.federation.server_eps, s.federation.server_eps_unit) = (0.01, EpsUnit::Client);
            }),
        ),
        (
            "momentum, cohort mean by examples, every touched row",
            with(&b, |s| {
                s.federation.server_momentum = 0.9;
                (s.federation.average, s.federation.weights) = (Average::Cohort, ClientWeighting::Examples);
                s.federation.upload_rows = UploadRows::Touched;
            }),
        ),
        (
            "one participant, dropout, clipped",
            with(&b, |s| {
                (s.federation.clients, s.local.batch, s.local.clip) = (Clients::One, 40, 0.05);
                (s.model.dropout, s.model.item_dropout) = (0.2, 0.1);
            }),
        ),
        (
            "groups, full softmax",
            with(&b, |s| (s.federation.clients, s.local.batch, s.loss.rec) = (Clients::Groups(3), 20, RecLoss::Softmax)),
        ),
        ("tf32", with(&b, |s| (s.precision, s.local.optimizer) = (Precision::Tf32, LocalOptimizer::Sgd))),
        ("bf16", with(&b, |s| (s.precision, s.local.optimizer) = (Precision::Bf16, LocalOptimizer::Sgd))),
    ];
    kinds.map(|(name, settings)| (name.to_string(), settings)).to_vec()
}

/// A world of clients with ragged histories and views. The last few have short ones, so that a chunk of them reaches fewer positions
/// than one of all.
fn world(clients: u32, items: u32, settings: &Settings) -> (Arc<Dataset>, Arc<Views>) {
    let max_len = settings.model.max_len;
    let mut lengths = bench::default_lengths(5, max_len);
    lengths.truncate(clients as usize - 4);
    lengths.resize(clients as usize, 1);
    bench::world(&bench::RoundBench { clients, items, max_len, lengths, ..Default::default() })
}

fn floats(tensors: &[NamedTensor]) -> Vec<(String, Vec<f32>)> {
    let values = |t: &NamedTensor| match &t.data {
        TensorData::F32(v) => v.to_vec(),
        _ => Vec::new(),
    };
    tensors.iter().map(|t| (t.name.to_string(), values(t))).collect()
}

/// How far two results of a round are apart.
#[derive(Clone, Copy, Debug)]
struct Distance {
    /// Norm of the differences, relative to the norm of the change from the start.
    norm: f64,
    /// The difference that one weight in ten thousand exceeds, relative to the largest change of a weight.
    most: f64,
    /// The largest, in the same measure.
    worst: f64,
}

impl Distance {
    const INFINITE: Distance = Distance { norm: f64::INFINITY, most: f64::INFINITY, worst: f64::INFINITY };

    /// One number that is at most `near` where the norm and most weights are, and the worst weight is at most `worst`.
    fn judged(self, near: f64, worst: f64) -> f64 {
        self.norm.max(self.most).max(self.worst * (near / worst))
    }
}

/// The distance of `a` from `b` after a change from `start`; infinite where a number is none.
fn distance(start: &[NamedTensor], a: &[NamedTensor], b: &[NamedTensor]) -> Distance {
    let (start, a, b) = (floats(start), floats(a), floats(b));
    let (mut change, mut squares, mut apart) = (0f64, 0f64, Vec::new());
    for ((name, x), (other, y)) in a.iter().zip(&b) {
        if name != other || x.len() != y.len() {
            return Distance::INFINITE;
        }
        let before = start.iter().find(|(n, s)| n == name && s.len() == x.len());
        for (i, (x, y)) in x.iter().zip(y).enumerate() {
            apart.push(f64::from((x - y).abs()));
            let moved = before.map_or(0.0, |(_, s)| f64::from((y - s[i]).abs()));
            change = change.max(moved);
            squares += moved * moved;
        }
    }
    if a.len() != b.len() || change == 0.0 || apart.is_empty() || apart.iter().any(|d| d.is_nan()) {
        return Distance::INFINITE;
    }
    apart.sort_by(f64::total_cmp);
    let norm = apart.iter().map(|d| d * d).sum::<f64>().sqrt() / squares.sqrt();
    let most = apart[((apart.len() - 1) as f64 * 0.9999) as usize] / change;
    Distance { norm, most, worst: apart[apart.len() - 1] / change }
}

fn trained(mut trainer: Trainer, rounds: u64, chunk_bytes: Option<u64>) -> Result<Vec<NamedTensor>> {
    if let Some(bytes) = chunk_bytes {
        trainer.set_chunk_bytes(bytes);
    }
    for _ in 0..rounds {
        trainer.round()?;
    }
    trainer.tensors()
}

fn line(part: &'static str, kind: &str, case: String, bound: f64, found: Result<f64>) -> Result<CheckLine> {
    let found = match found {
        Err(Error::Device(e)) if e.is_sticky() => return Err(e.into()),
        other => other,
    };
    let (error, fault) = match found {
        Ok(e) if e <= bound => (e, None),
        Ok(e) if bound == 0.0 => (e, Some("the bits differ".to_string())),
        Ok(e) => (e, Some(format!("differs by {e:.1e} of the change; {bound:.1e} is allowed"))),
        Err(e) => (f64::INFINITY, Some(e.to_string())),
    };
    Ok(CheckLine { part, name: kind.into(), case, error, bound, ok: fault.is_none(), fault })
}

/// One round of each kind on the CPU and on the device.
pub fn rounds(device: &Arc<dyn Device>, quick: bool, lines: &mut Vec<CheckLine>, progress: Progress) -> Result<()> {
    let (clients, items) = if quick { (8, 25) } else { (300, 700) };
    for (name, settings) in kinds(quick) {
        progress(&format!("a round on the CPU and on the device: {name}"));
        let (data, views) = world(clients, items, &settings);
        let exact = Validated::new(Settings { precision: Precision::Fp32, ..settings.clone() })?;
        let settings = Validated::new(settings)?;
        let (bound, worst) = match settings.precision {
            Precision::Fp32 => (NEAR, NEAR_WORST),
            Precision::Tf32 => (NEAR_TF32, NEAR_TF32),
            Precision::Bf16 => (NEAR_BF16, NEAR_BF16),
        };
        let compare = || -> Result<f64> {
            let start = trained(Trainer::new(&exact, data.clone(), views.clone())?, 0, None)?;
            let cpu = trained(Trainer::new(&exact, data.clone(), views.clone())?, 1, None)?;
            let gpu = trained(Trainer::on_device(&settings, data.clone(), views.clone(), device.clone())?, 1, None)?;
            Ok(distance(&start, &gpu, &cpu).judged(bound, worst))
        };
        lines.push(line("rounds", &name, format!("{clients} clients, one round, against the CPU"), bound, compare())?);
    }
    Ok(())
}

/// Two rounds, again, and in small chunks: the same bits.
pub fn bits(device: &Arc<dyn Device>, quick: bool, lines: &mut Vec<CheckLine>, progress: Progress) -> Result<()> {
    let (clients, items) = if quick { (68, 40) } else { (1000, 2000) };
    let chosen =
        ["sasrec, dropout", "adamw, clipped", "adamw, clipped, resident", "gru4rec, decoupled", "sasrec, full softmax", "tf32", "bf16"];
    let kinds = kinds(quick).into_iter().filter(|(name, _)| chosen[..if quick { 3 } else { chosen.len() }].contains(&name.as_str()));
    for (name, settings) in kinds {
        progress(&format!("the same bits: {name}"));
        let (data, views) = world(clients, items, &settings);
        let run = |settings: &Settings, bytes| {
            let settings = Validated::new(settings.clone())?;
            trained(Trainer::on_device(&settings, data.clone(), views.clone(), device.clone())?, 2, bytes)
        };
        let whole = match run(&settings, None) {
            Ok(whole) => whole,
            Err(e) => {
                lines.push(line("bits", &name, format!("{clients} clients, two rounds"), 0.0, Err(e))?);
                continue;
            }
        };
        // Pieces of 64 clients; and some of those together, at about a megabyte a client.
        for (how, bytes) in [("again", None), ("in chunks of 64", Some(1)), ("in larger chunks", Some(256 << 20))] {
            if quick && bytes == Some(256 << 20) {
                continue;
            }
            let found = run(&settings, bytes).map(|other| if other == whole { 0.0 } else { distance(&[], &other, &whole).worst });
            lines.push(line("bits", &name, format!("{clients} clients, two rounds, {how}"), 0.0, found)?);
        }
        // Both ways of local training are of the same arithmetic in the same order, so that a run may mix them.
        if settings.why_not_resident().is_none() && settings.gpu.resident == Resident::Off {
            let other = with(&settings, |s| s.gpu.resident = Resident::Auto);
            let found = run(&other, None).map(|other| if other == whole { 0.0 } else { distance(&[], &other, &whole).worst });
            lines.push(line("bits", &name, format!("{clients} clients, two rounds, resident against step by step"), 0.0, found)?);
        }
    }
    Ok(())
}

/// A small round of each backbone, for tools that watch memory: only the absence of errors is checked here.
pub fn smoke(device: &Arc<dyn Device>, lines: &mut Vec<CheckLine>, progress: Progress) -> Result<()> {
    let chosen = ["sasrec, dropout", "sasrec, full softmax", "gru4rec, decoupled", "adamw, clipped", "tf32", "bf16"];
    let named = |name: &str| name.ends_with(RESIDENT) || chosen.contains(&name);
    for (name, settings) in kinds(true).into_iter().filter(|(name, _)| named(name)) {
        progress(&format!("a small round: {name}"));
        let (data, views) = world(20, 40, &settings);
        let finite = |tensors: &[NamedTensor]| floats(tensors).iter().all(|(_, v)| v.iter().all(|x| x.is_finite()));
        let run = || -> Result<f64> {
            let settings = Validated::new(settings.clone())?;
            let tensors = trained(Trainer::on_device(&settings, data.clone(), views.clone(), device.clone())?, 1, Some(1))?;
            Ok(if finite(&tensors) { 0.0 } else { f64::INFINITY })
        };
        lines.push(line("smoke", &name, "20 clients, one round".into(), 0.0, run())?);
    }
    Ok(())
}
