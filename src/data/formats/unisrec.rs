//! UniSRec's processed files (Hou et al., KDD 2022): `user_id:token`, `item_id_list:token_seq`, `item_id:token` by tabs, a header first. A
//! row holds a target and the items before it; give the test file, whose row of a user has the longest history. The catalogue is `*.text`:
//! `item_id:token`, `text:token_seq`.

use std::collections::HashMap;

use crate::Result;
use crate::config::DataSettings;
use crate::data::builder::{CatalogueRow, RawBuilder};
use crate::data::columns::no_interactions;
use crate::data::reader::{RawData, Reader, data_error};
use crate::data::rows::{Encoding, each_line, fields};
use crate::data::source::Source;
use crate::data::{Progress, text};

/// Reader of UniSRec's pairs of a history and its next item.
pub struct UniSRec;

impl Reader for UniSRec {
    fn name(&self) -> &'static str {
        "unisrec"
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
        let mut builder = RawBuilder::of_sequences(settings, "unisrec")?;
        let mut places: HashMap<String, usize> = HashMap::new();
        // User, line and items of the longest row, by first appearance.
        let mut users: Vec<(String, u64, Vec<String>)> = Vec::new();
        each_line(source, Encoding::Utf8, "reading interactions", progress, |line, text| {
            let row = text.and_then(|text| {
                fields::<3>(text, "\t")
                    .ok_or_else(|| data_error(&path, line, "a line has 3 fields by tabs: user, the items before, the next item"))
            });
            let Some([user, history, next]) = builder.good(row)? else { return Ok(()) };
            if line == 1 && user.contains(':') && next.contains(':') {
                return Ok(());
            }
            let sequence: Vec<String> = history.split_whitespace().chain([next]).map(str::to_owned).collect();
            match places.get(user) {
                Some(&at) if users[at].2.len() >= sequence.len() => {}
                Some(&at) => (users[at].1, users[at].2) = (line, sequence),
                None => {
                    places.insert(user.to_owned(), users.len());
                    users.push((user.to_owned(), line, sequence));
                }
            }
            Ok(())
        })?;
        for (user, line, sequence) in &users {
            builder.sequence(&path, *line, user, sequence.iter().map(String::as_str))?;
        }
        builder.complete(&path, items, |builder, source| texts(builder, source, progress))
    }
}

fn texts(builder: &mut RawBuilder, source: &mut Source, progress: &Progress) -> Result<()> {
    let path = source.path().to_path_buf();
    each_line(source, Encoding::Utf8, "reading catalogue", progress, |line, text| {
        let row = text.and_then(|text| {
            let [item, title] =
                fields::<2>(text, "\t").ok_or_else(|| data_error(&path, line, "a line has 2 fields by tabs: item and text"))?;
            let header = line == 1 && item.ends_with(":token");
            Ok((if header { None } else { builder.wants(&path, line, item)? }, text::clean(title)))
        });
        let Some((Some(index), title)) = builder.good(row)? else { return Ok(()) };
        builder.describe(index, CatalogueRow { title, ..CatalogueRow::default() });
        Ok(())
    })?;
    builder.end_described(&path, [Some("text"), None], &[])
}
