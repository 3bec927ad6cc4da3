//! Sequences without times, oldest first: SASRec's `user item` a line, and one line a user of S3-Rec and P5.

use serde_json::Value;

use super::objects::scalar;
use crate::base::clean;
use crate::config::DataSettings;
use crate::data::Progress;
use crate::data::builder::{CatalogueRow, RawBuilder};
use crate::data::columns::no_interactions;
use crate::data::reader::{RawData, Reader, data_error};
use crate::data::rows::{Encoding, each_line};
use crate::data::source::Source;
use crate::{Error, Result};

/// Reader of SASRec's files (Kang and McAuley, ICDM 2018): `user item` a line.
pub struct SasRec;

/// Reader of S3-Rec's files (Zhou et al., CIKM 2020): `user item item ...` a line; the catalogue is a JSON object from item to attributes.
pub struct S3Rec;

/// Reader of P5's `sequential_data.txt` (Geng et al., RecSys 2022), laid out as S3-Rec's.
pub struct P5;

/// How many items a line has.
#[derive(Clone, Copy, PartialEq)]
enum Line {
    One,
    All,
}

fn read(
    settings: &DataSettings,
    form: Line,
    name: &str,
    inter: Option<&mut Source>,
    items: Option<&mut Source>,
    progress: &Progress,
) -> Result<RawData> {
    let source = inter.ok_or_else(no_interactions)?;
    let path = source.path().to_path_buf();
    let mut builder = RawBuilder::of_sequences(settings, name)?;
    each_line(source, Encoding::Utf8, "reading interactions", progress, |line, text| {
        let row = text.and_then(|text| {
            let mut words = text.split_whitespace();
            let user = words.next().unwrap_or_default();
            let items: Vec<&str> = words.collect();
            match (form, items.len()) {
                (_, 0) => Err(data_error(&path, line, format!("user `{}` has no item", clean::id(user)))),
                (Line::One, 2..) => {
                    let message = format!("{} words; a line is `user item`. data.format=s3rec reads one line a user", items.len() + 1);
                    Err(data_error(&path, line, message))
                }
                _ => Ok((user, items)),
            }
        });
        let Some((user, items)) = builder.good(row)? else { return Ok(()) };
        builder.sequence(&path, line, user, items)
    })?;
    builder.complete(&path, items, |builder, source| attributes(builder, name, source))
}

/// Most bytes of a catalogue that is one JSON object.
const MOST: u64 = 1 << 30;

/// `{"item": [attribute, ...], ...}`: attributes become categories.
fn attributes(builder: &mut RawBuilder, name: &str, source: &mut Source) -> Result<()> {
    let path = source.path().to_path_buf();
    let wrong = |why: String| {
        let message = format!("is no catalogue of format `{name}`, a JSON object from each item to the list of its attributes ({why})");
        data_error(&path, 0, message)
    };
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(source.content(), MOST), &mut text).map_err(Error::io(&path, "read"))?;
    if text.len() as u64 == MOST {
        return Err(wrong(format!("more than {MOST} bytes")));
    }
    let all: serde_json::Map<String, Value> = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    for (item, value) in &all {
        let Some(index) = builder.wants_first(item) else { continue };
        let categories = match value {
            Value::Array(list) => list.iter().filter_map(|entry| scalar(Some(entry))).collect(),
            other => return Err(wrong(format!("item `{}` has {}", clean::id(item), clean::id(&other.to_string())))),
        };
        builder.describe(index, CatalogueRow { categories, ..CatalogueRow::default() });
    }
    builder.end_described(&path, [None, Some("attributes")], &[])
}

macro_rules! sequences {
    ($reader:ident, $name:literal, $form:expr) => {
        impl Reader for $reader {
            fn name(&self) -> &'static str {
                $name
            }

            fn read(
                &self,
                settings: &DataSettings,
                inter: Option<&mut Source>,
                items: Option<&mut Source>,
                progress: &Progress,
            ) -> Result<RawData> {
                read(settings, $form, $name, inter, items, progress)
            }
        }
    };
}

sequences!(SasRec, "sasrec", Line::One);
sequences!(S3Rec, "s3rec", Line::All);
sequences!(P5, "p5", Line::All);
