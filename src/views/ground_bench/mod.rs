//! How well lines are grounded: real titles edited, and lines that are no title of the catalogue, by words and by meaning.

mod edits;

use std::collections::HashSet;
use std::time::Instant;

use serde::Serialize;

use super::ground::Ground;
use super::text::{Names, Scratch};
use crate::base::rng::{Purpose, Stream};
use crate::config::TextSettings;
use crate::data::Dataset;
use crate::{Error, Result};
use edits::{Edit, TALK, made_up};

/// What to measure.
#[derive(Clone, Debug)]
pub struct GroundBench {
    /// Settings; the encoder where there is one.
    pub text: TextSettings,
    /// Titles that are asked about in each way.
    pub titles: usize,
    /// Thresholds for words.
    pub words: Vec<f32>,
    /// Thresholds for meaning.
    pub meaning: Vec<f32>,
    /// Threads; 0: all cores.
    pub threads: usize,
    /// Seed.
    pub seed: u64,
}

/// Shares of the lines of one kind; they add up to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// Became the title that they were made from.
    pub right: f64,
    /// Became another one.
    pub wrong: f64,
    /// Became none.
    pub rejected: f64,
}

/// One way of matching with one threshold.
#[derive(Clone, Debug, Serialize)]
pub struct Scored {
    /// `words` or `meaning`.
    pub method: &'static str,
    /// Least likeness.
    pub threshold: f64,
    /// All edited titles together, each kind counting alike.
    pub edited: Outcome,
    /// All lines that are no title of the catalogue, each kind counting alike; none can be right.
    pub foreign: Outcome,
    /// By kind.
    pub kinds: Vec<(String, Outcome)>,
}

