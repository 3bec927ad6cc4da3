//! `lumos bench defence`: what each defence adds to a round.

use super::args::{MOST_THREADS, between};
use super::output::{say, say_json};
use super::progress::Progress;
use super::table::table;
use crate::Result;
use crate::backend::cpu::simd::Level;
use crate::base::parallel;
use crate::bench::{self, RoundBench, defence};
use crate::run::Observer;

/// Seconds that each defence adds to a round of synthetic clients at the reference shape, on the CPU
#[derive(clap::Args)]
#[command(after_help = "\
Rounds with and without the defence are run in turn; what it adds is the median of their differences, by the clock and by the time of cores.
Examples:
  lumos bench defence                                        every defence
  lumos bench defence --defence multi-krum --defence 'trimmed-mean trim=0.2' --rounds 9 --json")]
pub struct Args {
    /// A defence with its options, as in defence.name; may be repeated [default: every one]
    #[arg(long, value_name = "NAME")]
    defence: Vec<String>,
    /// Clients of a round
    #[arg(long, value_name = "N", default_value_t = 2788, value_parser = between::<u32>(1, 10_000_000))]
    clients: u32,
    /// Width of item rows and hidden states
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = between::<u32>(1, 4096))]
    dim: u32,
    /// Items of the catalogue
    #[arg(long, value_name = "N", default_value_t = 10_430, value_parser = between::<u32>(2, 100_000_000))]
    items: u32,
    /// Timed rounds; one more runs first
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = between::<u32>(1, 1_000_000))]
    rounds: u32,
    /// Threads; 0 means all cores
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = between::<u32>(0, MOST_THREADS as u32))]
    threads: u32,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub fn main(args: &Args) -> Result<()> {
    let default = RoundBench::default();
    let round = RoundBench {
        clients: args.clients,
        dim: args.dim,
        items: args.items,
        rounds: args.rounds,
        threads: args.threads,
        lengths: bench::default_lengths(default.seed, default.max_len),
        ..default
    };
    let defences = if args.defence.is_empty() { defence::all() } else { args.defence.clone() };
    let progress = Progress::new(args.json);
    let figures = defence::run(&round, &defences, &|done, total| progress.stage("defences", done, total))?;
    progress.stage_end("defences");
    let (threads, simd) = (parallel::threads(args.threads as usize), Level::detect().name());
    if args.json {
        let shape = serde_json::json!({ "clients": args.clients, "dim": args.dim, "items": args.items, "threads": threads, "simd": simd });
        return say_json(&serde_json::json!({ "shape": shape, "defences": figures }));
    }
    say(format!("{} clients, d {}, {} items, {threads} threads ({simd})", args.clients, args.dim, args.items))?;
    let ms = |seconds: f64| format!("{:.0}", 1e3 * seconds);
    let rows: Vec<Vec<String>> = figures
        .iter()
        .map(|f| {
            let needs = if f.all_updates { "all updates" } else { "one at a time" };
            let share = |added: f64, plain: f64| format!("{:.1} %", 100.0 * added / plain);
            let cores = f.added_core_s.zip(f.plain_core_s);
            let [added, of_round] = cores.map_or(["-".into(), "-".into()], |(added, plain)| [ms(added), share(added, plain)]);
            vec![f.defence.clone(), needs.into(), ms(f.plain_s), ms(f.round_s), ms(f.added_s), share(f.added_s, f.plain_s), added, of_round]
        })
        .collect();
    say(table(
        &["defence", "needs", "plain round ms", "with it ms", "added ms", "of the round", "added core ms", "of the cores' time"],
        &rows,
    ))
}
