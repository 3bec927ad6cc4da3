//! BERT4Rec (Sun et al., CIKM 2019): bidirectional blocks with the norm behind each residual, `x = LN(x + o(attention(x)))`, then
//! `x = LN(x + f2(gelu(f1 x)))`, over the norm of item rows plus learned positions, and a head `LN(gelu(out x))` whose output is
//! scored against the item rows. Hidden states are asked for at mask tokens: those of the training sequence, or the one appended
//! to a history. In the last block queries and the feed-forward layer run only on them.
//!
//! From the published code and not in the paper's formulas: the norm of the embedding, the norm of the head, gelu in its tanh
//! form. Left out: the head's bias for each item.

use super::{Encoder, Layout, Linear, Norm, Passed, dropped};
use crate::backend::{Act, Backend, Mask, RowKind};
use crate::config::ModelSettings;
use smallvec::SmallVec;

/// Weights of one block, in their order in the slab.
struct Block {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    norm1: Norm,
    f1: Linear,
    f2: Linear,
    norm2: Norm,
}

/// BERT4Rec over the operations of a backend.
pub struct Bert4rec {
    d: usize,
    inner: usize,
    heads: usize,
    dropout: f32,
    scale: f32,
    positions: usize,
    norm: Norm,
    blocks: Vec<Block>,
    out: Linear,
    out_norm: Norm,
}

/// Activations that the backward pass of one block needs.
struct Saved {
    /// Block input, every token.
    x: Act,
    /// Block input on the block's output rows.
    xq: Act,
    q: Act,
    k: Act,
    v: Act,
    mixed: Act,
    lse: Act,
    /// Residual sum after the attention, its norm's statistics, and the norm.
    sum1: Act,
    stats1: Act,
    mid: Act,
    /// Feed-forward layer before and after gelu.
    pre: Act,
    inner: Act,
    /// Residual sum after the feed-forward layer and its norm's statistics.
    sum2: Act,
    stats2: Act,
}

/// What [`Bert4rec::forward`] leaves for [`Bert4rec::backward`].
pub struct Trace {
    embedded: Act,
    stats: Act,
    blocks: SmallVec<[Saved; 4]>,
    /// Of the head: its input, before and after gelu, the norm's statistics.
    last: Act,
    pre: Act,
    post: Act,
    out_stats: Act,
    hidden: Act,
}

impl Passed for Trace {
    fn hidden(&self) -> Act {
        self.hidden
    }
}

impl Encoder for Bert4rec {
    type Trace = Trace;

    fn new(s: &ModelSettings, layout: &mut Layout) -> Bert4rec {
        let d = s.dim as usize;
        let inner = if s.ffn == 0 { 4 * d } else { s.ffn as usize };
        layout.ask_with("mask");
        Bert4rec {
            d,
            inner,
            heads: s.heads as usize,
            dropout: s.dropout,
            scale: if s.scale_items { (d as f32).sqrt() } else { 1.0 },
            positions: layout.positions("positions", s.max_len as usize, d),
            norm: layout.norm("norm", d),
            blocks: (0..s.blocks)
                .map(|b| Block {
                    q: layout.linear(format!("block{b}.q"), d, d),
                    k: layout.linear(format!("block{b}.k"), d, d),
                    v: layout.linear(format!("block{b}.v"), d, d),
                    o: layout.linear(format!("block{b}.o"), d, d),
                    norm1: layout.norm(format!("block{b}.norm1"), d),
                    f1: layout.linear(format!("block{b}.f1"), d, inner),
                    f2: layout.linear(format!("block{b}.f2"), inner, d),
                    norm2: layout.norm(format!("block{b}.norm2"), d),
                })
                .collect(),
            out: layout.linear("out", d, d),
            out_norm: layout.norm("out.norm", d),
        }
    }

