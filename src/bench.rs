//! The round benchmark: federated rounds over synthetic clients of given lengths, with the shapes and arithmetic that the
//! comparison programs of other frameworks use.

pub mod cluster;
pub mod defence;
pub mod epoch;
pub mod prepare;
pub mod published;

use crate::base::rng::{Purpose, Stream};
use crate::base::{clean, memory};
use crate::config::{
    Anchor, Average, Contrast, GeneratorKind, LocalOptimizer, RecLoss, Resample, Resident, Settings, UploadRows, Validated,
};
use crate::data::{Dataset, ItemText, Split};
use crate::device::telemetry::{Sampler, Spread, Summary};
use crate::engine::cuda::DeviceRound;
use crate::federation;
use crate::federation::RoundReport;
use crate::run::Devices;
use crate::views::{UserViews, Views};
use crate::{Error, Result, backend::cpu::simd::Level};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// The protocol of the reference, under which clients look at views as well.
const AVERAGING: &str = "averaging";

/// What to measure.
#[derive(Clone, Debug)]
pub struct RoundBench {
    /// Clients of a round.
    pub clients: u32,
    /// Clients in the world, of which a round draws `clients`; 0: just those.
    pub population: u32,
    /// Local epochs.
    pub epochs: u32,
    /// Local optimiser.
    pub optimizer: LocalOptimizer,
    /// Catalogue size.
    pub items: u32,
    /// Width `d`; the feed-forward layer has the same.
    pub dim: u32,
    /// Blocks.
    pub blocks: u32,
    /// Attention heads.
    pub heads: u32,
    /// Longest input.
    pub max_len: u32,
    /// Training inputs of each client, repeated as often as needed.
    pub lengths: Vec<u32>,
    /// Timed rounds; one more is run first and not timed.
    pub rounds: u32,
    /// Threads; 0: all cores.
    pub threads: u32,
    /// Seed.
    pub seed: u64,
    /// Device, as in the settings.
    pub device: String,
    /// Way of local training on a GPU, as in the settings.
    pub resident: Resident,
    /// How clients and server learn together, as in the settings.
    pub protocol: String,
}

impl RoundBench {
    /// Clients in the world.
    pub fn world_clients(&self) -> u32 {
        self.population.max(self.clients)
    }
}

impl Default for RoundBench {
    fn default() -> Self {
        RoundBench {
            clients: 2788,
            population: 0,
            epochs: 5,
            optimizer: LocalOptimizer::Adam,
            items: 10_430,
            dim: 64,
            blocks: 2,
            heads: 1,
            max_len: 50,
            lengths: Vec::new(),
            rounds: 5,
            threads: 0,
            seed: 7,
            device: "cpu".into(),
            resident: Resident::Auto,
            protocol: AVERAGING.into(),
        }
    }
}

/// The figures of a round benchmark. Times are medians over the timed rounds, in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct RoundFigures {
    /// How clients and server learnt together.
    pub protocol: String,
    /// Local optimiser.
    pub optimizer: LocalOptimizer,
    /// Local steps of one client over its sequence and three views, per second.
    pub client_epochs_per_s: f64,
    /// Slowest and fastest timed round in the same unit.
    pub client_epochs_per_s_range: [f64; 2],
    /// Tokens of histories and views over tokens that the kernels processed.
    pub useful_token_share: f64,
    /// Mean tokens of a client's sequence and views.
    pub tokens_per_client: f64,
    /// Peak resident memory of the process.
    pub peak_bytes: u64,
    /// Device: `cpu`, or the name of the GPU.
    pub device: String,
    /// Which device, and why.
    #[serde(skip)]
    pub device_line: String,
    /// What the device did, where it is none of the CPU.
    #[serde(flatten)]
    pub on_device: Option<DeviceFigures>,
    /// SIMD level.
    pub simd: String,
    /// Threads.
    pub threads: u32,
    /// Clients of a round.
    pub clients: u32,
    /// Clients in the world.
    pub population: u32,
    /// Items of the catalogue.
    pub items: u32,
    /// Local epochs.
    pub epochs: u32,
    /// Width.
    pub dim: u32,
    /// Blocks.
    pub blocks: u32,
    /// Seconds of a round.
    pub round_s: f64,
    /// Seconds of drawing the cohort.
    pub draw_s: f64,
    /// Seconds of packing (mean over threads).
    pub pack_s: f64,
    /// Seconds of local training (mean over threads).
    pub train_s: f64,
    /// Seconds of adding updates and of the server's step.
    pub add_s: f64,
    /// Seconds of ranking the targets of as many clients as a round has against the catalogue.
    pub rank_s: f64,
    /// The same once more, when what can be kept from the first time is there.
    pub rank_again_s: f64,
    /// Timed rounds.
    pub rounds: u32,
    /// Version of this program.
    pub version: String,
}

