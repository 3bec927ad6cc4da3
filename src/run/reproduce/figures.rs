//! From finished runs to the numbers of a table: means and spreads over seeds, intervals over users, paired tests with Holm's correction.

use super::document::{Part, Table};
use super::plan::Plan;
use super::plots::pictures;
use crate::config::methods;
use crate::data::Split;
use crate::eval::{self, SelectMetric};
use crate::run::compare::ranks_of;
use crate::run::{RunFolder, RunResult, compare};
use crate::{Error, Result};
use std::path::PathBuf;

/// The finished runs of a row on one data set.
pub struct RowRuns {
    /// Name of the row.
    pub name: String,
    /// Seed, folder and figures of each run, ascending.
    pub runs: Vec<(u64, PathBuf, RunResult)>,
    /// Seeds of the runs that are not finished, ascending.
    pub missing: Vec<u64>,
    /// Whether one run stands for every seed.
    pub once: bool,
}

/// The part of a table on one data set: the figures, the tests and what the runs cost.
///
/// # Errors
/// Where ranks are missing or damaged.
pub fn part(plan: &Plan, data: &str, rows: &[RowRuns]) -> Result<Part> {
    let pictures = pictures(plan, data, rows);
    let mut notes: Vec<String> = missing(data, rows).into_iter().collect();
    let rows: Vec<&RowRuns> = rows.iter().filter(|row| !row.runs.is_empty()).collect();
    if rows.is_empty() {
        return Ok(Part { title: data.to_string(), tables: Vec::new(), pictures: Vec::new(), notes });
    }
    same_data(&rows)?;
    let mut tables = vec![scores(plan, data, &rows)?];
    if let Some(against) = rows.iter().find(|row| row.name == plan.against) {
        let others: Vec<&RowRuns> = rows.iter().copied().filter(|row| row.name != plan.against).collect();
        if !others.is_empty() {
            tables.push(tests(plan, against, &others)?);
        }
    }
    tables.push(costs(&rows));
    let published = plan.published.iter().filter(|p| p.data == data);
    notes.extend(published.map(|p| format!("{}: {}; {}.", p.name, p.source, p.trust)));
    Ok(Part { title: data.to_string(), tables, pictures, notes })
}

/// Refuses runs of two states of a data set.
fn same_data(rows: &[&RowRuns]) -> Result<()> {
    let mut runs = rows.iter().flat_map(|row| &row.runs);
    let Some((_, first, result)) = runs.next() else { return Ok(()) };
    let Some((_, folder, _)) = runs.find(|run| run.2.fingerprint != result.fingerprint) else { return Ok(()) };
    let message = format!("was trained on another state of the data set than {}; remove the older run and train it again", first.display());
    Err(Error::mismatch(folder, message))
}

/// A sentence about the runs that are not finished, where there are any.
fn missing(data: &str, rows: &[RowRuns]) -> Option<String> {
    let one = |row: &RowRuns| {
        let seeds: Vec<String> = row.missing.iter().map(u64::to_string).collect();
        match (row.once, seeds.len()) {
            (true, _) => row.name.clone(),
            (_, 1) => format!("{} (seed {})", row.name, seeds[0]),
            _ => format!("{} (seeds {})", row.name, seeds.join(", ")),
        }
    };
    let rows: Vec<String> = rows.iter().filter(|row| !row.missing.is_empty()).map(one).collect();
    (!rows.is_empty()).then(|| format!("Not finished on {data}: {}.", rows.join(", ")))
}

/// Mean, with the sample standard deviation where there are several values.
fn spread(values: &[f64]) -> String {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    if values.len() > 1 { format!("{mean:.4} ± {deviation:.4}") } else { format!("{mean:.4}") }
}

/// Metric and cut-off of a name such as `HR@20`.
fn metric(name: &str) -> Result<SelectMetric> {
    SelectMetric::parse("metrics", name)
}

fn scores(plan: &Plan, data: &str, rows: &[&RowRuns]) -> Result<Table> {
    let select = rows.first().and_then(|row| row.runs.first()).map_or(String::new(), |run| run.2.select.clone());
    let mut head = vec!["method".to_string(), "seeds".into(), "best round".into(), format!("validation {select}")];
    head.extend(plan.metrics.iter().map(|name| format!("test {name}")));
    let last = plan.metrics.last().cloned().unwrap_or_default();
    head.push(format!("95 % interval of {last} over users"));
    let wanted = metric(&last)?;
    let mut lines = Vec::new();
    for row in rows {
        let value = |result: &RunResult, validation: bool, name: &str| {
            let scores = if validation { &result.validation } else { &result.test };
            scores.get(name).and_then(serde_json::Value::as_f64)
        };
        let cell = |validation: bool, name: &str| {
            let values: Option<Vec<f64>> = row.runs.iter().map(|(_, _, result)| value(result, validation, name)).collect();
            values.map_or("-".to_string(), |values| spread(&values))
        };
        let list =
            |of: &dyn Fn(&(u64, PathBuf, RunResult)) -> u64| row.runs.iter().map(|run| of(run).to_string()).collect::<Vec<_>>().join(", ");
        let seeds = if row.once { "any".to_string() } else { list(&|run| run.0) };
        let mut line = vec![row.name.clone(), seeds, list(&|run| run.2.best_round), cell(true, &select)];
        line.extend(plan.metrics.iter().map(|name| cell(false, name)));
        let ranks = row.runs.iter().map(|(_, folder, _)| ranks_of(&RunFolder::open(folder)?, Split::Test)).collect::<Result<Vec<_>>>()?;
        let ranks: Vec<&[u32]> = ranks.iter().map(|(ranks, _)| ranks.as_slice()).collect();
        let [low, high] = eval::interval(&ranks, wanted.metric, wanted.k);
        line.push(format!("{low:.4} to {high:.4}"));
        lines.push(line);
    }
    for published in plan.published.iter().filter(|p| p.data == data) {
        let mut line = vec![format!("{} (published)", published.name), "-".into(), "-".into(), "-".into()];
        line.extend(plan.metrics.iter().map(|name| published.figures.get(name).map_or("-".to_string(), |x| format!("{x:.4}"))));
        line.push("-".into());
        lines.push(line);
    }
    let caption = "Full ranking of the checkpoint that was best on validation; mean and sample standard deviation over seeds.";
    Ok(Table { caption: caption.into(), head, lines })
}