    fn forward(&self, be: &mut dyn Backend) -> Trace {
        let (d, rate) = (self.d, self.dropout);
        let (embedded, stats) = (be.act(RowKind::Tokens, d), be.act(RowKind::Tokens, 2));
        be.embed(self.scale, Some(self.positions), embedded);
        let mut x = be.act(RowKind::Tokens, d);
        be.layer_norm(embedded, self.norm.g, self.norm.b, x, stats);
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
            let (q, k, v) = (be.act(rows, d), be.act(RowKind::Tokens, d), be.act(RowKind::Tokens, d));
            be.linear(xq, b.q.w, b.q.b, q);
            be.linear(x, b.k.w, b.k.b, k);
            be.linear(x, b.v.w, b.v.b, v);
            let (mixed, lse) = (be.act(rows, d), be.act(rows, self.heads));
            be.attention(Mask::Full, self.heads, q, k, v, mixed, lse);
            let (sum1, stats1, mid) = (be.act(rows, d), be.act(rows, 2), be.act(rows, d));
            be.linear(mixed, b.o.w, b.o.b, sum1);
            be.dropout(site, rate, sum1);
            be.add(xq, sum1);
            be.layer_norm(sum1, b.norm1.g, b.norm1.b, mid, stats1);
            let (pre, inner) = (be.act(rows, self.inner), be.act(rows, self.inner));
            be.linear(mid, b.f1.w, b.f1.b, pre);
            be.gelu(pre, inner);
            let (sum2, stats2, out) = (be.act(rows, d), be.act(rows, 2), be.act(rows, d));
            be.linear(inner, b.f2.w, b.f2.b, sum2);
            be.dropout(site + 2, rate, sum2);
            be.add(mid, sum2);
            be.layer_norm(sum2, b.norm2.g, b.norm2.b, out, stats2);
            blocks.push(Saved { x, xq, q, k, v, mixed, lse, sum1, stats1, mid, pre, inner, sum2, stats2 });
            x = out;
        }
        let (pre, post) = (be.act(RowKind::Outputs, d), be.act(RowKind::Outputs, d));
        be.linear(x, self.out.w, self.out.b, pre);
        be.gelu(pre, post);
        let (hidden, out_stats) = (be.act(RowKind::Outputs, d), be.act(RowKind::Outputs, 2));
        be.layer_norm(post, self.out_norm.g, self.out_norm.b, hidden, out_stats);
        Trace { embedded, stats, blocks, last: x, pre, post, out_stats, hidden }
    }

    fn backward(&self, be: &mut dyn Backend, trace: &Trace, dh: Act) {
        let (d, rate) = (self.d, self.dropout);
        let (dpost, mut dx) = (be.act(RowKind::Outputs, d), be.act(RowKind::Outputs, d));
        be.zero(dpost);
        be.layer_norm_backward(trace.post, trace.out_stats, self.out_norm.g, self.out_norm.b, dh, dpost);
        be.gelu_backward(trace.pre, dpost);
        be.linear_backward(trace.last, dpost, self.out.w, self.out.b, Some(dx), false);
        for (i, (b, s)) in self.blocks.iter().zip(&trace.blocks).enumerate().rev() {
            let site = 1 + 3 * i as u32;
            let rows = s.xq.rows;
            // Feed-forward: `dsum` becomes the gradient of the residual sum and, as the residual carries it, of `mid`.
            let (dsum, t, di) = (be.act(rows, d), be.act(rows, d), be.act(rows, self.inner));
            be.zero(dsum);
            be.layer_norm_backward(s.sum2, s.stats2, b.norm2.g, b.norm2.b, dx, dsum);
            let dy = dropped(be, site + 2, rate, dsum, t);
            be.linear_backward(s.inner, dy, b.f2.w, b.f2.b, Some(di), false);
            be.gelu_backward(s.pre, di);
            be.linear_backward(s.mid, di, b.f1.w, b.f1.b, Some(dsum), true);
            // Attention: `dxq` becomes the gradient of the residual sum and of `xq`.
            let (dxq, dmixed) = (be.act(rows, d), be.act(rows, d));
            be.zero(dxq);
            be.layer_norm_backward(s.sum1, s.stats1, b.norm1.g, b.norm1.b, dsum, dxq);
            let dy = dropped(be, site, rate, dxq, t);
            be.linear_backward(s.mixed, dy, b.o.w, b.o.b, Some(dmixed), false);
            let (dq, dk, dv) = (be.act(rows, d), be.act(RowKind::Tokens, d), be.act(RowKind::Tokens, d));
            be.attention_backward(Mask::Full, self.heads, s.q, s.k, s.v, s.lse, dmixed, dq, dk, dv);
            be.linear_backward(s.xq, dq, b.q.w, b.q.b, Some(dxq), true);
            let dtokens = if rows == RowKind::Tokens {
                be.linear_backward(s.x, dk, b.k.w, b.k.b, Some(dxq), true);
                dxq
            } else {
                let full = be.act(RowKind::Tokens, d);
                be.linear_backward(s.x, dk, b.k.w, b.k.b, Some(full), false);
                be.select_backward(dxq, full);
                full
            };
            be.linear_backward(s.x, dv, b.v.w, b.v.b, Some(dtokens), true);
            dx = dtokens;
        }
        be.dropout(0, rate, dx);
        let dembedded = be.act(RowKind::Tokens, d);
        be.zero(dembedded);
        be.layer_norm_backward(trace.embedded, trace.stats, self.norm.g, self.norm.b, dx, dembedded);
        be.embed_backward(self.scale, Some(self.positions), dembedded);
    }
}
