//! Every operation of the backend as a call that a device, a reference or a counter of activations can take, with the kernels that it
//! launches and what each of them writes.

use super::case::Case;
use super::reference::Field;
use crate::backend::{Act, Backend, Mask, RowKind};
use crate::config::{Contrast, InBatchSettings, LossSettings, Precision, RecLoss, Similarity};

/// What part of a call is asked for. Activations are the same in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// What has to be computed before, such as the statistics that a backward pass reads.
    Prepare,
    /// The call itself.
    Run,
}

/// Where a result is.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// An activation.
    Act(Act),
    /// A whole field.
    Field(Field),
}

/// How a result is held against the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// Within a multiple of a plain program's error.
    Near,
    /// To the bit.
    Bits,
    /// Not at all: scratch.
    Not,
}

/// One result of a call.
#[derive(Clone, Copy, Debug)]
pub struct Result {
    /// The kernel that writes it.
    pub kernel: &'static str,
    /// Name.
    pub what: &'static str,
    /// Where it is.
    pub place: Place,
    /// How it is compared.
    pub compare: Compare,
}

/// What a call does on a backend.
pub type Script = Box<dyn Fn(&mut dyn Backend, Phase) -> Vec<Result>>;

/// One operation of the backend with its inputs.
pub struct Call {
    /// Variant, for a reader; may be empty.
    pub variant: String,
    /// Dense weights of a client that it needs.
    pub dense: usize,
    /// Precision of products.
    pub precision: Precision,
    /// Rows, input and output width, for counting work.
    pub rows: RowKind,
    /// See `rows`.
    pub widths: (usize, usize),
    /// A kernel and the one whose scratch it reads.
    pub needs: Option<(&'static str, &'static str)>,
    /// The call.
    pub script: Script,
}

fn near(kernel: &'static str, what: &'static str, act: Act) -> Result {
    Result { kernel, what, place: Place::Act(act), compare: Compare::Near }
}

fn bits(kernel: &'static str, what: &'static str, act: Act) -> Result {
    Result { kernel, what, place: Place::Act(act), compare: Compare::Bits }
}

fn field(kernel: &'static str, what: &'static str, field: Field, compare: Compare) -> Result {
    Result { kernel, what, place: Place::Field(field), compare }
}

fn acts<const N: usize>(be: &mut dyn Backend, rows: RowKind, width: usize) -> [Act; N] {
    std::array::from_fn(|_| be.act(rows, width))
}

/// The activation `[rows, width]` that the call just made took last, as a backend's own scratch: it lies right before the next.
fn before(be: &mut dyn Backend, phase: Phase, rows: RowKind, width: usize) -> Act {
    let next = be.act(rows, width);
    if phase == Phase::Prepare {
        return next;
    }
    let size = be.act(rows, width).at - next.at;
    Act { at: next.at - size, ..next }
}

