//! `lumos bench ground`: how well lines of free text find their titles.

use super::args::{MOST_THREADS, between};
use super::output::{say, say_json};
use super::table::table;
use crate::config::TextSettings;
use crate::views::{GroundBench, Outcome, Scored, bench_ground};
use crate::{Result, data};
use std::path::PathBuf;

/// Free text to titles: what becomes of edited titles and of lines that are none, by words and by meaning
#[derive(clap::Args)]
#[command(after_help = "\
Every fifth title is left out of the catalogue and asked for. right: found what was meant; wrong: found something else.
Examples:
  lumos bench ground --data data/ml-100k
  lumos bench ground --data data/ml-100k --embedder models/all-MiniLM-L6-v2 --json")]
pub struct Args {
    /// Folder of a prepared data set
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Folder of a sentence encoder [default: words only]
    #[arg(long, value_name = "FOLDER")]
    embedder: Option<PathBuf>,
    /// What stands before every line and title for the encoder
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Titles asked about in each way
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = between::<usize>(1, 1_000_000))]
    titles: usize,
    /// Thresholds for words, likenesses from 0 to 1
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = between::<f32>(0.0, 1.0), default_value = "0.2,0.3,0.4,0.5,0.6")]
    words: Vec<f32>,
    /// Thresholds for meaning, cosines from -1 to 1
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = between::<f32>(-1.0, 1.0), allow_negative_numbers = true, default_value = "0.5,0.6,0.65,0.7,0.75,0.8,0.85,0.9")]
    meaning: Vec<f32>,
    /// Threads; 0 means all cores
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = between::<usize>(0, MOST_THREADS))]
    threads: usize,
    /// Seed
    #[arg(long, value_name = "N", default_value_t = 7)]
    seed: u64,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
}

pub fn main(args: &Args) -> Result<()> {
    let text = TextSettings { embedder: args.embedder.clone(), embed_prefix: args.prefix.clone(), ..Default::default() };
    let bench = GroundBench {
        text,
        titles: args.titles,
        words: args.words.clone(),
        meaning: args.meaning.clone(),
        threads: args.threads,
        seed: args.seed,
    };
    let f = bench_ground(&data::load(&args.data)?, &bench)?;
    if args.json {
        return say_json(&f);
    }
    let lines: Vec<String> = f.lines.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    say(format!("{}: {} titles, {} more are left out. Lines: {}\n", f.data, f.titles, f.left_out, lines.join(", ")))?;
    let percent = |x: f64| format!("{:.1}", 100.0 * x);
    let edited = f.lines.iter().take_while(|(kind, _)| f.edits.contains(kind)).count();
    let head = |kinds: &[(String, usize)], first: &[&str]| -> Vec<String> {
        first.iter().map(|s| s.to_string()).chain(kinds.iter().map(|(kind, _)| kind.clone())).collect()
    };
    let row = |s: &Scored, means: [f64; 2], kinds: &[(String, Outcome)], of: fn(&Outcome) -> f64| -> Vec<String> {
        let cells = means.into_iter().chain(kinds.iter().map(|(_, o)| of(o))).map(percent);
        [s.method.to_owned(), s.threshold.to_string()].into_iter().chain(cells).collect()
    };
    let print = |head: Vec<String>, rows: Vec<Vec<String>>| {
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        say(format!("{}\n", table(&head, &rows)))
    };
    say("Edited titles in %: right and wrong over all kinds, right of each")?;
    let rows = f.scored.iter().map(|s| row(s, [s.edited.right, s.edited.wrong], &s.kinds[..edited], |o| o.right)).collect();
    print(head(&f.lines[..edited], &["method", "threshold", "right", "wrong"]), rows)?;
    say("Lines that are no title of the catalogue in %: rejected and taken over all kinds, taken of each")?;
    let rows = f.scored.iter().map(|s| row(s, [s.foreign.rejected, s.foreign.wrong], &s.kinds[edited..], |o| o.wrong)).collect();
    print(head(&f.lines[edited..], &["method", "threshold", "rejected", "taken"]), rows)?;
    for t in &f.timed {
        say(format!(
            "{}: {:.0} titles/s indexed, {:.0} lines/s matched ({:.0} five at a time)",
            t.method, t.titles_per_s, t.lines_per_s, t.lines_per_s_by_five
        ))?;
    }
    Ok(())
}
