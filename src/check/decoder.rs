//! The decoder's kernels at a step of a 0.5 B model, to be timed: 128 texts of 256 positions in bfloat16. That they are right is
//! checked by what they make together ([`super::text`]).

use super::case::Normals;
use super::single::{Given, int, whole};
use super::subject::{Array, Cost, Subject};
use crate::Result;
use crate::config::Precision;
use crate::device::interface::Limits;
use crate::device::launch::Pointer;
use crate::llm::gpu::ask::TokenAsk;
use crate::llm::gpu::attention::AttentionShape;
use crate::llm::gpu::kernels::{self, Attend, ChooseTokens, Gate, Multiply, Normalise, Product, Shape};
use crate::llm::{Gpu, Sampling, Stored};

/// Numbers of the timed model.
const NUMBER: Stored = Stored::Bf16;

/// Sizes of a step.
struct Sizes {
    texts: usize,
    positions: usize,
    width: usize,
    inner: usize,
    heads: usize,
    kv_heads: usize,
    head: usize,
    vocab: usize,
}

/// Qwen2.5 0.5B.
const FULL: Sizes = Sizes { texts: 128, positions: 256, width: 896, inner: 4864, heads: 14, kv_heads: 2, head: 64, vocab: 151_936 };
const QUICK: Sizes = Sizes { texts: 3, positions: 32, width: 64, inner: 96, heads: 4, kv_heads: 2, head: 16, vocab: 300 };

/// Random bfloat16 numbers, two a word.
fn halves(n: &Normals, array: usize, count: usize) -> Vec<u32> {
    let bits = |v: f32| v.to_bits() >> 16;
    n.take(array, count.next_multiple_of(2), 0.5).as_chunks::<2>().0.iter().map(|[a, b]| bits(*a) | bits(*b) << 16).collect()
}

fn cost(bytes: usize, operations: f64, precision: Precision) -> Cost {
    Cost { bytes: bytes as f64, operations, precision }
}

/// A product by each of the tiles, with the parts of the depth one after another and side by side.
fn linear(n: &Normals, what: &str, [rows, depth, outputs]: [usize; 3], limits: &Limits) -> Vec<Subject<'static>> {
    let arrays = vec![
        Array { name: "sums", words: vec![0; rows * outputs] },
        Array { name: "rows", words: halves(n, 50, rows * Gpu::ld(depth)) },
        Array { name: "weights", words: halves(n, 51, outputs * Gpu::ld(depth)) },
    ];
    let bytes = 2 * (rows + outputs) * Gpu::ld(depth) + 4 * rows * outputs;
    let cost = cost(bytes, 2.0 * (rows * outputs * depth) as f64, Precision::Bf16);
    let one = |p: Product| {
        let side = if p.groups > 1 { format!(", {} parts side by side", p.groups) } else { String::new() };
        let case = format!("{what}: {rows} rows, {depth} to {outputs}{side}");
        let given = Given { case, arrays: arrays.clone(), outputs: vec![whole("sums", &arrays, 0, None)], cost };
        given.under(p.place, p.blocks.map(|n| n as usize), move |b| Multiply {
            y: b[0],
            x: b[1],
            w: b[2],
            bias: Pointer::NULL,
            rows: int(rows),
            outputs: int(outputs),
            ld: int(Gpu::ld(depth)),
            add: 0,
            groups: p.groups,
        })
    };
    let wide = kernels::has_warpgroups(NUMBER, limits);
    let shape = Shape { number: NUMBER, rows, depth, outputs, limits, wide };
    let all = (0..shape.tiles()).map(|tile| shape.by(tile));
    all.flat_map(|[alone, most]| [Some(alone), (most != alone).then_some(most)]).flatten().map(one).collect()
}

/// Attention of one new token of each text.
fn attend(n: &Normals, s: &Sizes) -> Subject<'static> {
    let (texts, heads, kv, width) = (s.texts, s.heads, s.kv_heads, s.head);
    let blocks = s.positions.div_ceil(16);
    let tables: Vec<i32> = (0..texts * blocks).map(|i| i as i32).collect();
    let tiles: Vec<i32> = (0..texts).flat_map(|t| [t, 1, s.positions - 1, t * blocks].map(|v| v as i32)).collect();
    let used = heads * width;
    let arrays = vec![
        Array { name: "out", words: vec![0; texts * Gpu::ld(used) / 2] },
        Array::of("queries", &n.take(52, texts * (heads + 2 * kv) * width, 1.0)),
        Array { name: "cache", words: halves(n, 53, texts * blocks * kv * 32 * width) },
        Array::of("tiles", &tiles),
        Array::of("tables", &tables),
    ];
    let shape = AttentionShape {
        heads: heads as i32,
        kv_heads: kv as i32,
        width: width as i32,
        padded: width as i32,
        layer: 0,
        layers: 1,
        window: 0,
        scale: 1.0 / (width as f32).sqrt(),
        cap: 0.0,
        ld: Gpu::ld(used) as i32,
    };
    let positions = texts * s.positions;
    let cost = cost(4 * positions * kv * width + 6 * texts * used, 4.0 * (positions * used) as f64, Precision::Fp32);
    let case = format!("{texts} texts at position {}, {heads} heads of {width}", s.positions - 1);
    let given = Given { case, outputs: vec![whole("out", &arrays, 0, None)], arrays, cost };
    let attend = move |b: &[Pointer]| Attend { out: b[0], qkv: b[1], cache: b[2], tiles: b[3], tables: b[4], shape };
    given.under(kernels::attend(NUMBER, width), [texts, kv], attend)
}

