//! A model's global weights.

use super::{Init, ModelSpec};
use crate::base::rng::{Purpose, Stream};

/// Global weights: the dense slab `[P]` and the item table `[I + S, d]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// Layout of the slab.
    pub spec: ModelSpec,
    /// Dense weights `[P]`.
    pub dense: Vec<f32>,
    /// Item rows `[I + S, d]`: the catalogue, then the special rows.
    pub items: Vec<f32>,
}

impl Weights {
    /// Initial weights: what the backbone declares for its tensors, normal with `init_std` for item rows. Each number is a function of
    /// seed, tensor and position.
    pub fn init(spec: &ModelSpec, items: usize, seed: u64) -> Weights {
        let rows = spec.rows(items);
        let std = spec.settings.init_std;
        let mut dense = vec![0f32; spec.dense_len];
        for (i, p) in spec.params.iter().enumerate() {
            let out = &mut dense[p.offset..p.offset + p.len()];
            let std = match p.init {
                Init::Zero => continue,
                Init::One => {
                    out.fill(1.0);
                    continue;
                }
                Init::Normal(std) => std,
                Init::Xavier => (2.0 / p.shape.iter().sum::<usize>() as f32).sqrt(),
            };
            let mut stream = Stream::new(seed, Purpose::Init, 1 + i as u64, 0);
            out.fill_with(|| stream.normal() * std);
        }
        let mut stream = Stream::new(seed, Purpose::Init, 0, 0);
        let items = (0..rows * spec.dim()).map(|_| stream.normal() * std).collect();
        Weights { spec: spec.clone(), dense, items }
    }

    /// Rows of the catalogue alone `[I, d]`: what is ranked and recommended.
    pub fn catalogue(&self) -> &[f32] {
        &self.items[..self.items.len() - self.spec.special.len() * self.spec.dim()]
    }

    /// Row of `item`.
    pub fn item(&self, item: usize) -> &[f32] {
        let d = self.spec.dim();
        &self.items[item * d..][..d]
    }
}
