//! LUMOS: federated sequential recommendation with language-model views, packed client training and a tri-view contrastive loss.
//!
//! # A first run
//!
//! Settings come from defaults, a method, a TOML file and single values, later ones winning. [`prepare`] reads the data set and makes the
//! views, or finds both where they lie; [`Trainer`] trains round by round; [`Trainer::rank`] gives the rank of each user's held-out item
//! among all items, and [`metrics`] what that is worth. A trainer shares the data set and the views, and borrows nothing.
//!
//! ```
//! use lumos::{Silent, Split, Trainer, load_settings, metrics, prepare};
//!
//! # fn main() -> lumos::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! let sets = ["data.format=synthetic", "data.synth_users=100", "data.synth_items=120", "model.dim=8", "model.heads=2"];
//! let settings = load_settings(None, &sets.map(String::from))?.settings;
//! let settings = settings.with(|s| s.data.dir = Some(folder.path().join("world")))?;
//!
//! let prepared = prepare(&settings, &Silent)?;
//! let mut trainer = Trainer::new(&settings, prepared.data.clone(), prepared.views.clone())?;
//! for _ in 0..2 {
//!     let report = trainer.round()?;
//!     println!("round {}: loss {:.3}", report.round, report.rec_loss);
//! }
//! let users: Vec<u32> = (0..prepared.data.users() as u32).collect();
//! let ranks = trainer.rank(Split::Test, &users, &|_, _| ())?;
//! let found = metrics(&ranks, &[5, 10]);
//! println!("HR@10 {:.3}", found.get("HR@10").unwrap());
//! assert_eq!(found.users, users.len() as u64);
//! # Ok(())
//! # }
//! ```
//!
//! [`run::train`] does the same as a run: a folder with settings, metrics, checkpoints and a report, which can be stopped and resumed.
//!
//! # Settings
//!
//! A mistyped key or name is refused with the nearest known one, and every error says of which [`ErrorKind`] it is.
//!
//! ```
//! let error = lumos::load_settings(None, &["model.backbone=sasrek".into()]).unwrap_err();
//! assert_eq!(error.kind(), lumos::ErrorKind::Setting);
//! assert!(error.to_string().contains("did you mean `sasrec`"));
//! ```
//!
//! What is prepared and trained takes [`Validated`] settings, which only a check of every part can make. Settings filled in by hand are checked by
//! [`Validated::new`]:
//!
//! ```
//! use lumos::{Settings, Validated};
//!
//! let mut settings = Settings::default();
//! settings.model.heads = 0;
//! assert_eq!(Validated::new(settings).unwrap_err().to_string(), "setting `model.heads`: is 0, must be at least 1");
//! ```
//!
//! # Parts of one's own
//!
//! | what | trait | made known by | example |
//! |---|---|---|---|
//! | a source format | [`Reader`] | [`register_reader`] | `examples/own_reader.rs` |
//! | views | [`Generator`] | [`views::register_generator`] | `examples/own_generator.rs` |
//! | a rule for updates: attack, bound, noise, defence | [`Rule`] | [`federation::rules::register`] | `examples/own_rule.rs` |
//! | a protocol: what clients and server exchange | [`federation::protocol::Protocol`] | [`federation::protocol::register`] | `examples/own_protocol.rs` |
//! | a backbone | [`Encoder`] | [`model::register_backbone`] | `examples/own_backbone.rs` |
//! | a term of the objective | [`Term`] | [`model::objectives::register`] | `examples/own_objective.rs`, `examples/own_regulariser.rs` |
//! | a method | a TOML file | [`config::methods::register_file`] | `docs/extending.md` |
//!
//! Names are made known before the settings that use them are read.
//!
//! # Features
//!
//! `cli` is the program, `cuda` training on a GPU, `llm` views by a local language model, `endpoint` views by one behind an HTTP endpoint and public sets from their owners; all
//! four are on by default. `https` is TLS for
//! https addresses, `parquet` reads and writes Parquet and reads Arrow, `mpi` lets several processes train one model, `candle-cuda` and `flash-attn` another way for language models to a GPU.
//!
//! # Modules
//!
//! Layers point downwards only: `cli` -> `run` -> `settings` -> `federation` -> `engine` -> `model` -> `backend` -> `cluster` -> `device` -> `config` -> `base`; `data`, `views` and
//! `eval` know nothing of devices. `check` holds a GPU against the CPU, from kernels to whole rounds.
#![deny(missing_docs)]

pub mod backend;
pub mod base;
pub mod bench;
pub mod check;
#[cfg(feature = "cli")]
pub mod cli;
pub mod cluster;
pub mod config;
pub mod data;
pub mod device;
pub mod engine;
pub mod eval;
pub mod federation;
#[cfg(feature = "llm")]
pub mod llm;
pub mod model;
pub mod privacy;
pub mod run;
pub mod settings;
#[cfg(feature = "testing")]
pub mod testing;
pub mod views;

pub use base::error::{Error, ErrorKind, Result};
pub use config::{
    DataSettings, Effective, EvalSettings, FederationSettings, LocalSettings, LossSettings, ModelSettings, Settings, Validated,
    ViewSettings,
};
pub use data::{Dataset, ItemText, RawBuilder, RawData, Reader, Sought, Split, Target, reader_names, register_reader};
pub use engine::{Mean, Needs, Occasion, Rule, Update};
pub use eval::{MISS, Metrics, Paired, metrics, paired};
pub use federation::{RoundReport, Trainer};
pub use model::objectives::Term;
pub use model::{Encoder, ModelSpec, Weights};
pub use run::{Checkpoint, Observer, Prepared, RunFolder, RunResult, Silent, prepare, prepare_data};
pub use settings::load as load_settings;
pub use views::{Generator, UserViews, Views};
