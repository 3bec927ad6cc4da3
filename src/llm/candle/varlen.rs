//! Attention of a whole packed batch in one call, prompts and single tokens alike: variable-length flash-attention.
//!
//! Dao, FlashAttention-2, arXiv 2307.08691; the kernels are those of candle-flash-attn (feature `flash-attn`). They take keys in
//! pages of 32 positions or more, and a block of our cache has [`BLOCK`]: a layer's keys and values are gathered first.
//!
//! [`BLOCK`]: super::super::network::BLOCK

use super::super::network::Batch;
use super::super::spec::Spec;
use super::plan::place;
use candle_core::{DType, Device, Result, Tensor};

/// The segments of a batch as such attention wants them. The last query of a segment stands at its last key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packing {
    /// Where each segment's queries begin among the rows, and the end `[S + 1]`.
    pub queries: Vec<u32>,
    /// Where each segment's keys begin among the gathered ones, and the end `[S + 1]`.
    pub keys: Vec<u32>,
    /// Places of the keys in the cache, segment by segment.
    pub places: Vec<u32>,
    /// Whether the keys are those of the batch's rows, in their order.
    pub own: bool,
    /// Most queries of a segment.
    pub most_queries: usize,
    /// Most keys of a segment.
    pub most_keys: usize,
}

impl Packing {
    /// Keys before the window of a segment's first query are left out: no query of it sees them.
    pub fn new(batch: &Batch, window: Option<usize>) -> Packing {
        let mut packing = Packing { queries: vec![0], keys: vec![0], places: Vec::new(), own: true, most_queries: 0, most_keys: 0 };
        for segment in &batch.segments {
            let first = window.map_or(0, |w| (segment.position + 1).saturating_sub(w));
            let end = segment.position + segment.rows;
            packing.places.extend((first..end).map(|key| place(batch, segment, key)));
            packing.queries.push((segment.row + segment.rows) as u32);
            packing.keys.push(packing.places.len() as u32);
            packing.own &= segment.position == 0;
            packing.most_queries = packing.most_queries.max(segment.rows);
            packing.most_keys = packing.most_keys.max(end - first);
        }
        packing
    }
}

/// A [`Packing`] on the device.
#[derive(Clone)]
pub(super) struct DevicePacking {
    /// Where each segment's queries begin, and the end `[S + 1]`.
    pub queries: Tensor,
    /// Where each segment's keys begin, and the end `[S + 1]`.
    pub keys: Tensor,
    /// Places of the keys in the cache; `None` where they are the batch's own rows.
    pub places: Option<Tensor>,
    /// Most queries of a segment.
    pub most_queries: usize,
    /// Most keys of a segment.
    pub most_keys: usize,
}

/// What one call asks for.
pub(super) struct Call<'a> {
    /// Queries `[T, heads, head_dim]`.
    pub q: &'a Tensor,
    /// Keys `[K, kv_heads, head_dim]`.
    pub k: &'a Tensor,
    /// Values `[K, kv_heads, head_dim]`.
    pub v: &'a Tensor,
    /// Which are whose.
    pub packed: &'a DevicePacking,
    /// The model.
    pub spec: &'a Spec,
    /// Latest positions that a query sees.
    pub window: Option<usize>,
}

/// The arguments of candle-flash-attn's `flash_attn_varlen_alibi_windowed_softcap`, by its names.
pub(super) struct Arguments<'a> {
    pub q: &'a Tensor,
    pub k: &'a Tensor,
    pub v: &'a Tensor,
    pub seqlens_q: &'a Tensor,
    pub seqlens_k: &'a Tensor,
    pub max_seqlen_q: usize,
    pub max_seqlen_k: usize,
    pub softmax_scale: f32,
    pub window_size_left: Option<usize>,
    pub window_size_right: Option<usize>,
    pub softcap: f32,
}

impl<'a> Call<'a> {
    /// Keys that a query sees before its own position, where that is limited.
    pub fn left(&self) -> Option<usize> {
        self.window.map(|w| w.saturating_sub(1))
    }

