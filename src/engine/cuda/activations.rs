//! How many numbers the activations of a step take: the model run on a backend that only counts.

use crate::backend::cuda::meter::Meter;
use crate::backend::cuda::shape::Shape;
use crate::config::LossSettings;
use crate::model::Model;

/// Floats of the activations of one training step of `shape`.
pub(super) fn arena_floats(model: &Model, loss: &LossSettings, shape: &Shape) -> usize {
    let mut meter = Meter::new(shape);
    model.train(&mut meter, loss);
    meter.floats()
}

/// Floats of the activations of a forward pass of `shape`.
pub(super) fn encode_floats(model: &Model, shape: &Shape) -> usize {
    let mut meter = Meter::new(shape);
    model.encode(&mut meter);
    meter.floats()
}
