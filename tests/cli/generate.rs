//! `lumos bench generate` through the real binary.

use crate::real::tinystories;
use crate::sandbox::Sandbox;

const SHORT: [&str; 12] = ["--prefix", "20", "--suffix", "9", "--output", "7", "--prompts", "10", "--batch", "4", "--repeats", "1"];

#[test]
fn the_row_says_what_was_measured() {
    let Some(model) = tinystories() else { return };
    let sandbox = Sandbox::new();
    let run = |more: &[&str]| {
        let mut words = vec!["bench", "generate", "--model", model.to_str().unwrap(), "--threads", "2"];
        words.extend(SHORT);
        words.extend(more);
        sandbox.lumos(&words)
    };
    let row = run(&["--json", "--device", "cpu"]).json();
    for (key, value) in
        [("prefix", 20), ("output", 7), ("prompts", 10), ("batch", 4), ("parameters", 656_000), ("threads", 2), ("titles", 0)]
    {
        assert_eq!(row[key], value, "{key}");
    }
    assert_eq!((&row["model"], &row["device"], &row["dtype"]), (&"tinystories-656k".into(), &"cpu".into(), &"bf16".into()));
    assert_eq!(row["padded_rows"], 0.0);
    for key in
        ["prompt_tokens_per_s", "output_tokens_per_s", "computed_prompt_tokens_per_s", "first_token_ms", "cache_use", "suffix", "seconds"]
    {
        assert!(row[key].as_f64().is_some_and(|x| x > 0.0), "{key}: {}", row[key]);
    }
    // One repetition: every rate is its tokens over its wall time.
    let of = |key: &str| row[key].as_f64().unwrap();
    let tokens = |key: &str| (of(key) * of("seconds")).round() as u64;
    assert_eq!((tokens("output_tokens_per_s"), tokens("prompt_tokens_per_s")), (10 * 7, 10 * 20 + (10.0 * of("suffix")).round() as u64));
    assert_eq!(tokens("computed_prompt_tokens_per_s"), 20 + (10.0 * of("suffix")).round() as u64);
    let row = run(&["--json", "--titles", "500", "--temperature", "1"]).json();
    assert_eq!(row["titles"], 500);
    assert!(row["forced_share"].as_f64().unwrap() > 0.0 && row["trie_bytes"].as_u64().unwrap() > 1000, "{row}");
    let table = run(&["--dtype", "bf16", "--equal"]).done();
    assert!(table.contains("10 prompts of 20 shared and 9.0 own tokens") && table.contains("padded work"), "{table}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let Some(model) = tinystories() else { return };
    let sandbox = Sandbox::new();
    let refused = |more: &[&str], parts: &[&str]| {
        let mut words = vec!["bench", "generate", "--model", model.to_str().unwrap()];
        words.extend(more);
        sandbox.lumos(&words).refused(1, parts);
    };
    refused(&["--dtype", "bf17"], &["unknown dtype `bf17`", "`bf16`"]);
    refused(&["--dtype", "f16", "--device", "cpu"], &["the CPU computes in f32"]);
    refused(&["--device", "gpu"], &["unknown device `gpu`", "did you mean `cuda`"]);
    refused(&["--device", "cuda:4096"], &["--device cpu"]);
    if !cfg!(feature = "candle-cuda") {
        refused(&["--device", "candle"], &["--features candle-cuda", "device `cuda`"]);
    }
    refused(&["--prefix", "600"], &["the model ends at 512"]);
    sandbox.lumos(&["bench", "generate", "--model", "nowhere"]).refused(1, &["nowhere"]);
    sandbox.lumos(&["bench", "generate"]).refused(2, &["--model"]);
}

#[test]
fn a_prompt_is_answered() {
    let Some(model) = tinystories() else { return };
    let sandbox = Sandbox::new();
    let run = |more: &[&str]| {
        let words = ["generate", "--model", model.to_str().unwrap(), "--prompt", "Once upon a time, ", "--threads", "2", "--device", "cpu"];
        sandbox.lumos(&[&words[..], more].concat())
    };
    let greedy = run(&["--max-tokens", "12", "--json", "--temperature", "0"]).json();
    assert_eq!((&greedy["tokens"], &greedy["finish"], &greedy["template"]), (&12.into(), &"length".into(), &false.into()));
    assert!(greedy["tokens_per_s"].as_f64().unwrap() > 0.0 && greedy["prompt_tokens"].as_u64().unwrap() > 3);
    let text = greedy["text"].as_str().unwrap();
    let table = run(&["--max-tokens", "12", "--temperature", "0"]).done();
    assert!(table.contains(text.trim()) && table.contains("12 written") && table.contains("--max-tokens"), "{table}");
    let drawn = |seed: &str| run(&["--max-tokens", "12", "--json", "--temperature", "1.5", "--seed", seed]).json()["text"].clone();
    assert!(drawn("1") == drawn("1") && drawn("1") != drawn("2"));
    run(&["--system", "Be brief."]).refused(1, &["--system", "no chat template"]);
    run(&["--max-tokens", "0"]).refused(2, &["--max-tokens"]);
    sandbox.lumos(&["generate", "--model", "nowhere", "--prompt", "x"]).refused(1, &["nowhere"]);
    sandbox.lumos(&["generate", "--model", "small.toml", "--prompt", "x"]).refused(1, &["small.toml", ".gguf"]);
    sandbox.lumos(&["generate", "--model", model.to_str().unwrap(), "--prompt", ""]).refused(1, &["--prompt", "empty"]);
}