/// Speed of one way.
#[derive(Clone, Debug, Serialize)]
pub struct Timed {
    /// `words` or `meaning`.
    pub method: &'static str,
    /// Titles indexed a second, the loading of an encoder included.
    pub titles_per_s: f64,
    /// Lines matched a second, asked about all together.
    pub lines_per_s: f64,
    /// Lines matched a second, five at a time, as an answer has them.
    pub lines_per_s_by_five: f64,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct GroundFigures {
    /// Data set.
    pub data: String,
    /// Titles in the catalogue.
    pub titles: usize,
    /// Titles that were left out of it, to be asked for.
    pub left_out: usize,
    /// Lines of each kind, edits first.
    pub lines: Vec<(String, usize)>,
    /// Kinds that are edited titles.
    pub edits: Vec<String>,
    /// Quality.
    pub scored: Vec<Scored>,
    /// Speed.
    pub timed: Vec<Timed>,
}

/// Lines of one kind, each with the title that it stands for.
struct Kind {
    name: &'static str,
    lines: Vec<(String, Option<u32>)>,
}

/// Measures on the titles of `data`. Every fifth title is left out of the catalogue: a model knows titles that a shop does not have.
///
/// # Errors
/// Where there are too few titles or the encoder cannot be used.
pub fn bench_ground(data: &Dataset, bench: &GroundBench) -> Result<GroundFigures> {
    let names = Names::new(&data.catalogue, &TextSettings { untitled: crate::config::Untitled::Omit, ..bench.text.clone() });
    let all = names.lines();
    if all.len() < 20 {
        return Err(Error::Usage(format!("`{}` has {} titles; at least 20 are needed to measure anything", data.name, all.len())));
    }
    let (mut kept, mut others) = (Vec::new(), Vec::new());
    for (i, line) in all.iter().enumerate() {
        if i % 5 == 4 { others.push(line.clone()) } else { kept.push(line.clone()) }
    }
    let kinds = kinds(&kept, &others, bench);
    let asked: Vec<String> = kinds.iter().flat_map(|k| k.lines.iter().map(|(line, _)| line.clone())).collect();
    let mut figures = GroundFigures {
        data: data.name.clone(),
        titles: kept.len(),
        left_out: others.len(),
        lines: kinds.iter().map(|k| (k.name.to_owned(), k.lines.len())).collect(),
        edits: kinds.iter().filter(|k| k.lines[0].1.is_some()).map(|k| k.name.to_owned()).collect(),
        scored: Vec::new(),
        timed: Vec::new(),
    };
    let words = TextSettings { embedder: None, ..bench.text.clone() };
    let meaning = bench.text.encoder().map(|_| ("meaning", &bench.text, &bench.meaning));
    for (method, settings, thresholds) in [Some(("words", &words, &bench.words)), meaning].into_iter().flatten() {
        let begin = Instant::now();
        let ground = Ground::new(&kept, settings, bench.threads, None)?;
        let indexed = begin.elapsed().as_secs_f64();
        let mut scratch = Scratch::default();
        let begin = Instant::now();
        let found = ground.nearest(&asked, &mut scratch)?;
        let matched = begin.elapsed().as_secs_f64();
        let some = &asked[..asked.len().min(500)];
        let begin = Instant::now();
        for five in some.chunks(5) {
            ground.nearest(five, &mut scratch)?;
        }
        let by_five = begin.elapsed().as_secs_f64();
        let rate = |n: usize, seconds: f64| n as f64 / seconds.max(1e-9);
        figures.timed.push(Timed {
            method,
            titles_per_s: rate(kept.len(), indexed),
            lines_per_s: rate(asked.len(), matched),
            lines_per_s_by_five: rate(some.len(), by_five),
        });
        figures.scored.extend(thresholds.iter().map(|t| scored(method, *t, &kinds, &found)));
    }
    Ok(figures)
}

fn kinds(kept: &[String], others: &[String], bench: &GroundBench) -> Vec<Kind> {
    let mut stream = Stream::new(bench.seed, Purpose::Bench, 0x6772, 0);
    let mut order: Vec<u32> = (0..kept.len() as u32).collect();
    stream.shuffle(&mut order);
    let mut kinds = Vec::new();
    for (edit, name) in Edit::ALL {
        let edited = order.iter().filter_map(|i| Some((edit.apply(&kept[*i as usize], &mut stream)?, Some(*i))));
        kinds.push(Kind { name, lines: edited.take(bench.titles).collect() });
    }
    let mut foreign: Vec<u32> = (0..others.len() as u32).collect();
    stream.shuffle(&mut foreign);
    let lines = foreign.iter().take(bench.titles).map(|i| (others[*i as usize].clone(), None)).collect();
    kinds.push(Kind { name: "titles that are not there", lines });
    let known: HashSet<&String> = kept.iter().collect();
    let invented = std::iter::repeat_with(|| made_up(kept, &mut stream)).take(4 * bench.titles).filter(|line| !known.contains(line));
    kinds.push(Kind { name: "made-up titles", lines: invented.take(bench.titles).map(|line| (line, None)).collect() });
    kinds.push(Kind { name: "talk", lines: TALK.iter().map(|line| (line.to_string(), None)).collect() });
    kinds.retain(|kind| !kind.lines.is_empty());
    kinds
}

fn scored(method: &'static str, threshold: f32, kinds: &[Kind], found: &[Option<(u32, f32)>]) -> Scored {
    let mut at = 0;
    let mut each = Vec::new();
    for kind in kinds {
        let n = kind.lines.len() as f64;
        let mut counts = [0u32; 3];
        for ((_, meant), found) in kind.lines.iter().zip(&found[at..]) {
            let line = found.filter(|(_, likeness)| *likeness >= threshold).map(|(line, _)| line);
            counts[if line.is_none() { 2 } else { usize::from(line != *meant) }] += 1;
        }
        at += kind.lines.len();
        let [right, wrong, rejected] = counts.map(|c| f64::from(c) / n);
        each.push((kind.name.to_owned(), Outcome { right, wrong, rejected }, kind.lines[0].1.is_some()));
    }
    let mean = |edited: bool| {
        let of: Vec<Outcome> = each.iter().filter(|e| e.2 == edited).map(|e| e.1).collect();
        let mean = |part: fn(&Outcome) -> f64| of.iter().map(part).sum::<f64>() / of.len().max(1) as f64;
        Outcome { right: mean(|o| o.right), wrong: mean(|o| o.wrong), rejected: mean(|o| o.rejected) }
    };
    let (edited, foreign) = (mean(true), mean(false));
    Scored {
        method,
        threshold: crate::config::tidy(threshold.into()),
        edited,
        foreign,
        kinds: each.into_iter().map(|(n, o, _)| (n, o)).collect(),
    }
}
