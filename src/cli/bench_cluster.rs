//! `lumos bench cluster`: what several processes cost each other.

use super::args::{MOST_THREADS, between};
use super::output::{say, say_json};
use super::progress::Progress;
use super::ranks;
use super::table::table;
use crate::Result;
use crate::bench::{self, RoundBench, cluster};
use crate::run::Observer;

/// Bytes and seconds of the exchanges of a round, measured and on paper
#[derive(clap::Args)]
#[command(after_help = "\
Measured: rounds of synthetic clients at the reference shape, by the processes that a launcher started. On paper: a ring of 8 to 512 GPUs
that add up the touched rows of 64 and of 1,000,000 items; what is assumed of them is printed.
Examples:
  mpirun -np 4 lumos bench cluster --json
  srun -n 8 lumos bench cluster --clients 32768 --items 1000000
  lumos bench cluster                                        one process: the model alone")]
pub struct Args {
    /// Clients of a round
    #[arg(long, value_name = "N", default_value_t = 2788, value_parser = between::<u32>(1, 10_000_000))]
    clients: u32,
    /// Local epochs of a client
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = between::<u32>(1, 1000))]
    epochs: u32,
    /// Width of item rows and hidden states
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = between::<u32>(1, 4096))]
    dim: u32,
    /// Items of the catalogue
    #[arg(long, value_name = "N", default_value_t = 10_430, value_parser = between::<u32>(2, 100_000_000))]
    items: u32,
    /// Timed rounds; one more runs first
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = between::<u32>(1, 1_000_000))]
    rounds: u32,
    /// Threads of a process; 0 means its share of the cores
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = between::<u32>(0, MOST_THREADS as u32))]
    threads: u32,
    /// Where clients are trained: auto, cpu, cuda, cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: String,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
}

pub fn main(args: &Args) -> Result<()> {
    let default = RoundBench::default();
    let round = RoundBench {
        clients: args.clients,
        epochs: args.epochs,
        dim: args.dim,
        items: args.items,
        rounds: args.rounds,
        threads: args.threads,
        device: args.device.clone(),
        lengths: bench::default_lengths(default.seed, default.max_len),
        ..default
    };
    let progress = Progress::new(args.json);
    let figures = cluster::run(&round, &mut ranks::devices(), &|done, total| progress.stage("rounds", done, total))?;
    progress.stage_end("rounds");
    if args.json {
        return say_json(&figures);
    }
    let f = &figures;
    say(ranks::engine())?;
    say(format!(
        "{} clients x {} epochs, d {}, {} items, {} threads a process: round {:.2} ms, {:.0} client-epochs/s, {} item rows touched",
        f.clients,
        args.epochs,
        f.dim,
        f.items,
        f.threads,
        1e3 * f.round_s,
        f.client_epochs_per_s,
        f.rows
    ))?;
    if !f.ranks.is_empty() {
        let rows: Vec<Vec<String>> = f
            .ranks
            .iter()
            .map(|r| {
                let (bytes, seconds) = (format!("{:.3} MB", r.bytes_per_round / 1e6), format!("{:.3} ms", 1e3 * r.seconds_per_round));
                vec![r.rank.to_string(), format!("{:.0}", r.exchanges_per_round), bytes, seconds, format!("{:.1} %", 100.0 * r.share)]
            })
            .collect();
        say(table(&["rank", "exchanges a round", "put in", "in exchanges, waiting included", "of the round"], &rows))?;
    }
    let a = f.assumed;
    say(format!(
        "\non paper, nothing of it measured: {} clients a GPU x {} epochs at {:.0} client-epochs/s, {} item rows a client, {:.0} GB/s and \
         {:.0} us a message",
        a.clients_per_gpu,
        a.epochs,
        a.client_epochs_per_s,
        a.rows_per_client,
        a.bandwidth / 1e9,
        1e6 * a.latency_s
    ))?;
    let rows: Vec<Vec<String>> = f
        .model
        .iter()
        .map(|m| {
            let times = [m.exchange_s, m.train_s].map(|s| format!("{:.2} ms", 1e3 * s));
            let [exchange, train] = times;
            let put_in = format!("{:.2} MB", m.bytes as f64 / 1e6);
            vec![m.gpus.to_string(), m.items.to_string(), m.rows.to_string(), put_in, exchange, train, format!("{:.1} %", 100.0 * m.share)]
        })
        .collect();
    say(table(&["GPUs", "items", "rows touched", "put in", "exchanges", "training", "exchanges of both"], &rows))
}
