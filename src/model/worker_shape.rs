//! How a CPU worker treats the tensors of a model.

use super::{ModelSpec, Treatment};
use crate::backend::cpu::WorkerShape;

impl WorkerShape {
    /// Sorts the tensors of `spec` into spans by their treatment, neighbouring plain ones joined.
    pub fn new(spec: &ModelSpec) -> WorkerShape {
        let (mut fused, mut plain) = (Vec::new(), Vec::<(usize, usize)>::new());
        for p in &spec.params {
            match p.treatment {
                Treatment::Table => {}
                Treatment::Matrix => fused.push((p.offset, p.len())),
                Treatment::Plain => match plain.last_mut() {
                    Some((at, len)) if *at + *len == p.offset => *len += p.len(),
                    _ => plain.push((p.offset, p.len())),
                },
            }
        }
        let positions = spec.positions().map(|p| (p.offset, p.shape[0]));
        WorkerShape { dim: spec.dim(), dense_len: spec.dense_len, fused, plain, positions }
    }
}
