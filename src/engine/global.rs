//! The global model: weights and the state of the server's optimiser, as named tensors of a checkpoint and back.

use super::{NamedTensor, Server, ServerSteps, TensorData};
use crate::config::FederationSettings;
use crate::model::Weights;
use crate::{Error, Result};
use std::collections::HashMap;

/// What the server holds.
#[derive(Clone)]
pub struct Global {
    /// Weights.
    pub weights: Weights,
    /// Moments of the server's optimiser.
    pub server: Server,
}

impl Global {
    /// `weights` and a fresh optimiser.
    pub fn new(settings: &FederationSettings, weights: Weights) -> Global {
        Global { server: Server::new(settings, &weights), weights }
    }

    /// `items [I, d]`, the dense tensors by name, the server's moments.
    pub fn tensors(&self) -> Vec<NamedTensor> {
        let (spec, table) = (&self.weights.spec, self.table());
        let mut out = weight_tensors(&self.weights, "");
        for (name, pair) in [("server.first", &self.server.first), ("server.second", &self.server.second)] {
            if !pair.0.is_empty() {
                out.push(NamedTensor::f32(format!("{name}.dense"), &[spec.dense_len], &pair.0));
                out.push(NamedTensor::f32(format!("{name}.items"), &table, &pair.1));
            }
        }
        if self.server.steps.correct() {
            out.push(self.server.steps.tensor());
        }
        out
    }

    /// Axes of the item table.
    pub fn table(&self) -> [usize; 2] {
        table(&self.weights)
    }

    /// The model in `tensors`, of the shape of this one.
    ///
    /// # Errors
    /// [`Error::Usage`] with the name of a tensor that does not fit.
    pub fn restored(&self, settings: &FederationSettings, tensors: &Tensors) -> Result<Global> {
        let (spec, table) = (&self.weights.spec, self.table());
        let mut fresh = Global::new(settings, restored_weights(&self.weights, tensors, "")?);
        for (name, pair) in [("server.first", &mut fresh.server.first), ("server.second", &mut fresh.server.second)] {
            if !pair.0.is_empty() {
                pair.0.copy_from_slice(tensors.f32(&format!("{name}.dense"), &[spec.dense_len])?);
                pair.1.copy_from_slice(tensors.f32(&format!("{name}.items"), &table)?);
            }
        }
        if fresh.server.steps.correct() {
            fresh.server.steps = ServerSteps::restored(tensors, table[0])?;
        }
        Ok(fresh)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let pairs = [&self.server.first, &self.server.second];
        let floats = pairs.iter().map(|p| p.0.len() + p.1.len()).sum::<usize>() + self.weights.dense.len() + self.weights.items.len();
        4 * (floats + self.server.steps.rows.len())
    }
}

/// Axes of the item table of `weights`.
fn table(weights: &Weights) -> [usize; 2] {
    let d = weights.spec.dim();
    [weights.items.len() / d, d]
}

/// `weights` as tensors: `items [I, d]` and the dense ones by name, each with `prefix` before its name.
pub fn weight_tensors(weights: &Weights, prefix: &str) -> Vec<NamedTensor> {
    let mut out = vec![NamedTensor::f32(format!("{prefix}items"), &table(weights), &weights.items)];
    for p in &weights.spec.params {
        out.push(NamedTensor::f32(format!("{prefix}{}", p.name), &p.shape, &weights.dense[p.offset..p.offset + p.len()]));
    }
    out
}

/// What [`weight_tensors`] gave, of the shape of `like`.
///
/// # Errors
/// [`Error::Usage`] with the name of a tensor that is missing or does not fit.
pub fn restored_weights(like: &Weights, tensors: &Tensors, prefix: &str) -> Result<Weights> {
    let mut weights = like.clone();
    weights.items.copy_from_slice(tensors.f32(&format!("{prefix}items"), &table(like))?);
    for p in &like.spec.params {
        weights.dense[p.offset..p.offset + p.len()].copy_from_slice(tensors.f32(&format!("{prefix}{}", p.name), &p.shape)?);
    }
    Ok(weights)
}

/// Tensors of a checkpoint by name.
pub struct Tensors<'t>(HashMap<&'t str, &'t NamedTensor>);

impl<'t> Tensors<'t> {
    /// By their names.
    pub fn new(tensors: &'t [NamedTensor]) -> Tensors<'t> {
        Tensors(tensors.iter().map(|t| (t.name.as_str(), t)).collect())
    }

    /// The tensor called `name`, where there is one.
    pub fn get(&self, name: &str) -> Option<&'t NamedTensor> {
        self.0.get(name).copied()
    }

    /// Whether any is called by a name that begins with `prefix`.
    pub fn any(&self, prefix: &str) -> bool {
        self.0.keys().any(|name| name.starts_with(prefix))
    }

    /// The 32-bit floats called `name`, of axes `shape`.
    ///
    /// # Errors
    /// [`Error::Usage`] where they are missing or of other axes.
    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<&'t [f32]> {
        self.values(name, shape, "f32", |data| if let TensorData::F32(v) = data { Some(&v[..]) } else { None })
    }

    /// The unsigned 64-bit integers called `name`, of axes `shape`.
    ///
    /// # Errors
    /// [`Error::Usage`] where they are missing or of other axes.
    pub fn u64(&self, name: &str, shape: &[usize]) -> Result<&'t [u64]> {
        self.values(name, shape, "u64", |data| if let TensorData::U64(v) = data { Some(&v[..]) } else { None })
    }

    fn values<V>(&self, name: &str, shape: &[usize], kind: &str, of: impl Fn(&'t TensorData) -> Option<&'t [V]>) -> Result<&'t [V]> {
        let missing = || Error::Usage(format!("checkpoint: tensor `{name}` is missing; it belongs to another model or method"));
        let t = self.get(name).ok_or_else(missing)?;
        of(&t.data).filter(|_| t.shape == shape).ok_or_else(|| {
            Error::Usage(format!(
                "checkpoint: tensor `{name}` has shape {:?} where this run needs {kind} {shape:?}; it belongs to another model or data set",
                t.shape
            ))
        })
    }
}