/// What a device did in the timed rounds; what its meters do not tell is `null`.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceFigures {
    /// Whether clients were resident in one block of threads; otherwise they were trained step by step.
    pub resident: bool,
    /// Kernels that the host launched one by one, and graphs that it replayed, in a round (medians).
    pub launches_per_round: u64,
    /// See `launches_per_round`.
    pub replays_per_round: u64,
    /// Kernels that ran in a round, those of graphs included.
    pub kernels_per_round: u64,
    /// Chunks of a round.
    pub chunks_per_round: u64,
    /// Peak bytes of device memory, as foreseen and as held.
    pub predicted_device_bytes: u64,
    /// See `predicted_device_bytes`.
    pub peak_device_bytes: u64,
    /// Share of a round's wall time between the first and the last call of each chunk, by the device's clock.
    pub busy_share: f64,
    /// Share of time in which a kernel ran, in percent, as the GPU reports it: mean over the timed rounds.
    pub utilisation_percent: Option<f64>,
    /// Energy of a round in joules.
    pub joules_per_round: Option<f64>,
    /// Whether that is the GPU's own count; the sum of power over time otherwise.
    pub joules_counted: Option<bool>,
    /// Mean power in watts.
    pub watts: Option<f64>,
    /// Mean clocks in MHz.
    pub sm_mhz: Option<f64>,
    /// See `sm_mhz`.
    pub memory_mhz: Option<f64>,
    /// Most bytes of the GPU's memory in use by all processes.
    pub memory_bytes: Option<f64>,
}

impl DeviceFigures {
    fn of(rounds: &[RoundReport], resident: bool, gpu: Option<Summary>) -> Option<DeviceFigures> {
        let used: Vec<DeviceRound> = rounds.iter().filter_map(|r| r.device).collect();
        let last = used.last()?;
        let of = |f: &dyn Fn(&DeviceRound) -> f64| median(used.iter().map(f).collect());
        let mean = |f: fn(&Summary) -> Option<Spread>| gpu.as_ref().and_then(f).map(|s| s.mean);
        Some(DeviceFigures {
            resident,
            launches_per_round: of(&|r| r.launches as f64) as u64,
            replays_per_round: of(&|r| r.replays as f64) as u64,
            kernels_per_round: of(&|r| (r.launches + r.replayed) as f64) as u64,
            chunks_per_round: of(&|r| r.chunks as f64) as u64,
            predicted_device_bytes: last.predicted_bytes,
            peak_device_bytes: last.peak_bytes,
            busy_share: of(&|r| r.busy_share),
            utilisation_percent: mean(|s| s.utilisation),
            joules_per_round: gpu.as_ref().and_then(|s| s.joules).map(|j| j / rounds.len() as f64),
            joules_counted: gpu.as_ref().filter(|s| s.joules.is_some()).map(|s| s.joules_counted),
            watts: mean(|s| s.watts),
            sm_mhz: mean(|s| s.sm_mhz),
            memory_mhz: mean(|s| s.memory_mhz),
            memory_bytes: gpu.as_ref().and_then(|s| s.memory_bytes).map(|s| s.most),
        })
    }
}

/// Geometric lengths like those of Amazon Cell Phones 2014 (5-core), for when no file is given.
pub fn default_lengths(seed: u64, max_len: u32) -> Vec<u32> {
    let mut stream = Stream::new(seed, Purpose::Bench, 0, 1);
    (0..4096)
        .map(|_| ((1.0 - f64::from(stream.unit())).ln() / (1.0f64 - 1.0 / 2.9).ln()).floor() as u32 + 4)
        .map(|n| n.clamp(2, max_len))
        .collect()
}

