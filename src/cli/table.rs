//! Plain tables.

use crate::base::clean;

/// Lines of a table with a rule below its head: the first column to the left, the others to the right. Rows may be shorter than the head.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    table_with(head, rows, |column| column == 0)
}

/// A table whose columns chosen by `left` stand to the left.
pub fn table_with(head: &[&str], rows: &[Vec<String>], left: impl Fn(usize) -> bool) -> String {
    let columns = rows.iter().map(Vec::len).chain([head.len()]).max().unwrap_or(0);
    let width = |c: usize| {
        let cells = rows.iter().filter_map(|r| r.get(c)).map(|s| clean::columns(s));
        cells.chain(head.get(c).map(|s| clean::columns(s))).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |cells: &[String]| {
        let mut text = String::new();
        for (c, cell) in cells.iter().enumerate() {
            let gap = " ".repeat(widths[c] - clean::columns(cell));
            text += if c == 0 { "" } else { "  " };
            text += &if left(c) { format!("{cell}{gap}") } else { format!("{gap}{cell}") };
        }
        text.trim_end().to_string()
    };
    let head: Vec<String> = head.iter().map(|s| s.to_string()).collect();
    let rule = "-".repeat(widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1));
    let mut lines = vec![line(&head), rule];
    lines.extend(rows.iter().map(|r| line(r)));
    lines.join("\n")
}

/// Names and values below each other, both to the left.
pub fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| clean::columns(name)).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}").trim_end().to_string()).collect::<Vec<_>>().join("\n")
}

/// Names of the metrics at every cut-off, in the order of tables.
pub fn metric_names(ks: &[u32]) -> Vec<String> {
    ["HR", "NDCG", "MRR"].iter().flat_map(|m| ks.iter().map(move |k| format!("{m}@{k}"))).collect()
}

/// Names of the metrics of several targets at each cut-off, where `scores` has them.
pub fn several_names(ks: &[u32], scores: &crate::run::Scores) -> Vec<String> {
    let all = crate::eval::SEVERAL.iter().flat_map(|m| ks.iter().map(move |k| format!("{m}@{k}")));
    all.filter(|name| scores.contains_key(name)).collect()
}

/// A metric out of a map, to four digits.
pub fn metric(scores: &crate::run::Scores, name: &str) -> String {
    scores.get(name).and_then(serde_json::Value::as_f64).map_or("-".to_string(), |v| format!("{v:.4}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["é".to_string(), "1.5".to_string()], vec!["long".to_string()]];
        assert_eq!(super::table(&["name", "x"], &rows), "name    x\n---------\né     1.5\nlong");
        let wide = vec![vec!["日本".to_string(), "1".to_string()], vec!["abcd".to_string(), "2".to_string()]];
        assert_eq!(super::table(&["x", "y"], &wide), "x     y\n-------\n日本  1\nabcd  2");
    }
}
