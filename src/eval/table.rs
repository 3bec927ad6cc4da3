//! Tables of metrics. Only full-ranking metrics exist here, and each table says so.

use super::metrics::Metrics;

/// One line of a table.
#[derive(Clone, Debug)]
pub struct TableRow {
    /// Method or run.
    pub name: String,
    /// Its metrics.
    pub metrics: Metrics,
    /// Free text at the end of the line.
    pub note: String,
}

const HEADER: &str = "full ranking over the whole catalogue, history masked, ties against the model";

fn columns(rows: &[TableRow]) -> Vec<String> {
    rows.first().map_or_else(Vec::new, |r| r.metrics.values.iter().map(|v| v.0.clone()).collect())
}

fn cell(row: &TableRow, column: &str) -> String {
    row.metrics.get(column).map_or("-".into(), |v| format!("{v:.4}"))
}

/// Plain text with aligned columns.
pub fn text_table(rows: &[TableRow]) -> String {
    let columns = columns(rows);
    let width = rows.iter().map(|r| r.name.chars().count()).max().unwrap_or(0).max(6);
    let mut out = format!("{HEADER}\n{:<width$}", "method");
    for c in &columns {
        out += &format!("  {c:>8}");
    }
    for row in rows {
        out += &format!("\n{:<width$}", row.name);
        for c in &columns {
            out += &format!("  {:>8}", cell(row, c));
        }
        if !row.note.is_empty() {
            out += &format!("  {}", row.note);
        }
    }
    out + "\n"
}

/// Markdown.
pub fn markdown_table(rows: &[TableRow]) -> String {
    let columns = columns(rows);
    let mut out = format!("{HEADER}\n\n| method | {} | |\n|---|{}---|\n", columns.join(" | "), "---|".repeat(columns.len()));
    for row in rows {
        let cells: Vec<String> = columns.iter().map(|c| cell(row, c)).collect();
        out += &format!("| {} | {} | {} |\n", row.name, cells.join(" | "), row.note);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::metrics;

    #[test]
    fn every_row_has_every_column_and_the_ranking_is_named() {
        let row = |name: &str, ranks: &[u32]| TableRow { name: name.into(), metrics: metrics(ranks, &[5, 20]), note: String::new() };
        let rows = [row("popularity", &[3, 30]), row("lumos", &[1, 9])];
        for table in [text_table(&rows), markdown_table(&rows)] {
            assert!(table.starts_with("full ranking"));
            for word in ["HR@5", "NDCG@20", "MRR@20", "popularity", "lumos", "0.5000", "1.0000"] {
                assert!(table.contains(word), "{word} in\n{table}");
            }
        }
    }
}
