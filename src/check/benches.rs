//! Times of every kernel at the reference shape, and of whole rounds.

use super::case::{self, Case, Normals};
use super::packed::Placed;
use super::report::{BenchLine, RoundLine, Yardstick};
use super::subject::Subject;
use super::timing::{self, Sample};
use super::{Progress, batch, batches, calls, direct, fused, local, yardstick};
use crate::backend::cuda::kernels::KERNELS;
use crate::backend::{Mask, RowKind};
use crate::bench::{self, RoundBench};
use crate::config::{Contrast, Precision, RecLoss, Resident, Similarity, Validated};
use crate::device::interface::Device;
use crate::device::launch::KernelSet;
use crate::device::telemetry::Sampler;
use crate::federation::Trainer;
use crate::{Error, Result};
use std::sync::Arc;

/// Sizes of the timed shapes.
struct Sizes {
    /// Clients of a local step.
    clients: usize,
    /// Clients and weights of a slab, for kernels that go over whole slabs: enough to leave the cache, little enough to be copied often.
    slabs: (usize, usize),
    /// Clients and rows of a table of a full softmax.
    tables: (usize, usize),
    /// Paired outputs of a mini-batch.
    batch: usize,
    /// Users and items to rank.
    rank: (usize, usize),
    /// Width.
    d: usize,
}

/// The reference shape is a round of Amazon Cell Phones.
const FULL: Sizes = Sizes { clients: 2788, slabs: (700, 54_000), tables: (64, 2000), batch: 2048, rank: (27_879, 10_429), d: 64 };
const QUICK: Sizes = Sizes { clients: 3, slabs: (2, 300), tables: (1, 40), batch: 17, rank: (5, 131), d: 8 };

/// Calls `each` with every subject that is timed.
pub fn for_each(device: &dyn Device, quick: bool, each: &mut dyn FnMut(&Subject) -> Result<()>) -> Result<()> {
    let sizes = if quick { QUICK } else { FULL };
    let (kernels, normals, d) = (KernelSet::load(device, &[KERNELS])?, Normals::new(1), sizes.d);
    let on = |case: &Case, of: &dyn Fn(&Case) -> Vec<calls::Call>, each: &mut dyn FnMut(&Subject) -> Result<()>| {
        let placed = Placed::new(device, &kernels, &normals, case)?;
        of(case).iter().try_for_each(|call| placed.subjects(call, false).iter().try_for_each(&mut *each))
    };
    let packed = |case: &Case| {
        let mut all = calls::rows(case);
        // Without positions, and on outputs, there is less of the same.
        all.retain(|c| c.variant == "positions" || c.variant == "tokens" || c.variant.is_empty());
        for precision in [Precision::Fp32, Precision::Tf32, Precision::Bf16] {
            all.extend(calls::linear(RowKind::Tokens, (d, d), precision, false));
        }
        all.extend(calls::attention(case, Mask::Causal, RowKind::Tokens));
        all.extend(calls::attention(case, Mask::Causal, RowKind::Outputs));
        all.extend(calls::gru(case));
        all.extend(calls::next_item(case, RecLoss::Bce));
        all.extend(calls::contrast(case, Contrast::Joint));
        all
    };
    on(&case::reference(sizes.clients, 2, 1, d), &packed, each)?;
    on(&case::wide_table(sizes.tables.0, sizes.tables.1, d), &|case| calls::next_item(case, RecLoss::Softmax), each)?;
    let (clients, weights) = sizes.slabs;
    let case = case::reference(clients, 2, 1, d);
    let placed = Placed::new(device, &kernels, &normals, &case)?;
    local::timed(&placed, weights.saturating_sub(52 * d)).iter().chain(&fused::timed(&placed)).try_for_each(&mut *each)?;
    each(&direct::broadcast(&normals, clients, weights, weights + 4, false))?;
    each(&direct::average_dense(&normals, clients, weights, false))?;
    each(&direct::average_rows(&normals, sizes.clients, 25, sizes.rank.1, d, false))?;
    each(&direct::update_norms(&normals, clients, weights, 25, d, false))?;
    each(&direct::gather(&normals, 25 * sizes.clients, sizes.rank.1, d, false))?;
    let rows = sizes.rank.1 * 9 / 10;
    batches::timed(&normals, weights, 1_500, sizes.rank.1, d).iter().try_for_each(&mut *each)?;
    direct::server(&normals, weights, rows, sizes.rank.1, d, false).iter().try_for_each(&mut *each)?;
    on(&case::pairs(sizes.batch / 2, d), &|case| calls::in_batch(case, Similarity::Cosine), each)?;
    let ranked = batch::rank(&normals, [sizes.rank.0, sizes.rank.1, d], device.limits().multiprocessors, false);
    ranked.iter().try_for_each(&mut *each)?;
    #[cfg(feature = "llm")]
    super::decoder::for_each(quick, &device.limits(), each)?;
    Ok(())
}

/// A bench's line, with its shares of what was measured.
fn line(device: &dyn Device, subject: &Subject, sample: &Sample, yardsticks: &[Yardstick]) -> Result<BenchLine> {
    let (cost, seconds) = (&subject.cost, sample.seconds());
    let rate = |name: &str| yardsticks.iter().find(|y| y.name == name).map(|y| y.rate);
    let units = yardstick::name(cost.precision);
    let resources = device.resources(device.kernel(subject.kernel)?)?;
    Ok(BenchLine {
        kernel: subject.kernel,
        case: subject.case.clone(),
        us: sample.us,
        us_range: sample.range,
        samples: sample.samples,
        launches: sample.launches,
        sets: sample.sets,
        cold: sample.cold,
        bytes: cost.bytes,
        operations: cost.operations,
        units: cost.precision.name(),
        of_copy: rate("copy").map(|r| cost.bytes / seconds / r),
        of_peak: rate(units).map(|r| cost.operations / seconds / r),
        registers: resources.map(|r| r.registers),
        local_bytes: resources.map(|r| r.local),
    })
}