/// Reads one length a line.
pub fn read_lengths(path: &Path) -> Result<Vec<u32>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
    let mut lengths = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        match line.trim().parse::<u32>() {
            Ok(n) if n > 0 => lengths.push(n),
            _ => {
                let message = format!("`{}` is not a length; write one whole number above 0 a line", clean::id(line.trim()));
                return Err(Error::Data { path: path.into(), line: i as u64 + 1, message });
            }
        }
    }
    if lengths.is_empty() {
        return Err(Error::Data { path: path.into(), line: 0, message: "no lengths; write one whole number above 0 a line".into() });
    }
    Ok(lengths)
}

/// Synthetic clients: uniform random items; the future is four items longer than the input, the others as long.
pub fn world(bench: &RoundBench) -> (Arc<Dataset>, Arc<Views>) {
    let mut data = Dataset { name: "bench".into(), offsets: vec![0], ..Default::default() };
    let mut views = Views::default();
    data.item_tokens = (0..bench.items).map(|i| i.to_string()).collect();
    data.catalogue = vec![ItemText::default(); bench.items as usize];
    for c in 0..bench.world_clients() {
        let length = bench.lengths[c as usize % bench.lengths.len()].min(bench.max_len) as usize;
        let mut stream = Stream::new(bench.seed, Purpose::Bench, 1, u64::from(c));
        let mut draw = |n: usize| -> Vec<u32> { (0..n).map(|_| stream.below(u64::from(bench.items)) as u32).collect() };
        // Inputs, the last target, and one item each for validation and test.
        let sequence = draw(length + 3);
        let mut future = sequence[..length].to_vec();
        future.extend(draw(4));
        let future = future.split_off(future.len().saturating_sub(bench.max_len as usize));
        views.users.push(UserViews { future, paraphrase: draw(length), counterfactuals: vec![draw(length)] });
        data.user_tokens.push(c.to_string());
        data.items.extend(sequence);
        data.offsets.push(data.items.len() as u64);
    }
    (Arc::new(data), Arc::new(views))
}

/// The reference settings: SASRec without dropout, BCE with one negative drawn once a visit, joint contrast, Adam unless `bench` says otherwise. Under another protocol
/// than averaging there are no views, and its models are those of its options.
pub fn settings(bench: &RoundBench) -> Settings {
    let mut s = Settings { seed: bench.seed, threads: bench.threads, device: bench.device.clone(), ..Default::default() };
    s.gpu.resident = bench.resident;
    s.model.dim = bench.dim;
    s.model.blocks = bench.blocks;
    s.model.heads = bench.heads;
    s.model.max_len = bench.max_len;
    s.loss.rec = RecLoss::Bce;
    s.loss.negatives = 1;
    s.loss.resample = Resample::Visit;
    s.loss.contrast = Contrast::Joint;
    s.loss.tau = 0.07;
    s.loss.lambda = 0.1;
    s.loss.anchor = Anchor::Input;
    s.local.epochs = bench.epochs;
    s.local.optimizer = bench.optimizer;
    s.local.lr = 1e-3;
    s.federation.cohort = bench.clients;
    s.federation.average = Average::Cohort;
    s.federation.upload_rows = UploadRows::Touched;
    s.views.generator = GeneratorKind::RANDOM;
    s.federation.protocol = bench.protocol.clone();
    if bench.protocol != AVERAGING {
        (s.loss.contrast, s.views.generator) = (Contrast::None, GeneratorKind::NONE);
    }
    s
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Peak resident memory of this process in bytes; 0 where the system does not tell.
pub fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).map_or(0, |kb| kb * 1024)
}

/// Bytes that a world needs at least: tables of item rows with their sums and moments, names, four sequences a client.
fn least_bytes(bench: &RoundBench) -> Option<u64> {
    let lengths: u64 = bench.lengths.iter().map(|n| u64::from(*n.min(&bench.max_len))).sum();
    let length = lengths.div_ceil(bench.lengths.len().max(1) as u64);
    let items = u64::from(bench.items).checked_mul(u64::from(bench.dim) * 4 * 3 + size_of::<ItemText>() as u64 + 32)?;
    let clients = u64::from(bench.world_clients()).checked_mul(length * 4 * 4 + size_of::<UserViews>() as u64 + 64)?;
    items.checked_add(clients)
}

