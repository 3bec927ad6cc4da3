//! What reads foreign bytes for language models never panics: whole files with bytes changed, cut, doubled and mixed, by seed.

use candle_core::quantized::gguf_file::{self, Value as Meta};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use crate::knock::knock;
use lumos::llm::{Spec, fuzz as llm};
use lumos::views::fuzz as views;
use serde_json::{Value, json};
use std::path::Path;

/// A whole file for the tiny model of [`llm::gguf`], in blocks of 32.
fn gguf() -> Vec<u8> {
    let config = json!({"architectures": ["LlamaForCausalLM"], "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "vocab_size": 8});
    let spec = Spec::parse(Path::new("config.json"), &config).unwrap();
    let names = [
        ("embed_tokens", "token_embd.weight"),
        ("model.norm", "output_norm.weight"),
        ("lm_head", "output.weight"),
        ("input_layernorm", "blk.0.attn_norm.weight"),
        ("post_attention_layernorm", "blk.0.ffn_norm.weight"),
        ("q_proj", "blk.0.attn_q.weight"),
        ("k_proj", "blk.0.attn_k.weight"),
        ("v_proj", "blk.0.attn_v.weight"),
        ("o_proj", "blk.0.attn_output.weight"),
        ("gate_proj", "blk.0.ffn_gate.weight"),
        ("up_proj", "blk.0.ffn_up.weight"),
        ("down_proj", "blk.0.ffn_down.weight"),
    ];
    let tensors: Vec<(&str, QTensor)> = (spec.tensors().into_iter())
        .map(|(name, shape)| {
            let own = names.iter().find(|(theirs, _)| name.contains(theirs)).unwrap().1;
            let kind = if shape.len() == 2 { GgmlDType::Q8_0 } else { GgmlDType::F32 };
            let values = Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
            (own, QTensor::quantize(&values, kind).unwrap())
        })
        .collect();
    let list: Vec<(&str, &QTensor)> = tensors.iter().map(|(n, t)| (*n, t)).collect();
    let words = Meta::Array((0..3).map(|i| Meta::String(format!("w{i}"))).collect());
    let (name, alignment, scores) = (Meta::String("llama".into()), Meta::U32(32), Meta::Array(vec![Meta::F32(0.5); 3]));
    let metadata = [("general.architecture", &name), ("general.alignment", &alignment), ("words", &words), ("scores", &scores)];
    let mut file = std::io::Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &list).unwrap();
    file.into_inner()
}

#[test]
fn gguf_files() {
    knock("gguf", &[gguf()], 20_000, llm::gguf);
}

#[test]
fn configurations() {
    let reference: Value = serde_json::from_str(include_str!("fixtures/llm-reference.json")).unwrap();
    let mut seeds: Vec<Vec<u8>> =
        reference.as_object().unwrap().values().filter_map(|v| Some(v.get("config")?.to_string().into_bytes())).collect();
    let encoder = json!({"architectures": ["BertModel"], "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 16, "eos_token_id": [1, 2], "top_k": 3});
    seeds.push(encoder.to_string().into_bytes());
    assert!(seeds.len() > 5);
    knock("config_json", &seeds, 1500, llm::config);
}

#[test]
fn tokenizers() {
    let model = |model: Value| {
        let added = json!([{"id": 4, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true}]);
        let whole = json!({"version": "1.0", "added_tokens": added, "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Isolated", "invert": false},
            "post_processor": null, "decoder": null, "truncation": null, "padding": null, "model": model});
        [whole.to_string().as_bytes(), b"\0the cat sat"].concat()
    };
    let vocab = json!({"[UNK]": 0, "t": 1, "h": 2, "th": 3});
    let seeds = [
        model(json!({"type": "BPE", "vocab": vocab, "merges": ["t h"], "unk_token": "[UNK]"})),
        model(json!({"type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100})),
        model(json!({"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"})),
        model(json!({"type": "Unigram", "vocab": [["[UNK]", 0.0], ["t", -1.0], ["th", -2.0]], "unk_id": 0, "byte_fallback": false})),
    ];
    knock("tokenizer", &seeds, 3000, llm::tokenizer);
}

const TEMPLATES: [&str; 4] = [
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}\
     {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
     {% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
     {{ raise_exception('Conversation roles must alternate') }}{% endif %}{{ '<start_of_turn>' + message['role'] + '\\n' + \
     message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}",
    "{%- set ns = namespace(last='', n=0) -%}{%- macro turn(m) -%}[{{ m.role | upper }}]{{ m.content[:20] | replace('a', 'b') }}\
     {%- endmacro -%}{%- for m in messages[::-1] -%}{%- set ns.n = ns.n + 1 -%}{%- set ns.last = m.role ~ ns.n * 2 -%}{{ turn(m) }}\
     {%- if loop.last %}{% break %}{% endif -%}{%- endfor -%}{{ ns.last }}{{ messages | length }}{{ messages | tojson }}<think>\n",
    "{% for i in range(300) %}{% for j in range(300) %}{{ 'x' * i }}{% endfor %}{% endfor %}",
];

#[test]
fn chat_templates() {
    let seeds: Vec<Vec<u8>> = TEMPLATES.iter().map(|t| format!("{t}\0Star Wars (1977)\0<|im_end|>{{{{ x }}}}").into_bytes()).collect();
    knock("chat", &seeds, 400, llm::chat);
}

#[test]
fn prompts_answers_and_lines() {
    let prompts = ["future", "paraphrase"].map(|name| {
        let text = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("configs/prompts/{name}.toml"))).unwrap();
        [&text[..], b"\0Star Wars (1977)\0{count}"].concat()
    });
    knock("prompt", &prompts, 4000, views::prompt);
    let completion = |message: Value| json!({"choices": [{"message": message, "finish_reason": "length"}], "usage": {"prompt_tokens": 5}});
    let answers = [
        completion(json!({"role": "assistant", "content": "{\"items\": [\"Star Wars\", \"A, b\"]}"})).to_string(),
        completion(json!({"content": "<think>\nso\n</think>\n```json\n[{\"title\": \"A\"}]\n```"})).to_string(),
        completion(json!({"content": null, "reasoning_content": "hm", "refusal": "no", "tool_calls": [{"function": {"name": "f"}}]}))
            .to_string(),
        completion(json!({"content": [{"type": "text", "text": "1. A\n2) B"}]})).to_string(),
        json!({"error": {"message": "overloaded", "code": 429}}).to_string(),
        "Sun, 06 Nov 1994 08:49:37 GMT\nSun, 06 Nov 1994 08:49:30 GMT".into(),
        "12.5\n".into(),
    ];
    knock("answer", &answers.map(String::into_bytes), 3000, views::answer);
    let of_batch = [
        json!({"custom_id": "lumos-x-0-0", "response": {"status_code": 200, "body": completion(json!({"content": "A\nB"}))}, "error": null}),
        json!({"custom_id": "lumos-x-0-1", "response": {"status_code": 400, "body": {"message": "no"}}}),
        json!({"custom_id": "lumos-x-0-0", "response": null, "error": {"message": "it fell over"}}),
    ];
    knock("answers", &[of_batch.map(|line| format!("{line}\r\n")).concat().into_bytes()], 3000, views::answers);
    let lines =
        ["Star Wars (1977)\nToy Story\nÜmlaut — x\0{\"items\": [\"Star wars\", \"toy 'story'\"]}", "a\nb\0- 1. \"a\"\n[INST] b\n```\nc"];
    knock("grounding", &lines.map(|l| l.as_bytes().to_vec()), 4000, views::grounding);
}