    /// What the kernels are given.
    pub fn arguments(&self) -> Arguments<'a> {
        let p = self.packed;
        Arguments {
            q: self.q,
            k: self.k,
            v: self.v,
            seqlens_q: &p.queries,
            seqlens_k: &p.keys,
            max_seqlen_q: p.most_queries,
            max_seqlen_k: p.most_keys,
            softmax_scale: self.spec.query_scale,
            window_size_left: self.left(),
            // Nothing to the right of its own position is causal attention; the kernels align the last query with the last key.
            window_size_right: Some(0),
            // 0: none.
            softcap: self.spec.attention_cap.unwrap_or(0.0),
        }
    }
}

/// Gives `[T, heads, head_dim]`.
pub(super) type Varlen = fn(&Call<'_>) -> Result<Tensor>;

/// Whether the kernels have heads of this size.
pub(super) fn takes(spec: &Spec) -> bool {
    spec.head_dim.is_multiple_of(8) && spec.head_dim <= 512
}

/// Variable-length attention for numbers of a kind on a device, where this build has any.
#[cfg(feature = "flash-attn")]
pub(super) fn on(device: &Device, dtype: DType) -> Option<Varlen> {
    (device.is_cuda() && matches!(dtype, DType::F16 | DType::BF16)).then_some(flash)
}

/// Variable-length attention for numbers of a kind on a device: this build has none.
#[cfg(not(feature = "flash-attn"))]
pub(super) fn on(_: &Device, _: DType) -> Option<Varlen> {
    None
}

#[cfg(feature = "flash-attn")]
fn flash(call: &Call<'_>) -> Result<Tensor> {
    let a = call.arguments();
    candle_flash_attn::flash_attn_varlen_alibi_windowed_softcap(
        a.q,
        a.k,
        a.v,
        None,
        a.seqlens_q,
        a.seqlens_k,
        a.max_seqlen_q,
        a.max_seqlen_k,
        a.softmax_scale,
        a.window_size_left,
        a.window_size_right,
        a.softcap,
    )
}

#[cfg(test)]
mod tests {
    use super::super::super::network::{Attention, BLOCK, Ops};
    use super::super::{Cache, Candle};
    use super::*;
    use candle_nn::attention::flash_attn_varlen_cpu;

    /// A prompt from the start, single tokens, the middle of a prompt and one of a single token, in blocks without order.
    fn mixed() -> (Batch, usize) {
        let mut batch = Batch::default();
        batch.push(&[1], 37, &[9, 2, 5], true);
        batch.push(&[2; 20], 0, &[4, 7], true);
        batch.push(&[3], 0, &[11], true);
        batch.push(&[4; 5], 30, &[1, 10, 3], false);
        batch.push(&[5], 16, &[0, 8], true);
        (batch, 12)
    }

    #[test]
    fn every_query_finds_the_keys_of_its_window_and_no_others() {
        let (batch, _) = mixed();
        for window in [None, Some(1), Some(2), Some(7), Some(16), Some(33), Some(1000)] {
            let p = Packing::new(&batch, window);
            assert_eq!((p.queries.len(), p.keys.len(), p.own), (6, 6, false));
            assert_eq!(p.places.len(), p.keys[5] as usize);
            let lengths = |ends: &[u32]| ends.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max();
            assert_eq!((lengths(&p.queries), lengths(&p.keys)), (Some(p.most_queries), Some(p.most_keys)));
            for (i, segment) in batch.segments.iter().enumerate() {
                let (queries, keys) = (p.queries[i]..p.queries[i + 1], p.keys[i] as usize..p.keys[i + 1] as usize);
                assert_eq!(queries, segment.row as u32..(segment.row + segment.rows) as u32);
                for j in 0..segment.rows {
                    // The rule of the kernels: the last query is at the last key, and sees `left` keys before its own.
                    let own = keys.len() - segment.rows + j;
                    let first = window.map_or(0, |w| own.saturating_sub(w - 1));
                    let seen = &p.places[keys.clone()][first..=own];
                    let position = segment.position + j;
                    let expected: Vec<u32> = (0..=position)
                        .filter(|key| window.is_none_or(|w| position - key < w))
                        .map(|key| batch.tables[segment.table.start + key / BLOCK] * 16 + key as u32 % 16)
                        .collect();
                    assert_eq!(seen, expected, "{window:?} segment {i} query {j}");
                }
                // No key is gathered in vain.
                let least = window.map_or(0, |w| (segment.position + 1).saturating_sub(w));
                assert_eq!(keys.len(), segment.position + segment.rows - least);
            }
        }
    }

    #[test]
    fn whole_prompts_attend_to_their_own_rows() {
        let (batch, _) = Batch::of_prompts(&[vec![1; 20], vec![2; 3], vec![3; 16]]);
        let p = Packing::new(&batch, Some(9));
        assert!(p.own);
        assert_eq!(p.queries, [0, 20, 23, 39]);
        assert_eq!(p.keys, p.queries);
    }

    /// The call of the GPU, by candle's kernel for the CPU.
    fn on_cpu(call: &Call<'_>) -> Result<Tensor> {
        let p = call.packed;
        let lengths = |ends: &Tensor| ends.narrow(0, 1, ends.elem_count() - 1)? - ends.narrow(0, 0, ends.elem_count() - 1)?;
        let (queries, keys) = (lengths(&p.queries)?, lengths(&p.keys)?);
        let right = call.left().map(|_| 0);
        let (most, scale) = ((p.most_queries, p.most_keys), call.spec.query_scale);
        flash_attn_varlen_cpu(call.q, call.k, call.v, None, &queries, &keys, most.0, most.1, scale, true, call.left(), right)
    }

    /// Numbers between -1 and 1.
    fn numbers(shape: (usize, usize), seed: usize) -> Tensor {
        let at = |i: usize| ((i + 1) * (2 * seed + 7919) % 10_007) as f32 / 5003.5 - 1.0;
        Tensor::from_vec((0..shape.0 * shape.1).map(at).collect(), shape, &Device::Cpu).unwrap()
    }

    fn attend(ops: &Candle, spec: &Spec, window: Option<usize>, batch: &Batch, blocks: usize) -> Vec<Vec<f32>> {
        let width = spec.kv_heads * spec.head_dim;
        let fill = |seed: usize| (0..spec.layers).map(|_| numbers((blocks * BLOCK, width), seed)).collect();
        let mut cache = Cache { keys: fill(1), values: fill(2) };
        let rope = &spec.ropes[0];
        let table = ops.table(rope.table(64), rope.rotated()).unwrap();
        let a = Attention { spec, layer: 0, query_norm: None, key_norm: None, rope: &table, window };
        let qkv = numbers((batch.tokens.len(), (spec.heads + 2 * spec.kv_heads) * spec.head_dim), 3);
        let plan = ops.plan(batch).unwrap();
        let out = ops.attend(qkv.clone(), &a, batch, &plan, &mut cache).unwrap();
        // A second layer of the step uses what the first one made.
        let again = ops.attend(qkv, &a, batch, &plan, &mut cache).unwrap();
        let out = out.to_vec2().unwrap();
        assert_eq!(out, again.to_vec2::<f32>().unwrap());
        out
    }

    /// Six heads of 8 numbers, three to a head of keys.
    fn spec() -> Spec {
        let folder = tempfile::tempdir().unwrap();
        let config = r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":48,"num_attention_heads":6,
            "num_key_value_heads":2,"num_hidden_layers":1,"intermediate_size":16,"vocab_size":32,"max_position_embeddings":64,
            "rms_norm_eps":1e-5,"rope_theta":10000.0,"tie_word_embeddings":true,"hidden_act":"silu"}"#;
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        Spec::read(folder.path()).unwrap()
    }

    thread_local! {
        /// Window and cap of each call that `recording` was given.
        static CALLS: std::cell::RefCell<Vec<(Option<usize>, f32)>> = const { std::cell::RefCell::new(Vec::new()) };
    }

    /// Holds a call against what `FlashAttnVarLen` of candle-flash-attn 0.11.1 asks for, and computes it on the CPU.
    fn recording(call: &Call<'_>) -> Result<Tensor> {
        let a = call.arguments();
        let (total_q, heads, size) = a.q.dims3()?;
        let (total_k, kv_heads, _) = a.k.dims3()?;
        assert_eq!((a.k.dims3()?, a.v.dims3()?), ((total_k, kv_heads, size), (total_k, kv_heads, size)));
        assert!(heads.is_multiple_of(kv_heads) && size.is_multiple_of(8) && size <= 512, "{heads} heads of {size}, {kv_heads} of keys");
        for x in [a.q, a.k, a.v] {
            assert_eq!((x.stride()[2], x.dtype()), (1, a.q.dtype()), "numbers of a head lie together");
            // The kernels load 16 bytes at a time: eight of the 16 bits that they compute with.
            let places = [x.layout().start_offset(), x.stride()[0], x.stride()[1]];
            assert!(places.iter().all(|p| p.is_multiple_of(8)), "{places:?}");
            assert!(x.layout().start_offset() + (x.dim(0)? - 1) * x.stride()[0] < u32::MAX as usize);
        }
        for (ends, total, most) in [(a.seqlens_q, total_q, a.max_seqlen_q), (a.seqlens_k, total_k, a.max_seqlen_k)] {
            assert!(ends.dtype() == DType::U32 && ends.is_contiguous() && ends.dim(0)? >= 2);
            // The kernels read signed numbers, and grids are made for the longest length.
            let ends: Vec<u32> = ends.to_vec1()?;
            assert_eq!((ends[0], ends.last().copied()), (0, Some(total as u32)));
            assert_eq!(ends.windows(2).map(|w| w[1].checked_sub(w[0]).unwrap() as usize).max(), Some(most));
            assert!(i32::try_from(total).is_ok() && most > 0);
        }
        assert_eq!(a.seqlens_q.dim(0)?, a.seqlens_k.dim(0)?);
        assert_eq!(a.softmax_scale, call.spec.query_scale);
        // One below the window, and never more than the kernels' `max_seqlen_k` where it is to count; 0 to the right is causal.
        assert_eq!((a.window_size_left.map(|left| left + 1), a.window_size_right), (call.window, Some(0)));
        CALLS.with_borrow_mut(|calls| calls.push((a.window_size_left, a.softcap)));
        on_cpu(call)
    }

    #[test]
    fn calls_are_as_the_kernels_of_the_gpu_ask() {
        let plain = spec();
        let capped = Spec { attention_cap: Some(50.0), query_scale: 0.25, ..spec() };
        let ops = Candle { varlen: Some(recording), ..Candle::new(Device::Cpu, DType::F32) };
        let mut one = Batch::default();
        one.push(&[7], 21, &[3, 1], true);
        let prompts = Batch::of_prompts(&[vec![1; 20], vec![2; 3], vec![3; 16]]);
        let first = Batch::of_prompts(&[vec![1]]);
        for (batch, blocks) in [mixed(), prompts, first, (one, 4)] {
            for window in [None, Some(1), Some(7), Some(500)] {
                for (spec, cap) in [(&plain, 0.0), (&capped, 50.0)] {
                    attend(&ops, spec, window, &batch, blocks);
                    let calls = CALLS.take();
                    assert_eq!(calls, vec![(window.map(|w| w - 1), cap); 2], "one call a layer");
                }
            }
        }
    }

    #[test]
    fn one_call_gives_what_the_composed_operations_give() {
        let spec = spec();
        let composed = Candle::new(Device::Cpu, DType::F32);
        let one_call = Candle { varlen: Some(on_cpu), ..Candle::new(Device::Cpu, DType::F32) };
        let prompts = Batch::of_prompts(&[vec![1; 20], vec![2; 3], vec![3; 16]]);
        for (batch, blocks) in [mixed(), prompts] {
            for window in [None, Some(1), Some(7), Some(19), Some(500)] {
                let expected = attend(&composed, &spec, window, &batch, blocks);
                let ours = attend(&one_call, &spec, window, &batch, blocks);
                let worst = ours.iter().flatten().zip(expected.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-5, "{window:?}: {worst}");
                assert!(expected.iter().flatten().all(|x| x.is_finite()));
            }
        }
        assert!(takes(&spec));
        assert!(!takes(&Spec { head_dim: 12, ..spec }));
    }
}
