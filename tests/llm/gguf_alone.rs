//! A GGUF file by itself: the same model as with `config.json` and `tokenizer.json` beside it.

use super::common::smollm2;
use super::gguf::write;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value as Meta;
use lumos::llm::{Control, EngineOptions, Key, Message, Model, Options, Piece, Place, Request, Sampling, Spec};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n";
const MERGES: [&str; 4] = ["t h", "th e", "Ġ the", "1 2"];
const CONTROLS: [&str; 2] = ["<|im_start|>", "<|im_end|>"];

/// The letters of byte-level byte pairs, what merges make of them, and two control tokens.
fn tokens() -> Vec<String> {
    let mut plain: Vec<u8> = (b'!'..=b'~').chain(0xa1..=0xac).chain(0xae..=0xff).collect();
    let rest: Vec<u8> = (0..=255).filter(|b| !plain.contains(b)).collect();
    let mut letters: Vec<String> = plain.drain(..).map(|b| char::from(b).to_string()).collect();
    letters.extend((0..rest.len() as u32).map(|n| char::from_u32(256 + n).unwrap().to_string()));
    letters.extend(MERGES.map(|merge| merge.replace(' ', "")));
    letters.extend(CONTROLS.map(String::from));
    letters
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 50000.0, "vocab_size": tokens().len(),
        "tie_word_embeddings": true, "bos_token_id": 260, "eos_token_id": 261,
    })
}

fn texts(all: &[String]) -> Meta {
    Meta::Array(all.iter().map(|text| Meta::String(text.clone())).collect())
}

