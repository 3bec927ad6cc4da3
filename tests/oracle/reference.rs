//! The formulas, written plainly: dense masks, one sequence after another, every block on every token. Nothing here follows
//! the structure of the engine's kernels.

use std::collections::HashMap;

use candle_core::{D, DType, Device, Result, Tensor};
use lumos::backend::{Mask, Step, TableRow};
use lumos::config::{Backbone, Contrast, LossSettings, ModelSettings, Pool, RecLoss, Residual};

/// Named weights; the item table is `items`.
pub type Named = HashMap<String, Tensor>;

/// Dropout masks by site and width, for every token.
pub type Masks<'a> = Option<&'a dyn Fn(u32, usize) -> Result<Tensor>>;

pub fn indices(values: &[u32]) -> Result<Tensor> {
    Tensor::from_slice(values, values.len(), &Device::Cpu)
}

fn rows(rows: &[TableRow]) -> Result<Tensor> {
    indices(&rows.iter().map(|row| row.0).collect::<Vec<_>>())
}

pub fn linear(x: &Tensor, w: &Tensor, b: &Tensor) -> Result<Tensor> {
    x.matmul(w)?.broadcast_add(b)
}

pub fn layer_norm(x: &Tensor, g: &Tensor, b: &Tensor) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(1)?)?;
    let variance = centred.sqr()?.mean_keepdim(1)?;
    centred.broadcast_div(&(variance + 1e-5)?.sqrt()?)?.broadcast_mul(g)?.broadcast_add(b)
}

pub fn embed(items: &Tensor, positions: Option<&Tensor>, scale: f64, step: &Step) -> Result<Tensor> {
    let x = (items.index_select(&rows(&step.row)?, 0)? * scale)?;
    match positions {
        Some(p) => x + p.index_select(&indices(&step.position)?, 0)?,
        None => Ok(x),
    }
}

/// 0 where a query token may look, far below zero elsewhere, `[queries, T]`.
pub fn dense_mask(seen: Mask, step: &Step, queries: &[u32], dtype: DType) -> Result<Tensor> {
    let sequence = |t: usize| step.bounds.iter().filter(|&&b| b as usize <= t).count();
    let of: Vec<usize> = (0..step.tokens()).map(sequence).collect();
    let mut mask = vec![-1e30f32; queries.len() * of.len()];
    for (r, &q) in queries.iter().enumerate() {
        let end = if seen == Mask::Full { of.len() } else { q as usize + 1 };
        for t in 0..end {
            if of[t] == of[q as usize] {
                mask[r * of.len() + t] = 0.0;
            }
        }
    }
    Tensor::from_vec(mask, (queries.len(), of.len()), &Device::Cpu)?.to_dtype(dtype)
}

pub fn attention(heads: usize, q: &Tensor, k: &Tensor, v: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let w = q.dim(1)? / heads;
    let mut out = Vec::new();
    for h in 0..heads {
        let part = |x: &Tensor| x.narrow(1, h * w, w)?.contiguous();
        let scores = (part(q)?.matmul(&part(k)?.t()?.contiguous()?)? / (w as f64).sqrt())?;
        out.push(candle_nn::ops::softmax(&(scores + mask)?, D::Minus1)?.matmul(&part(v)?)?);
    }
    Tensor::cat(&out, 1)
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    ((x * 0.5)?.tanh()? * 0.5)? + 0.5
}

/// A GRU layer from its input product `xw [T, 3d]`, one token of one sequence after another.
pub fn gru(xw: &Tensor, wh: &Tensor, bh: &Tensor, step: &Step) -> Result<Tensor> {
    let d = wh.dim(0)?;
    let mut out = Vec::new();
    for s in step.bounds.windows(2) {
        let mut h = Tensor::zeros((1, d), xw.dtype(), &Device::Cpu)?;
        for t in s[0]..s[1] {
            let x = xw.narrow(0, t as usize, 1)?;
            let u = linear(&h, wh, bh)?;
            let gate = |y: &Tensor, i: usize| y.narrow(1, i * d, d);
            let r = sigmoid(&(gate(&x, 0)? + gate(&u, 0)?)?)?;
            let z = sigmoid(&(gate(&x, 1)? + gate(&u, 1)?)?)?;
            let new = (gate(&x, 2)? + (r * gate(&u, 2)?)?)?.tanh()?;
            h = (((1.0 - &z)? * new)? + (z * h)?)?;
            out.push(h.clone());
        }
    }
    Tensor::cat(&out, 0)
}

/// `ln(1 + e^x)`.
fn softplus(x: &Tensor) -> Result<Tensor> {
    x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?
}

