//! A sequence has the same bits alone and packed among others, and in training and evaluation.

use lumos::backend::Step;
use lumos::config::{Backbone, ModelSettings};
use lumos::model::{Model, ModelSpec};

use crate::check::{Outs, normal, pack, plain_local, poison, stream};
use crate::model::{new_worker, random_dense};

fn sequence(step: &Step, s: usize) -> Step {
    let (lo, hi) = (step.bounds[s] as usize, step.bounds[s + 1] as usize);
    let mut one = Step { width: 1, ..Step::default() };
    one.clear();
    one.push_sequence(step.row[lo..hi].iter().copied());
    for &t in step.out_token.iter().filter(|&&t| (lo..hi).contains(&(t as usize))) {
        one.push_output(t - lo as u32);
    }
    one.end_client();
    one
}

#[test]
fn hidden_states_do_not_depend_on_packing() {
    for (i, &(d, heads)) in [(5, 1), (8, 2), (12, 3), (24, 1), (64, 2), (65, 1)].iter().enumerate() {
        for backbone in [Backbone::SASREC, Backbone::GRU4REC, Backbone::BERT4REC] {
            let settings = ModelSettings { backbone, dim: d, heads, ffn: d + 3, max_len: 40, ..ModelSettings::default() };
            let spec = ModelSpec::new(&settings);
            let model = Model::new(&spec);
            let mut s = stream(700 + i as u64);
            let (dense, rows) = (random_dense(&mut s, &spec), normal(&mut s, 0.5, 13 * d as usize));
            let mut lengths = vec![1, 7, 1, 19, 2, 31, 3, 1, 1, 13];
            s.shuffle(&mut lengths);
            let step = pack(&mut s, &lengths, 13, Outs::History);

            let mut w = new_worker(&spec, &dense, &rows);
            w.step = step.clone();
            poison(&mut w);
            w.begin_step(&plain_local(), 1, 1, false, None);
            let h = model.encode(&mut w);
            let together = w.values(h).to_vec();

            let mut alone = Vec::new();
            for n in 0..lengths.len() {
                w.step = sequence(&step, n);
                poison(&mut w);
                // SAFETY: both slices live to the end of the test.
                unsafe { w.read_from(&dense, &rows) };
                w.begin_pass();
                let h = model.encode(&mut w);
                alone.extend_from_slice(w.values(h));
            }
            assert!(together.iter().all(|x| x.is_finite()));
            let same = together.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same && together.len() == alone.len(), "{} d {d}", backbone.name());
        }
    }
}
