//! A weight of a model that is trained: fixed, whole, or with a low-rank change.

use super::fixed;
use crate::base::rng::{Purpose, Stream};
use candle_core::{Result, Tensor, Var};

/// One of a model's tensors.
pub enum Weight {
    /// As it was.
    Fixed(Tensor),
    /// Trained whole.
    Full(Var),
    /// `base + scale up down`, of which `up [outputs, rank]` and `down [rank, inputs]` are trained.
    LowRank { base: Tensor, down: Var, up: Var, scale: f64 },
}

impl Weight {
    /// `tensor`, trained whole.
    pub fn full(tensor: &Tensor) -> Result<Weight> {
        Var::from_tensor(tensor).map(Weight::Full)
    }

    /// `base [outputs, inputs]` with a change of `rank` columns. `down` is drawn from a normal distribution of variance 1 / inputs.
    pub fn low_rank(base: Tensor, name: &str, rank: usize, scale: f64, seed: u64) -> Result<Weight> {
        let (outputs, inputs) = base.dims2()?;
        let mut stream = Stream::new(seed, Purpose::Init, 0, u64::from(crc32c::crc32c(name.as_bytes())) | 1 << 32);
        let deviation = (inputs as f32).sqrt().recip();
        let values: Vec<f32> = (0..rank * inputs).map(|_| deviation * stream.normal()).collect();
        let down = Var::from_vec(values, (rank, inputs), base.device())?;
        let up = Var::zeros((outputs, rank), base.dtype(), base.device())?;
        Ok(Weight::LowRank { base, down, up, scale: scale / rank as f64 })
    }

    /// What is trained of the tensor `name`.
    pub fn trained(&self, name: &str) -> Vec<(String, Var)> {
        match self {
            Weight::Fixed(_) => Vec::new(),
            Weight::Full(var) => vec![(name.to_owned(), var.clone())],
            Weight::LowRank { down, up, .. } => vec![(format!("{name}.down"), down.clone()), (format!("{name}.up"), up.clone())],
        }
    }

    /// `x [n, inputs]` times the transposed weights.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Weight::Fixed(weight) => fixed::product(x, weight),
            Weight::Full(weight) => x.matmul(&weight.t()?),
            Weight::LowRank { base, down, up, scale } => {
                let change = x.matmul(&down.t()?)?.matmul(&up.t()?)?;
                fixed::product(x, base)? + (change * *scale)?
            }
        }
    }

    /// The weights as they are now.
    pub fn whole(&self) -> Result<Tensor> {
        match self {
            Weight::Fixed(tensor) => Ok(tensor.clone()),
            Weight::Full(var) => Ok(var.as_tensor().clone()),
            Weight::LowRank { base, down, up, scale } => base + (up.matmul(down)? * *scale)?,
        }
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        let of = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        match self {
            Weight::Fixed(tensor) => of(tensor),
            Weight::Full(var) => of(var),
            Weight::LowRank { base, down, up, .. } => of(base) + of(down) + of(up),
        }
    }
}