/// Next-item losses of the step's examples, each times its share; without shares their mean.
pub fn next_item(kind: RecLoss, h: &Tensor, items: &Tensor, step: &Step) -> Result<Tensor> {
    let (count, d) = (step.example.len(), h.dim(1)?);
    let hidden = h.index_select(&indices(&step.example)?, 0)?;
    let each = if kind == RecLoss::Softmax {
        let logits = hidden.matmul(&items.t()?.contiguous()?)?;
        let target = rows(&step.cands)?.unsqueeze(1)?;
        (logits.log_sum_exp(1)? - logits.gather(&target, 1)?.squeeze(1)?)?
    } else {
        let cands = items.index_select(&rows(&step.cands)?, 0)?.reshape((count, step.width, d))?;
        let scores = cands.broadcast_mul(&hidden.unsqueeze(1)?)?.sum(2)?;
        let scores = if step.offset.is_empty() {
            scores
        } else {
            (scores - Tensor::from_slice(&step.offset, (count, step.width), &Device::Cpu)?.to_dtype(h.dtype())?)?
        };
        let positive = scores.narrow(1, 0, 1)?;
        if kind == RecLoss::SampledSoftmax {
            let beta = f64::from(step.positive_weight);
            let target = ((positive.squeeze(1)? * beta)? + (scores.mean(1)? * (1.0 - beta))?)?;
            (scores.log_sum_exp(1)? - target)?
        } else {
            let power = if kind == RecLoss::Gbce { f64::from(step.positive_weight) } else { 1.0 };
            let first = (softplus(&positive.neg()?)?.squeeze(1)? * power)?;
            match step.width {
                1 => first,
                w => (first + softplus(&scores.narrow(1, 1, w - 1)?)?.sum(1)?)?,
            }
        }
    };
    if step.share.is_empty() {
        return each.sum_all()? / count as f64;
    }
    (each * Tensor::from_slice(&step.share, count, &Device::Cpu)?.to_dtype(h.dtype())?)?.sum_all()
}

fn norm(x: &Tensor) -> Result<Tensor> {
    (x.sqr()?.sum(1)? + 1e-24)?.sqrt()
}

/// Mean tri-view contrast over the step's groups, without lambda.
pub fn info_nce(form: Contrast, tau: f32, h: &Tensor, step: &Step) -> Result<Tensor> {
    let mut total = Tensor::zeros((), h.dtype(), &Device::Cpu)?;
    let groups = step.positives.len();
    for g in 0..groups {
        let members = &step.group[step.group_bounds[g] as usize..step.group_bounds[g + 1] as usize];
        let positives = step.positives[g] as usize;
        let anchor = h.narrow(0, members[0] as usize, 1)?;
        let views = h.index_select(&indices(&members[1..])?, 0)?;
        let dot = views.broadcast_mul(&anchor)?.sum(1)?;
        let s = (dot.div(&norm(&views)?)?.broadcast_div(&norm(&anchor)?)? / f64::from(tau))?;
        for a in 0..positives {
            let of = s.narrow(0, a, 1)?;
            let terms = match form {
                Contrast::None => continue,
                Contrast::Joint => s.clone(),
                Contrast::Decoupled => {
                    let others = members.len() - 1 - positives;
                    if others == 0 { of.clone() } else { Tensor::cat(&[&of, &s.narrow(0, positives, others)?], 0)? }
                }
            };
            total = ((total + terms.log_sum_exp(0)?)? - of.squeeze(0)?)?;
        }
    }
    total / groups.max(1) as f64
}

fn dropped(x: Tensor, site: u32, masks: Masks) -> Result<Tensor> {
    match masks {
        Some(m) => {
            let width = x.dim(1)?;
            let mask = m(site, width)?.to_dtype(x.dtype())?;
            x * mask
        }
        None => Ok(x),
    }
}

