//! Typed settings: defaults, method presets, TOML files, `--set a.b=c`, and where each value came from. Knows nothing of the parts
//! that are set: what each part lets pass is checked by that part, and [`crate::settings`] asks them all.

mod check;
mod choice;
mod choices;
mod clients;
mod load;
pub mod methods;
mod names;
pub(crate) mod range;
mod refusal;
mod schema;
mod settings;
mod validated;

pub use choices::*;
pub use clients::Clients;
pub use load::{Effective, Origin, flat};
pub use schema::{Kind, Schema, tidy};
pub use settings::*;
pub use validated::Validated;

pub(crate) use check::check_run;
pub(crate) use load::{load, load_written};
