//! What items are called in prompts and answers.

use std::collections::HashMap;

use super::line::one_line;
use crate::config::{TextSettings, Untitled};
use crate::data::ItemText;
use crate::views::mix;

/// No line.
const NONE: u32 = u32::MAX;

/// The lines of a catalogue: what can be written in an answer. Several items may share one.
pub struct Names {
    /// Distinct lines, in order of the first item that has each `[L]`.
    lines: Vec<String>,
    /// Line of an item, or [`NONE`] `[I]`.
    line_of: Vec<u32>,
    /// Bounds of a line's items `[L + 1]`.
    offsets: Vec<u32>,
    /// Items by line.
    items: Vec<u32>,
    /// Categories shown after a title `[I]`, as indices into `shown_texts`.
    shown: Vec<u32>,
    shown_texts: Vec<String>,
    /// Items that have a title, that take part by category, that do not take part.
    pub counts: NameCounts,
}

/// How the items of a catalogue take part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NameCounts {
    /// Items called by their title.
    pub titled: u64,
    /// Items without a title, called by their categories.
    pub by_category: u64,
    /// Items that are left out.
    pub left_out: u64,
    /// Distinct lines; less than the items that take part where titles come twice.
    pub lines: u64,
}

impl Names {
    /// Lines of `catalogue` `[I]`.
    pub fn new(catalogue: &[ItemText], settings: &TextSettings) -> Names {
        let limit = settings.title_chars as usize;
        let mut known: HashMap<String, u32> = HashMap::new();
        let mut known_shown: HashMap<String, u32> = HashMap::from([(String::new(), 0)]);
        let mut names = Names {
            lines: Vec::new(),
            line_of: Vec::with_capacity(catalogue.len()),
            offsets: Vec::new(),
            items: Vec::new(),
            shown: Vec::with_capacity(catalogue.len()),
            shown_texts: vec![String::new()],
            counts: NameCounts::default(),
        };
        for item in catalogue {
            let title = one_line(&item.title, limit);
            let narrow = &item.categories[item.categories.len().saturating_sub(settings.categories as usize)..];
            let path: Vec<String> = narrow.iter().map(|c| one_line(c, limit)).filter(|c| !c.is_empty()).collect();
            // A marker could be closed by the joint of two categories, so the whole is cleaned once more.
            let path = one_line(&path.join(" / "), limit);
            let titled = !title.is_empty();
            let (line, shown) = match (titled, settings.untitled) {
                (true, _) => (title, path),
                (false, Untitled::Category) => (path, String::new()),
                (false, Untitled::Omit) => (String::new(), String::new()),
            };
            match (line.is_empty(), titled) {
                (true, _) => names.counts.left_out += 1,
                (false, true) => names.counts.titled += 1,
                (false, false) => names.counts.by_category += 1,
            }
            if line.is_empty() {
                names.line_of.push(NONE);
            } else {
                let next = names.lines.len() as u32;
                let index = *known.entry(line.clone()).or_insert(next);
                if index == next {
                    names.lines.push(line);
                }
                names.line_of.push(index);
            }
            let next = known_shown.len() as u32;
            let index = *known_shown.entry(shown.clone()).or_insert(next);
            if index == next {
                names.shown_texts.push(shown);
            }
            names.shown.push(index);
        }
        names.counts.lines = names.lines.len() as u64;
        names.invert();
        names
    }

    fn invert(&mut self) {
        let mut counts = vec![0u32; self.lines.len() + 1];
        for &line in self.line_of.iter().filter(|l| **l != NONE) {
            counts[line as usize + 1] += 1;
        }
        for i in 1..counts.len() {
            counts[i] += counts[i - 1];
        }
        let mut next = counts.clone();
        self.items = vec![0; counts[counts.len() - 1] as usize];
        for (item, &line) in self.line_of.iter().enumerate().filter(|(_, l)| **l != NONE) {
            self.items[next[line as usize] as usize] = item as u32;
            next[line as usize] += 1;
        }
        self.offsets = counts;
    }

    /// Distinct lines `[L]`.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The line that names `item`.
    pub fn line_of(&self, item: u32) -> Option<u32> {
        self.line_of.get(item as usize).copied().filter(|l| *l != NONE)
    }

    /// Items called by `line`.
    pub fn items_of(&self, line: u32) -> &[u32] {
        &self.items[self.offsets[line as usize] as usize..self.offsets[line as usize + 1] as usize]
    }

    /// `item` as it stands in a history: its line, and its categories where it has a title.
    pub fn entry(&self, item: u32) -> Option<String> {
        let line = &self.lines[self.line_of(item)? as usize];
        let shown = &self.shown_texts[self.shown[item as usize] as usize];
        Some(if shown.is_empty() { line.clone() } else { format!("{line} ({shown})") })
    }

    /// The item that `line` means to `user`: one of those called so for which `open` is true, chosen by a hash, so that an item
    /// is not preferred for its place in the source file.
    pub fn item(&self, line: u32, user: u32, open: impl Fn(u32) -> bool) -> Option<u32> {
        self.items_of(line).iter().copied().filter(|i| open(*i)).min_by_key(|i| (mix(*i, user), *i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(title: &str, categories: &[&str]) -> ItemText {
        ItemText { title: title.into(), categories: categories.iter().map(|c| c.to_string()).collect(), ..Default::default() }
    }

    #[test]
    fn items_are_named_by_title_or_category_or_not_at_all() {
        let catalogue = [
            item("Soap", &["All", "Beauty", "Bath"]),
            item("Soap", &[]),
            item(" \n", &["All", "Garden"]),
            item("", &[]),
            item("", &["All", "Garden"]),
        ];
        let names = Names::new(&catalogue, &TextSettings::default());
        assert_eq!(names.lines(), ["Soap", "All / Garden"]);
        assert_eq!(names.counts, NameCounts { titled: 2, by_category: 2, left_out: 1, lines: 2 });
        assert_eq!((names.items_of(0), names.items_of(1)), (&[0, 1][..], &[2, 4][..]));
        assert_eq!(names.entry(0).unwrap(), "Soap (Beauty / Bath)");
        assert_eq!((names.entry(1).unwrap(), names.entry(2).unwrap(), names.entry(3)), ("Soap".into(), "All / Garden".into(), None));
        let omit = Names::new(&catalogue, &TextSettings { untitled: Untitled::Omit, categories: 0, ..Default::default() });
        assert_eq!(omit.counts, NameCounts { titled: 2, by_category: 0, left_out: 3, lines: 1 });
        assert_eq!(omit.entry(0).unwrap(), "Soap");
        let none = Names::new(&[], &TextSettings::default());
        assert!(none.lines().is_empty() && none.line_of(0).is_none());
    }

    #[test]
    fn an_item_of_a_shared_line_is_chosen_without_regard_to_its_number() {
        let names = Names::new(&vec![item("Soap", &[]); 50], &TextSettings::default());
        let chosen: std::collections::HashSet<u32> = (0..200).filter_map(|user| names.item(0, user, |_| true)).collect();
        assert!(chosen.len() > 25, "{}", chosen.len());
        assert_eq!(names.item(0, 7, |i| i == 49), Some(49));
        assert_eq!(names.item(0, 7, |_| false), None);
    }
}