/// Hidden states of the output rows `[Q, d]`.
pub fn encode(p: &Named, s: &ModelSettings, step: &Step, masks: Masks) -> Result<Tensor> {
    let scale = if s.scale_items { f64::from(s.dim).sqrt() } else { 1.0 };
    let lin = |x: &Tensor, name: &str| linear(x, &p[&format!("{name}.w")], &p[&format!("{name}.b")]);
    let ln = |x: &Tensor, name: &str| layer_norm(x, &p[&format!("{name}.g")], &p[&format!("{name}.b")]);
    let mut x = dropped(embed(&p["items"], p.get("positions"), scale, step)?, 0, masks)?;
    let out = indices(&step.out_token)?;
    if s.backbone == Backbone::GRU4REC {
        for b in 0..s.blocks {
            let xw = lin(&x, &format!("layer{b}.x"))?;
            x = gru(&xw, &p[&format!("layer{b}.h.w")], &p[&format!("layer{b}.h.b")], step)?;
        }
        return lin(&x.index_select(&out, 0)?, "out");
    }
    if s.backbone == Backbone::BERT4REC {
        return bidirectional(p, s, step, masks);
    }
    let mask = dense_mask(Mask::Causal, step, &step.token, x.dtype())?;
    for b in 0..s.blocks {
        let site = 1 + 3 * b;
        let name = |n: &str| format!("block{b}.{n}");
        let normed = ln(&x, &name("norm1"))?;
        let query = lin(&normed, &name("q"))?;
        let carried = |normed: &Tensor, x: &Tensor| if s.residual == Residual::Normed { normed.clone() } else { x.clone() };
        let mixed = attention(s.heads as usize, &query, &lin(&x, &name("k"))?, &lin(&x, &name("v"))?, &mask)?;
        x = (dropped(lin(&mixed, &name("o"))?, site, masks)? + carried(&normed, &x))?;
        let normed = ln(&x, &name("norm2"))?;
        let inner = dropped(lin(&normed, &name("f1"))?.relu()?, site + 1, masks)?;
        x = (dropped(lin(&inner, &name("f2"))?, site + 2, masks)? + carried(&normed, &x))?;
    }
    ln(&x, "norm")?.index_select(&out, 0)
}

/// BERT4Rec's hidden states of the output rows `[Q, d]`.
fn bidirectional(p: &Named, s: &ModelSettings, step: &Step, masks: Masks) -> Result<Tensor> {
    let scale = if s.scale_items { f64::from(s.dim).sqrt() } else { 1.0 };
    let lin = |x: &Tensor, name: &str| linear(x, &p[&format!("{name}.w")], &p[&format!("{name}.b")]);
    let ln = |x: &Tensor, name: &str| layer_norm(x, &p[&format!("{name}.g")], &p[&format!("{name}.b")]);
    let mut x = dropped(ln(&embed(&p["items"], p.get("positions"), scale, step)?, "norm")?, 0, masks)?;
    let mask = dense_mask(Mask::Full, step, &step.token, x.dtype())?;
    for b in 0..s.blocks {
        let site = 1 + 3 * b;
        let name = |n: &str| format!("block{b}.{n}");
        let [q, k, v] = ["q", "k", "v"].map(|n| lin(&x, &name(n)));
        let mixed = attention(s.heads as usize, &q?, &k?, &v?, &mask)?;
        x = ln(&(dropped(lin(&mixed, &name("o"))?, site, masks)? + x)?, &name("norm1"))?;
        let inner = gelu(&lin(&x, &name("f1"))?)?;
        x = ln(&(dropped(lin(&inner, &name("f2"))?, site + 2, masks)? + x)?, &name("norm2"))?;
    }
    ln(&gelu(&lin(&x, "out")?)?, "out.norm")?.index_select(&indices(&step.out_token)?, 0)
}

/// Gelu in its tanh form.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    let inside = ((x + (x.sqr()?.mul(x)? * 0.044715)?)? * (2.0 / std::f64::consts::PI).sqrt())?;
    (x * 0.5)? * (inside.tanh()? + 1.0)?
}

/// Of each output row the mean over the output rows of its sequence up to its own.
fn means(h: &Tensor, step: &Step) -> Result<Tensor> {
    let of = |q: usize| {
        let seen: Vec<u32> = (0..=q as u32).filter(|&p| step.out_start[p as usize] == step.out_start[q]).collect();
        h.index_select(&indices(&seen)?, 0)?.mean_keepdim(0)
    };
    Tensor::cat(&(0..step.outputs()).map(of).collect::<Result<Vec<_>>>()?, 0)
}

/// `L_rec + lambda L_tri`.
pub fn objective(p: &Named, s: &ModelSettings, loss: &LossSettings, step: &Step, masks: Masks) -> Result<Tensor> {
    let h = encode(p, s, step, masks)?;
    let mut total = Tensor::zeros((), h.dtype(), &Device::Cpu)?;
    if !step.example.is_empty() {
        total = (total + next_item(loss.rec, &h, &p["items"], step)?)?;
    }
    let states = if loss.pool == Pool::Mean { means(&h, step)? } else { h };
    total + (info_nce(loss.contrast, loss.tau, &states, step)? * f64::from(loss.lambda))?
}