/// The name of a product's kernel at a precision.
fn product(name: &'static str, precision: Precision) -> &'static str {
    let of = |plain, tf32, bf16| match precision {
        Precision::Fp32 => plain,
        Precision::Tf32 => tf32,
        Precision::Bf16 => bf16,
    };
    match name {
        "linear_forward" => of("linear_forward", "linear_forward_tf32", "linear_forward_bf16"),
        "linear_input" => of("linear_input", "linear_input_tf32", "linear_input_bf16"),
        _ => of("linear_weight", "linear_weight_tf32", "linear_weight_bf16"),
    }
}

const ALL_ROWS: [(RowKind, &str); 2] = [(RowKind::Tokens, "tokens"), (RowKind::Outputs, "outputs")];

/// Where weights begin in a slab: off 16 bytes where nothing else is on them.
fn base(d: usize) -> usize {
    if d.is_multiple_of(4) { 4 } else { 3 }
}

fn call(variant: impl Into<String>, dense: usize, rows: RowKind, widths: (usize, usize), script: Script) -> Call {
    Call { variant: variant.into(), dense, precision: Precision::Fp32, rows, widths, needs: None, script }
}

/// Slab length for `floats` weights from [`base`] on, with a few behind them that no kernel reads.
fn slab(d: usize, floats: usize) -> usize {
    (base(d) + floats + 2).next_multiple_of(if d.is_multiple_of(4) { 4 } else { 1 })
}

/// Embedding, selection, norm, element-wise operations and dropout.
pub fn rows(case: &Case) -> Vec<Call> {
    let (d, at) = (case.d, base(case.d));
    let table = case.step().positions().1 + 1;
    let mut calls = Vec::new();
    for positions in [None, Some(at)] {
        let variant = if positions.is_some() { "positions" } else { "" };
        let dense = slab(d, table * d);
        let forward: Script = Box::new(move |be, phase| {
            let y = be.act(RowKind::Tokens, d);
            if phase == Phase::Run {
                be.embed(1.7, positions, y);
            }
            vec![near("embed", "y", y)]
        });
        let backward: Script = Box::new(move |be, phase| {
            let dy = be.act(RowKind::Tokens, d);
            if phase == Phase::Run {
                be.embed_backward(0.7, positions, dy);
            }
            let mut results = vec![field("embed_backward_rows", "row gradients", Field::RowGrad, Compare::Near)];
            if positions.is_some() {
                results.push(field("embed_backward_positions", "position gradients", Field::DenseGrad, Compare::Near));
            }
            results
        });
        calls.push(call(variant, dense, RowKind::Tokens, (d, d), forward));
        calls.push(call(variant, dense, RowKind::Tokens, (d, d), backward));
    }
    let select: Script = Box::new(move |be, phase| {
        let ([x, dx], [y, dy]) = (acts(be, RowKind::Tokens, d), acts(be, RowKind::Outputs, d));
        if phase == Phase::Run {
            be.select(x, y);
            be.select_backward(dy, dx);
        }
        vec![bits("select_rows", "y", y), bits("select_rows_backward", "dx", dx)]
    });
    calls.push(call("", 1, RowKind::Outputs, (d, d), select));
    for (rows, name) in ALL_ROWS {
        let norm: Script = Box::new(move |be, phase| {
            let ([x, y], stats) = (acts(be, rows, d), be.act(rows, 2));
            if phase == Phase::Run {
                be.layer_norm(x, at, at + d, y, stats);
            }
            vec![near("layer_norm", "y", y), near("layer_norm", "stats", stats)]
        });
        let back: Script = Box::new(move |be, phase| {
            let ([x, y, dy, dx], stats) = (acts(be, rows, d), be.act(rows, 2));
            match phase {
                Phase::Prepare => be.layer_norm(x, at, at + d, y, stats),
                Phase::Run => be.layer_norm_backward(x, stats, at, at + d, dy, dx),
            }
            vec![near("layer_norm_backward", "dx", dx), field("layer_norm_weight", "gradients", Field::DenseGrad, Compare::Near)]
        });
        calls.push(call(name, slab(d, 2 * d), rows, (d, d), norm));
        calls.push(call(name, slab(d, 2 * d), rows, (d, d), back));
        calls.extend(elementwise(rows, name, d));
    }
    let items: Script = Box::new(move |be, phase| {
        if phase == Phase::Run {
            be.drop_items(0.3);
            be.drop_items_backward(0.3);
        }
        vec![
            field("drop_items", "dropped rows", Field::Dropped, Compare::Bits),
            field("drop_items_backward", "row gradients", Field::RowGrad, Compare::Bits),
        ]
    });
    calls.push(call("", 1, RowKind::Tokens, (d, d), items));
    calls
}

fn elementwise(rows: RowKind, name: &'static str, d: usize) -> Vec<Call> {
    let pair: Script = Box::new(move |be, phase| {
        let [a, b, c, e, f, g, h, i, j, k, l, m, n] = acts(be, rows, d);
        if phase == Phase::Run {
            be.relu(a);
            be.relu_backward(b, c);
            be.add(e, f);
            be.copy(g, h);
            be.zero(i);
            be.dropout(2, 0.2, j);
            be.gelu(k, l);
            be.gelu_backward(k, m);
            be.add_mean(0.3, e, n);
        }
        vec![
            bits("relu", "x", a),
            bits("relu_backward", "dx", c),
            bits("add", "y", f),
            bits("copy", "y", h),
            bits("zero", "x", i),
            bits("dropout", "x", j),
            near("gelu", "y", l),
            near("gelu_backward", "dx", m),
            near("add_mean", "y", n),
        ]
    });
    vec![call(name, 1, rows, (d, d), pair)]
}

/// A grouped linear layer from `ins` to `outs`, forward and backward.
pub fn linear(rows: RowKind, (ins, outs): (usize, usize), precision: Precision, add: bool) -> Vec<Call> {
    let name = if rows == RowKind::Tokens { "tokens" } else { "outputs" };
    let at = base(if ins.is_multiple_of(4) && outs.is_multiple_of(4) { 4 } else { 1 });
    let (w, b, dense) = (at, at + ins * outs, slab(at, ins * outs + outs));
    let forward: Script = Box::new(move |be, phase| {
        let (x, y) = (be.act(rows, ins), be.act(rows, outs));
        if phase == Phase::Run {
            be.linear(x, w, b, y);
        }
        vec![near(product("linear_forward", precision), "y", y)]
    });
    let backward: Script = Box::new(move |be, phase| {
        let ([x, dx], dy) = (acts(be, rows, ins), be.act(rows, outs));
        if phase == Phase::Run {
            be.linear_backward(x, dy, w, b, Some(dx), add);
        }
        vec![
            near(product("linear_input", precision), "dx", dx),
            field(product("linear_weight", precision), "gradients", Field::DenseGrad, Compare::Near),
        ]
    });
    let variant = format!("{ins} to {outs}, {name}{}", if add { ", added" } else { "" });
    let with = |script| Call { precision, ..call(variant.clone(), dense, rows, (ins, outs), script) };
    vec![with(forward), with(backward)]
}

/// Attention under `mask`, forward and backward.
pub fn attention(case: &Case, mask: Mask, rows: RowKind) -> Vec<Call> {
    let (d, heads) = (case.d, case.heads);
    let lay = move |be: &mut dyn Backend| {
        let ([q, y, dy, dq], [k, v, dk, dv]) = (acts(be, rows, d), acts(be, RowKind::Tokens, d));
        ([q, k, v], [y, be.act(rows, heads)], dy, [dq, dk, dv])
    };
    let forward: Script = Box::new(move |be, phase| {
        let ([q, k, v], [y, stats], ..) = lay(be);
        if phase == Phase::Run {
            be.attention(mask, heads, q, k, v, y, stats);
        }
        vec![near("attention_forward", "y", y), near("attention_forward", "stats", stats)]
    });
    let backward: Script = Box::new(move |be, phase| {
        let ([q, k, v], [y, stats], dy, [dq, dk, dv]) = lay(be);
        match phase {
            Phase::Prepare => be.attention(mask, heads, q, k, v, y, stats),
            Phase::Run => be.attention_backward(mask, heads, q, k, v, stats, dy, dq, dk, dv),
        }
        let scratch = before(be, phase, rows, 2 * heads);
        vec![
            near("attention_backward_q", "dq", dq),
            Result { compare: Compare::Not, ..near("attention_backward_q", "scratch", scratch) },
            near("attention_backward_kv", "dk", dk),
            near("attention_backward_kv", "dv", dv),
        ]
    });
    let name = if rows == RowKind::Tokens { "tokens" } else { "outputs" };
    let variant = format!("{heads} heads, {name}{}", if mask == Mask::Full { ", whole sequences" } else { "" });
    let needs = Some(("attention_backward_kv", "attention_backward_q"));
    vec![call(variant.clone(), 1, rows, (d, d), forward), Call { needs, ..call(variant, 1, rows, (d, d), backward) }]
}

/// The recurrence of a GRU, forward and backward.
pub fn gru(case: &Case) -> Vec<Call> {
    let (d, at) = (case.d, base(case.d));
    let (w, b, dense) = (at, at + 3 * d * d, slab(d, 3 * d * d + 3 * d));
    let lay = move |be: &mut dyn Backend| {
        let ([xw, dxw], [h, previous, dh], gates) =
            (acts(be, RowKind::Tokens, 3 * d), acts(be, RowKind::Tokens, d), be.act(RowKind::Tokens, 4 * d));
        (xw, dxw, h, previous, dh, gates)
    };
    let forward: Script = Box::new(move |be, phase| {
        let (xw, _, h, previous, _, gates) = lay(be);
        if phase == Phase::Run {
            be.gru(xw, w, b, h, gates, previous);
        }
        [("h", h), ("gates", gates), ("previous", previous)].map(|(what, act)| near("gru_forward", what, act)).to_vec()
    });
    let backward: Script = Box::new(move |be, phase| {
        let (xw, dxw, h, previous, dh, gates) = lay(be);
        match phase {
            Phase::Prepare => be.gru(xw, w, b, h, gates, previous),
            Phase::Run => be.gru_backward(w, b, gates, previous, dh, dxw),
        }
        let dhw = before(be, phase, RowKind::Tokens, 3 * d);
        vec![near("gru_backward", "dxw", dxw), near("gru_backward", "dhw", dhw)]
    });
    vec![call("", dense, RowKind::Tokens, (d, d), forward), call("", dense, RowKind::Tokens, (d, d), backward)]
}

/// One next-item loss.
pub fn next_item(case: &Case, rec: RecLoss) -> Vec<Call> {
    let d = case.d;
    let loss = LossSettings { rec, ..LossSettings::default() };
    let script: Script = Box::new(move |be, phase| {
        let [h, dh] = acts(be, RowKind::Outputs, d);
        // In both phases: derivatives and partition sums are what later kernels of the call go on from.
        let _ = phase;
        be.next_item_loss(&loss, h, dh);
        let whole = |kernel, what, f| field(kernel, what, f, Compare::Near);
        match rec {
            RecLoss::Softmax => vec![
                whole("full_softmax_stats", "log partition sums", Field::Lse),
                whole("full_softmax_stats", "losses", Field::Loss),
                near("full_softmax_hidden", "dh", dh),
                whole("full_softmax_rows", "row gradients", Field::RowGrad),
            ],
            _ => vec![
                near("next_item_loss", "dh", dh),
                whole("next_item_loss", "derivatives", Field::Coef),
                whole("next_item_loss", "losses", Field::Loss),
                whole("next_item_rows", "row gradients", Field::RowGrad),
            ],
        }
    });
    vec![call(rec.name(), 1, RowKind::Outputs, (d, d), script)]
}

/// One form of the contrast.
pub fn contrast(case: &Case, contrast: Contrast) -> Vec<Call> {
    let d = case.d;
    let loss = LossSettings { contrast, tau: 0.2, ..LossSettings::default() };
    let script: Script = Box::new(move |be, phase| {
        let [h, dh] = acts(be, RowKind::Outputs, d);
        if phase == Phase::Run {
            be.info_nce(&loss, h, dh);
        }
        vec![near("info_nce", "dh", dh), field("info_nce", "contrasts", Field::Contrast, Compare::Near)]
    });
    vec![call(contrast.name(), 1, RowKind::Outputs, (d, d), script)]
}

/// InfoNCE of the pairs of clients.
pub fn in_batch(case: &Case, similarity: Similarity) -> Vec<Call> {
    let d = case.d;
    // Inner products of normal rows are larger than cosines.
    let tau = if similarity == Similarity::Dot { 4.0 } else { 0.2 };
    let settings = InBatchSettings { weight: 0.7, tau, similarity, ..InBatchSettings::default() };
    let script: Script = Box::new(move |be, phase| {
        let ([h, dh, z], [inverse, lse]) = (acts(be, RowKind::Outputs, d), acts(be, RowKind::Outputs, 1));
        // In both phases: rows, norms and partition sums are what later kernels of the call go on from.
        let _ = phase;
        be.in_batch_info_nce(&settings, h, [z, inverse, lse], dh);
        vec![
            bits("in_batch_gather", "paired rows", z),
            near("in_batch_gather", "inverse norms", inverse),
            near("in_batch_info_nce_stats", "log partition sums", lse),
            field("in_batch_info_nce_stats", "losses", Field::Paired, Compare::Near),
            near("in_batch_info_nce_grad", "dh", dh),
        ]
    });
    vec![call(similarity.name(), 1, RowKind::Outputs, (d, d), script)]
}

/// Every call on `case`.
pub fn all(case: &Case) -> Vec<Call> {
    let d = case.d;
    let mut calls = rows(case);
    for precision in [Precision::Fp32, Precision::Tf32, Precision::Bf16] {
        calls.extend(linear(RowKind::Tokens, (d, d), precision, false));
        calls.extend(linear(RowKind::Outputs, (d, 3 * d), precision, true));
    }
    for mask in [Mask::Causal, Mask::Full] {
        calls.extend(attention(case, mask, RowKind::Tokens));
        calls.extend(attention(case, mask, RowKind::Outputs));
    }
    calls.extend(gru(case));
    for rec in [RecLoss::Bce, RecLoss::SampledSoftmax, RecLoss::Gbce, RecLoss::Softmax] {
        calls.extend(next_item(case, rec));
    }
    for form in [Contrast::Joint, Contrast::Decoupled] {
        calls.extend(contrast(case, form));
    }
    for similarity in [Similarity::Dot, Similarity::Cosine] {
        calls.extend(in_batch(case, similarity));
    }
    calls
}
