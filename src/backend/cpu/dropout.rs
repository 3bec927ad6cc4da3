//! Dropout: sixteen random bits an element, a function of where the element is.

use super::simd::{Simd, dispatch};
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

/// Blocks of draws that are made at a time.
const BLOCKS: usize = 16;

/// Elements of a block: each takes sixteen of its bits.
const ELEMENTS: usize = 8;

/// Inverted dropout in place, a function of the stream and of `base` alone.
pub(super) fn drop_out(stream: &Stream, base: u64, rate: f32, x: &mut [f32]) {
    if rate > 0.0 {
        // SAFETY: no instruction but those of the level.
        unsafe { drop_out_at(stream, base, dropout_threshold(rate), x) };
    }
}

dispatch! {
    /// [`drop_out`] below a threshold.
    unsafe fn drop_out_at(stream: &Stream, base: u64, at: (u32, f32), x: &mut [f32]) = drop_out_kernel
}

// Plain loops: what the level changes is the instructions that they are compiled to.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn drop_out_kernel<S: Simd>(stream: &Stream, base: u64, (threshold, factor): (u32, f32), x: &mut [f32]) {
    for (n, span) in x.chunks_mut(BLOCKS * ELEMENTS).enumerate() {
        let words = stream.blocks_at::<BLOCKS>(base + (n * BLOCKS) as u64, 1);
        let mut bits = [0u16; BLOCKS * ELEMENTS];
        for (i, bits) in bits.chunks_exact_mut(ELEMENTS).enumerate() {
            for (w, two) in bits.chunks_exact_mut(2).enumerate() {
                (two[0], two[1]) = (words[w][i] as u16, (words[w][i] >> 16) as u16);
            }
        }
        for (v, &bits) in span.iter_mut().zip(&bits) {
            *v *= if u32::from(bits) < threshold { 0.0 } else { factor };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Purpose;

    /// The definition, an element at a time: bits `16 (k % 2)` of word `k / 2` of its block.
    #[test]
    fn every_element_has_its_bits() {
        let stream = Stream::new(1, Purpose::Bench, 2, 3);
        for (n, base, rate) in [(1, 0, 0.5), (127, 5 << 40, 0.2), (128, 7, 0.01), (1001, u64::from(u32::MAX) - 3, 0.7)] {
            let mut x: Vec<f32> = (0..n).map(|i| i as f32 - 3.5).collect();
            let (threshold, factor) = dropout_threshold(rate);
            let want: Vec<f32> = (0..n)
                .map(|i| {
                    let words = stream.block_at(base + i as u64 / 8);
                    let bits = words[i % 8 / 2] >> (16 * (i % 2)) & 0xffff;
                    x[i] * if bits < threshold { 0.0 } else { factor }
                })
                .collect();
            drop_out(&stream, base, rate, &mut x);
            assert!(x.iter().zip(&want).all(|(x, w)| x.to_bits() == w.to_bits()), "{n} elements");
        }
    }
}
