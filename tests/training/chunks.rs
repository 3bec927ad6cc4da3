//! A chunk of clients packed for one launch holds, for each client, exactly what the client packs alone.

use crate::ring::world;
use lumos::backend::{Step, TableRow};
use lumos::config::{Backbone, Clients, Contrast, RecLoss, Settings, UploadRows};
use lumos::engine::{Chunk, Packer};
use lumos::testing::valid;
use proptest::prelude::*;

fn settings(kind: u32) -> Settings {
    let mut s = Settings { seed: 5, ..Settings::default() };
    s.model.max_len = 8;
    s.local.epochs = 3;
    match kind {
        0 => {}
        1 => s.loss.contrast = Contrast::None,
        2 => (s.loss.rec, s.loss.negatives) = (RecLoss::SampledSoftmax, 4),
        3 => s.loss.rec = RecLoss::Softmax,
        4 => s.model.backbone = Backbone::BERT4REC,
        5 => (s.loss.in_batch.weight, s.federation.clients) = (0.1, Clients::One),
        6 => {
            (s.loss.future_targets, s.loss.paraphrase_inputs, s.loss.counterfactual_negatives) = (0.3, 0.2, 1);
        }
        7 => {
            (s.loss.rec, s.loss.negatives, s.loss.popularity) = (RecLoss::SampledSoftmax, 4, 0.5);
            (s.loss.future_targets, s.loss.paraphrase_inputs) = (0.3, 0.2);
        }
        _ => s.federation.upload_rows = UploadRows::Touched,
    }
    s
}

/// Client `c` of a joint step, counted from its own first token, output, row.
fn alone(step: &Step, c: usize, first_row: u32) -> Step {
    let span = |b: &[u32]| b[c] as usize..b[c + 1] as usize;
    let (tokens, outs) = (span(&step.client_tokens), span(&step.client_outs));
    let (examples, groups) = (span(&step.client_examples), span(&step.client_groups));
    let pairs = span(&step.client_pairs);
    let less = |v: &[u32], by: u32| v.iter().map(|x| x - by).collect::<Vec<_>>();
    let rows = |rows: &[TableRow]| rows.iter().map(|row| TableRow(row.0 - first_row)).collect::<Vec<_>>();
    let (t0, q0) = (tokens.start as u32, outs.start as u32);
    let members = step.group_bounds[groups.start] as usize..step.group_bounds[groups.end] as usize;
    let bounds: Vec<u32> = step.bounds.iter().copied().filter(|b| (t0..=tokens.end as u32).contains(b)).collect();
    Step {
        row: rows(&step.row[tokens.clone()]),
        position: step.position[tokens.clone()].to_vec(),
        start: less(&step.start[tokens.clone()], t0),
        token: less(&step.token[tokens.clone()], t0),
        bounds: less(&bounds, t0),
        out_token: less(&step.out_token[outs.clone()], t0),
        out_start: less(&step.out_start[outs.clone()], t0),
        example: less(&step.example[examples.clone()], q0),
        share: step.share.get(examples.clone()).unwrap_or_default().to_vec(),
        offset: step.offset.get(examples.start * step.width..examples.end * step.width).unwrap_or_default().to_vec(),
        cands: rows(&step.cands[examples.start * step.width..examples.end * step.width]),
        width: step.width,
        positive_weight: step.positive_weight,
        group: less(&step.group[members.clone()], q0),
        group_bounds: less(&step.group_bounds[groups.start..=groups.end], members.start as u32),
        positives: step.positives[groups.clone()].to_vec(),
        client_tokens: vec![0, tokens.len() as u32],
        client_outs: vec![0, outs.len() as u32],
        client_examples: vec![0, examples.len() as u32],
        client_weighted: vec![0, span(&step.client_weighted).len() as u32],
        weighted: span(&step.client_weighted).len() as u32,
        client_groups: vec![0, groups.len() as u32],
        pair: less(&step.pair[2 * pairs.start..2 * pairs.end], q0),
        client_pairs: vec![0, pairs.len() as u32],
        longest: 0,
        align: step.align,
        special: step.special,
        labels: Vec::new(),
        pull: Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(36))]
    #[test]
    fn a_client_packs_the_same_alone_and_among_others(
        kind in 0u32..9,
        clients in prop::collection::vec(0u32..40, 1..12),
        cut in 0usize..12,
        several in any::<bool>(),
    ) {
        let settings = settings(kind);
        let (data, views) = world(40, 60, 9);
        let mut packer = Packer::new(valid(&settings), data.clone(), views.clone());
        // Clients of one sequence, or of a few: those have a different number of local steps each.
        let users = |c: u32| if several { (0..1 + c % 5).map(|k| (c + 7 * k) % 40).collect::<Vec<_>>() } else { vec![c] };
        let mut whole = Chunk::new();
        let (mut left, mut right) = (Chunk::new(), Chunk::new());
        for (i, &c) in clients.iter().enumerate() {
            whole.push(&mut packer, c, &users(c), 2);
            (if i < cut { &mut left } else { &mut right }).push(&mut packer, c, &users(c), 2);
        }
        left.append(&right);
        prop_assert_eq!(format!("{:?}", (&left.clients, &left.plans, &left.client_rows, &left.items, &left.uploads, &left.steps)),
            format!("{:?}", (&whole.clients, &whole.plans, &whole.client_rows, &whole.items, &whole.uploads, &whole.steps)));

        for (i, &c) in clients.iter().enumerate() {
            let plan = packer.begin(&users(c), 2);
            prop_assert_eq!(plan, whole.plans[i]);
            let rows = whole.client_rows[i] as usize..whole.client_rows[i + 1] as usize;
            prop_assert_eq!(packer.items(), &whole.items[rows.clone()]);
            for (number, step) in whole.steps.iter().enumerate() {
                let mut own = Step::default();
                if number < plan.steps as usize {
                    packer.pack(number as u32, &mut own);
                    own.longest = 0;
                    prop_assert_eq!(format!("{:?}", alone(step, i, rows.start as u32)), format!("{own:?}"));
                } else {
                    prop_assert_eq!(step.client_tokens[i], step.client_tokens[i + 1]);
                    prop_assert_eq!(step.client_examples[i], step.client_examples[i + 1]);
                }
            }
            for (k, row) in rows.enumerate() {
                prop_assert_eq!(whole.uploads[row], packer.uploads(k));
            }
        }
    }
}