/// Each of `others` against `against`: seeds that both have, or the one run of a row that has no seed.
fn tests(plan: &Plan, against: &RowRuns, others: &[&RowRuns]) -> Result<Table> {
    let k = metric(plan.metrics.last().map_or("HR@20", String::as_str))?.k;
    let mut found = Vec::new();
    for row in others {
        let seeds: Vec<u64> = if !against.once { &against.runs } else { &row.runs }.iter().map(|run| run.0).collect();
        let folder = |row: &RowRuns, seed: u64| row.runs.iter().find(|run| row.once || run.0 == seed).map(|run| run.1.clone());
        let pairs: Vec<[PathBuf; 2]> = seeds.iter().filter_map(|&seed| Some([folder(against, seed)?, folder(row, seed)?])).collect();
        if pairs.is_empty() {
            continue;
        }
        let comparison = compare(&pairs, Split::Test)?;
        let test = comparison.tests.into_iter().find(|test| test.k == k);
        found.push((row.name.clone(), test.ok_or_else(|| Error::Usage(format!("runs were not measured at {k}; set eval.k to hold it")))?));
    }
    let hr = eval::holm(&found.iter().map(|(_, test)| test.hr_p).collect::<Vec<_>>());
    let ndcg = eval::holm(&found.iter().map(|(_, test)| test.ndcg_p).collect::<Vec<_>>());
    let p = |p: f64| if p < 0.001 { "< .001".to_string() } else { format!("{p:.3}") };
    let lines = found.iter().enumerate().map(|(i, (name, test))| {
        let part = |difference: f64, [low, high]: [f64; 2], raw: f64, corrected: f64| {
            [format!("{difference:+.4}"), format!("{low:+.4} to {high:+.4}"), p(raw), p(corrected)]
        };
        let mut line = vec![name.clone(), test.seeds.to_string()];
        line.extend(part(test.hr_difference, test.hr_interval, test.hr_p, hr[i]));
        line.extend(part(test.ndcg_difference, test.ndcg_interval, test.ndcg_p, ndcg[i]));
        line
    });
    let head = |name: &str| [format!("{name}@{k}"), "95 % interval".to_string(), "p".to_string(), "p (Holm)".to_string()];
    let first = [format!("against {}", plan.against), "seeds".to_string()];
    let caption = format!(
        "Difference to {} on the same users, each with the mean over seeds; Holm's correction runs over the rows of a metric.",
        plan.against
    );
    Ok(Table { caption, head: first.into_iter().chain(head("HR")).chain(head("NDCG")).collect(), lines: lines.collect() })
}

fn costs(rows: &[&RowRuns]) -> Table {
    let head = ["method", "rounds", "client-epochs", "seconds", "MB up", "MB down", "CPU kJ", "GPU kJ"].map(String::from).to_vec();
    let lines = rows.iter().map(|row| {
        let n = row.runs.len() as f64;
        let mean = |of: &dyn Fn(&RunResult) -> f64| row.runs.iter().map(|run| of(&run.2)).sum::<f64>() / n;
        let kilojoules = |of: &dyn Fn(&RunResult) -> Option<f64>| {
            let joules: Option<Vec<f64>> = row.runs.iter().map(|run| of(&run.2)).collect();
            joules.map_or("-".to_string(), |j| format!("{:.1}", j.iter().sum::<f64>() / n / 1e3))
        };
        vec![
            row.name.clone(),
            format!("{:.0}", mean(&|r| r.rounds as f64)),
            if row.runs.iter().all(|run| methods::is_centralised(&run.2.method)) {
                "-".into()
            } else {
                format!("{:.0}", mean(&|r| r.client_epochs as f64))
            },
            format!("{:.1}", mean(&|r| r.train_seconds)),
            format!("{:.1}", mean(&|r| r.bytes_up as f64 / 1e6)),
            format!("{:.1}", mean(&|r| r.bytes_down as f64 / 1e6)),
            kilojoules(&|r| r.cpu_joules),
            kilojoules(&|r| r.gpu_joules),
        ]
    });
    Table { caption: "What a run cost, in the mean over seeds.".into(), head, lines: lines.collect() }
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn a_spread_is_the_sample_standard_deviation() {
        assert_eq!(spread(&[0.25]), "0.2500");
        assert_eq!(spread(&[0.1, 0.2, 0.3]), "0.2000 ± 0.1000");
    }
}
