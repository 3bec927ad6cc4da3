//! MovieLens (Harper and Konstan, 2015) in each of its forms: `ratings.dat` and `movies.dat` with `::` between the fields (1M, 10M),
//! `u.data` and `u.item` (100K, latin-1), `ratings.csv` and `movies.csv` (20M and later).

use std::path::Path;

use crate::Result;
use crate::base::clean;
use crate::config::DataSettings;
use crate::data::builder::{CatalogueRow, RawBuilder};
use crate::data::columns::no_interactions;
use crate::data::csv::Csv;
use crate::data::reader::{RawData, Reader, data_error};
use crate::data::rows::{Encoding, each_line, fields};
use crate::data::source::Source;
use crate::data::{Progress, text};

/// Reader of MovieLens.
pub struct MovieLens;

/// The genres of `u.item`, by the place of their flag.
const GENRES: [&str; 19] = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
];

/// Fields of `u.item` before its flags: item, title, two dates, address.
const BEFORE_FLAGS: usize = 5;

impl Reader for MovieLens {
    fn name(&self) -> &'static str {
        "movielens"
    }

    fn read(
        &self,
        settings: &DataSettings,
        inter: Option<&mut Source>,
        items: Option<&mut Source>,
        progress: &Progress,
    ) -> Result<RawData> {
        let source = inter.ok_or_else(no_interactions)?;
        if source.peek()?.starts_with(b"userId,") {
            let default = DataSettings::default();
            let own = |set: &String, default: &String, here: &str| if set == default { here.to_owned() } else { set.clone() };
            let settings = DataSettings {
                user_column: own(&settings.user_column, &default.user_column, "userId"),
                item_column: own(&settings.item_column, &default.item_column, "movieId"),
                ..settings.clone()
            };
            return Csv.read(&settings, Some(source), items, progress);
        }
        let path = source.path().to_path_buf();
        let timed = !settings.time_column.is_empty();
        let mut builder = RawBuilder::with_filters(settings, timed);
        each_line(source, Encoding::Latin1, "reading interactions", progress, |line, text| {
            let row = text.and_then(|text| {
                let found = fields::<4>(text, "::").or_else(|| fields::<4>(text, "\t"));
                let [user, item, rating, time] = found.ok_or_else(|| {
                    data_error(&path, line, "a line has 4 fields, user, item, rating and time, with `::` or tabs between them")
                })?;
                if !builder.keeps_rating(&path, line, Some(rating))? {
                    return Ok(());
                }
                builder.interaction(&path, line, user, item, timed.then_some(time))
            });
            builder.good(row).map(drop)
        })?;
        builder.complete(&path, items, |builder, source| movies(builder, source, progress))
    }
}

/// Item, title and genres of a line of `movies.dat` or `u.item`.
fn movie<'t>(path: &Path, line: u64, text: &'t str) -> Result<(&'t str, &'t str, Vec<String>)> {
    if let Some([item, title, genres]) = fields::<3>(text, "::") {
        let genres = genres.split('|').map(text::clean).filter(|g| !g.is_empty() && g != "(no genres listed)");
        return Ok((item, title, genres.collect()));
    }
    let parts: Vec<&str> = text.split('|').collect();
    if parts.len() != BEFORE_FLAGS + GENRES.len() {
        let message = format!(
            "`{}` is neither a line of movies.dat (`item::title::genres`) nor one of u.item ({} fields with bars between them)",
            clean::id(text),
            BEFORE_FLAGS + GENRES.len()
        );
        return Err(data_error(path, line, message));
    }
    let set = GENRES.iter().zip(&parts[BEFORE_FLAGS..]).filter(|(name, flag)| flag.trim() == "1" && **name != "unknown");
    Ok((parts[0], parts[1], set.map(|(name, _)| (*name).to_owned()).collect()))
}

fn movies(builder: &mut RawBuilder, source: &mut Source, progress: &Progress) -> Result<()> {
    let path = source.path().to_path_buf();
    each_line(source, Encoding::Latin1, "reading catalogue", progress, |line, text| {
        let row = text.and_then(|text| {
            let (item, title, categories) = movie(&path, line, text)?;
            Ok((builder.wants(&path, line, item)?, text::clean(title), categories))
        });
        let Some((Some(index), title, categories)) = builder.good(row)? else { return Ok(()) };
        builder.describe(index, CatalogueRow { title, categories, ..CatalogueRow::default() });
        Ok(())
    })?;
    builder.end_described(&path, [Some("title"), Some("genres")], &[])
}
