//! Least work of the packed kernels, counted from the shape: what a roofline asks. Each number is read once and written once, weights
//! once a client; what a kernel reads again from a cache is not counted.

use super::calls::Call;
use super::case::Case;
use super::subject::Cost;
use crate::backend::RowKind;
use crate::config::Precision;

/// Least bytes and operations of one launch of `kernel` in `call` on `case`.
pub fn of(kernel: &str, call: &Call, case: &Case) -> Cost {
    let step = case.step();
    let f = |n: usize| n as f64;
    let (t, q, c, d) = (f(step.tokens()), f(step.outputs()), f(case.clients()), f(case.d));
    let (e, g, r) = (f(step.example.len()), f(step.positives.len()), f(case.chunk.rows()));
    let n = if call.rows == RowKind::Tokens { t } else { q };
    let (ins, outs) = (f(call.widths.0), f(call.widths.1));
    let (width, heads, members) = (f(step.width), f(case.heads), f(step.group.len()));
    let low_high = step.positions();
    let positions = f(low_high.1 - low_high.0);
    // Pairs of a query and a token that it sees.
    let seen = |tokens: &[u32], starts: &[u32]| tokens.iter().zip(starts).map(|(&t, &s)| f64::from(t - s + 1)).sum::<f64>();
    let pairs = match call.rows {
        RowKind::Tokens => seen(&step.token, &step.start),
        RowKind::Outputs => seen(&step.out_token, &step.out_start),
    };
    // Scores of a softmax over the tables.
    let scores: f64 =
        (0..case.clients()).map(|k| f(case.rows_of(k).len()) * f64::from(step.client_examples[k + 1] - step.client_examples[k])).sum();
    // Paired outputs, and scores among those of a client.
    let paired = f(step.pair.len());
    let twins: f64 = step.client_pairs.windows(2).map(|b| 4.0 * f64::from(b[1] - b[0]).powi(2)).sum();
    let family = kernel.trim_end_matches("_tf32").trim_end_matches("_bf16");
    let (floats, operations) = match family {
        // Each token's item row and place, and what is written.
        "embed" => (2.0 * t * d + 2.0 * t, 2.0 * t * d),
        "embed_backward_rows" => (t * d + 2.0 * r * d + t, 2.0 * t * d),
        "embed_backward_positions" => (t * d + c * positions * d + t, t * d),
        "select_rows" => (2.0 * q * d + q, 0.0),
        "select_rows_backward" => (3.0 * q * d + q, q * d),
        "layer_norm" => (2.0 * n * d + 2.0 * c * d + 2.0 * n, 8.0 * n * d),
        "layer_norm_backward" => (4.0 * n * d + c * d + 2.0 * n, 10.0 * n * d),
        "layer_norm_weight" => (2.0 * n * d + 2.0 * c * d + 2.0 * n, 4.0 * n * d),
        "linear_forward" => (n * (ins + outs) + c * (ins + 1.0) * outs, 2.0 * n * ins * outs),
        "linear_input" => (n * (ins + outs) + c * ins * outs, 2.0 * n * ins * outs),
        "linear_weight" => (n * (ins + outs) + c * (ins + 1.0) * outs, 2.0 * n * (ins + 1.0) * outs),
        "attention_forward" => (2.0 * n * d + 2.0 * t * d + n * heads, 4.0 * pairs * d),
        "attention_backward_q" => (3.0 * n * d + 2.0 * t * d + 3.0 * n * heads, 6.0 * pairs * d),
        "attention_backward_kv" => (2.0 * n * d + 4.0 * t * d + 3.0 * n * heads, 8.0 * pairs * d),
        "gru_forward" => (9.0 * t * d + 3.0 * c * (d + 1.0) * d, 6.0 * t * d * d + 50.0 * t * d),
        "gru_backward" => (12.0 * t * d + 3.0 * c * d * d, 6.0 * t * d * d + 20.0 * t * d),
        "relu" => (2.0 * n * d, n * d),
        "relu_backward" | "add" => (3.0 * n * d, n * d),
        "add_mean" => (3.0 * n * d, 2.0 * n * d),
        "gelu" => (2.0 * n * d, 12.0 * n * d),
        "gelu_backward" => (3.0 * n * d, 20.0 * n * d),
        "copy" => (2.0 * n * d, 0.0),
        "zero" => (n * d, 0.0),
        // A Philox block of about 100 integer operations for eight elements is not arithmetic of the roofline.
        "dropout" => (2.0 * n * d, n * d),
        "drop_items" | "drop_items_backward" => (2.0 * r * d, r * d),
        "next_item_loss" => (3.0 * q * d + r * d + 2.0 * e * width + e, 4.0 * e * width * d),
        "next_item_rows" => (q * d + 2.0 * r * d + 2.0 * e * width, 2.0 * e * width * d),
        "full_softmax_stats" => (e * d + r * d + 2.0 * e, 2.0 * scores * d),
        "full_softmax_hidden" => (3.0 * e * d + r * d + e, 4.0 * scores * d),
        "full_softmax_rows" => (e * d + 3.0 * r * d + e, 4.0 * scores * d),
        "in_batch_gather" => (2.0 * paired * d + 2.0 * paired, 2.0 * paired * d),
        "in_batch_info_nce_stats" => (paired * d + 3.0 * paired, 2.0 * twins * d),
        "in_batch_info_nce_grad" => (3.0 * paired * d + 3.0 * paired, 4.0 * twins * d),
        "info_nce" => (3.0 * members * d + g, 16.0 * members * d),
        other => unreachable!("no count of the work of {other}"),
    };
    // Products on tensor cores are measured against them, everything else against plain multiply-adds.
    let precision = if family == kernel { Precision::Fp32 } else { call.precision };
    Cost { bytes: 4.0 * floats, operations, precision }
}
