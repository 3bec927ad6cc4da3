//! Readers of the formats that public data sets come in, one file each. Their names stand in `data.format`.
//!
//! | name | interactions (`data.inter`) | catalogue (`data.items`) |
//! |---|---|---|
//! | `mind` | `behaviors.tsv` | `news.tsv` |
//! | `amazon` | reviews of 2014, 2018 or 2023 as JSON lines | metadata of the same year, JSON lines or Python literals |
//! | `movielens` | `ratings.dat`, `u.data` or `ratings.csv` | `movies.dat`, `u.item` or `movies.csv` |
//! | `sasrec` | `user item` a line, oldest first | none |
//! | `s3rec`, `p5` | `user item item ...` a line | JSON object from item to attributes |
//! | `unisrec` | `user`, `history`, `item` by tabs (`*.inter`) | `*.text` |
//! | `rechorus` | a table with tabs: `user_id`, `item_id`, `time` | a table with tabs: `item_id`, ... |
//! | `jsonl` | one JSON object a line | one JSON object a line |
//! | `parquet` | a row an interaction, with the feature `parquet` | a row an item |
//! | `arrow` | a row an interaction, file or stream, with the feature `parquet` | a row an item |
//! | `auto` | any of these, CSV with any separator, or RecBole's atomic files | in the same format |

mod amazon;
mod arrow;
#[cfg(feature = "parquet")]
mod arrow_values;
mod auto;
#[cfg(feature = "parquet")]
mod columnar;
mod json_lines;
mod keyed;
mod mind;
mod movielens;
mod objects;
mod parquet;
mod python;
mod rechorus;
mod recognise;
mod sequences;
mod unisrec;

pub use amazon::Amazon;
pub use arrow::Arrow;
pub use auto::Auto;
pub use json_lines::JsonLines;
pub use mind::Mind;
pub use movielens::MovieLens;
pub use parquet::Parquet;
pub use rechorus::ReChorus;
pub use sequences::{P5, S3Rec, SasRec};
pub use unisrec::UniSRec;
