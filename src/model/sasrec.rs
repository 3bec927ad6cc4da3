//! SASRec (Kang and McAuley, ICDM 2018) with pre-norm blocks: `x += o(attention(q(LN x), k(x), v(x)))`, then
//! `x += f2(relu(f1(LN x)))`, and a last norm. In the last block queries and the feed-forward layer run only on the rows
//! whose hidden state is used: all of a history, the last token of a view.

use super::{Encoder, Layout, Linear, Norm, Passed, dropped};
use crate::backend::{Act, Backend, Mask, RowKind};
use crate::config::{ModelSettings, Residual};
use smallvec::SmallVec;

/// Weights of one block, in their order in the slab.
struct Block {
    norm1: Norm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    norm2: Norm,
    f1: Linear,
    f2: Linear,
}

/// SASRec over the operations of a backend.
pub struct Sasrec {
    d: usize,
    inner: usize,
    heads: usize,
    dropout: f32,
    scale: f32,
    positions: usize,
    /// The residual carries the norm's output.
    normed: bool,
    blocks: Vec<Block>,
    norm: Norm,
}

/// Activations that the backward pass of one block needs.
struct Saved {
    /// Block input, every token.
    x: Act,
    /// Block input on the block's output rows.
    xq: Act,
    norm1: Act,
    stats1: Act,
    q: Act,
    k: Act,
    v: Act,
    mixed: Act,
    lse: Act,
    /// After the attention's residual.
    mid: Act,
    norm2: Act,
    stats2: Act,
    inner: Act,
}

/// What [`Sasrec::forward`] leaves for [`Sasrec::backward`].
pub struct Trace {
    blocks: SmallVec<[Saved; 4]>,
    last: Act,
    stats: Act,
    /// Hidden states `[Q, d]`.
    pub hidden: Act,
}

impl Passed for Trace {
    fn hidden(&self) -> Act {
        self.hidden
    }
}

impl Sasrec {
    /// Offsets in the slab of the first block and of the last norm. Blocks follow each other without gaps.
    pub(crate) fn places(settings: &ModelSettings) -> (usize, usize) {
        let model = Sasrec::new(settings, &mut Layout::new(settings));
        (model.blocks.first().map_or(model.norm.g, |b| b.norm1.g), model.norm.g)
    }

    /// Where the residual carries the normed input, its gradient `dx` belongs to the norm's output `dnorm`.
    fn residual_backward(&self, be: &mut dyn Backend, dx: Act, dnorm: Act) {
        if self.normed {
            be.add(dx, dnorm);
            be.zero(dx);
        }
    }
}

impl Encoder for Sasrec {
    type Trace = Trace;

    fn new(s: &ModelSettings, layout: &mut Layout) -> Sasrec {
        let d = s.dim as usize;
        let inner = if s.ffn == 0 { d } else { s.ffn as usize };
        Sasrec {
            d,
            inner,
            heads: s.heads as usize,
            dropout: s.dropout,
            scale: if s.scale_items { (d as f32).sqrt() } else { 1.0 },
            positions: layout.positions("positions", s.max_len as usize, d),
            normed: s.residual == Residual::Normed,
            blocks: (0..s.blocks)
                .map(|b| Block {
                    norm1: layout.norm(format!("block{b}.norm1"), d),
                    q: layout.linear(format!("block{b}.q"), d, d),
                    k: layout.linear(format!("block{b}.k"), d, d),
                    v: layout.linear(format!("block{b}.v"), d, d),
                    o: layout.linear(format!("block{b}.o"), d, d),
                    norm2: layout.norm(format!("block{b}.norm2"), d),
                    f1: layout.linear(format!("block{b}.f1"), d, inner),
                    f2: layout.linear(format!("block{b}.f2"), inner, d),
                })
                .collect(),
            norm: layout.norm("norm", d),
        }
    }

