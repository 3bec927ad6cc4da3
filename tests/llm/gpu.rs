//! The decoder by the GPU's kernels, played on the CPU: the reference library's texts, whatever the batch, and the host's choices.

use super::common::{Loaded, agree_in_pieces, close, greedy, logits, random_folder, reference, texts, tinystories, tokens, without_stop};
use super::simt::device;
use lumos::llm::{Cpu, EngineOptions, Gpu, Key, Request, Sampling, Spec, Stored};
use serde_json::Value;
use std::path::Path;

const MEMORY: u64 = 1 << 28;

fn on_gpu(folder: &Path, number: Stored) -> Loaded<Gpu> {
    Loaded::on(folder, 2, |spec| Gpu::new(device(MEMORY), number, spec).unwrap())
}

fn random(config: &Value, number: Stored) -> Loaded<Gpu> {
    let folder = tempfile::tempdir().unwrap();
    random_folder(folder.path(), config);
    on_gpu(folder.path(), number)
}

/// Each architecture is one test, so that a failure names it.
macro_rules! agrees {
    ($($test:ident: $name:literal),* $(,)?) => {$(
        #[test]
        fn $test() {
            let reference = reference();
            let case = &reference[$name];
            let loaded = random(&case["config"], Stored::F32);
            let rows = case["rows"].as_array().unwrap();
            let prompts: Vec<Vec<u32>> = rows.iter().map(|r| tokens(&r["ids"])).collect();
            for (row, ours) in rows.iter().zip(logits(&loaded.network, &loaded.ops, &prompts)) {
                close(&ours, 5, &row["logits"], "ragged batch");
            }
            agree_in_pieces(&mut loaded.engine(EngineOptions { slots: 3, step_tokens: 11, ..Default::default() }), rows, &prompts);
        }
    )*};
}

agrees! {
    llama_with_stretched_positions_and_biases: "llama3",
    llama_with_linear_positions: "llama-linear",
    mistral_with_a_window: "mistral",
    qwen2_with_tied_tables: "qwen2",
    qwen3_with_normalised_heads: "qwen3",
    gemma2_with_caps_and_windows: "gemma2",
    gemma3_with_two_rotations: "gemma3",
    phi3_with_fused_projections: "phi3",
}

#[test]
fn the_real_model_writes_what_the_reference_library_writes() {
    let Some(folder) = tinystories() else { return };
    let loaded = on_gpu(&folder, Stored::F32);
    let reference = reference();
    let rows = reference["tinystories"].as_array().unwrap();
    let prompts: Vec<Vec<u32>> = rows.iter().map(|r| tokens(&r["ids"])).collect();
    for (row, ours) in rows.iter().zip(logits(&loaded.network, &loaded.ops, &prompts)) {
        close(&ours, 37, &row["logits"], "ragged batch");
    }
    let mut engine = loaded.engine(EngineOptions { slots: 64, step_tokens: 17, ..Default::default() });
    let ours = texts(&mut engine, prompts.iter().map(|p| greedy(p.clone(), 12)).collect());
    let expected: Vec<Vec<u32>> = rows.iter().map(|r| without_stop(tokens(&r["greedy"]).into_iter().take(12).collect())).collect();
    assert_eq!(ours, expected);
}

const SAMPLING: Sampling = Sampling { temperature: 0.9, top_k: 40, top_p: 0.95, repetition_penalty: 1.1 };

fn requests(sampling: Sampling) -> Vec<Request> {
    let request = |i: u32| Request {
        prompt: (0..1 + i * 5 % 19).map(|n| 3 + (n * 31 + i * 7) % 90).collect(),
        max_new: 1 + (i as usize * 7) % 13,
        sampling,
        key: Key { seed: 11, user: u64::from(i), view: u64::from(i) % 3 },
        stop: vec![2, 5],
        constraint: None,
    };
    (0..12).map(request).collect()
}

/// Options of the drawn texts: greedy ones are held against the reference library above.
const KINDS: [Sampling; 4] = [
    SAMPLING,
    Sampling { temperature: 1.3, ..Sampling::GREEDY },
    Sampling { temperature: 0.7, top_p: 0.5, ..Sampling::GREEDY },
    Sampling { temperature: 0.7, top_k: 3, repetition_penalty: 1.4, ..Sampling::GREEDY },
];

