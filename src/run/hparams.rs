//! The settings of a run for TensorBoard's page HPARAMS, one record at its start and one at its end.
//!
//! Each is an event whose summary value has no number but the metadata (9) of the plugin `hparams`: plugin_data (1) with plugin_name (1) and content (2). The
//! content is a `HParamsPluginData`: session_start_info (3) with a map of hparams (1), each a key (1) and a `google.protobuf.Value` (2: number 2, string 3,
//! bool 4), group_name (4) and start_time_secs (5); or session_end_info (4) with status (1) and end_time_secs (2). Which columns there are the page finds out
//! from these records and from the scalars beside them. Formats: tensorboard/plugins/hparams/plugin_data.proto, google/protobuf/struct.proto.

use super::tensorboard::{bytes, now};
use crate::Result;
use crate::config::{Settings, flat};

/// Tags of the two records.
pub(super) const START: &str = "_hparams_/session_start_info";
pub(super) const END: &str = "_hparams_/session_end_info";

fn double(to: &mut Vec<u8>, field: u8, value: f64) {
    to.push(field << 3 | 1);
    to.extend(value.to_le_bytes());
}

/// A setting as a `google.protobuf.Value`; lists as text.
fn value(setting: &toml::Value) -> Vec<u8> {
    let mut out = Vec::new();
    match setting {
        toml::Value::Boolean(yes) => out.extend([4 << 3, u8::from(*yes)]),
        toml::Value::Integer(n) => double(&mut out, 2, *n as f64),
        toml::Value::Float(x) => double(&mut out, 2, *x),
        toml::Value::String(text) => bytes(&mut out, 3, text.as_bytes()),
        other => bytes(&mut out, 3, other.to_string().as_bytes()),
    }
    out
}

/// A summary with one value: `content` for the plugin, under `tag`.
fn summary(tag: &str, content: &[u8]) -> Vec<u8> {
    let (mut plugin, mut metadata, mut one, mut summary) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    bytes(&mut plugin, 1, b"hparams");
    bytes(&mut plugin, 2, content);
    bytes(&mut metadata, 1, &plugin);
    bytes(&mut one, 1, tag.as_bytes());
    bytes(&mut one, 9, &metadata);
    bytes(&mut summary, 1, &one);
    summary
}

/// The record of a start: every setting, and the method as the group's name.
///
/// # Errors
/// Where the settings cannot be written as TOML.
pub(super) fn start(settings: &Settings) -> Result<Vec<u8>> {
    let (mut info, mut content) = (Vec::new(), Vec::new());
    for (key, setting) in flat(settings)? {
        let mut entry = Vec::new();
        bytes(&mut entry, 1, key.as_bytes());
        bytes(&mut entry, 2, &value(&setting));
        bytes(&mut info, 1, &entry);
    }
    bytes(&mut info, 4, format!("{} {} seed {}", settings.method, settings.data.name, settings.seed).as_bytes());
    double(&mut info, 5, now());
    bytes(&mut content, 3, &info);
    Ok(summary(START, &content))
}

/// The record of an end with success.
pub(super) fn end() -> Vec<u8> {
    let (mut info, mut content) = (vec![1 << 3, 1], Vec::new());
    double(&mut info, 2, now());
    bytes(&mut content, 4, &info);
    summary(END, &content)
}
