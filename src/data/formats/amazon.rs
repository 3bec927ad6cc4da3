//! Amazon reviews (McAuley and others) of 2014, 2018 and 2023, reviews and metadata, one object a line.
//!
//! | | 2014 | 2018 | 2023 |
//! |---|---|---|---|
//! | user | `reviewerID` | `reviewerID` | `user_id` |
//! | item | `asin` | `asin` | `parent_asin` |
//! | time | `unixReviewTime`, seconds | `unixReviewTime`, seconds | `timestamp`, milliseconds |
//! | rating | `overall` | `overall` | `rating` |
//! | categories | `categories`, the first path | `category` | `categories` |
//! | brand | `brand` | `brand` | `store` |
//! | also bought | `related.also_bought` | `also_buy` | none |
//!
//! The metadata of 2014 are Python literals, which are read as well. Metadata of 2018 describe some items twice; the first row counts.

use serde_json::Value;

use super::objects::{entries, first, needed, object};
use crate::Result;
use crate::config::DataSettings;
use crate::data::builder::{CatalogueRow, RawBuilder};
use crate::data::columns::no_interactions;
use crate::data::reader::{RawData, Reader};
use crate::data::rows::{Encoding, each_line};
use crate::data::source::Source;
use crate::data::{Progress, text};

/// Reader of Amazon reviews.
pub struct Amazon;

const USER: &[&str] = &["reviewerID", "user_id"];
const ITEM: &[&str] = &["parent_asin", "asin"];
const TIME: &[&str] = &["unixReviewTime", "timestamp"];
const RATING: &[&str] = &["overall", "rating"];

impl Reader for Amazon {
    fn name(&self) -> &'static str {
        "amazon"
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
        let timed = !settings.time_column.is_empty();
        let mut builder = RawBuilder::with_filters(settings, timed);
        each_line(source, Encoding::Utf8, "reading interactions", progress, |line, text| {
            let row = text.and_then(|text| {
                let fields = object(&path, line, text)?;
                let user = needed(&path, line, &fields, USER)?;
                let item = needed(&path, line, &fields, ITEM)?;
                let time = if timed { Some(needed(&path, line, &fields, TIME)?) } else { None };
                if !builder.keeps_rating(&path, line, first(&fields, RATING).as_deref())? {
                    return Ok(());
                }
                builder.interaction(&path, line, &user, &item, time.as_deref())
            });
            builder.good(row).map(drop)
        })?;
        builder.complete(&path, items, |builder, source| metadata(builder, source, progress))
    }
}

fn metadata(builder: &mut RawBuilder, source: &mut Source, progress: &Progress) -> Result<()> {
    let path = source.path().to_path_buf();
    each_line(source, Encoding::Utf8, "reading catalogue", progress, |line, text| {
        let row = text.and_then(|text| {
            let fields = object(&path, line, text)?;
            Ok((needed(&path, line, &fields, ITEM)?, fields))
        });
        let Some((item, fields)) = builder.good(row)? else { return Ok(()) };
        let Some(index) = builder.wants_first(&item) else { return Ok(()) };
        let categories = ["categories", "category"].map(|name| entries(fields.get(name)));
        let also = fields.get("related").and_then(|related| related.get("also_bought")).or_else(|| fields.get("also_buy"));
        let also_bought = match also {
            Some(Value::Array(_)) => entries(also),
            _ => Vec::new(),
        };
        let title = text::clean(&first(&fields, &["title"]).unwrap_or_default());
        let brand = text::clean(&first(&fields, &["brand", "store"]).unwrap_or_default());
        let categories = categories.into_iter().find(|all| !all.is_empty()).unwrap_or_default();
        builder.describe(index, CatalogueRow { title, categories, brand, also_bought });
        Ok(())
    })?;
    builder.end_described(&path, [Some("title"), Some("categories")], &[])
}
