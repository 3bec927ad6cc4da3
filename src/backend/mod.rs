//! The packed operations that models are written over, and the packed step they run on.
//!
//! A [`Step`] holds the tokens of `C` clients without padding. Each client has its own weights: a slab of dense weights
//! `[C, P]` and a table of the item rows it touches `[R, d]` with an offset per client. The CPU worker runs steps of one
//! client, start to end inside its cache; a GPU runs steps of thousands with the same operations.

pub mod cpu;
pub mod cuda;
mod local_step;
mod step;
mod table_row;

pub use local_step::LocalStep;
pub use step::*;
pub use table_row::TableRow;

use crate::config::{InBatchSettings, LossSettings};

/// Which rows an activation has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// Every packed token `T`.
    Tokens,
    /// Only the tokens whose hidden state is used `Q` (see [`Step::out_token`]).
    Outputs,
}

/// An activation `[rows, width]` in the backend's arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Act {
    /// First element in the arena.
    pub at: usize,
    /// Which rows.
    pub rows: RowKind,
    /// Row width.
    pub width: usize,
}

/// What a query of attention sees of its own sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// The tokens up to its own.
    Causal,
    /// Every token.
    Full,
}

/// The table of the packed operations, handed to a macro that makes something of it: the trait [`Backend`], or a backend that only counts
/// activations. `scratch` is an activation that the device's launches take for themselves, before anything else.
macro_rules! operations {
    ($make:ident) => {
        $make! {
            /// `y[t] = scale * row(t) + positions[position(t)]`, `y [T, d]`.
            fn embed(scale: f32, positions: Option<usize>, y: Act);
            /// Backward of [`Backend::embed`] into row and position gradients (added).
            fn embed_backward(scale: f32, positions: Option<usize>, dy: Act);

            /// `y[q] = x[token(q)]`, from `[T, w]` to `[Q, w]`.
            fn select(x: Act, y: Act);
            /// `dx[token(q)] += dy[q]`.
            fn select_backward(dy: Act, dx: Act);

            /// Layer norm with gain `g [w]` and bias `b [w]`; keeps what the backward pass needs in `stats [rows, 2]`.
            fn layer_norm(x: Act, g: usize, b: usize, y: Act, stats: Act);
            /// Adds to `dx`, writes the gradients of `g` and `b`.
            fn layer_norm_backward(x: Act, stats: Act, g: usize, b: usize, dy: Act, dx: Act);

            /// `y = x w + b`, `w [in, out]`.
            fn linear(x: Act, w: usize, b: usize, y: Act);
            /// Gradients of `w` and `b`, and of `x` into `dx` (added where `add`). The weight may be updated on the spot.
            fn linear_backward(x: Act, dy: Act, w: usize, b: usize, dx: Option<Act>, add: bool);

            /// Self-attention of each sequence under `mask`; `q`, `y` have either kind of rows, `k`, `v` every token. `stats [rows, heads]`.
            fn attention(mask: Mask, heads: usize, q: Act, k: Act, v: Act, y: Act, stats: Act);
            /// Writes `dq`, `dk`, `dv`.
            fn attention_backward(mask: Mask, heads: usize, q: Act, k: Act, v: Act, stats: Act, dy: Act, dq: Act, dk: Act, dv: Act)
                scratch attention_scratch(q, heads);

            /// Recurrence of a GRU layer: `xw [T, 3d]` is the input product, `h [T, d]`, `gates [T, 4d]`, `previous [T, d]`.
            fn gru(xw: Act, w: usize, b: usize, h: Act, gates: Act, previous: Act);
            /// From `dh` (used up) to `dxw [T, 3d]`, and the gradients of `w` and `b`.
            fn gru_backward(w: usize, b: usize, gates: Act, previous: Act, dh: Act, dxw: Act)
                scratch gru_scratch(dh);

            /// `x = max(x, 0)`.
            fn relu(x: Act);
            /// Zeroes `dx` where `y` is not positive.
            fn relu_backward(y: Act, dx: Act);
            /// `y = gelu(x)` in its tanh form, `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` (Hendrycks and Gimpel,
            /// arXiv 1606.08415). `x` is kept for the backward pass.
            fn gelu(x: Act, y: Act);
            /// Multiplies `dx` by the derivative of gelu at `x`.
            fn gelu_backward(x: Act, dx: Act);
            /// Inverted dropout in place, the same mask for the same `site` within a step: called on values going forward and on
            /// gradients going back. Does nothing outside training.
            fn dropout(site: u32, rate: f32, x: Act);

            /// Inverted dropout on the item table: until the step ends, every operation reads item rows through one mask, the same
            /// for the row as an input and as a candidate. Does nothing outside training.
            fn drop_items(rate: f32);
            /// The same mask on the row gradients, once they are complete.
            fn drop_items_backward(rate: f32);

            /// `y += x`.
            fn add(x: Act, y: Act);
            /// `y += factor / n x`, `n` the client's rows of that kind: what `factor` times a mean over the client's rows adds to each.
            fn add_mean(factor: f32, x: Act, y: Act);
            /// `y = x`.
            fn copy(x: Act, y: Act);
            /// `x = 0`.
            fn zero(x: Act);

            /// Next-item loss of the step's examples: adds to `dh [Q, d]` and to row gradients.
            fn next_item_loss(loss: &LossSettings, h: Act, dh: Act);
            /// InfoNCE of the step's pairs: each of a client's `2N` paired hidden states against its twin, with the other `2(N - 1)` as
            /// negatives, meaned over the `2N`, times the weight; adds to `dh [Q, d]`. A client with one pair has no negative, a loss of 0
            /// and no gradient. `scratch` has widths `d`, 1 and 1.
            fn in_batch_info_nce(settings: &InBatchSettings, h: Act, scratch: [Act; 3], dh: Act);
            /// Tri-view contrast of the step's groups, times lambda: adds to `dh [Q, d]`.
            fn info_nce(loss: &LossSettings, h: Act, dh: Act);
        }
    };
}
pub(crate) use operations;

macro_rules! backend_trait {
    ($($(#[$doc:meta])* fn $op:ident($($arg:ident: $kind:ty),* $(,)?) $(scratch $scratch:expr)?;)*) => {
        /// The packed operations. Weights are named by their offset in the dense slab; gradients of a weight are written (not
        /// added), so a weight takes part in one operation of a step only. `y`, `dy` and so on are activations of the arena.
        pub trait Backend {
            /// A fresh activation; its contents are undefined. All are given back when the next step begins.
            fn act(&mut self, rows: RowKind, width: usize) -> Act;

            $(
                $(#[$doc])*
                #[allow(clippy::too_many_arguments)]
                fn $op(&mut self, $($arg: $kind),*);
            )*
        }
    };
}
operations!(backend_trait);

/// Rows and width of what the backward pass of attention keeps for each query, between its two kernels.
pub(crate) fn attention_scratch(q: Act, heads: usize) -> (RowKind, usize) {
    (q.rows, 2 * heads)
}

/// Rows and width of the derivatives by a GRU's products with its weight.
pub(crate) fn gru_scratch(dh: Act) -> (RowKind, usize) {
    (RowKind::Tokens, 3 * dh.width)
}
