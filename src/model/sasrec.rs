//! SASRec (Kang and McAuley, ICDM 2018) with pre-norm blocks: `x += o(attention(q(LN x), k(x), v(x)))`, then
//! `x += f2(relu(f1(LN x)))`, and a last norm. In the last block queries and the feed-forward layer run only on the rows
//! whose hidden state is used: all of a history, the last token of a view.

use super::spec::ModelSpec;
use crate::backend::{Act, Backend, RowKind};
use crate::config::Residual;
use smallvec::SmallVec;

/// Offsets of one linear layer.
#[derive(Clone, Copy)]
struct Lin {
    w: usize,
    b: usize,
}

struct Block {
    norm1: Lin,
    norm2: Lin,
    q: Lin,
    k: Lin,
    v: Lin,
    o: Lin,
    f1: Lin,
    f2: Lin,
}

/// SASRec over the operations of a backend.
pub struct Sasrec {
    d: usize,
    inner: usize,
    heads: usize,
    dropout: f32,
    pub(super) item_dropout: f32,
    scale: f32,
    positions: usize,
    /// The residual carries the norm's output.
    normed: bool,
    blocks: Vec<Block>,
    norm: Lin,
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

impl Sasrec {
    /// Looks the offsets up in `spec`.
    pub fn new(spec: &ModelSpec) -> Sasrec {
        let s = &spec.settings;
        let lin = |name: String| Lin { w: spec.offset(&format!("{name}.w")), b: spec.offset(&format!("{name}.b")) };
        let norm = |name: String| Lin { w: spec.offset(&format!("{name}.g")), b: spec.offset(&format!("{name}.b")) };
        let d = spec.dim();
        Sasrec {
            d,
            inner: if s.ffn == 0 { d } else { s.ffn as usize },
            heads: s.heads as usize,
            dropout: s.dropout,
            item_dropout: s.item_dropout,
            scale: if s.scale_items { (d as f32).sqrt() } else { 1.0 },
            positions: spec.offset("positions"),
            normed: s.residual == Residual::Normed,
            blocks: (0..s.blocks)
                .map(|b| Block {
                    norm1: norm(format!("block{b}.norm1")),
                    norm2: norm(format!("block{b}.norm2")),
                    q: lin(format!("block{b}.q")),
                    k: lin(format!("block{b}.k")),
                    v: lin(format!("block{b}.v")),
                    o: lin(format!("block{b}.o")),
                    f1: lin(format!("block{b}.f1")),
                    f2: lin(format!("block{b}.f2")),
                })
                .collect(),
            norm: norm("norm".into()),
        }
    }

    /// Hidden states of the step's output rows.
    pub fn forward<B: Backend>(&self, be: &mut B) -> Trace {
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
            be.layer_norm(xq, b.norm1.w, b.norm1.b, norm1, stats1);
            let (q, k, v) = (be.act(rows, d), be.act(RowKind::Tokens, d), be.act(RowKind::Tokens, d));
            be.linear(norm1, b.q.w, b.q.b, q);
            be.linear(x, b.k.w, b.k.b, k);
            be.linear(x, b.v.w, b.v.b, v);
            let (mixed, lse) = (be.act(rows, d), be.act(rows, self.heads));
            be.attention(self.heads, q, k, v, mixed, lse);
            let mid = be.act(rows, d);
            be.linear(mixed, b.o.w, b.o.b, mid);
            be.dropout(site, rate, mid);
            be.add(if self.normed { norm1 } else { xq }, mid);
            let (norm2, stats2) = (be.act(rows, d), be.act(rows, 2));
            be.layer_norm(mid, b.norm2.w, b.norm2.b, norm2, stats2);
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
        be.layer_norm(x, self.norm.w, self.norm.b, hidden, stats);
        Trace { blocks, last: x, stats, hidden }
    }

    /// Where the residual carries the normed input, its gradient `dx` belongs to the norm's output `dnorm`.
    fn residual_backward<B: Backend>(&self, be: &mut B, dx: Act, dnorm: Act) {
        if self.normed {
            be.add(dx, dnorm);
            be.zero(dx);
        }
    }

    /// The gradient `dx` under the dropout of `site`, in `t`; `dx` itself where nothing is dropped.
    fn dropped<B: Backend>(&self, be: &mut B, site: u32, dx: Act, t: Act) -> Act {
        if self.dropout == 0.0 {
            return dx;
        }
        be.copy(dx, t);
        be.dropout(site, self.dropout, t);
        t
    }

    /// Gradients of everything from `dh [Q, d]`.
    pub fn backward<B: Backend>(&self, be: &mut B, trace: &Trace, dh: Act) {
        let (d, rate) = (self.d, self.dropout);
        let mut dx = be.act(RowKind::Outputs, d);
        be.zero(dx);
        be.layer_norm_backward(trace.last, trace.stats, self.norm.w, self.norm.b, dh, dx);
        for (i, (b, s)) in self.blocks.iter().zip(&trace.blocks).enumerate().rev() {
            let site = 1 + 3 * i as u32;
            let rows = s.xq.rows;
            // Feed-forward: `dx` is the gradient of the block's output and, through the residual, of `mid`.
            let (t, di) = (be.act(rows, d), be.act(rows, self.inner));
            let dy = self.dropped(be, site + 2, dx, t);
            be.linear_backward(s.inner, dy, b.f2.w, b.f2.b, Some(di), false);
            be.dropout(site + 1, rate, di);
            be.relu_backward(s.inner, di);
            be.linear_backward(s.norm2, di, b.f1.w, b.f1.b, Some(t), false);
            self.residual_backward(be, dx, t);
            be.layer_norm_backward(s.mid, s.stats2, b.norm2.w, b.norm2.b, t, dx);
            // Attention: `dx` is now the gradient of `mid` and, through the residual, of `xq`.
            let dy = self.dropped(be, site, dx, t);
            let dmixed = be.act(rows, d);
            be.linear_backward(s.mixed, dy, b.o.w, b.o.b, Some(dmixed), false);
            let (dq, dk, dv) = (be.act(rows, d), be.act(RowKind::Tokens, d), be.act(RowKind::Tokens, d));
            be.attention_backward(self.heads, s.q, s.k, s.v, s.lse, dmixed, dq, dk, dv);
            be.linear_backward(s.norm1, dq, b.q.w, b.q.b, Some(t), false);
            self.residual_backward(be, dx, t);
            be.layer_norm_backward(s.xq, s.stats1, b.norm1.w, b.norm1.b, t, dx);
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
