//! `lumos bench`: figures of speed.

use super::args::{MOST_THREADS, between};
use super::output::{say, say_json};
use super::progress::Progress;
use super::ranks;
use crate::bench::{self, DeviceFigures, RoundBench};
use crate::config::{LocalOptimizer, Resident};
use crate::run::Observer;
use crate::{Error, Result};
use std::path::PathBuf;

/// Measure speed on this machine
#[derive(clap::Subcommand)]
pub enum Command {
    Round(RoundArgs),
    Cluster(super::bench_cluster::Args),
    Defence(super::bench_defence::Args),
    Epoch(super::bench_data::EpochArgs),
    Prepare(super::bench_data::PrepareArgs),
    #[cfg(feature = "llm")]
    Generate(super::bench_generate::Args),
    Ground(super::bench_ground::Args),
}

/// Rounds of synthetic clients at the reference shape: client-epochs per second and where the time goes
#[derive(clap::Args)]
#[command(after_help = "\
One client-epoch is one local optimiser step of one client over its own sequence and its three views.
Examples:
  lumos bench round
  lumos bench round --clients 2788 --epochs 5 --dim 64 --lengths lengths.txt --json
  lumos bench round --threads 1 --rounds 11
  lumos bench round --optimizer sgd
  lumos bench round --device cuda --json                     with launches, memory, utilisation, energy and clocks
  lumos bench round --population 1000000 --items 1000000     a round costs what its cohort costs")]
pub struct RoundArgs {
    /// Clients of a round
    #[arg(long, value_name = "N", default_value_t = 2788, value_parser = between::<u32>(1, 10_000_000))]
    clients: u32,
    /// Clients in the world, of which each round draws --clients [default: just those]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = between::<u32>(0, 100_000_000))]
    population: u32,
    /// Local epochs of a client
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = between::<u32>(1, 1000))]
    epochs: u32,
    /// Local optimiser; sgd keeps no moments
    #[arg(long, value_enum, default_value = "adam")]
    optimizer: OptimizerChoice,
    /// Width of item rows and hidden states
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = between::<u32>(1, 4096))]
    dim: u32,
    /// Blocks
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = between::<u32>(1, 64))]
    blocks: u32,
    /// Attention heads
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = between::<u32>(1, 4096))]
    heads: u32,
    /// Items of the catalogue
    #[arg(long, value_name = "N", default_value_t = 10_430, value_parser = between::<u32>(2, 100_000_000))]
    items: u32,
    /// Longest input
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = between::<u32>(1, 65_536))]
    max_len: u32,
    /// File with one training length a line [default: geometric, like Amazon Cell Phones]
    #[arg(long, value_name = "FILE")]
    lengths: Option<PathBuf>,
    /// Timed rounds; one more runs first
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = between::<u32>(1, 1_000_000))]
    rounds: u32,
    /// Threads; 0 means all cores
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = between::<u32>(0, MOST_THREADS as u32))]
    threads: u32,
    /// Where clients are trained: auto, cpu, cuda, cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: String,
    /// Train clients resident in one block of threads of a GPU, or step by step (gpu.resident)
    #[arg(long, value_enum, default_value = "auto")]
    resident: ResidentChoice,
    /// How clients and server learn together (federation.protocol), such as "ptf-fsr server-dim=64"; --dim, --blocks and --heads are those of
    /// averaging
    #[arg(long, value_name = "NAME", default_value = "averaging")]
    protocol: String,
    /// Seed
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Local optimisers that peers have as well.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum OptimizerChoice {
    /// Adam, fresh in every visit
    Adam,
    /// Gradient descent
    Sgd,
}

/// ResidentChoice of local training on a GPU.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ResidentChoice {
    /// Resident where the model fits
    Auto,
    /// Resident
    On,
    /// Step by step
    Off,
}

impl From<ResidentChoice> for Resident {
    fn from(way: ResidentChoice) -> Resident {
        match way {
            ResidentChoice::Auto => Resident::Auto,
            ResidentChoice::On => Resident::On,
            ResidentChoice::Off => Resident::Off,
        }
    }
}

pub fn main(command: &Command) -> Result<()> {
    match command {
        Command::Round(args) => round(args),
        Command::Cluster(args) => super::bench_cluster::main(args),
        Command::Defence(args) => super::bench_defence::main(args),
        Command::Epoch(args) => super::bench_data::epoch(args),
        Command::Prepare(args) => super::bench_data::prepare(args),
        #[cfg(feature = "llm")]
        Command::Generate(args) => super::bench_generate::main(args),
        Command::Ground(args) => super::bench_ground::main(args),
    }
}