/// The header of a whole model.
fn header(pre: &str) -> Vec<(&'static str, Meta)> {
    let tokens = tokens();
    let kind = |i: usize| Meta::I32(if i + 2 < tokens.len() { 1 } else { 3 });
    vec![
        ("llama.embedding_length", Meta::U32(256)),
        ("llama.feed_forward_length", Meta::U32(256)),
        ("llama.block_count", Meta::U32(2)),
        ("llama.attention.head_count", Meta::U32(4)),
        ("llama.attention.head_count_kv", Meta::U32(2)),
        ("llama.context_length", Meta::U32(128)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        ("llama.rope.freq_base", Meta::F32(50000.0)),
        ("tokenizer.ggml.model", Meta::String("gpt2".into())),
        ("tokenizer.ggml.pre", Meta::String(pre.into())),
        ("tokenizer.ggml.token_type", Meta::Array((0..tokens.len()).map(kind).collect())),
        ("tokenizer.ggml.merges", texts(&MERGES.map(String::from))),
        ("tokenizer.ggml.bos_token_id", Meta::U32(260)),
        ("tokenizer.ggml.eos_token_id", Meta::U32(261)),
        ("tokenizer.chat_template", Meta::String(TEMPLATE.into())),
        ("tokenizer.ggml.tokens", texts(&tokens)),
    ]
}

fn spec() -> Spec {
    Spec::parse(Path::new("config.json"), &config()).unwrap()
}

fn file(folder: &Path, architecture: &str, header: &[(&str, Meta)]) -> PathBuf {
    let path = folder.join("model.gguf");
    write(&path, &spec(), architecture, GgmlDType::Q8_0, header);
    path
}

fn load(path: &Path) -> lumos::Result<Model> {
    Model::load(path, &Options { place: Place::named("cpu")?, threads: 2, ..Options::default() })
}

fn answer(model: &Model, prompt: Vec<u32>, max_new: usize) -> Vec<u32> {
    let stop = model.defaults.eos.clone();
    let request = Request { prompt, max_new, sampling: Sampling::GREEDY, key: Key::default(), stop, constraint: None };
    let mut tokens = None;
    let mut engine = model.engine(EngineOptions { slots: 1, ..EngineOptions::default() }).unwrap();
    engine
        .generate(&mut [request].into_iter(), &mut |done| {
            tokens = Some(done.outcome?.tokens);
            Ok(())
        })
        .unwrap();
    tokens.unwrap()
}

/// The folder that the file was made from, written by hand.
fn folder(at: &Path) {
    let tokens = tokens();
    let vocab: Value = tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let added: Vec<Value> = (260..262)
        .map(|id| json!({"id": id, "content": tokens[id], "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}))
        .collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let whole = json!({"version": "1.0", "added_tokens": added, "pre_tokenizer": bytes, "decoder": bytes,
                       "model": {"type": "BPE", "vocab": vocab, "merges": MERGES}});
    std::fs::write(at.join("config.json"), config().to_string()).unwrap();
    std::fs::write(at.join("tokenizer.json"), whole.to_string()).unwrap();
    let words = json!({"chat_template": TEMPLATE, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"});
    std::fs::write(at.join("tokenizer_config.json"), words.to_string()).unwrap();
}

#[test]
fn a_file_alone_is_the_model_of_its_folder() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let alone = load(&file(one.path(), "llama", &header("gpt-2"))).unwrap();
    let path = file(two.path(), "llama", &[]);
    folder(two.path());
    let beside = load(&path).unwrap();
    assert_eq!(format!("{:?}", alone.spec()), format!("{:?}", beside.spec()));
    assert_eq!((&alone.defaults, alone.tokenizer.vocab(), alone.tokenizer.special()), (&beside.defaults, 262, beside.tokenizer.special()));
    for text in ["the other", "12 is 1 and 2", "ümlaut\n\n  the", "<|im_end|> the", ""] {
        for control in [Control::Token, Control::Text] {
            assert_eq!(alone.tokenizer.encode(text, control).unwrap(), beside.tokenizer.encode(text, control).unwrap(), "{text}");
        }
    }
    let turn = Message { role: "user", content: vec![Piece::Ours("the 12")] };
    let prompts = [&alone, &beside].map(|model| model.chat.prompt(std::slice::from_ref(&turn), &model.tokenizer).unwrap());
    assert!(prompts[0] == prompts[1] && prompts[0][0] == 260, "{prompts:?}");
    assert_eq!(answer(&alone, prompts[0].clone(), 20), answer(&beside, prompts[1].clone(), 20));
    // A folder that holds nothing but the file is the file.
    assert_eq!(load(one.path()).unwrap().tokenizer.hash(), alone.tokenizer.hash());
}

#[test]
fn digits_are_cut_where_the_header_says_so() {
    let at = tempfile::tempdir().unwrap();
    let ids = |pre: &str| load(&file(at.path(), "llama", &header(pre))).unwrap().tokenizer.encode("12", Control::Text).unwrap().len();
    assert_eq!((ids("gpt-2"), ids("smollm"), ids("qwen2"), ids("llama-bpe")), (1, 2, 2, 1));
}

#[test]
fn what_a_header_does_not_tell_is_refused_with_what_to_do() {
    let at = tempfile::tempdir().unwrap();
    type Change<'c> = &'c dyn Fn(&mut Vec<(&'static str, Meta)>);
    let refused = |architecture: &str, change: Change, part: &str| {
        let mut header = header("gpt-2");
        change(&mut header);
        let message = load(&file(at.path(), architecture, &header)).err().expect("refused").to_string();
        assert!(message.contains(part) && message.contains("model.gguf"), "{part}: {message}");
    };
    let put = |header: &mut Vec<(&'static str, Meta)>, key: &'static str, value: Meta| {
        header.retain(|(k, _)| *k != key);
        header.push((key, value));
    };
    refused("gemma2", &|_| (), "unknown architecture of a GGUF file alone `gemma2`");
    refused("llama", &|h| h.retain(|(k, _)| *k != "llama.block_count"), "`llama.block_count`");
    refused("llama", &|h| put(h, "tokenizer.ggml.model", Meta::String("llama".into())), "put the config.json and tokenizer.json");
    refused("llama", &|h| put(h, "tokenizer.ggml.pre", Meta::String("smolm".into())), "did you mean `smollm`");
    refused("llama", &|h| put(h, "llama.rope.scaling.type", Meta::String("yarn".into())), "stretched by `yarn`");
    refused("llama", &|h| put(h, "tokenizer.ggml.tokens", texts(&["a".into(), "a".into()])), "written alike");
    refused("llama", &|h| put(h, "tokenizer.ggml.merges", Meta::U32(3)), "no list `tokenizer.ggml.merges`");
    refused("llama", &|h| put(h, "llama.embedding_length", Meta::U32(128)), "config.json asks for");
    refused("llama", &|h| put(h, "tokenizer.ggml.eos_token_id", Meta::U32(9999)), "9999");
}

/// The real model: its template, its digits, an answer that is true.
#[test]
fn smollm2_answers() {
    let Some(path) = smollm2() else { return };
    let model = load(&path).unwrap();
    assert_eq!((model.spec().width, model.spec().layers, model.parameters() / 1_000_000), (576, 30, 134));
    let asked = Message { role: "user", content: vec![Piece::Ours("What is the capital of France? Answer in one word.")] };
    let prompt = model.chat.prompt(&[asked], &model.tokenizer).unwrap();
    let text = model.tokenizer.decode_whole(&prompt).unwrap();
    assert!(
        text.starts_with("<|im_start|>system\nYou are a helpful AI assistant named SmolLM") && text.ends_with("<|im_start|>assistant\n")
    );
    let said = model.tokenizer.decode(&answer(&model, prompt, 24)).unwrap();
    assert!(said.contains("Paris"), "{said}");
}