/// Times every kernel until `late` says that time is out; whether all were timed.
pub fn kernels(
    device: &dyn Device,
    quick: bool,
    yardsticks: &[Yardstick],
    lines: &mut Vec<BenchLine>,
    progress: Progress,
    late: &dyn Fn() -> bool,
) -> Result<bool> {
    let mut all = true;
    for_each(device, quick, &mut |subject| {
        if late() {
            all = false;
            return Ok(());
        }
        match timing::time(device, subject, quick) {
            Ok(sample) => lines.push(line(device, subject, &sample, yardsticks)?),
            // Too little memory for this one: the others may fit.
            Err(Error::Device(e)) if e.is_out_of_memory() => {
                progress(&format!("not timed: {}: {}", subject.kernel, e.brief()));
                all = false;
            }
            Err(e) => return Err(e),
        }
        Ok(())
    })?;
    Ok(all)
}

/// Rounds at the reference shape and at 20,000 clients; whether all were timed.
pub fn rounds(
    device: &Arc<dyn Device>,
    quick: bool,
    lines: &mut Vec<RoundLine>,
    progress: Progress,
    late: &dyn Fn() -> bool,
) -> Result<bool> {
    let lengths = bench::default_lengths(7, 50);
    let reference = RoundBench { lengths, ..Default::default() };
    let small = RoundBench { clients: 5, items: 50, dim: 8, blocks: 1, epochs: 2, rounds: 2, ..reference.clone() };
    let (auto, off) = (Resident::Auto, Resident::Off);
    let plan: Vec<(&str, Precision, Resident, RoundBench)> = if quick {
        vec![("small", Precision::Fp32, off, small)]
    } else {
        vec![
            ("reference shape", Precision::Fp32, auto, reference.clone()),
            ("reference shape, step by step", Precision::Fp32, off, reference.clone()),
            ("reference shape, tf32", Precision::Tf32, auto, reference.clone()),
            ("reference shape, tf32, step by step", Precision::Tf32, off, reference.clone()),
            ("reference shape, bf16", Precision::Bf16, auto, reference.clone()),
            ("reference shape, bf16, step by step", Precision::Bf16, off, reference.clone()),
            ("20,000 clients", Precision::Fp32, auto, RoundBench { clients: 20_000, rounds: 3, ..reference.clone() }),
            ("20,000 clients, step by step", Precision::Fp32, off, RoundBench { clients: 20_000, rounds: 3, ..reference }),
        ]
    };
    for (name, precision, resident, bench) in plan {
        if late() {
            return Ok(false);
        }
        progress(&format!("bench round: {name}"));
        lines.push(round(device, name, (precision, resident), &bench)?);
    }
    Ok(true)
}

fn round(device: &Arc<dyn Device>, name: &str, (precision, resident): (Precision, Resident), bench: &RoundBench) -> Result<RoundLine> {
    let (data, views) = bench::world(bench);
    let mut settings = bench::settings(bench);
    (settings.precision, settings.gpu.resident) = (precision, resident);
    let settings = Validated::new(settings)?;
    device.reset_peak();
    let mut trainer = Trainer::on_device(&settings, data, views, device.clone())?;
    trainer.round()?;
    let before = device.counters();
    let sampler = device.uuid().and_then(Sampler::start);
    let from = sampler.as_ref().map_or(0.0, Sampler::now);
    let mut reports = Vec::new();
    for _ in 0..bench.rounds {
        reports.push(trainer.round()?);
    }
    let telemetry = sampler.and_then(|s| s.summary(from));
    let after = device.counters();
    let used = trainer.device_use()?.unwrap_or_default();
    let median = |of: &dyn Fn(&crate::federation::RoundReport) -> f64| {
        let mut values: Vec<f64> = reports.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let rates: Vec<f64> = reports.iter().map(|r| r.client_epochs as f64 / r.seconds).collect();
    let rounds = f64::from(bench.rounds);
    Ok(RoundLine {
        name: name.into(),
        clients: bench.clients,
        epochs: bench.epochs,
        dim: bench.dim,
        blocks: bench.blocks,
        client_epochs_per_s: median(&|r| r.client_epochs as f64 / r.seconds),
        client_epochs_per_s_range: [rates.iter().copied().fold(f64::MAX, f64::min), rates.iter().copied().fold(0.0, f64::max)],
        round_s: median(&|r| r.seconds),
        pack_s: median(&|r| r.pack_s),
        train_s: median(&|r| r.train_s),
        add_s: median(&|r| r.add_s),
        rounds: bench.rounds,
        tokens_per_client: median(&|r| r.tokens as f64) / f64::from(bench.epochs * bench.clients),
        host_calls: (after.host_calls() - before.host_calls()) as f64 / rounds,
        kernels: (after.launches + after.replayed - before.launches - before.replayed) as f64 / rounds,
        resident: used.resident,
        predicted_bytes: used.predicted_bytes,
        peak_bytes: used.peak_bytes,
        telemetry,
    })
}
