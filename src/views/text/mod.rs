//! From text to items and back: what a language model is asked, and what its answer means. Knows of no model and no endpoint.
//!
//! Catalogue text is written by strangers. It enters a prompt only as [`Piece::Theirs`], cleaned by [`one_line`]; a generator hands
//! it on so that it cannot become a control token. What comes back is matched to the catalogue, so that nothing else can become a
//! view.

mod ask;
mod line;
mod match_lines;
mod names;
mod template;
mod think;

pub use ask::{Limits, Plan, Question, Writer};
pub use line::{answer_lines, is_json, one_line, words};
pub use match_lines::{Matcher, Scratch};
pub use names::{NameCounts, Names};
pub use template::{Message, Piece, Prompts, Role, Template, Values};
pub use think::{REMEDY, answer_of, opens_thoughts, unfinished};
