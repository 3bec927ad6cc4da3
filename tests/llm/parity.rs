//! Every architecture against what `transformers` computes (tests/fixtures/llm-reference.json, made by scripts/llm-fixtures).

use super::common::{Loaded, agree_in_pieces, close, greedy, logits, random_folder, reference, texts, tinystories, tokens, without_stop};
use candle_core::{DType, Device};
use lumos::llm::{Candle, Control, EngineOptions, Tokenizer};
use serde_json::Value;

#[test]
fn the_real_model_agrees_alone_and_in_ragged_batches() {
    let Some(folder) = tinystories() else { return };
    let loaded = Loaded::open(&folder, 2);
    let tokenizer = Tokenizer::read(&folder, loaded.network.spec()).unwrap();
    let reference = reference();
    let rows = reference["tinystories"].as_array().unwrap();
    let prompts: Vec<Vec<u32>> = rows
        .iter()
        .map(|row| {
            let ids = tokenizer.encode_whole(row["prompt"].as_str().unwrap(), Control::Token).unwrap();
            assert_eq!(ids, tokens(&row["ids"]), "tokens of {}", row["prompt"]);
            ids
        })
        .collect();
    for (row, prompt) in rows.iter().zip(&prompts) {
        close(&logits(&loaded.network, &loaded.ops, std::slice::from_ref(prompt))[0], 37, &row["logits"], "batch of one");
    }
    for count in [2, 7, 64] {
        let many: Vec<Vec<u32>> = (0..count).map(|i| prompts[i % prompts.len()].clone()).collect();
        for (i, ours) in logits(&loaded.network, &loaded.ops, &many).iter().enumerate() {
            close(ours, 37, &rows[i % rows.len()]["logits"], &format!("batch of {count}"));
        }
    }
    let expected: Vec<Vec<u32>> = rows.iter().map(|r| without_stop(tokens(&r["greedy"]))).collect();
    for slots in [1, 3, 64] {
        let mut engine = loaded.engine(EngineOptions { slots, step_tokens: 17, ..Default::default() });
        assert_eq!(texts(&mut engine, prompts.iter().map(|p| greedy(p.clone(), 48)).collect()), expected, "{slots} slots");
    }
}

/// The operations that a GPU runs, here on the CPU.
fn as_candle_tensors(config: &Value, rows: &[Value], prompts: &[Vec<u32>]) {
    let folder = tempfile::tempdir().unwrap();
    random_folder(folder.path(), config);
    let loaded = Loaded::on(folder.path(), 2, |_| Candle::new(Device::Cpu, DType::F32));
    for (row, ours) in rows.iter().zip(logits(&loaded.network, &loaded.ops, prompts)) {
        close(&ours, 5, &row["logits"], "candle");
    }
    agree_in_pieces(&mut loaded.engine(EngineOptions { slots: 3, step_tokens: 11, ..Default::default() }), rows, prompts);
}

/// Each architecture is one test, so that a failure names it.
macro_rules! agrees {
    ($($test:ident: $name:literal),* $(,)?) => {$(
        #[test]
        fn $test() {
            let reference = reference();
            let case = &reference[$name];
            let loaded = Loaded::random(&case["config"], 2);
            let rows = case["rows"].as_array().unwrap();
            let prompts: Vec<Vec<u32>> = rows.iter().map(|r| tokens(&r["ids"])).collect();
            for (row, prompt) in rows.iter().zip(&prompts) {
                close(&logits(&loaded.network, &loaded.ops, std::slice::from_ref(prompt))[0], 5, &row["logits"], &format!("{} tokens alone", prompt.len()));
            }
            for (row, ours) in rows.iter().zip(logits(&loaded.network, &loaded.ops, &prompts)) {
                close(&ours, 5, &row["logits"], "ragged batch");
            }
            agree_in_pieces(&mut loaded.engine(EngineOptions { slots: 3, step_tokens: 11, ..Default::default() }), rows, &prompts);
            as_candle_tensors(&case["config"], rows, &prompts);
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
