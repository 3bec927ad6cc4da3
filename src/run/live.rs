//! A page of text about a run that may still be training: how far it is, how fast, its curves.

use super::folder::{RunFolder, read_json};
use super::metrics::read_lines;
use super::result::RunResult;
use crate::Result;
use crate::base::clean;
use crate::base::lock::Lock;
use crate::config::methods;
use serde_json::Value;
use std::fmt::Write;

/// Rounds whose time the rest is estimated by.
const LATELY: usize = 20;
/// Rows of a curve.
const ROWS: usize = 4;
/// Columns of the page at most.
const WIDEST: usize = 120;
/// Eighths of a row.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The page at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Live {
    /// `finished`, `training` or `stopped`.
    pub state: &'static str,
    /// The page, line by line, none wider than was asked for.
    pub lines: Vec<String>,
}

/// The page about the run in `folder` for `width` columns; with `curves` it draws them.
///
/// # Errors
/// Where files of the run cannot be read.
pub fn live(folder: &RunFolder, width: usize, curves: bool) -> Result<Live> {
    let (info, settings) = (folder.info()?, folder.settings()?);
    let lines = if folder.metrics().exists() { read_lines(&folder.metrics())? } else { Vec::new() };
    let result: Option<RunResult> =
        if folder.result().exists() && info.ended.is_some() { Some(read_json(&folder.result())?) } else { None };
    let state = match result {
        Some(_) => "finished",
        None if Lock::is_held(&folder.lock()) => "training",
        None => "stopped",
    };
    let width = width.clamp(20, WIDEST);
    let number = |line: &Value, key: &str| line.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    // The sum of no numbers is -0.
    let total = |key: &str| lines.iter().map(|line| number(line, key)).sum::<f64>() + 0.0;
    let (done, rounds) = (lines.last().map_or(0, |line| number(line, "round") as u64), u64::from(settings.federation.rounds));
    let mut page = vec![format!(
        "{}  {} on {}, seed {}: {state}",
        clean::path(folder.root()),
        clean::id(&info.method),
        clean::id(&info.data),
        info.seed
    )];
    page.push(progress(done, rounds, width));
    let lately = &lines[lines.len().saturating_sub(LATELY)..];
    let (seconds, epochs) =
        lately.iter().fold((0.0, 0.0), |sum, line| (sum.0 + number(line, "seconds"), sum.1 + number(line, "client_epochs")));
    if seconds > 0.0 {
        let (per_round, unit) = (seconds / lately.len() as f64, methods::steps_unit(&info.method));
        let mut speed = format!("{:.2} rounds/s, {:.0} {unit}/s, {} trained", 1.0 / per_round, epochs / seconds, span(total("seconds")));
        if state == "training" && done < rounds {
            let _ = write!(speed, ", about {} left beside validations", span(per_round * (rounds - done) as f64));
        }
        page.push(speed);
    }
    let diverged = total("diverged");
    let more = if diverged > 0.0 { format!(", {diverged:.0} visits diverged") } else { String::new() };
    page.push(format!("up {}, down {}{more}", size(total("bytes_up")), size(total("bytes_down"))));
    let loss = series(&lines, |line| line.get("rec_loss"));
    let select = &settings.eval.select;
    let valid = series(&lines, |line| line.get("valid")?.get(select));
    if let (Some(first), Some(last)) = (loss.first(), loss.last()) {
        page.push(format!("loss {:.4}, {:.4} in round {}", last.1, first.1, first.0));
        page.extend(curve(&loss, width, curves));
    }
    if let Some(last) = valid.last() {
        let best = valid.iter().fold(valid[0], |best, &at| if at.1 > best.1 { at } else { best });
        page.push(format!("validation {select} {:.4} in round {}, best {:.4} in round {}", last.1, last.0, best.1, best.0));
        page.extend(curve(&valid, width, curves));
    }
    if let Some(test) = result.as_ref().and_then(|result| result.test.get(select)).and_then(Value::as_f64) {
        page.push(format!("test {select} {test:.4}"));
    }
    let cut = |line: String| line.chars().take(width).collect();
    Ok(Live { state, lines: page.into_iter().map(cut).collect() })
}

