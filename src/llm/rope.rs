//! Rotary positions: frequencies of a model and the tables of cosines and sines made from them.

use super::spec::Fields;
use crate::base::names::unknown;
use crate::{Error, Result};
use serde_json::Value;

/// Frequencies of the rotated pairs. Pair `i` is made of dimensions `i` and `i + rotated / 2` of a head.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Angle of one position for each pair `[rotated / 2]`.
    pub frequencies: Vec<f32>,
    /// Factor on cosines and sines (`longrope` scales attention with it).
    pub factor: f32,
    /// Longest sequence for which these frequencies hold; 0 where the model's own limit is the only one.
    pub limit: usize,
}

const KINDS: &[&str] = &["default", "linear", "llama3", "longrope"];

impl Rope {
    /// Plain frequencies `base^(-2i / rotated)`.
    pub fn plain(base: f64, rotated: usize) -> Rope {
        // Rounded where the reference rounds: exponent, power and reciprocal in f32.
        let frequency = |i: usize| 1.0 / (base.powf(f64::from((2 * i) as f32 / rotated as f32)) as f32);
        Rope { frequencies: (0..rotated / 2).map(frequency).collect(), factor: 1.0, limit: 0 }
    }

    /// From `rope_theta` with `rope_scaling`, or from `rope_parameters` (its entry `kind` where it has one per kind of layer).
    pub(super) fn read(f: &Fields, kind: &str, base: f64, head_dim: usize, max_positions: usize) -> Result<Rope> {
        let own = f.object.get("rope_parameters").filter(|v| v.is_object());
        let own = own.map(|v| v.get(kind).filter(|v| v.is_object()).unwrap_or(v));
        let empty = Value::Object(Default::default());
        let scaling = own.or_else(|| f.object.get("rope_scaling").filter(|v| v.is_object())).unwrap_or(&empty);
        let s = Fields { path: f.path, object: scaling };
        let base = s.positive("rope_theta")?.or(f.positive("rope_theta")?).unwrap_or(base);
        let part = s.positive("partial_rotary_factor")?.or(f.positive("partial_rotary_factor")?).unwrap_or(1.0);
        let rotated = (head_dim as f64 * part) as usize;
        if rotated < 2 || rotated > head_dim || !rotated.is_multiple_of(2) {
            return Err(Error::mismatch(f.path, format!("`partial_rotary_factor` {part} rotates {rotated} of {head_dim} dimensions")));
        }
        let mut rope = Rope::plain(base, rotated);
        let name = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str).unwrap_or("default");
        let need = |key: &str| -> Result<f64> {
            s.positive(key)?.ok_or_else(|| Error::mismatch(f.path, format!("rotary scaling `{name}` needs `{key}`")))
        };
        match name {
            "default" => {}
            "linear" => {
                let by = need("factor")? as f32;
                rope.frequencies.iter_mut().for_each(|x| *x /= by);
            }
            "llama3" => {
                let context = need("original_max_position_embeddings")? as f32;
                rope.stretch(need("factor")? as f32, need("low_freq_factor")? as f32, need("high_freq_factor")? as f32, context);
            }
            // Names that Phi 3 gave it over time.
            "longrope" | "su" => {
                let original = match s.positive("original_max_position_embeddings")? {
                    Some(n) => n as usize,
                    None => f.count("original_max_position_embeddings", Some(4096))?,
                };
                let by = factors(&s, "short_factor", rotated / 2)?;
                // Beyond the original context the reference changes to `long_factor` in the midst of a text, which invalidates the
                // keys that it has cached. We stay within.
                rope.frequencies =
                    (0..rotated / 2).map(|i| 1.0 / (by[i] * base.powf(f64::from((2 * i) as f32 / rotated as f32)) as f32)).collect();
                rope.limit = original;
                let ratio = s.positive("factor")?.unwrap_or(max_positions as f64 / original as f64);
                let usual = if ratio <= 1.0 { 1.0 } else { (1.0 + ratio.ln() / (original as f64).ln()).sqrt() };
                rope.factor = s.positive("attention_factor")?.unwrap_or(usual) as f32;
            }
            other => return Err(Error::mismatch(f.path, unknown("rotary scaling", other, KINDS.iter().copied()))),
        }
        Ok(rope)
    }

    /// Gemma 3's second table, for layers with a window.
    pub(super) fn read_local(f: &Fields, base: f64, head_dim: usize) -> Result<Rope> {
        let own = f.object.get("rope_parameters").and_then(|v| v.get("sliding_attention")).filter(|v| v.is_object());
        let theta = own.map(|object| Fields { path: f.path, object }.positive("rope_theta")).transpose()?.flatten();
        Ok(Rope::plain(theta.or(f.positive("rope_local_base_freq")?).unwrap_or(base), head_dim))
    }

    /// Llama 3's scaling: slow pairs are slowed by `by`, fast ones kept, those between interpolated.
    fn stretch(&mut self, by: f32, low: f32, high: f32, context: f32) {
        for x in &mut self.frequencies {
            let wave = 2.0 * std::f32::consts::PI / *x;
            if wave > context / low {
                *x /= by;
            } else if wave >= context / high {
                let smooth = (context / wave - low) / (high - low);
                *x = (1.0 - smooth) * *x / by + smooth * *x;
            }
        }
    }

    /// Dimensions of a head that are rotated.
    pub fn rotated(&self) -> usize {
        2 * self.frequencies.len()
    }

    /// Cosines, then sines of `positions` positions from 0: `[positions, 2, rotated / 2]`.
    pub fn table(&self, positions: usize) -> Vec<f32> {
        let mut table = Vec::with_capacity(positions * self.rotated());
        for p in 0..positions {
            let angles = self.frequencies.iter().map(|x| p as f32 * x);
            table.extend(angles.clone().map(|a| a.cos() * self.factor));
            table.extend(angles.map(|a| a.sin() * self.factor));
        }
        table
    }
}

fn factors(s: &Fields, key: &str, n: usize) -> Result<Vec<f32>> {
    let list = s.object.get(key).and_then(Value::as_array);
    let list: Option<Vec<f32>> = list.and_then(|l| l.iter().map(|v| v.as_f64().map(|x| x as f32)).collect());
    match list {
        Some(list) if list.len() == n && list.iter().all(|x| *x > 0.0) => Ok(list),
        _ => Err(Error::mismatch(s.path, format!("rotary scaling needs `{key}`: {n} numbers above 0"))),
    }
}
