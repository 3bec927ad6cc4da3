//! How much room the activations of a step take: the model run on a backend that only counts.

use super::shape::Shape;
use crate::backend::{Act, Backend, Mask, RowKind};
use crate::config::{InBatchSettings, LossSettings};

/// Activations begin at multiples of so many floats: 128 bytes, a line of the cache.
pub const ACT_ALIGN: usize = 32;

/// Where the next activation of `shape` goes; moves `top` behind it.
pub(crate) fn place(shape: &Shape, top: &mut usize, rows: RowKind, width: usize) -> Act {
    let count = match rows {
        RowKind::Tokens => shape.tokens,
        RowKind::Outputs => shape.outputs,
    } as usize;
    let act = Act { at: *top, rows, width };
    *top += (count * width).next_multiple_of(ACT_ALIGN);
    act
}

/// Counts activations and does nothing.
pub struct Meter {
    shape: Shape,
    top: usize,
}

impl Meter {
    /// A counter for steps of `shape`.
    pub fn new(shape: &Shape) -> Meter {
        Meter { shape: *shape, top: 0 }
    }

    /// Floats of the activations so far.
    pub fn floats(&self) -> usize {
        self.top
    }
}

impl Backend for Meter {
    fn act(&mut self, rows: RowKind, width: usize) -> Act {
        place(&self.shape, &mut self.top, rows, width)
    }
    fn embed(&mut self, _: f32, _: Option<usize>, _: Act) {}
    fn embed_backward(&mut self, _: f32, _: Option<usize>, _: Act) {}
    fn select(&mut self, _: Act, _: Act) {}
    fn select_backward(&mut self, _: Act, _: Act) {}
    fn layer_norm(&mut self, _: Act, _: usize, _: usize, _: Act, _: Act) {}
    fn layer_norm_backward(&mut self, _: Act, _: Act, _: usize, _: usize, _: Act, _: Act) {}
    fn linear(&mut self, _: Act, _: usize, _: usize, _: Act) {}
    fn linear_backward(&mut self, _: Act, _: Act, _: usize, _: usize, _: Option<Act>, _: bool) {}
    fn attention(&mut self, _: Mask, _: usize, _: Act, _: Act, _: Act, _: Act, _: Act) {}
    fn attention_backward(&mut self, _: Mask, heads: usize, q: Act, _: Act, _: Act, _: Act, _: Act, _: Act, _: Act, _: Act) {
        self.act(q.rows, super::ops::attention_scratch(heads));
    }
    fn gru(&mut self, _: Act, _: usize, _: usize, _: Act, _: Act, _: Act) {}
    fn gru_backward(&mut self, _: usize, _: usize, _: Act, _: Act, dh: Act, _: Act) {
        self.act(RowKind::Tokens, 3 * dh.width);
    }
    fn relu(&mut self, _: Act) {}
    fn relu_backward(&mut self, _: Act, _: Act) {}
    fn gelu(&mut self, _: Act, _: Act) {}
    fn gelu_backward(&mut self, _: Act, _: Act) {}
    fn dropout(&mut self, _: u32, _: f32, _: Act) {}
    fn drop_items(&mut self, _: f32) {}
    fn drop_items_backward(&mut self, _: f32) {}
    fn add(&mut self, _: Act, _: Act) {}
    fn add_mean(&mut self, _: f32, _: Act, _: Act) {}
    fn copy(&mut self, _: Act, _: Act) {}
    fn zero(&mut self, _: Act) {}
    fn next_item_loss(&mut self, _: &LossSettings, _: Act, _: Act) {}
    fn in_batch_info_nce(&mut self, _: &InBatchSettings, _: Act, _: [Act; 3], _: Act) {}
    fn info_nce(&mut self, _: &LossSettings, _: Act, _: Act) {}
}
