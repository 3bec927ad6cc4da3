//! Which row of the imported item table an item of the data set has.

use crate::base::{clean, names};
use crate::data::Dataset;
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What says which item a row of the table is.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ItemOrder {
    /// Row `i` (behind the row of padding) is the data set's item `i`.
    #[default]
    DataSet,
    /// An item's name in the data set is the number of its row, from 1, as in the data files of SASRec.pytorch.
    Numbered,
    /// Names one a line: that of row 1 first.
    Listed(PathBuf),
}

/// For each item of `data` its row among the `rows` of the table, counted from 0 without the row of padding.
///
/// # Errors
/// [`Error::Mismatch`] where numbers of items differ, or an item of the data set has no row; [`Error::Io`] and [`Error::Data`] for the list.
pub(super) fn rows(order: &ItemOrder, rows: usize, data: &Dataset) -> Result<Vec<usize>> {
    match order {
        ItemOrder::DataSet if rows == data.item_count() => Ok((0..rows).collect()),
        ItemOrder::DataSet => Err(Error::Usage(format!(
            "the model has {rows} items and data set `{}` has {}; name the items of its rows by --items FILE, or pass --numbered where the \
             names of items are the numbers of their rows",
            clean::id(&data.name),
            data.item_count()
        ))),
        ItemOrder::Numbered => {
            let row = |name: &str| name.parse::<usize>().ok().filter(|n| (1..=rows).contains(n) && n.to_string() == name).map(|n| n - 1);
            let fail = |name: &str, more: usize| {
                let others = if more > 0 { format!(" and {more} others") } else { String::new() };
                let name = clean::id(name);
                Error::Usage(format!(
                    "--numbered: item `{name}`{others} of the data set: no number from 1 to {rows}, the model's items; use --items FILE"
                ))
            };
            placed(data, row, fail)
        }
        ItemOrder::Listed(path) => {
            let text = list(path)?;
            let listed = listed(path, &text)?;
            if listed.len() != rows {
                let message = format!("names {} items, and the model has {rows}: one name a line, that of row 1 first", listed.len());
                return Err(Error::mismatch(path, message));
            }
            let fail = |name: &str, more: usize| {
                let near = names::hint(name, listed.keys().copied());
                let others = if more > 0 { format!(" and {more} others") } else { String::new() };
                Error::mismatch(path, format!("does not name item `{}`{others} of the data set{near}", clean::id(name)))
            };
            placed(data, |name| listed.get(name).copied(), fail)
        }
    }
}

/// The row of every item by `row`; for those that have none, `fail` gets the first, and how many more there are.
fn placed(data: &Dataset, row: impl Fn(&str) -> Option<usize>, fail: impl Fn(&str, usize) -> Error) -> Result<Vec<usize>> {
    let rows: Vec<Option<usize>> = data.item_tokens.iter().map(|name| row(name)).collect();
    let lost = rows.iter().filter(|row| row.is_none()).count();
    match rows.iter().position(Option::is_none) {
        Some(first) => Err(fail(&data.item_tokens[first], lost - 1)),
        None => Ok(rows.into_iter().flatten().collect()),
    }
}

fn list(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() as u64;
        Error::Data { path: path.to_path_buf(), line, message: "is not UTF-8 text; save it as UTF-8".into() }
    })
}

/// Place of each name in the list.
fn listed<'t>(path: &Path, text: &'t str) -> Result<HashMap<&'t str, usize>> {
    let mut places = HashMap::new();
    for (at, name) in text.lines().map(str::trim).enumerate() {
        let fail = |message: String| Err(Error::Data { path: path.to_path_buf(), line: at as u64 + 1, message });
        if name.is_empty() {
            return fail("is empty; each line names the item of a row".into());
        }
        if let Some(before) = places.insert(name, at) {
            return fail(format!("names `{}` again, which line {} has; an item has one row", clean::id(name), before + 1));
        }
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(names: &[&str]) -> Dataset {
        Dataset { name: "d".into(), item_tokens: names.iter().map(|name| name.to_string()).collect(), ..Default::default() }
    }

    #[test]
    fn rows_are_found_by_place_by_number_and_by_name() {
        assert_eq!(rows(&ItemOrder::DataSet, 2, &data(&["b", "a"])).unwrap(), [0, 1]);
        assert_eq!(rows(&ItemOrder::Numbered, 5, &data(&["4", "1"])).unwrap(), [3, 0]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("items");
        std::fs::write(&file, "a\r\nb\nc\n").unwrap();
        let order = ItemOrder::Listed(file.clone());
        assert_eq!(rows(&order, 3, &data(&["c", "a"])).unwrap(), [2, 0]);
        let message = |order: &ItemOrder, n: usize, names: &[&str]| rows(order, n, &data(names)).unwrap_err().to_string();
        assert!(message(&ItemOrder::DataSet, 3, &["a"]).contains("3 items and data set `d` has 1"));
        for name in ["0", "6", "-1", "+1", "01", "x", "99999999999999999999"] {
            assert!(message(&ItemOrder::Numbered, 5, &["1", name]).contains(&format!("item `{name}`")), "{name}");
        }
        assert!(message(&order, 3, &["a", "x", "y"]).contains("item `x` and 1 others"));
        assert!(message(&order, 4, &["a"]).contains("names 3 items, and the model has 4"));
        for (text, wanted) in [("a\n\nb\n", ":2: is empty"), ("a\nb\na\n", ":3: names `a` again, which line 1 has")] {
            std::fs::write(&file, text).unwrap();
            assert!(message(&order, 3, &["a"]).contains(wanted), "{text}");
        }
        std::fs::write(&file, b"a\n\xff\n").unwrap();
        assert!(message(&order, 3, &["a"]).contains(":2: is not UTF-8"));
        assert!(message(&ItemOrder::Listed("nowhere".into()), 3, &["a"]).contains("nowhere"));
    }
}