/// The choice of a token for each text, greedy or drawn.
fn choose(n: &Normals, s: &Sizes, drawn: bool) -> Subject<'static> {
    let (texts, vocab) = (s.texts, s.vocab);
    let sampling = if drawn { Sampling { temperature: 1.0, top_p: 0.95, ..Sampling::GREEDY } } else { Sampling::GREEDY };
    let asks: Vec<TokenAsk> = (0..texts).map(|row| TokenAsk::any(&sampling, 0.5, row as i32)).collect();
    let arrays = vec![
        Array { name: "tokens", words: vec![0; texts] },
        Array::of("logits", &n.take(54, texts * vocab, 3.0)),
        Array::of("asks", &asks),
    ];
    let case = format!("{texts} of {vocab} tokens, {}", if drawn { "drawn, top-p 0.95" } else { "greedy" });
    let work = cost(4 * texts * vocab, 0.0, Precision::Fp32);
    let given = Given { case, outputs: vec![whole("tokens", &arrays, 0, None)], arrays, cost: work };
    given.to([texts, 1], move |b| ChooseTokens {
        tokens: b[0],
        logits: b[1],
        some: b[1],
        asks: b[2],
        allowed: b[2],
        seen: b[2],
        biases: b[2],
        vocab: int(vocab),
        cap: 0.0,
    })
}

/// Norm and gate.
fn rows(n: &Normals, s: &Sizes) -> [Subject<'static>; 2] {
    let (texts, width, inner) = (s.texts, s.width, s.inner);
    let arrays = vec![
        Array { name: "out", words: vec![0; texts * Gpu::ld(width) / 2] },
        Array::of("sums", &n.take(55, texts * width, 1.0)),
        Array::of("weights", &n.take(56, width, 1.0)),
    ];
    let work = cost(6 * texts * width, 4.0 * (texts * width) as f64, Precision::Fp32);
    let given = Given { case: format!("{texts} rows of {width}"), outputs: vec![whole("out", &arrays, 0, None)], arrays, cost: work };
    let number = NUMBER as usize;
    let norm = given.under(number, [texts, 1], move |b| Normalise {
        y: b[0],
        x: b[1],
        weight: b[2],
        width: int(width),
        ld: int(Gpu::ld(width)),
        eps: 1e-6,
    });

    let arrays =
        vec![Array { name: "out", words: vec![0; texts * Gpu::ld(inner) / 2] }, Array::of("sums", &n.take(57, texts * 2 * inner, 1.0))];
    let work = cost(10 * texts * inner, 10.0 * (texts * inner) as f64, Precision::Fp32);
    let given = Given { case: format!("{texts} rows of {inner}"), outputs: vec![whole("out", &arrays, 0, None)], arrays, cost: work };
    let gate = given.under(number, [texts, Gpu::ld(inner).div_ceil(128).min(8)], move |b| Gate {
        y: b[0],
        gate_up: b[1],
        inner: int(inner),
        ld: int(Gpu::ld(inner)),
        gelu: 0,
    });
    [norm, gate]
}

/// Calls `each` with every subject.
pub fn for_each(quick: bool, limits: &Limits, each: &mut dyn FnMut(&Subject) -> Result<()>) -> Result<()> {
    let (n, s) = (Normals::new(2), if quick { QUICK } else { FULL });
    let qkv = (s.heads + 2 * s.kv_heads) * s.head;
    let products = [
        ("queries, keys, values", s.width, qkv),
        ("attention's output", s.heads * s.head, s.width),
        ("gate and up", s.width, 2 * s.inner),
        ("down", s.inner, s.width),
        ("logits", s.width, s.vocab),
    ];
    for (what, depth, outputs) in products {
        linear(&n, what, [s.texts, depth, outputs], limits).iter().try_for_each(&mut *each)?;
    }
    each(&attend(&n, &s))?;
    each(&choose(&n, &s, false))?;
    each(&choose(&n, &s, true))?;
    rows(&n, &s).iter().try_for_each(each)
}
