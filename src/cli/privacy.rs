//! `lumos privacy`: what noise costs and buys, and what uploads give away.

use super::args::{MOST_THREADS, Which, between};
use super::interrupt;
use super::output::{self, say};
use super::progress::Progress;
use super::table::table;
use crate::config::UploadRows;
use crate::privacy::{Accountant, Sampling, noise_for};
use crate::run::{self, RunFolder};
use crate::{Error, Result};
use std::path::PathBuf;

/// Differential privacy on paper, and what a curious server learns of a run's clients
#[derive(clap::Subcommand)]
pub enum Command {
    Account(Account),
    Infer(Infer),
}

/// Epsilon of a training, or the noise for an epsilon
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos privacy account --noise 1 --rate 0.1 --rounds 100 --delta 1e-5          epsilon of the paper's schedule
  lumos privacy account --epsilon 2 --rate 0.1 --rounds 100 --delta 1e-5        the noise that stays within it
  lumos privacy account --noise 2 --rate 0.1 --rounds 100 --delta 1e-5 --sampling fixed
Noise is the standard deviation on the sum of a round in clips. Under `poisson` a user is there or not; under `fixed` (what trainings do by
default) a user is replaced by another, which can move a sum by two clips. In a training: privacy.epsilon or privacy.noise, privacy.clip,
privacy.delta and federation.sampling.")]
pub struct Account {
    /// Standard deviation of the noise on a sum, in clips
    #[arg(long, value_name = "Z", required_unless_present = "epsilon", conflicts_with = "epsilon")]
    noise: Option<f64>,
    /// Epsilon to stay within
    #[arg(long, value_name = "E")]
    epsilon: Option<f64>,
    /// Share of the users that a round draws
    #[arg(long, value_name = "Q")]
    rate: f64,
    /// Rounds
    #[arg(long, value_name = "T")]
    rounds: u64,
    /// Probability with which epsilon may be exceeded
    #[arg(long, value_name = "D")]
    delta: f64,
    /// How users are drawn
    #[arg(long, value_enum, default_value = "poisson")]
    sampling: SamplingChoice,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What a server could tell of histories from the item rows that clients upload
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos privacy infer runs/first
  lumos privacy infer runs/first --upload-rows touched --json
  lumos privacy infer runs/first --checkpoint last --negatives 4
  lumos privacy infer runs/first --rule 'dx-noise epsilon=100'
Clients are trained from the checkpoint as in one more round, and the rows that they would upload are guessed to be items of their histories or not:
all of them; those that many clients upload; those that change most; those that lie on one side; and by a shadow model (IMIA, WWW 2023). Each guess
but the first takes half of the rows.")]
pub struct Infer {
    /// Run folder
    run: PathBuf,
    /// Which checkpoint
    #[arg(long, value_enum, default_value = "best")]
    checkpoint: Which,
    /// Clients that are looked at, the first ones; 0 means all
    #[arg(long, value_name = "N", default_value_t = 500)]
    clients: usize,
    /// Instead of the run's federation.upload_rows: trained, touched
    #[arg(long, value_name = "ROWS", value_parser = ["trained", "touched"])]
    upload_rows: Option<String>,
    /// Instead of the run's loss.negatives
    #[arg(long, value_name = "N")]
    negatives: Option<u32>,
    /// What clients do to their uploads besides the run's federation.rules, such as "dx-noise epsilon=100"; may be repeated
    #[arg(long, value_name = "RULE")]
    rule: Vec<String>,
    /// Threads; 0 means all cores
    #[arg(long, value_name = "N", value_parser = between::<u32>(0, MOST_THREADS as u32))]
    threads: Option<u32>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

fn infer(args: &Infer) -> Result<()> {
    interrupt::end_at_the_first()?;
    let folder = RunFolder::open(&args.run)?;
    let settings = folder.settings()?.with(|s| {
        s.threads = args.threads.unwrap_or(s.threads);
        s.loss.negatives = args.negatives.unwrap_or(s.loss.negatives);
        s.federation.rules.extend(args.rule.iter().cloned());
        match args.upload_rows.as_deref() {
            Some("touched") => s.federation.upload_rows = UploadRows::Touched,
            Some(_) => s.federation.upload_rows = UploadRows::Trained,
            None => {}
        }
    })?;
    let progress = Progress::new(args.json);
    let found = run::infer(&folder, args.checkpoint.name(), &settings, args.clients, &progress)?;
    drop(progress);
    if args.json {
        return output::say_json(&found);
    }
    say(format!("{} clients, {:.1} rows uploaded, {:.1} items in a history", found.clients, found.rows, found.history))?;
    let rows: Vec<Vec<String>> = found
        .guesses
        .iter()
        .map(|g| vec![g.name.into(), format!("{:.3}", g.precision), format!("{:.3}", g.recall), format!("{:.3}", g.auc)])
        .collect();
    say(table(&["guess", "precision", "recall", "AUC"], &rows))
}

/// How users are drawn.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum SamplingChoice {
    /// Each by itself
    Poisson,
    /// A fixed number, without replacement
    Fixed,
}

pub fn main(command: &Command) -> Result<()> {
    match command {
        Command::Account(args) => account(args),
        Command::Infer(args) => infer(args),
    }
}

fn account(args: &Account) -> Result<()> {
    let within = |ok: bool, option: &str, value: f64, wanted: &str| {
        if ok { Ok(()) } else { Err(Error::Usage(format!("--{option} is {value}, and must be {wanted}"))) }
    };
    within(args.rate > 0.0 && args.rate <= 1.0, "rate", args.rate, "above 0 and at most 1 (a share)")?;
    within(args.delta > 0.0 && args.delta < 1.0, "delta", args.delta, "above 0 and below 1 (a probability)")?;
    within(args.rounds > 0, "rounds", args.rounds as f64, "at least 1")?;
    let sampling = match args.sampling {
        SamplingChoice::Poisson => Sampling::Poisson,
        SamplingChoice::Fixed => Sampling::Fixed,
    };
    let noise = match (args.noise, args.epsilon) {
        (Some(noise), _) => {
            within(noise.is_finite() && noise > 0.0, "noise", noise, "a finite number above 0")?;
            noise
        }
        (None, epsilon) => {
            let epsilon = epsilon.unwrap_or_default();
            within(epsilon.is_finite() && epsilon > 0.0, "epsilon", epsilon, "a finite number above 0")?;
            let message =
                || Error::Usage(format!("no noise keeps {} rounds within epsilon {epsilon} at delta {}", args.rounds, args.delta));
            noise_for(epsilon, args.delta, args.rounds, args.rate, sampling).ok_or_else(message)?
        }
    };
    let epsilon = Accountant { noise, rate: args.rate, sampling }.epsilon(args.rounds, args.delta);
    if args.json {
        // Infinity is no number of JSON.
        let epsilon = epsilon.is_finite().then_some(epsilon);
        return output::say_json(
            &serde_json::json!({ "epsilon": epsilon, "noise": noise, "rate": args.rate, "rounds": args.rounds, "delta": args.delta }),
        );
    }
    say(format!("epsilon {epsilon:.6}\nnoise   {noise:.6} clips on the sum of a round\ndelta   {:e}", args.delta))
}