    fn forward(&self, be: &mut dyn Backend) -> Trace {
        let (d, rate) = (self.d, self.dropout);
        let mut x = be.act(RowKind::Tokens, d);
        be.embed(self.scale, Some(self.positions), x);
        be.dropout(0, rate, x);
        // Up to four stay on the stack: a step allocates nothing.
        let mut blocks = SmallVec::new();
        for (i, b) in self.blocks.iter().enumerate() {
            let site = 1 + 3 * i as u32;
            let rows = if i + 1 == self.blocks.len() { RowKind::Outputs } else { RowKind::Tokens };
            let xq = if rows == RowKind::Tokens {
                x
            } else {
                let xq = be.act(rows, d);
                be.select(x, xq);
                xq
            };
            let (norm1, stats1) = (be.act(rows, d), be.act(rows, 2));
            be.layer_norm(xq, b.norm1.g, b.norm1.b, norm1, stats1);
            let (q, k, v) = (be.act(rows, d), be.act(RowKind::Tokens, d), be.act(RowKind::Tokens, d));
            be.linear(norm1, b.q.w, b.q.b, q);
            be.linear(x, b.k.w, b.k.b, k);
            be.linear(x, b.v.w, b.v.b, v);
            let (mixed, lse) = (be.act(rows, d), be.act(rows, self.heads));
            be.attention(Mask::Causal, self.heads, q, k, v, mixed, lse);
            let mid = be.act(rows, d);
            be.linear(mixed, b.o.w, b.o.b, mid);
            be.dropout(site, rate, mid);
            be.add(if self.normed { norm1 } else { xq }, mid);
            let (norm2, stats2) = (be.act(rows, d), be.act(rows, 2));
            be.layer_norm(mid, b.norm2.g, b.norm2.b, norm2, stats2);
            let inner = be.act(rows, self.inner);
            be.linear(norm2, b.f1.w, b.f1.b, inner);
            be.relu(inner);
            be.dropout(site + 1, rate, inner);
            let out = be.act(rows, d);
            be.linear(inner, b.f2.w, b.f2.b, out);
            be.dropout(site + 2, rate, out);
            be.add(if self.normed { norm2 } else { mid }, out);
            blocks.push(Saved { x, xq, norm1, stats1, q, k, v, mixed, lse, mid, norm2, stats2, inner });
            x = out;
        }
        let (hidden, stats) = (be.act(RowKind::Outputs, d), be.act(RowKind::Outputs, 2));
        be.layer_norm(x, self.norm.g, self.norm.b, hidden, stats);
        Trace { blocks, last: x, stats, hidden }
    }

    fn backward(&self, be: &mut dyn Backend, trace: &Trace, dh: Act) {
        let (d, rate) = (self.d, self.dropout);
        let mut dx = be.act(RowKind::Outputs, d);
        be.zero(dx);
        be.layer_norm_backward(trace.last, trace.stats, self.norm.g, self.norm.b, dh, dx);
        for (i, (b, s)) in self.blocks.iter().zip(&trace.blocks).enumerate().rev() {
            let site = 1 + 3 * i as u32;
            let rows = s.xq.rows;
            // Feed-forward: `dx` is the gradient of the block's output and, through the residual, of `mid`.
            let (t, di) = (be.act(rows, d), be.act(rows, self.inner));
            let dy = dropped(be, site + 2, rate, dx, t);
            be.linear_backward(s.inner, dy, b.f2.w, b.f2.b, Some(di), false);
            be.dropout(site + 1, rate, di);
            be.relu_backward(s.inner, di);
            be.linear_backward(s.norm2, di, b.f1.w, b.f1.b, Some(t), false);
            self.residual_backward(be, dx, t);
            be.layer_norm_backward(s.mid, s.stats2, b.norm2.g, b.norm2.b, t, dx);
            // Attention: `dx` is now the gradient of `mid` and, through the residual, of `xq`.
            let dy = dropped(be, site, rate, dx, t);
            let dmixed = be.act(rows, d);
            be.linear_backward(s.mixed, dy, b.o.w, b.o.b, Some(dmixed), false);
            let (dq, dk, dv) = (be.act(rows, d), be.act(RowKind::Tokens, d), be.act(RowKind::Tokens, d));
            be.attention_backward(Mask::Causal, self.heads, s.q, s.k, s.v, s.lse, dmixed, dq, dk, dv);
            be.linear_backward(s.norm1, dq, b.q.w, b.q.b, Some(t), false);
            self.residual_backward(be, dx, t);
            be.layer_norm_backward(s.xq, s.stats1, b.norm1.g, b.norm1.b, t, dx);
            let dtokens = if rows == RowKind::Tokens {
                be.linear_backward(s.x, dk, b.k.w, b.k.b, Some(dx), true);
                dx
            } else {
                let full = be.act(RowKind::Tokens, d);
                be.linear_backward(s.x, dk, b.k.w, b.k.b, Some(full), false);
                be.select_backward(dx, full);
                full
            };
            be.linear_backward(s.x, dv, b.v.w, b.v.b, Some(dtokens), true);
            dx = dtokens;
        }
        be.dropout(0, rate, dx);
        be.embed_backward(self.scale, Some(self.positions), dx);
    }
}
