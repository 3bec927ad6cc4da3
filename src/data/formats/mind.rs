//! MIND, the Microsoft News data set (Wu et al., ACL 2020): `behaviors.tsv` and `news.tsv`.
//!
//! A line of `behaviors.tsv` is an impression: its number, the user, the time (`11/12/2019 2:14:46 PM`), the items that the user clicked
//! before, and the items shown, each with `-1` where it was clicked. A user's history is the longest one of the user's lines, then the
//! clicks by the time of their impressions. The clicks of a history have no times, so the data set has none.

use std::collections::HashMap;

use crate::Result;
use crate::base::clean;
use crate::config::DataSettings;
use crate::data::builder::{CatalogueRow, RawBuilder};
use crate::data::columns::no_interactions;
use crate::data::reader::{RawData, Reader, data_error};
use crate::data::rows::{Encoding, each_line, fields};
use crate::data::source::Source;
use crate::data::{Progress, text};

/// Reader of MIND.
pub struct Mind;

/// What is known of a user.
#[derive(Default)]
struct Clicks {
    /// Line of the first impression.
    line: u64,
    /// The longest history, items separated by blanks.
    history: String,
    /// Time, line and item of each click, in file order.
    clicked: Vec<(u64, u64, String)>,
}

/// A number that orders times such as `11/12/2019 2:14:46 PM`; `None` for another text.
pub(super) fn moment(text: &str) -> Option<u64> {
    let (date, clock) = text.split_once(' ')?;
    let (clock, half) = clock.split_once(' ')?;
    let number = |text: &str| text.parse::<u64>().ok();
    let [month, day, year] = fields::<3>(date, "/")?.map(number);
    let [hour, minute, second] = fields::<3>(clock, ":")?.map(number);
    let (month, day, year, hour, minute, second) = (month?, day?, year?, hour?, minute?, second?);
    let in_range = (1..=12).contains(&month) && (1..=31).contains(&day) && year < 10_000 && (1..=12).contains(&hour);
    let afternoon = match half {
        "AM" => 0,
        "PM" => 12,
        _ => return None,
    };
    (in_range && minute < 60 && second < 61)
        .then(|| ((((year * 12 + month) * 31 + day) * 24 + hour % 12 + afternoon) * 60 + minute) * 61 + second)
}

impl Reader for Mind {
    fn name(&self) -> &'static str {
        "mind"
    }

    fn read(
        &self,
        settings: &DataSettings,
        inter: Option<&mut Source>,
        items: Option<&mut Source>,
        progress: &Progress,
    ) -> Result<RawData> {
        let source = inter.ok_or_else(no_interactions)?;
        let path = source.path().to_path_buf();
        let mut builder = RawBuilder::of_sequences(settings, "mind")?;
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut users: Vec<(String, Clicks)> = Vec::new();
        each_line(source, Encoding::Utf8, "reading interactions", progress, |line, text| {
            let row = text.and_then(|text| {
                let wrong = |message: String| data_error(&path, line, message);
                let [_, user, time, history, shown] = fields::<5>(text, "\t").ok_or_else(|| {
                    let found = text.split('\t').count();
                    wrong(format!("{found} fields by tabs; a line of behaviors.tsv has 5: number, user, time, history, impressions"))
                })?;
                let time =
                    moment(time).ok_or_else(|| wrong(format!("`{}` is no time such as `11/12/2019 2:14:46 PM`", clean::id(time))))?;
                Ok((user.to_owned(), time, history.to_owned(), shown.to_owned()))
            });
            let Some((user, time, history, shown)) = builder.good(row)? else { return Ok(()) };
            let at = *places.entry(user).or_insert_with_key(|user| {
                users.push((user.clone(), Clicks { line, ..Clicks::default() }));
                users.len() - 1
            });
            let clicks = &mut users[at].1;
            if history.len() > clicks.history.len() {
                clicks.history = history;
            }
            let clicked = shown.split_whitespace().filter_map(|item| item.strip_suffix("-1"));
            clicks.clicked.extend(clicked.map(|item| (time, line, item.to_owned())));
            Ok(())
        })?;
        for (user, mut clicks) in users {
            builder.sequence(&path, clicks.line, &user, clicks.history.split_whitespace())?;
            // Stable: the clicks of one impression keep their order.
            clicks.clicked.sort_by_key(|(time, ..)| *time);
            for (_, line, item) in &clicks.clicked {
                builder.sequence(&path, *line, &user, [item.as_str()])?;
            }
        }
        builder.complete(&path, items, |builder, source| news(builder, source, progress))
    }
}

/// `news.tsv`: item, category, subcategory, title, abstract, address, entities of the title and of the abstract.
fn news(builder: &mut RawBuilder, source: &mut Source, progress: &Progress) -> Result<()> {
    let path = source.path().to_path_buf();
    each_line(source, Encoding::Utf8, "reading catalogue", progress, |line, text| {
        let row = text.and_then(|text| {
            let mut parts = text.split('\t');
            match [parts.next(), parts.next(), parts.next(), parts.next()] {
                [Some(item), Some(category), Some(sub), Some(title)] => Ok((item, category, sub, title)),
                _ => Err(data_error(&path, line, "fewer than 4 fields by tabs; a line of news.tsv has item, category, subcategory, title")),
            }
        });
        let Some((item, category, sub, title)) = builder.good(row)? else { return Ok(()) };
        let Some(index) = builder.wants_first(item) else { return Ok(()) };
        let categories = [category, sub].map(text::clean).into_iter().filter(|c| !c.is_empty()).collect();
        builder.describe(index, CatalogueRow { title: text::clean(title), categories, ..CatalogueRow::default() });
        Ok(())
    })?;
    let unused = ["abstract", "url", "title entities", "abstract entities"];
    builder.end_described(&path, [Some("title"), Some("category, subcategory")], &unused)
}

#[cfg(test)]
mod tests {
    use super::moment;

    #[test]
    fn times_are_ordered_over_noon_midnight_and_new_year() {
        let order = [
            "12/31/2018 11:59:59 PM",
            "1/1/2019 12:00:00 AM",
            "1/1/2019 11:59:59 AM",
            "1/1/2019 12:00:00 PM",
            "1/1/2019 1:00:00 PM",
            "1/31/2019 1:00:00 PM",
            "2/1/2019 12:30:00 AM",
            "11/12/2019 2:14:46 PM",
        ];
        let numbers: Vec<u64> = order.iter().map(|text| moment(text).unwrap()).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
        for bad in ["", "2019-11-12", "13/1/2019 1:00:00 AM", "1/1/2019 13:00:00 PM", "1/1/2019 1:00:00", "1/1/2019 1:60:00 AM"] {
            assert_eq!(moment(bad), None, "{bad}");
        }
    }
}