/// Runs the benchmark.
///
/// # Errors
/// Where the world does not fit into memory, or the device fails.
pub fn run(bench: &RoundBench, devices: &mut Devices, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<RoundFigures> {
    let what = format!("{} items of width {} and {} clients", bench.items, bench.dim, bench.world_clients());
    memory::check(&what, least_bytes(bench), "lower --items, --dim, --clients or --population")?;
    let (data, views) = world(bench);
    let settings = Validated::new(settings(bench))?;
    let mut device = devices.to_train(&settings)?;
    let mut trainer = device.trainer(&settings, &data, &views)?;
    let sampler = device.device().and_then(|d| d.uuid()).and_then(Sampler::start);
    let mut from = None;
    let mut rounds = Vec::new();
    for i in 0..=bench.rounds {
        if i == 1 {
            from = sampler.as_ref().map(Sampler::now);
        }
        let report = trainer.round()?;
        progress(u64::from(i) + 1, u64::from(bench.rounds) + 1);
        if i > 0 {
            rounds.push(report);
        }
    }
    let gpu = sampler.as_ref().zip(from).and_then(|(sampler, from)| sampler.summary(from));
    let resident = trainer.device_use()?.is_some_and(|used| used.resident);
    let users: Vec<u32> = (0..bench.clients).collect();
    let mut rank = || -> Result<f64> {
        let t = Instant::now();
        trainer.rank(Split::Test, &users, &|_, _| {})?;
        Ok(t.elapsed().as_secs_f64())
    };
    let (rank_s, rank_again_s) = (rank()?, rank()?);
    let of = |f: &dyn Fn(&RoundReport) -> f64| median(rounds.iter().map(f).collect());
    let rates: Vec<f64> = rounds.iter().map(|r| r.client_epochs as f64 / r.seconds).collect();
    // Useful tokens counted from the data, processed tokens as the kernels saw them.
    let length = |c: usize| (data.train(c).len() - 1).min(bench.max_len as usize);
    let tokens = |c: usize| {
        let v = &views.users[c];
        if settings.loss.contrast == Contrast::None {
            return length(c);
        }
        length(c) + v.future.len() + v.paraphrase.len() + v.counterfactuals.iter().map(Vec::len).sum::<usize>()
    };
    let cohort = |round: u64| federation::draw(&settings.federation, data.users(), settings.seed, round).clients;
    let useful: usize = rounds.iter().flat_map(|r| cohort(r.round)).map(|c| tokens(c as usize)).sum();
    let processed = rounds.iter().map(|r| r.tokens).sum::<u64>() as f64 / f64::from(bench.epochs);
    Ok(RoundFigures {
        protocol: settings.federation.protocol.clone(),
        optimizer: settings.local.optimizer,
        client_epochs_per_s: of(&|r| r.client_epochs as f64 / r.seconds),
        client_epochs_per_s_range: [rates.iter().copied().fold(f64::INFINITY, f64::min), rates.iter().copied().fold(0.0, f64::max)],
        useful_token_share: useful as f64 / processed,
        tokens_per_client: useful as f64 / (f64::from(bench.clients) * rounds.len() as f64),
        peak_bytes: peak_bytes(),
        device: device.device().map_or("cpu", |d| d.name()).into(),
        device_line: device.line.clone(),
        on_device: DeviceFigures::of(&rounds, resident, gpu),
        simd: Level::detect().name().into(),
        threads: crate::base::parallel::threads(bench.threads as usize) as u32,
        clients: bench.clients,
        population: bench.world_clients(),
        items: bench.items,
        epochs: bench.epochs,
        dim: bench.dim,
        blocks: bench.blocks,
        round_s: of(&|r| r.seconds),
        draw_s: of(&|r| r.draw_s),
        pack_s: of(&|r| r.pack_s),
        train_s: of(&|r| r.train_s),
        add_s: of(&|r| r.add_s),
        rank_s,
        rank_again_s,
        rounds: bench.rounds,
        version: env!("CARGO_PKG_VERSION").into(),
    })
}
