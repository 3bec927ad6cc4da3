//! Pictures of a table: a metric of some rows over what the rows differ in.

use super::figures::RowRuns;
use super::plan::{Plan, PlanPlot};
use crate::run::RunResult;
use crate::run::chart::{Across, Series, line_chart};

/// A picture on one data set.
pub struct Picture {
    /// File beside the documents.
    pub file: String,
    /// What it shows.
    pub title: String,
    /// The picture as inline SVG.
    pub svg: String,
}

/// The pictures of `plan` on `data`, of what is finished of `rows`.
pub fn pictures(plan: &Plan, data: &str, rows: &[RowRuns]) -> Vec<Picture> {
    let mut pictures = Vec::new();
    for plot in &plan.plots {
        for metric in &plot.metrics {
            let title = format!("test {metric} over {}", plot.across);
            let svg =
                line_chart(&title, &format!("test {metric}"), Across { name: &plot.across, log: plot.log }, &series(plot, metric, rows));
            // No two pictures of a table have a file name in common, whatever signs an axis has.
            let file = format!("{}-{data}-{}.svg", plan.name, pictures.len() + 1);
            pictures.push(Picture { file, title, svg });
        }
    }
    pictures.retain(|picture| !picture.svg.is_empty());
    pictures
}

/// The lines of a picture: means over seeds, in the order of what they are held against.
fn series(plot: &PlanPlot, metric: &str, rows: &[RowRuns]) -> Vec<Series> {
    let mean = |row: &RowRuns, of: &dyn Fn(&RunResult) -> Option<f64>| {
        let values: Option<Vec<f64>> = row.runs.iter().map(|run| of(&run.2)).collect();
        values.filter(|values| !values.is_empty()).map(|values| values.iter().sum::<f64>() / values.len() as f64)
    };
    let lines = plot.lines.iter().map(|line| {
        let point = |(i, name): (usize, &String)| {
            let row = rows.iter().find(|row| row.name == *name)?;
            let sent = |r: &RunResult| Some((r.bytes_up + r.bytes_down) as f64 * 1e-9);
            let x = if line.at.is_empty() { mean(row, &sent)? } else { line.at[i] };
            Some((x, mean(row, &|r| r.test.get(metric)?.as_f64())?))
        };
        let mut points: Vec<(f64, f64)> = line.rows.iter().enumerate().filter_map(point).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { name: line.name.clone(), points }
    });
    lines.filter(|line| !line.points.is_empty()).collect()
}
