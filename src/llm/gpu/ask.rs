//! The next tokens asked for, as the kernel that chooses them wants them.

use super::super::network::SampleRequest;
use super::super::sample::Sampling;
use crate::device::bytes_of;
use crate::device::mirror::mirrored;
use std::ops::Range;

mirrored! {
    /// `TokenAsk` of `decoder_choice.cu`.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct TokenAsk {
        /// The draw, in `[0, 1)`.
        pub unit: f64,
        /// Temperature; 0 is greedy.
        pub temperature: f32,
        /// Share of the probability that candidates hold.
        pub top_p: f32,
        /// Repetition penalty on tokens that were seen.
        pub penalty: f32,
        /// Most candidates; 0: any number.
        pub top_k: u32,
        /// Row of the logits; -1: the logits of the allowed tokens stand one by one.
        pub row: i32,
        /// Where the list of allowed tokens begins.
        pub allowed: i32,
        /// Allowed tokens; -1: any token.
        pub allowed_n: i32,
        /// Where the list of seen tokens begins.
        pub seen: i32,
        /// Seen tokens.
        pub seen_n: i32,
        /// Where the list of what is added to the logits of the allowed tokens begins; -1: nothing is.
        pub biases: i32,
    }
}

impl TokenAsk {
    /// A token of any kind by `sampling`, from the logits of `row`, with the draw `unit`.
    pub(crate) fn any(sampling: &Sampling, unit: f64, row: i32) -> TokenAsk {
        TokenAsk {
            unit,
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            penalty: sampling.repetition_penalty,
            top_k: sampling.top_k,
            row,
            allowed: 0,
            allowed_n: -1,
            seen: 0,
            seen_n: 0,
            biases: -1,
        }
    }
}

/// Asks and their lists in one piece of memory; ranges are bytes.
#[derive(Debug, Default)]
pub(super) struct RequestBytes {
    pub bytes: Vec<u8>,
    pub asks: Range<usize>,
    /// Tokens that may come; those of narrow asks first, as their logits lie in the same order.
    pub allowed: Range<usize>,
    pub seen: Range<usize>,
    /// What is added to logits.
    pub biases: Range<usize>,
    /// Row and token of every logit of narrow asks `[pairs, 2]`.
    pub pairs: Range<usize>,
    pub pair_count: usize,
    /// Rows whose logits are wanted for the whole vocabulary, in the order of the asks.
    pub rows: Range<usize>,
    pub row_count: usize,
}

/// Whether so few tokens may come that their logits are computed one by one. It depends on the ask alone, for the two ways sum in
/// different orders. At most as many weights are read for 256 such asks as for one whole product.
fn is_narrow(ask: &SampleRequest<'_>, vocab: usize) -> bool {
    ask.allowed.is_some_and(|allowed| allowed.len() <= vocab / 256)
}

impl RequestBytes {
    pub fn new(asks: &[SampleRequest<'_>], vocab: usize) -> RequestBytes {
        let (mut allowed, mut seen, mut biases, mut pairs, mut rows) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut all: Vec<TokenAsk> = asks
            .iter()
            .map(|ask| {
                let start = seen.len() as i32;
                if ask.sampling.repetition_penalty != 1.0 {
                    seen.extend(ask.seen.iter().map(|t| *t as i32));
                }
                let unit = if ask.sampling.is_greedy() { 0.0 } else { ask.key.unit(ask.position) };
                TokenAsk { seen: start, seen_n: seen.len() as i32 - start, ..TokenAsk::any(&ask.sampling, unit, -1) }
            })
            .collect();
        for narrow in [true, false] {
            for (ask, entry) in asks.iter().zip(&mut all).filter(|(ask, _)| is_narrow(ask, vocab) == narrow) {
                if !ask.biases.is_empty() {
                    entry.biases = biases.len() as i32;
                    biases.extend_from_slice(ask.biases);
                }
                if let Some(list) = ask.allowed {
                    (entry.allowed, entry.allowed_n) = (allowed.len() as i32, list.len() as i32);
                    allowed.extend(list.iter().map(|t| *t as i32));
                }
                if narrow {
                    pairs.extend(ask.allowed.unwrap_or_default().iter().flat_map(|t| [ask.row as i32, *t as i32]));
                } else {
                    entry.row = rows.len() as i32;
                    rows.push(ask.row as i32);
                }
            }
        }
        let mut packed = RequestBytes { pair_count: pairs.len() / 2, row_count: rows.len(), ..RequestBytes::default() };
        let mut add = |bytes: &[u8]| {
            let start = packed.bytes.len();
            packed.bytes.extend_from_slice(bytes);
            start..packed.bytes.len()
        };
        packed.asks = add(bytes_of(&all));
        packed.allowed = add(bytes_of(&allowed));
        packed.seen = add(bytes_of(&seen));
        packed.biases = add(bytes_of(&biases));
        packed.pairs = add(bytes_of(&pairs));
        packed.rows = add(bytes_of(&rows));
        packed
    }
}
