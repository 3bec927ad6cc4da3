//! Typed settings: defaults, method presets, TOML files, `--set a.b=c`, and where each value came from.

mod choices;
mod load;
pub mod methods;
mod names;
mod refusal;
mod schema;
mod settings;
mod validate;

pub use choices::*;
pub use load::{Effective, Origin, flat, load, load_written};
pub use schema::tidy;
pub use settings::*;
pub use validate::{select, validate, validate_against};
