//! GRU4Rec (Hidasi et al., ICLR 2016): stacked gated recurrent layers and a linear output layer, no positions.

use super::spec::ModelSpec;
use crate::backend::{Act, Backend, RowKind};
use smallvec::SmallVec;

struct Layer {
    xw: usize,
    xb: usize,
    hw: usize,
    hb: usize,
}

/// GRU4Rec over the operations of a backend.
pub struct Gru4rec {
    d: usize,
    dropout: f32,
    pub(super) item_dropout: f32,
    scale: f32,
    layers: Vec<Layer>,
    out: (usize, usize),
}

struct Saved {
    x: Act,
    gates: Act,
    previous: Act,
}

/// What [`Gru4rec::forward`] leaves for [`Gru4rec::backward`].
pub struct Trace {
    layers: SmallVec<[Saved; 4]>,
    picked: Act,
    /// Hidden states `[Q, d]`.
    pub hidden: Act,
}

impl Gru4rec {
    /// Looks the offsets up in `spec`.
    pub fn new(spec: &ModelSpec) -> Gru4rec {
        let s = &spec.settings;
        let d = spec.dim();
        let at = |name: String| spec.offset(&name);
        Gru4rec {
            d,
            dropout: s.dropout,
            item_dropout: s.item_dropout,
            scale: if s.scale_items { (d as f32).sqrt() } else { 1.0 },
            layers: (0..s.blocks)
                .map(|b| Layer {
                    xw: at(format!("layer{b}.x.w")),
                    xb: at(format!("layer{b}.x.b")),
                    hw: at(format!("layer{b}.h.w")),
                    hb: at(format!("layer{b}.h.b")),
                })
                .collect(),
            out: (spec.offset("out.w"), spec.offset("out.b")),
        }
    }

    /// Hidden states of the step's output rows.
    pub fn forward<B: Backend>(&self, be: &mut B) -> Trace {
        let d = self.d;
        let mut x = be.act(RowKind::Tokens, d);
        be.embed(self.scale, None, x);
        be.dropout(0, self.dropout, x);
        // Up to four stay on the stack: a step allocates nothing.
        let mut layers = SmallVec::new();
        for l in &self.layers {
            let (xw, h) = (be.act(RowKind::Tokens, 3 * d), be.act(RowKind::Tokens, d));
            let (gates, previous) = (be.act(RowKind::Tokens, 4 * d), be.act(RowKind::Tokens, d));
            be.linear(x, l.xw, l.xb, xw);
            be.gru(xw, l.hw, l.hb, h, gates, previous);
            layers.push(Saved { x, gates, previous });
            x = h;
        }
        let (picked, hidden) = (be.act(RowKind::Outputs, d), be.act(RowKind::Outputs, d));
        be.select(x, picked);
        be.linear(picked, self.out.0, self.out.1, hidden);
        Trace { layers, picked, hidden }
    }

    /// Gradients of everything from `dh [Q, d]`.
    pub fn backward<B: Backend>(&self, be: &mut B, trace: &Trace, dh: Act) {
        let d = self.d;
        let (dpicked, mut dx) = (be.act(RowKind::Outputs, d), be.act(RowKind::Tokens, d));
        be.linear_backward(trace.picked, dh, self.out.0, self.out.1, Some(dpicked), false);
        be.zero(dx);
        be.select_backward(dpicked, dx);
        for (l, s) in self.layers.iter().zip(&trace.layers).rev() {
            let (dxw, below) = (be.act(RowKind::Tokens, 3 * d), be.act(RowKind::Tokens, d));
            be.gru_backward(l.hw, l.hb, s.gates, s.previous, dx, dxw);
            be.linear_backward(s.x, dxw, l.xw, l.xb, Some(below), false);
            dx = below;
        }
        be.dropout(0, self.dropout, dx);
        be.embed_backward(self.scale, None, dx);
    }
}
