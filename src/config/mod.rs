//! Typed settings: defaults, method presets, TOML files, `--set a.b=c`, and where each value came from.

mod settings;

pub use settings::*;
