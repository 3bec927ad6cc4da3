//! Text from a language model: a local folder, loaded once, generating for thousands of clients in packed batches.
//!
//! ```no_run
//! # fn main() -> lumos::Result<()> {
//! use lumos::llm::{EngineOptions, Key, Message, Model, Options, Piece, Request, Sampling};
//! let model = Model::load("models/tinystories".as_ref(), &Options::default())?;
//! let turn = Message { role: "user", content: vec![Piece::Ours("Once upon a time, ")] };
//! let prompt = model.chat.prompt(&[turn], &model.tokenizer)?;
//! let key = Key { seed: 7, user: 1, view: 0 };
//! let stop = model.defaults.eos.clone();
//! let request = Request { prompt, max_new: 32, sampling: Sampling::GREEDY, key, stop, constraint: None };
//! let mut engine = model.engine(EngineOptions::default())?;
//! engine.generate(&mut [request].into_iter(), &mut |done| {
//!     println!("{}", model.tokenizer.decode(&done.outcome?.tokens)?);
//!     Ok(())
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! * [`Model`]: a folder's `config.json`, `tokenizer.json`, chat template, generation defaults and weights (safetensors or GGUF), or all of
//!   it from the header of a single GGUF file, checked before anything is computed.
//! * [`Generate`], from [`Model::engine`]: continuous batching over a cache in blocks; a shared prefix is computed once
//!   ([`Generate::share`]).
//! * [`Sampling`] and [`Key`]: how a token is chosen, and whose draws choose it.
//! * [`TitleTrie`] and [`ItemLines`]: text that is nothing but titles of the catalogue.
//! * [`tune`]: training, whole or by low-rank changes.
//! * [`embed`]: sentence embeddings, for the title nearest to a line of free text.
//!
//! A text has the same bits on the CPU, and on a GPU by our kernels, whatever the number of threads, the batch, its order and its neighbours.

mod answer;
pub mod bench;
mod blocks;
mod candle;
mod chat;
mod constraint;
mod cpu;
pub mod embed;
mod engine;
#[doc(hidden)]
pub mod fuzz;
mod gguf;
mod gguf_alone;
mod gguf_header;
pub(crate) mod gpu;
pub mod made_up;
mod model;
mod network;
mod place;
mod pointer;
mod prior;
mod request;
mod rope;
pub(crate) mod sample;
mod slot;
mod spec;
mod stored_matrix;
mod tokenizer;
mod trie;
pub mod tune;
mod weights;

pub use candle::Candle;
pub use chat::{Chat, Message, Piece, harmless};
pub use constraint::{Constraint, ItemLines};
pub use cpu::{Cpu, Rows};
pub use engine::Engine;
pub use gguf::Gguf;
pub use gpu::Gpu;
pub use model::{Model, Options};
pub use network::{Attention, BLOCK, Batch, Network, Norm, Ops, SampleRequest, Segment, Source, StoredMatrix};
pub use place::{Dtype, Place};
pub use prior::Prior;
pub use request::{Done, EngineOptions, Finish, Generate, Report, Request, Text};
pub use rope::Rope;
pub use sample::{Key, Sampling};
pub use spec::{Activation, Family, Spec};
pub use tokenizer::{Control, Defaults, Tokenizer};
pub use trie::{Node, TitleTrie, clean_title};
pub use weights::{Plain, Stored, Weights};

/// Foreign words for a message.
fn shown(text: &str) -> String {
    crate::base::clean::line(text, 200)
}
