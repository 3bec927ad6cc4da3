//! Tables of a report: they scroll by themselves where a page is narrow, by keyboard as well.

use crate::run::chart::escape;

/// A table under construction; cells are texts, which are escaped.
pub(super) struct Table {
    head: Vec<String>,
    rows: Vec<String>,
    /// Cells to the right are texts, to the left and broken into lines.
    left: bool,
}

impl Table {
    pub fn new(head: impl IntoIterator<Item = String>) -> Table {
        Table { head: head.into_iter().collect(), rows: Vec::new(), left: false }
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds a row of figures; those marked are the best of their column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = (String, bool)>) {
        let cell = |(at, (text, best)): (usize, (String, bool))| match (at, best) {
            (0, _) => format!("<th scope=\"row\" class=\"left\">{}</th>", escape(&text)),
            (_, true) => format!("<td class=\"best\">{}</td>", escape(&text)),
            (_, false) => format!("<td>{}</td>", escape(&text)),
        };
        let mut cells: Vec<(String, bool)> = cells.into_iter().collect();
        // A row that ends early would leave its last columns without a line below them.
        cells.resize(self.head.len().max(cells.len()), ("-".into(), false));
        let cells: String = cells.into_iter().enumerate().map(cell).collect();
        self.rows.push(format!("<tr>{cells}</tr>\n"));
    }

    /// Adds a row of texts.
    pub fn texts(&mut self, cells: impl IntoIterator<Item = String>) {
        self.left = true;
        let cells: String = cells.into_iter().map(|text| format!("<td class=\"left text\">{}</td>", escape(&text))).collect();
        self.rows.push(format!("<tr>{cells}</tr>\n"));
    }

    /// The whole; empty without rows.
    pub fn html(&self, caption: &str) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let class = if self.left { " class=\"left\"" } else { "" };
        let head: String = self.head.iter().map(|text| format!("<th scope=\"col\"{class}>{}</th>", escape(text))).collect();
        // Outside of what scrolls, so that it is read whole where the page is narrow.
        let above = if caption.is_empty() { String::new() } else { format!("<p class=\"soft\">{}</p>\n", escape(caption)) };
        let label = if caption.is_empty() { "table".to_string() } else { escape(caption) };
        format!(
            "{above}<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{label}\"><table><thead><tr>{head}</tr></thead>\n<tbody>{}</tbody></table></div>\n",
            self.rows.concat()
        )
    }
}
