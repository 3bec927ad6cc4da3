//! The objective: the next item among all, a contrast of the two samples, and maximum mean discrepancies (MMD).

use super::constants::Constants;
use super::network::{Histories, Network, States, unit_rows};
use candle_core::{D, Device, Result, Tensor};

/// Gaussian kernels of the maximum mean discrepancy, each twice as wide as the one before.
const KERNELS: u32 = 5;

/// The value of an objective and what it is made of.
pub struct Loss {
    /// What is differentiated.
    pub whole: Tensor,
    /// Cross-entropy of the targets.
    pub next_item: f64,
    /// Weighted sum of the contrast and the discrepancies.
    pub graph: f64,
}

/// The objective of `states` for the `targets [B]` of `histories`.
///
/// # Errors
/// candle's.
pub fn objective(network: &Network, constants: &Constants, histories: &Histories, states: &States, targets: &[u32]) -> Result<Loss> {
    let logits = states.pooled.matmul(&network.items()?.t()?)?;
    let next_item = cross_entropy(&logits, targets)?;
    let means = histories.means();
    let [a, b] = &states.graph;
    let contrast = contrast(&means.apply(a)?, &means.apply(b)?, constants.tau)?;
    let mut graph = (contrast * constants.contrast)?;
    if constants.mmd > 0.0 {
        // A history is one point, a number for each of its places.
        let placed = histories.placed(network.longest, true);
        let points = |x: &Tensor, side: &str| placed.apply(&network.linear(x, side)?)?.reshape(((), network.longest));
        let rows = network.items()?.index_select(&Tensor::new(&histories.items[..], &Device::Cpu)?, 0)?;
        let items = points(&rows, "mmd.item")?;
        for gated in &states.gated {
            graph = (graph + (discrepancy(&items, &points(gated, "mmd.graph")?)? * constants.mmd)?)?;
        }
    }
    let value = |x: &Tensor| Ok::<_, candle_core::Error>(f64::from(x.to_scalar::<f32>()?));
    Ok(Loss { next_item: value(&next_item)?, graph: value(&graph)?, whole: (next_item + graph)? })
}

/// Mean of `-log softmax` at the targets of rows `[B, n]`.
fn cross_entropy(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let shares = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    shares.gather(&Tensor::new(targets, &Device::Cpu)?.unsqueeze(1)?, 1)?.mean_all()?.neg()
}

/// InfoNCE of rows `a` and `b [B, d]` in both directions, by cosine: a row's positive is its partner, its negatives are all other rows of both.
fn contrast(a: &Tensor, b: &Tensor, tau: f64) -> Result<Tensor> {
    let (a, b, count) = (unit_rows(a)?, unit_rows(b)?, a.dim(0)?);
    let itself = (Tensor::eye(count, candle_core::DType::F32, &Device::Cpu)? * -1e9)?;
    let one = |a: &Tensor, b: &Tensor| {
        let others = (a.matmul(&b.t()?)? / tau)?;
        let same = ((a.matmul(&a.t()?)? / tau)? + &itself)?;
        cross_entropy(&Tensor::cat(&[others, same], 1)?, &(0..count as u32).collect::<Vec<_>>())
    };
    one(&a, &b)? + one(&b, &a)?
}

/// Maximum mean discrepancy of two sets of points `[B, n]` (Gretton et al., JMLR 2012) with [`KERNELS`] Gaussian kernels around the mean squared distance.
fn discrepancy(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (all, count) = (Tensor::cat(&[a, b], 0)?, a.dim(0)?);
    let squares = all.sqr()?.sum_keepdim(1)?;
    let products = (all.matmul(&all.t()?)? * 2.0)?;
    let apart = squares.broadcast_add(&squares.t()?)?.sub(&products)?.relu()?;
    let pairs = (2 * count * (2 * count - 1)) as f64;
    let mean = f64::from(apart.detach().sum_all()?.to_scalar::<f32>()?) / pairs;
    let narrowest = (mean / f64::from(1 << (KERNELS / 2))).max(1e-12);
    let widest = narrowest * f64::from(1 << (KERNELS - 1));
    // exp(-x / w) of half the width is its square.
    let mut kernel = (apart / -widest)?.exp()?;
    let mut sum = kernel.clone();
    for _ in 1..KERNELS {
        kernel = kernel.sqr()?;
        sum = (sum + &kernel)?;
    }
    let block = |row: usize, column: usize| sum.narrow(0, row * count, count)?.narrow(1, column * count, count)?.mean_all();
    (block(0, 0)? + block(1, 1)?)? - (block(0, 1)? + block(1, 0)?)?
}