#[test]
fn texts_do_not_depend_on_their_batch() {
    for number in [Stored::F32, Stored::Bf16, Stored::F16] {
        let loaded = random(&reference()["qwen3"]["config"], number);
        let all = |slots, step_tokens| {
            let mut engine = loaded.engine(EngineOptions { slots, step_tokens, ..Default::default() });
            texts(&mut engine, requests(SAMPLING))
        };
        let alone = all(1, 512);
        for (slots, step_tokens) in [(5, 512), (12, 7)] {
            assert_eq!(all(slots, step_tokens), alone, "{number:?}, {slots} slots, {step_tokens} rows a step");
        }
    }
}

#[test]
fn drawn_texts_are_those_of_the_host() {
    let config = &reference()["llama3"]["config"];
    let (ours, host) = (random(config, Stored::F32), Loaded::<Cpu>::random(config, 2));
    for kind in KINDS {
        let on_device = texts(&mut ours.engine(EngineOptions { slots: 5, ..Default::default() }), requests(kind));
        let on_host = texts(&mut host.engine(EngineOptions { slots: 5, ..Default::default() }), requests(kind));
        assert_eq!(on_device, on_host, "{kind:?}");
    }
}

/// A step in which every text adds one token is recorded when its size comes a second time, and again once its lists have outgrown their memory.
#[test]
fn steps_of_one_token_are_replayed() {
    let config = &reference()["llama3"]["config"];
    let (ours, host) = (random(config, Stored::F32), Loaded::<Cpu>::random(config, 2));
    // Of three texts side by side two and one are under way in turn.
    for (slots, long, steps) in [(1, 100, 300), (3, 30, 60)] {
        let requests = || {
            let request = |i: u32| Request {
                prompt: vec![3 + i, 4, 5],
                max_new: long,
                sampling: SAMPLING,
                key: Key { seed: 5, user: u64::from(i), view: 0 },
                stop: vec![],
                constraint: None,
            };
            (0..3).map(request).collect::<Vec<_>>()
        };
        let before = ours.ops.device().counters();
        let on_device = texts(&mut ours.engine(EngineOptions { slots, ..Default::default() }), requests());
        let after = ours.ops.device().counters();
        assert_eq!(on_device, texts(&mut host.engine(EngineOptions { slots, ..Default::default() }), requests()), "{slots} slots");
        let replays = after.replays - before.replays;
        assert!(replays > steps * 3 / 4 && replays <= steps, "{replays} of {steps} steps");
        assert!((after.replayed - before.replayed).is_multiple_of(replays), "every recording holds the launches of a step");
    }
}

#[test]
fn halves_are_near() {
    let reference = reference();
    let case = &reference["qwen2"];
    let prompts: Vec<Vec<u32>> = case["rows"].as_array().unwrap().iter().map(|r| tokens(&r["ids"])).collect();
    let exact = random(&case["config"], Stored::F32);
    let exact = logits(&exact.network, &exact.ops, &prompts).concat();
    let size = exact.iter().map(|x| x * x).sum::<f32>();
    // Rounding to 8 and to 11 bits in a handful of places.
    for (number, most) in [(Stored::Bf16, 2e-2), (Stored::F16, 3e-3)] {
        let loaded = random(&case["config"], number);
        let ours = logits(&loaded.network, &loaded.ops, &prompts).concat();
        let off = ours.iter().zip(&exact).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        let share = (off / size).sqrt();
        assert!(share < most && share > 0.0, "{number:?}: {share} of the logits' length off");
    }
}

#[test]
fn as_many_texts_are_written_at_once_as_memory_allows() {
    let folder = tempfile::tempdir().unwrap();
    random_folder(folder.path(), &reference()["llama3"]["config"]);
    let spec = Spec::read(folder.path()).unwrap();
    let slots = |memory: u64| Gpu::new(device(memory), Stored::Bf16, &spec).unwrap().slots(&spec, 500).unwrap();
    let (some, twice) = (slots(4 << 20), slots(8 << 20));
    assert!(some > 1 && twice >= 2 * some - 1 && twice <= 2 * some + 1, "{some} {twice}");
    assert_eq!((slots(1000), slots(1 << 40)), (1, 256));
}