/// Rounds and finite values.
fn series<'l>(lines: &'l [Value], of: impl Fn(&'l Value) -> Option<&'l Value>) -> Vec<(u64, f64)> {
    let point = |line: &'l Value| Some((line.get("round")?.as_u64()?, of(line)?.as_f64().filter(|x| x.is_finite())?));
    lines.iter().filter_map(point).collect()
}

fn progress(done: u64, rounds: u64, width: usize) -> String {
    let share = done as f64 / rounds.max(1) as f64;
    let text = format!("round {done} of {rounds}, {:.0} %", 100.0 * share);
    let room = width.saturating_sub(text.chars().count() + 3).min(50);
    let full = ((room as f64 * share) as usize).min(room);
    format!("{text} [{}{}]", "=".repeat(full), " ".repeat(room - full))
}

/// `values` as [`ROWS`] rows of blocks, the oldest left; several rounds share a column where there are more than columns.
fn curve(values: &[(u64, f64)], width: usize, wanted: bool) -> Vec<String> {
    if !wanted || values.len() < 2 {
        return Vec::new();
    }
    let columns = width.min(values.len());
    let mean = |at: usize| {
        let part = &values[at * values.len() / columns..(at + 1) * values.len() / columns];
        part.iter().map(|(_, value)| value).sum::<f64>() / part.len() as f64
    };
    let means: Vec<f64> = (0..columns).map(mean).collect();
    let (low, high) = means.iter().fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(*x), high.max(*x)));
    // The lowest value is still seen.
    let eighths = |x: f64| if high > low { 1 + ((x - low) / (high - low) * (8 * ROWS - 1) as f64).round() as usize } else { 4 * ROWS };
    let row = |row: usize| means.iter().map(|x| BLOCKS[eighths(*x).saturating_sub(8 * row).min(8)]).collect();
    (0..ROWS).rev().map(row).collect()
}

fn span(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.0} s"),
        s if s < 3600.0 => format!("{:.0} min {:.0} s", (s / 60.0).floor(), (s % 60.0).floor()),
        s => format!("{:.0} h {:.0} min", (s / 3600.0).floor(), (s % 3600.0 / 60.0).floor()),
    }
}

fn size(bytes: f64) -> String {
    let (unit, name) = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")].into_iter().find(|(unit, _)| bytes >= *unit).unwrap_or((1.0, "B"));
    format!("{:.1} {name}", bytes / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_shows_its_lowest_and_highest_value() {
        let values: Vec<(u64, f64)> = (1..=8).map(|n| (n, n as f64)).collect();
        let rows = curve(&values, 80, true);
        assert_eq!(rows.len(), ROWS);
        assert!(rows[0].ends_with('█') && rows[0].starts_with(' ') && rows[3].starts_with('▁'), "{rows:?}");
        // Twice as many values as columns: each column is the mean of two.
        let twice: Vec<(u64, f64)> = (0..16).map(|n| (n, (n / 2 + 1) as f64)).collect();
        assert_eq!(curve(&twice, 8, true), rows);
        assert_eq!(curve(&[(1, 2.0), (2, 2.0)], 80, true).len(), ROWS);
        assert!(curve(&values[..1], 80, true).is_empty() && curve(&values, 80, false).is_empty());
    }

    #[test]
    fn spans_and_sizes_in_words() {
        assert_eq!([span(3.4), span(61.0), span(7325.0)], ["3 s", "1 min 1 s", "2 h 2 min"]);
        assert_eq!([size(0.0), size(1500.0), size(2.5e9)], ["0.0 B", "1.5 kB", "2.5 GB"]);
        assert_eq!(progress(5, 10, 40), "round 5 of 10, 50 % [=========         ]");
    }
}
