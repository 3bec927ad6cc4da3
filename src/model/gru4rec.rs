//! GRU4Rec (Hidasi et al., ICLR 2016): stacked gated recurrent layers and a linear output layer, no positions.

use super::{Encoder, Layout, Linear, Passed};
use crate::backend::{Act, Backend, RowKind};
use crate::config::ModelSettings;
use smallvec::SmallVec;

/// Input product and recurrence of a layer.
struct Layer {
    x: Linear,
    h: Linear,
}

/// GRU4Rec over the operations of a backend.
pub struct Gru4rec {
    d: usize,
    dropout: f32,
    scale: f32,
    layers: Vec<Layer>,
    out: Linear,
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

impl Passed for Trace {
    fn hidden(&self) -> Act {
        self.hidden
    }
}

impl Encoder for Gru4rec {
    type Trace = Trace;

    fn new(s: &ModelSettings, layout: &mut Layout) -> Gru4rec {
        let d = s.dim as usize;
        Gru4rec {
            d,
            dropout: s.dropout,
            scale: if s.scale_items { (d as f32).sqrt() } else { 1.0 },
            layers: (0..s.blocks)
                .map(|b| Layer { x: layout.linear(format!("layer{b}.x"), d, 3 * d), h: layout.linear(format!("layer{b}.h"), d, 3 * d) })
                .collect(),
            out: layout.linear("out", d, d),
        }
    }

    fn forward(&self, be: &mut dyn Backend) -> Trace {
        let d = self.d;
        let mut x = be.act(RowKind::Tokens, d);
        be.embed(self.scale, None, x);
        be.dropout(0, self.dropout, x);
        // Up to four stay on the stack: a step allocates nothing.
        let mut layers = SmallVec::new();
        for l in &self.layers {
            let (xw, h) = (be.act(RowKind::Tokens, 3 * d), be.act(RowKind::Tokens, d));
            let (gates, previous) = (be.act(RowKind::Tokens, 4 * d), be.act(RowKind::Tokens, d));
            be.linear(x, l.x.w, l.x.b, xw);
            be.gru(xw, l.h.w, l.h.b, h, gates, previous);
            layers.push(Saved { x, gates, previous });
            x = h;
        }
        let (picked, hidden) = (be.act(RowKind::Outputs, d), be.act(RowKind::Outputs, d));
        be.select(x, picked);
        be.linear(picked, self.out.w, self.out.b, hidden);
        Trace { layers, picked, hidden }
    }

    fn backward(&self, be: &mut dyn Backend, trace: &Trace, dh: Act) {
        let d = self.d;
        let (dpicked, mut dx) = (be.act(RowKind::Outputs, d), be.act(RowKind::Tokens, d));
        be.linear_backward(trace.picked, dh, self.out.w, self.out.b, Some(dpicked), false);
        be.zero(dx);
        be.select_backward(dpicked, dx);
        for (l, s) in self.layers.iter().zip(&trace.layers).rev() {
            let (dxw, below) = (be.act(RowKind::Tokens, 3 * d), be.act(RowKind::Tokens, d));
            be.gru_backward(l.h.w, l.h.b, s.gates, s.previous, dx, dxw);
            be.linear_backward(s.x, dxw, l.x.w, l.x.b, Some(below), false);
            dx = below;
        }
        be.dropout(0, self.dropout, dx);
        be.embed_backward(self.scale, None, dx);
    }
}
