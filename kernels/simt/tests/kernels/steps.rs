//! Steps that tests of embeddings and losses share, and what is done to them.
#![allow(dead_code)] // Every test file uses a part.

use crate::packed::{Builder, PackedStep};

/// Steps of odd shapes with `width` candidates an example: one token; clients of all kinds, empty ones among them; one client
/// with many histories; several such.
pub fn steps(width: usize) -> Vec<PackedStep> {
    let mut crowd = Builder::new(7, width);
    crowd.align = 20;
    for client in 0..3 {
        for user in 0..13 * client {
            let length = 1 + crowd.random.below(19);
            let views = [length, 1 + user % 4, 2, 1];
            let used = if user % 3 == 0 { 1 } else { views.len() };
            crowd.user(&views[..used]);
        }
        crowd.end_client();
    }
    vec![
        PackedStep::random(1, width, &[&[1]]),
        PackedStep::random(2, width, &[&[5, 3, 4, 2], &[], &[1], &[31, 7, 2], &[1, 3], &[], &[2, 1], &[13]]),
        spread(PackedStep::random(3, width, &[&[17, 4, 4, 1, 5], &[37], &[]]), 11),
        crowd.finish(),
    ]
}

/// The same step over tables with `factor` times the rows, those in between unused.
pub fn spread(mut step: PackedStep, factor: i32) -> PackedStep {
    let first: Vec<i32> = step.client_rows.clone();
    for b in &mut step.client_rows {
        *b *= factor;
    }
    let moved = |client: usize, row: i32| first[client] * factor + (row - first[client]) * factor;
    for (row, &c) in step.row.iter_mut().zip(&step.token_client) {
        *row = moved(c as usize, *row);
    }
    for (e, cands) in step.cands.chunks_mut(step.width).enumerate() {
        let client = step.out_client[step.example[e] as usize] as usize;
        for row in cands {
            *row = moved(client, *row);
        }
    }
    step
}

fn slice(values: &[i32], bounds: &[i32], c: usize, less: i32) -> Vec<i32> {
    values[bounds[c] as usize..bounds[c + 1] as usize].iter().map(|v| v - less).collect()
}

/// Client `c` of a step in a launch of its own.
pub fn alone(step: &PackedStep, c: usize) -> PackedStep {
    let mut one = Builder::new(0, step.width).finish();
    let base = |bounds: &[i32]| bounds[c];
    let size = |bounds: &[i32]| vec![0, bounds[c + 1] - bounds[c]];
    let (token, out, row) = (base(&step.client_tokens), base(&step.client_outs), base(&step.client_rows));
    (one.longest, one.position_low, one.position_high) = (step.longest, step.position_low, step.position_high);
    (one.number, one.positive_weight, one.lambda) = (step.number, step.positive_weight, step.lambda);
    one.special = step.special;
    one.client_tokens = size(&step.client_tokens);
    one.client_sequences = size(&step.client_sequences);
    one.client_outs = size(&step.client_outs);
    one.client_examples = size(&step.client_examples);
    one.client_groups = size(&step.client_groups);
    one.client_pairs = size(&step.client_pairs);
    let entries: Vec<i32> = step.client_pairs.iter().map(|b| 2 * b).collect();
    one.pair = slice(&step.pair, &entries, c, out);
    one.client_rows = size(&step.client_rows);
    one.client_id = vec![step.client_id[c]];
    one.row = slice(&step.row, &step.client_tokens, c, row);
    one.position = slice(&step.position, &step.client_tokens, c, 0);
    one.start = slice(&step.start, &step.client_tokens, c, token);
    one.token_client = slice(&step.token_client, &step.client_tokens, c, c as i32);
    let sequences = step.client_sequences[c] as usize..=step.client_sequences[c + 1] as usize;
    one.bounds = step.bounds[sequences].iter().map(|b| b - token).collect();
    one.out_token = slice(&step.out_token, &step.client_outs, c, token);
    one.out_start = slice(&step.out_start, &step.client_outs, c, token);
    one.out_client = slice(&step.out_client, &step.client_outs, c, c as i32);
    one.example = slice(&step.example, &step.client_examples, c, out);
    let entries: Vec<i32> = step.client_examples.iter().map(|b| b * step.width as i32).collect();
    one.cands = slice(&step.cands, &entries, c, row);
    let groups = step.client_groups[c] as usize..step.client_groups[c + 1] as usize;
    let members = step.group_bounds[groups.start] as usize..step.group_bounds[groups.end] as usize;
    one.group = step.group[members.clone()].iter().map(|q| q - out).collect();
    one.group_bounds = step.group_bounds[groups.start..=groups.end].iter().map(|b| b - members.start as i32).collect();
    one.positives = step.positives[groups].to_vec();
    one
}

/// Rows `bounds[c]..bounds[c + 1]` of a matrix of width `d`.
pub fn part<'a>(values: &'a [f32], bounds: &[i32], c: usize, d: usize) -> &'a [f32] {
    &values[bounds[c] as usize * d..bounds[c + 1] as usize * d]
}

/// The largest of what clients have between their bounds.
pub fn largest(bounds: &[i32]) -> usize {
    bounds.windows(2).map(|b| (b[1] - b[0]) as usize).max().unwrap_or(0)
}

/// Fails where the worst error of `actual` is over four times that of the plain f32 computation, or not a number.
#[track_caller]
pub fn accept(what: &str, actual: &[f32], plain: &[f32], exact: &[f64]) {
    let ratio = lumos_simt::check::error_ratio(actual, plain, exact);
    assert!(ratio <= 4.0, "{what}: the error is {ratio:.1} times that of the plain computation");
}
