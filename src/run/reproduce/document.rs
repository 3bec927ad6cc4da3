//! A table as Markdown, LaTeX, CSV and HTML.

use super::plots::Picture;
use crate::run::chart::escape;

/// A finished document.
pub struct Document {
    /// Heading.
    pub title: String,
    /// What it shows.
    pub about: String,
    /// The command that makes it again.
    pub command: String,
    /// One part a data set.
    pub parts: Vec<Part>,
}

/// What is said of one data set.
pub struct Part {
    /// The data set.
    pub title: String,
    /// Its tables.
    pub tables: Vec<Table>,
    /// Its pictures.
    pub pictures: Vec<Picture>,
    /// Sentences below them.
    pub notes: Vec<String>,
}

/// Cells under a head; each line has as many as the head.
pub struct Table {
    /// What the cells are.
    pub caption: String,
    /// Names of the columns.
    pub head: Vec<String>,
    /// Cells.
    pub lines: Vec<Vec<String>>,
}

impl Document {
    /// Every form with the ending of its file.
    pub fn forms(&self) -> [(&'static str, String); 4] {
        [("md", self.markdown()), ("tex", self.latex()), ("csv", self.csv()), ("html", self.html())]
    }

    fn markdown(&self) -> String {
        let cell = |text: &String| text.replace('|', "\\|");
        let row = |cells: &[String]| format!("| {} |\n", cells.iter().map(cell).collect::<Vec<_>>().join(" | "));
        let mut text = format!("# {}\n\n{}\n\n    {}\n", self.title, self.about, self.command);
        for part in &self.parts {
            text += &format!("\n## {}\n", part.title);
            for table in &part.tables {
                text += &format!("\n{}\n\n{}|{}\n", table.caption, row(&table.head), "---|".repeat(table.head.len()));
                text.extend(table.lines.iter().map(|line| row(line)));
            }
            text.extend(part.pictures.iter().map(|p| format!("\n![{}]({})\n", p.title, p.file)));
            text.extend(part.notes.iter().map(|note| format!("\n* {note}\n")));
        }
        text
    }

    fn latex(&self) -> String {
        let escape = |text: &str| {
            let mut out = String::new();
            for c in text.chars() {
                match c {
                    '\\' => out += "\\textbackslash{}",
                    '~' => out += "\\textasciitilde{}",
                    '^' => out += "\\textasciicircum{}",
                    '±' => out += "$\\pm$",
                    '<' => out += "$<$",
                    '>' => out += "$>$",
                    '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
                    _ => out.push(c),
                }
            }
            out
        };
        let row = |cells: &[String]| format!("{} \\\\\n", cells.iter().map(|c| escape(c)).collect::<Vec<_>>().join(" & "));
        let mut text =
            format!("% {}\n% {}\n% needs \\usepackage{{booktabs}}\n", self.title.replace('\n', " "), self.command.replace('\n', " "));
        for part in &self.parts {
            text.extend(part.notes.iter().map(|note| format!("% {}: {}\n", part.title, note.replace('\n', " "))));
            for table in &part.tables {
                text += &format!("\n\\begin{{table}}\n\\centering\n\\caption{{{}. {}}}\n", escape(&part.title), escape(&table.caption));
                text += &format!("\\begin{{tabular}}{{l{}}}\n\\toprule\n{}\\midrule\n", "r".repeat(table.head.len() - 1), row(&table.head));
                text.extend(table.lines.iter().map(|line| row(line)));
                text += "\\bottomrule\n\\end{tabular}\n\\end{table}\n";
            }
        }
        text
    }

    /// One line a cell: data set, table, row, column, value.
    fn csv(&self) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let mut text = "data,table,row,column,value\n".to_string();
        for part in &self.parts {
            for table in &part.tables {
                for line in &table.lines {
                    for (name, value) in table.head.iter().zip(line).skip(1) {
                        let cells = [&part.title, &table.caption, &line[0], name, value].map(|cell| quoted(cell));
                        text += &format!("{}\n", cells.join(","));
                    }
                }
            }
        }
        text
    }

    fn html(&self) -> String {
        const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1500px;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
            table{border-collapse:collapse;margin:1rem 0}th,td{text-align:right;padding:.2rem .45rem;border-bottom:1px solid #ddd}\
            th:first-child,td:first-child{text-align:left}td+td{white-space:nowrap}svg{max-width:46rem;font:12px system-ui,sans-serif;fill:#444}.grid{stroke:#e4e4e4}pre{background:#f6f6f6;padding:.8rem;overflow-x:auto}";
        let row = |tag: &str, cells: &[String]| {
            let cells: String = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
            format!("<tr>{cells}</tr>\n")
        };
        let title = escape(&self.title);
        let mut text = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style></head><body>\n\
             <h1>{title}</h1>\n<p>{}</p>\n<pre>{}</pre>\n",
            escape(&self.about),
            escape(&self.command)
        );
        for part in &self.parts {
            text += &format!("<h2>{}</h2>\n", escape(&part.title));
            for table in &part.tables {
                let lines: String = table.lines.iter().map(|line| row("td", line)).collect();
                text += &format!("<p>{}</p>\n<table>\n{}{lines}</table>\n", escape(&table.caption), row("th", &table.head));
            }
            text.extend(part.pictures.iter().map(|p| format!("<p>{}</p>\n{}", escape(&p.title), p.svg)));
            text.extend(part.notes.iter().map(|note| format!("<p>{}</p>\n", escape(note))));
        }
        text + "</body></html>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_has_every_cell_and_escapes_what_its_form_means_otherwise() {
        let line = ["a_b|<c>", "0.1 ± 0.2", "5 %"].map(String::from).to_vec();
        let table = Table { caption: "x & y".into(), head: ["row", "HR@20", "95 %"].map(String::from).to_vec(), lines: vec![line] };
        let picture = Picture { file: "t-set-1.svg".into(), title: "p < q".into(), svg: "<svg></svg>".into() };
        let part = Part { title: "set".into(), tables: vec![table], pictures: vec![picture], notes: vec!["a note".into()] };
        let document = Document { title: "t".into(), about: "a".into(), command: "lumos x".into(), parts: vec![part] };
        let [md, tex, csv, html] = document.forms().map(|(_, text)| text);
        assert!(md.contains("| a_b\\|<c> | 0.1 ± 0.2 | 5 % |\n") && md.contains("| row | HR@20 | 95 % |\n|---|---|---|\n"), "{md}");
        assert!(tex.contains("a\\_b|$<$c$>$ & 0.1 $\\pm$ 0.2 & 5 \\% \\\\") && tex.contains("x \\& y"), "{tex}");
        assert_eq!(csv.lines().nth(1), Some("\"set\",\"x & y\",\"a_b|<c>\",\"HR@20\",\"0.1 ± 0.2\""));
        assert_eq!(csv.lines().count(), 3);
        assert!(md.contains("\n![p < q](t-set-1.svg)\n") && html.contains("<p>p &lt; q</p>\n<svg></svg>"), "{md} {html}");
        assert!(html.contains("<td>a_b|&lt;c&gt;</td>") && html.contains("x &amp; y") && html.contains("a note"), "{html}");
        assert!(tex.contains("% set: a note\n"), "{tex}");
    }
}