fn round(args: &RoundArgs) -> Result<()> {
    if !args.dim.is_multiple_of(args.heads) {
        return Err(Error::Usage(format!("--heads {} does not divide --dim {}", args.heads, args.dim)));
    }
    if args.population != 0 && args.population < args.clients {
        return Err(Error::Usage(format!("--population {} is smaller than --clients {}", args.population, args.clients)));
    }
    let lengths = match &args.lengths {
        Some(path) => bench::read_lengths(path)?,
        None => bench::default_lengths(args.seed, args.max_len),
    };
    let round = RoundBench {
        clients: args.clients,
        population: args.population,
        epochs: args.epochs,
        optimizer: match args.optimizer {
            OptimizerChoice::Adam => LocalOptimizer::Adam,
            OptimizerChoice::Sgd => LocalOptimizer::Sgd,
        },
        items: args.items,
        dim: args.dim,
        blocks: args.blocks,
        heads: args.heads,
        max_len: args.max_len,
        lengths,
        rounds: args.rounds,
        threads: args.threads,
        seed: args.seed,
        device: args.device.clone(),
        resident: args.resident.into(),
        protocol: args.protocol.clone(),
    };
    let progress = Progress::new(args.json);
    let figures = bench::run(&round, &mut ranks::devices(), &|done, total| progress.stage("rounds", done, total))?;
    progress.stage_end("rounds");
    if args.json {
        return say_json(&figures);
    }
    let f = &figures;
    let share = |seconds: f64| format!("{:8.2} ms  {:5.1} %", 1e3 * seconds, 100.0 * seconds / f.round_s);
    say(&f.device_line)?;
    if f.protocol != "averaging" {
        say(format!("protocol: {}", f.protocol))?;
    }
    let [low, high] = f.client_epochs_per_s_range;
    say(format!(
        "{} clients x {} epochs of {}, d {}, {} blocks, {:.1} tokens a client, {} threads of {} ({})",
        f.clients,
        f.epochs,
        f.optimizer.name(),
        f.dim,
        f.blocks,
        f.tokens_per_client,
        f.threads,
        f.device,
        f.simd
    ))?;
    say(format!("{:.0} client-epochs/s (median of {} rounds; {low:.0} to {high:.0})", f.client_epochs_per_s, f.rounds))?;
    say(format!("round  {:8.2} ms", 1e3 * f.round_s))?;
    say(format!("  draw  {}", share(f.draw_s)))?;
    say(format!("  pack  {}", share(f.pack_s)))?;
    say(format!("  train {}", share(f.train_s)))?;
    say(format!("  add   {}", share(f.add_s)))?;
    let (first, again) = (1e3 * f.rank_s, 1e3 * f.rank_again_s);
    say(format!("rank of all clients against {} items {first:.2} ms, again {again:.2} ms", args.items))?;
    if let Some(d) = &f.on_device {
        say(device_lines(d))?;
    }
    say(format!("useful tokens {:.1} %, peak memory {:.0} MB", 100.0 * f.useful_token_share, f.peak_bytes as f64 / 1e6))
}

/// What the device did in a round, a line a kind.
fn device_lines(d: &DeviceFigures) -> String {
    let or = |value: Option<f64>, unit: &str| value.map_or(format!("{unit} unknown"), |v| format!("{v:.1} {unit}"));
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    format!(
        "clients {}; calls a round: {} launches, {} replays, {} kernels in {} chunks\n\
         device memory: {:.0} MB foreseen, {:.0} MB held\n\
         device busy {:.1} % of the round by its clock; utilisation {}, {}, {}, energy of a round {}",
        if d.resident { "resident in one block of threads each" } else { "trained step by step" },
        d.launches_per_round,
        d.replays_per_round,
        d.kernels_per_round,
        d.chunks_per_round,
        megabytes(d.predicted_device_bytes),
        megabytes(d.peak_device_bytes),
        100.0 * d.busy_share,
        or(d.utilisation_percent, "%"),
        or(d.sm_mhz, "MHz"),
        or(d.watts, "W"),
        or(d.joules_per_round, "J"),
    )
}
