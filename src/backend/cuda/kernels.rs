//! The kernels of training, averaging, the server's step and ranking, each with its parameters as in `kernels/*.cu`, the threads of a
//! block and its bytes of shared memory. What a kernel does, and its grid, stands above it in the source.
//!
//! `tests/device/kernel_table.rs` holds names, order and types of the parameters against the sources.

use super::optimiser::{DropoutClock, OptimiserStep, ServerStep};
use crate::device::launch::{Pointer, kernels};

kernels! {
    // attention.cu
    AttentionForward = attention_forward (step: Pointer, kind: i32, mask: i32, heads: i32, q: Pointer, k: Pointer, v: Pointer, d: i32,
        y: Pointer, stats: Pointer) 256, 0;
    AttentionBackwardQ = attention_backward_q (step: Pointer, kind: i32, mask: i32, heads: i32, q: Pointer, k: Pointer, v: Pointer, d: i32,
        stats: Pointer, dy: Pointer, dq: Pointer, scratch: Pointer) 256, 0;
    AttentionBackwardKv = attention_backward_kv (step: Pointer, kind: i32, mask: i32, heads: i32, q: Pointer, k: Pointer, v: Pointer,
        d: i32, stats: Pointer, dy: Pointer, scratch: Pointer, dk: Pointer, dv: Pointer) 256, 0;
    // average.cu
    UpdateNorms = update_norms (p: Pointer, global: Pointer, stride: i64, length: i32, rows: Pointer, table: Pointer, item: Pointer,
        uploads: Pointer, client_rows: Pointer, weight: Pointer, clients: i32, d: i32, norms: Pointer) 256, 256;
    AverageDense = average_dense (p: Pointer, global: Pointer, weight: Pointer, factor: Pointer, clients: i32, each: i32,
        stride: i64, length: i32, sums: Pointer, failing: Pointer) 256, 0;
    AverageRows = average_rows (rows: Pointer, table: Pointer, item: Pointer, slot: Pointer, uploads: Pointer, client_rows: Pointer,
        weight: Pointer, factor: Pointer, clients: i32, d: i32, sums: Pointer, slot_weight: Pointer, uploaded: Pointer,
        failing: Pointer) 128, 0;
    ServerDense = server_dense (step: ServerStep, sums: Pointer, weight: i64, w: Pointer, first: Pointer, second: Pointer,
        length: i32) 256, 0;
    ServerRows = server_rows (step: ServerStep, sums: Pointer, slot_weight: Pointer, item: Pointer, weight: i64, table: Pointer,
        first: Pointer, second: Pointer, scales: Pointer, slots: i32, d: i32) 256, 0;
    // batches.cu
    AddGradients = add_gradients (g: Pointer, share: Pointer, parts: i32, stride: i64, length: i32, sums: Pointer, number: u32,
        refused: Pointer) 256, 0;
    AddRowGradients = add_row_gradients (g: Pointer, item: Pointer, part_rows: Pointer, share: Pointer, parts: i32, d: i32,
        sums: Pointer, number: u32, refused: Pointer) 128, 0;
    TakeGradients = take_gradients (sums: Pointer, factor: f32, g: Pointer, n: i64) 256, 0;
    DropTable = drop_table (clock: DropoutClock, number: u32, client: u32, threshold: u32, keep: f32, x: Pointer, y: Pointer,
        n: i64) 256, 0;
    GradientSquares = gradient_squares (g: Pointer, n: i64, span: i32, squares: Pointer) 256, 256;
    ClipFactor = clip_factor (squares: Pointer, count: i32, clip: f32, scale: Pointer) 256, 256;
    StepSpan = step_span (opt: OptimiserStep, scale: Pointer, refused: Pointer, p: Pointer, m: Pointer, s: Pointer, g: Pointer,
        start: Pointer, n: i64) 256, 0;
    // elementwise.cu
    Relu = relu (step: Pointer, kind: i32, x: Pointer, width: i32) 256, 0;
    ReluBackward = relu_backward (step: Pointer, kind: i32, y: Pointer, dx: Pointer, width: i32) 256, 0;
    Gelu = gelu (step: Pointer, kind: i32, x: Pointer, y: Pointer, width: i32) 256, 0;
    GeluBackward = gelu_backward (step: Pointer, kind: i32, x: Pointer, dx: Pointer, width: i32) 256, 0;
    Add = add (step: Pointer, kind: i32, x: Pointer, y: Pointer, width: i32) 256, 0;
    AddMean = add_mean (step: Pointer, kind: i32, factor: f32, x: Pointer, y: Pointer, width: i32) 256, 0;
    CopyAll = copy (step: Pointer, kind: i32, x: Pointer, y: Pointer, width: i32) 256, 0;
    Zero = zero (step: Pointer, kind: i32, x: Pointer, width: i32) 256, 0;
    SelectRows = select_rows (step: Pointer, x: Pointer, y: Pointer, width: i32) 256, 0;
    SelectRowsBackward = select_rows_backward (step: Pointer, dy: Pointer, dx: Pointer, width: i32) 256, 0;
    Dropout = dropout (step: Pointer, kind: i32, site: i32, threshold: u32, keep: f32, clock: Pointer, x: Pointer, width: i32) 256, 0;
    DropItems = drop_items (step: Pointer, threshold: u32, keep: f32, clock: Pointer, rows: Pointer, dropped: Pointer, d: i32) 256, 0;
    DropItemsBackward = drop_items_backward (step: Pointer, threshold: u32, keep: f32, clock: Pointer, grad: Pointer, d: i32) 256, 0;
    // embedding.cu
    Embed = embed (step: Pointer, scale: f32, positions: i32, rows: Pointer, dense: Pointer, stride: i64, y: Pointer, d: i32) 256, 0;
    EmbedBackwardRows = embed_backward_rows (step: Pointer, scale: f32, dy: Pointer, row_grad: Pointer, d: i32) 128, 6_160;
    EmbedBackwardPositions = embed_backward_positions (step: Pointer, dy: Pointer, grad: Pointer, stride: i64, positions: i32,
        d: i32) 128, 0;
    GatherRows = gather_rows (items: Pointer, table: Pointer, rows: Pointer, count: i32, d: i32) 256, 0;
    // full_softmax.cu
    FullSoftmaxStats = full_softmax_stats (step: Pointer, h: Pointer, rows: Pointer, lse: Pointer, loss: Pointer, d: i32) 128, 19_456;
    FullSoftmaxHidden = full_softmax_hidden (step: Pointer, h: Pointer, rows: Pointer, lse: Pointer, dh: Pointer, d: i32) 128, 27_648;
    FullSoftmaxRows = full_softmax_rows (step: Pointer, h: Pointer, rows: Pointer, lse: Pointer, row_grad: Pointer, d: i32) 128, 27_904;
    // gru.cu
    GruForward = gru_forward (step: Pointer, xw: Pointer, dense: Pointer, stride: i64, w: i32, b: i32, h: Pointer, gates: Pointer,
        previous: Pointer, d: i32) 128, 8 * d as usize + 12 * (d as usize).max(128);
    GruBackward = gru_backward (step: Pointer, dense: Pointer, stride: i64, w: i32, gates: Pointer, previous: Pointer, dh: Pointer,
        dxw: Pointer, dhw: Pointer, d: i32) 128, 16 * d as usize;
    // info_nce.cu
    InfoNce = info_nce (step: Pointer, contrast: i32, tau: f32, h: Pointer, dh: Pointer, loss: Pointer, views: i32,
        d: i32) 128, 48 * views as usize;
    InBatchGather = in_batch_gather (step: Pointer, cosine: i32, h: Pointer, z: Pointer, inverse: Pointer, d: i32) 128, 0;
    InBatchInfoNceStats = in_batch_info_nce_stats (step: Pointer, z: Pointer, inverse: Pointer, tau: f32, lse: Pointer, loss: Pointer,
        d: i32) 128, 19_456;
    InBatchInfoNceGrad = in_batch_info_nce_grad (step: Pointer, cosine: i32, z: Pointer, inverse: Pointer, lse: Pointer, tau: f32,
        weight: f32, dh: Pointer, d: i32) 128, 27_648;
    // linear.cu
    LinearForward = linear_forward linear_forward_tf32 linear_forward_bf16 (step: Pointer, kind: i32, x: Pointer, r#in: i32,
        dense: Pointer, stride: i64, w: i32, b: i32, y: Pointer, out: i32) 128, 27_648;
    LinearInput = linear_input linear_input_tf32 linear_input_bf16 (step: Pointer, kind: i32, dy: Pointer, out: i32, dense: Pointer,
        stride: i64, w: i32, dx: Pointer, r#in: i32, add: i32) 128, 27_648;
    LinearWeight = linear_weight linear_weight_tf32 linear_weight_bf16 (step: Pointer, kind: i32, x: Pointer, r#in: i32, dy: Pointer,
        out: i32, grad: Pointer, stride: i64, w: i32, b: i32) 128, 18_432;
    LinearStep = linear_step linear_step_tf32 linear_step_bf16 (step: Pointer, kind: i32, x: Pointer, r#in: i32, dy: Pointer, out: i32,
        grad: Pointer, opt: Pointer, p: Pointer, m: Pointer, s: Pointer, global: Pointer, stride: i64, w: i32, b: i32) 128, 18_432;
    // losses.cu
    NextItemLoss = next_item_loss (step: Pointer, kind: i32, h: Pointer, rows: Pointer, dh: Pointer, coef: Pointer, loss: Pointer,
        d: i32) 128, 0;
    NextItemRows = next_item_rows (step: Pointer, h: Pointer, coef: Pointer, row_grad: Pointer, d: i32) 128, 6_160;
    ClientLosses = client_losses (step: Pointer, loss: Pointer, contrast: Pointer, pairs: Pointer, out: Pointer) 128, 0;
    // norm.cu
    LayerNorm = layer_norm (step: Pointer, kind: i32, x: Pointer, width: i32, dense: Pointer, stride: i64, g: i32, b: i32, y: Pointer,
        stats: Pointer) 256, 0;
    LayerNormBackward = layer_norm_backward (step: Pointer, kind: i32, x: Pointer, stats: Pointer, width: i32, dense: Pointer, stride: i64,
        g: i32, dy: Pointer, dx: Pointer) 256, 0;
    LayerNormWeight = layer_norm_weight (step: Pointer, kind: i32, x: Pointer, stats: Pointer, width: i32, dy: Pointer, grad: Pointer,
        stride: i64, g: i32, b: i32) 256, 2_048;
    // optimiser.cu
    AdamDense = adam_dense (step: Pointer, opt: Pointer, scale: Pointer, p: Pointer, m: Pointer, s: Pointer, g: Pointer, global: Pointer, places: Pointer,
        count: i32, stride: i64,
        length: i32, position_at: i32, position_rows: i32, d: i32) 256, 0;
    AdamRows = adam_rows (step: Pointer, opt: Pointer, scale: Pointer, p: Pointer, m: Pointer, s: Pointer, g: Pointer, table: Pointer,
        d: i32) 256, 0;
    ClipNorm = clip_norm (step: Pointer, g: Pointer, row_grad: Pointer, stride: i64, length: i32, position_at: i32, position_rows: i32,
        d: i32, clip: f32, scale: Pointer) 256, 256;
    Broadcast = broadcast (global: Pointer, slab: Pointer, clients: i32, stride: i64, length: i32) 256, 0;
    // rank.cu
    RankTargets = rank_targets (h: Pointer, table: Pointer, target: Pointer, threshold: Pointer, count: Pointer, users: i32, d: i32) 128, 0;
    RankCount = rank_count (h: Pointer, table: Pointer, threshold: Pointer, count: Pointer, users: i32, items: i32, d: i32) 256, 33_792;
    RankMasked = rank_masked (h: Pointer, table: Pointer, target: Pointer, threshold: Pointer, bounds: Pointer, masked: Pointer,
        count: Pointer, users: i32, d: i32) 128, 0;
}
