//! Dropout: sixteen random bits an element, a function of where the element is.

use crate::base::rng::{Stream, dropout_threshold};

/// The dropout site of the item table, beyond those of any model (64 blocks have fewer than 200).
pub(super) const ITEM_SITE: u64 = 255;

/// Where the draws for the item table of step `number` begin.
fn item_base(number: u32) -> u64 {
    u64::from(number) << 40 | ITEM_SITE << 32
}

/// Inverted dropout of the item table of step `number`, on the elements from `first` (a multiple of 8) on: the mask that
/// [`drop_items`](crate::backend::Backend::drop_items) puts on the whole table.
pub fn drop_items_span(stream: &Stream, number: u32, rate: f32, first: usize, x: &mut [f32]) {
    assert!(first.is_multiple_of(8), "a span of the item table begins at a block of draws");
    drop_out(stream, item_base(number) + first as u64 / 8, rate, x);
}

/// Inverted dropout in place, a function of the stream and of `base` alone.
pub(super) fn drop_out(stream: &Stream, base: u64, rate: f32, x: &mut [f32]) {
    if rate <= 0.0 {
        return;
    }
    // Sixteen random bits an element: eight elements a block.
    let (threshold, keep) = dropout_threshold(rate);
    for (i, eight) in x.chunks_mut(8).enumerate() {
        let words = stream.block_at(base + i as u64);
        for (k, v) in eight.iter_mut().enumerate() {
            let bits = (words[k / 2] >> (16 * (k as u32 % 2))) & 0xffff;
            *v *= if bits < threshold { 0.0 } else { keep };
        }
    }
}
