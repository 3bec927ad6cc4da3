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

/// Every column that any row has, in the order of first appearance.
fn columns(rows: &[TableRow]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _, _) in rows.iter().flat_map(|r| &r.metrics.values) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names
}

/// The mean, or `-` where the row lacks it.
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
            // At least as wide as the column's name, which outgrows 8 with `NDCG@1000`.
            out += &format!("  {:>w$}", cell(row, c), w = c.len().max(8));
        }
        if !row.note.is_empty() {
            out += &format!("  {}", row.note);
        }
    }
    out + "\n"
}

/// Markdown.
pub fn markdown_table(rows: &[TableRow]) -> String {
    // A bar or a line break inside a cell would end it.
    let plain = |text: &str| text.replace('|', "\\|").replace(['\n', '\r'], " ");
    let columns = columns(rows);
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let edge = |first: &str, middle: Vec<String>, last: &str| {
        line(std::iter::once(plain(first)).chain(middle).chain(std::iter::once(plain(last))).collect())
    };
    let mut out = format!("{HEADER}\n\n");
    out += &edge("method", columns.iter().map(|c| c.to_string()).collect(), "note");
    out += &edge("---", vec!["---:".into(); columns.len()], "---");
    for row in rows {
        out += &edge(&row.name, columns.iter().map(|c| cell(row, c)).collect(), &row.note);
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

    #[test]
    fn rows_with_other_cut_offs_lose_nothing_and_columns_stay_aligned() {
        let row = |name: &str, k: u32, note: &str| TableRow { name: name.into(), metrics: metrics(&[1, 9], &[k]), note: note.into() };
        let rows = [row("a", 5, ""), row("longer|name", 1000, "two\nlines")];
        let markdown = markdown_table(&rows);
        let bars = |l: &str| l.replace("\\|", "").matches('|').count();
        let lines: Vec<&str> = markdown.lines().skip(2).collect();
        assert_eq!(lines.len(), 4, "{markdown}");
        assert!(lines.iter().all(|l| bars(l) == 9), "{markdown}");
        let text = text_table(&rows[..1].iter().chain(&[row("b", 1000, "")]).cloned().collect::<Vec<_>>());
        let ends: Vec<usize> = text.lines().skip(1).map(|l| l.chars().count()).collect();
        assert!(ends.iter().all(|&e| e == ends[0]) && text.contains("NDCG@1000") && text.contains(" - "), "{text}");
        assert_eq!(text_table(&[]).lines().count(), 2);
    }
}
