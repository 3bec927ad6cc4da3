//! Prefixes as sequences of their own (`loss.examples`): each item from the second on is a target once, behind the items before it.

use crate::ring::world;
use crate::view_terms::{Example, examples, settings};
use lumos::config::{Anchor, Backbone, Contrast, Examples, Pool, Resample, Settings};
use lumos::settings::validate;

fn prefixes(f: impl Fn(&mut Settings)) -> Settings {
    let mut s = settings();
    s.loss.examples = Examples::Prefixes;
    f(&mut s);
    s
}

#[test]
fn every_item_is_a_target_behind_the_last_items_before_it() {
    let world = world(24, 200, 2);
    let most = settings().model.max_len as usize;
    let lengths: Vec<usize> = (0..24).map(|user| world.0.train(user).len()).collect();
    assert!(lengths.iter().any(|n| *n > most + 1) && lengths.iter().any(|n| *n <= most), "longer than an input, and shorter: {lengths:?}");
    for (name, s) in [
        ("plain", prefixes(|_| ())),
        ("negatives of a visit", prefixes(|s| s.loss.resample = Resample::Shared)),
        ("last item encoded", prefixes(|s| s.loss.contrast = Contrast::Decoupled)),
        ("means of states", prefixes(|s| (s.loss.contrast, s.loss.pool, s.loss.anchor) = (Contrast::Decoupled, Pool::Mean, Anchor::Input))),
    ] {
        for user in 0..24 {
            let train = world.0.train(user as usize);
            let (packed, _) = examples(&s, &world, user);
            let last = |n: usize| train[n.saturating_sub(most)..n].to_vec();
            let mut found: Vec<(Vec<u32>, u32)> = packed.iter().map(|e| (e.input.clone(), e.positive)).collect();
            let mut wanted: Vec<(Vec<u32>, u32)> = (1..train.len()).map(|n| (last(n), train[n])).collect();
            found.sort();
            wanted.sort();
            assert_eq!(found, wanted, "{name}, user {user}");
            let alike = |of: fn(&Example) -> usize| packed.windows(2).all(|pair| of(&pair[0]) == of(&pair[1]));
            assert!(alike(|e| e.negatives.len()) && packed.iter().all(|e| (e.share * packed.len() as f32 - 1.0).abs() < 1e-5), "{name}");
            assert!(packed.iter().flat_map(|e| &e.negatives).all(|item| !train.contains(item)), "{name}");
        }
    }
}

/// Where the whole history fits an input, both ways have the same targets with the same negatives.
#[test]
fn positions_and_prefixes_draw_the_same_negatives() {
    let world = world(24, 200, 2);
    for user in 0..24 {
        let of = |s: &Settings| {
            let (packed, _) = examples(s, &world, user);
            let mut all: Vec<(u32, Vec<u32>)> = packed.into_iter().map(|e| (e.positive, e.negatives)).collect();
            all.sort();
            all
        };
        let long = |s: &mut Settings| s.model.max_len = 50;
        let mut positions = settings();
        long(&mut positions);
        assert_eq!(of(&positions), of(&prefixes(long)), "user {user}");
    }
}

#[test]
fn masked_items_have_no_prefixes() {
    let error = validate(&prefixes(|s| s.model.backbone = Backbone::BERT4REC)).unwrap_err().to_string();
    assert!(error.contains("loss.examples") && error.contains("positions"), "{error}");
}
