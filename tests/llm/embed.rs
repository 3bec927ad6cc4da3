//! The sentence encoder: parity with the reference library (tests/fixtures/embed-reference.json, made by `scripts/llm-fixtures
//! --sentences`), independence of batch and threads, titles on disk, folders that are refused.

use super::common::{floats, tokens};
use super::encoder::{folder, pooling, reference, save, shapes, sized, write};
use lumos::llm::embed::{Encoder, Pooling, TitleVectors};
use lumos::llm::{Control, Spec, Tokenizer};
use serde_json::{Value, json};
use std::path::Path;

fn sentences() -> Vec<String> {
    reference()["sentences"].as_array().unwrap().iter().map(|s| s.as_str().unwrap().into()).collect()
}

#[test]
fn every_way_of_pooling_agrees_with_the_reference() {
    let reference = reference();
    for (name, pooled, normalize) in [
        ("mean", "pooling_mode_mean_tokens", false),
        ("cls", "pooling_mode_cls_token", false),
        ("max", "pooling_mode_max_tokens", false),
        ("unit", "pooling_mode_mean_tokens", true),
    ] {
        let folder = folder(pooled, normalize);
        let encoder = Encoder::load(folder.path(), 2).unwrap();
        let expected = reference["embeddings"][name].as_array().unwrap();
        let ours = encoder.encode(&sentences()).unwrap();
        for (i, (row, expected)) in ours.chunks(encoder.width()).zip(expected).enumerate() {
            let expected = floats(expected);
            let ours: Vec<f32> = row.iter().step_by(3).copied().collect();
            assert_eq!(ours.len(), expected.len());
            let worst = ours.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, |a: f32, b| if b.is_nan() { b } else { a.max(b) });
            assert!(worst < 1e-4, "{name}, sentence {i}: {worst} off: {ours:?} {expected:?}");
        }
    }
}

#[test]
fn a_folder_without_modules_is_the_mean_of_its_tokens() {
    let folder = folder("pooling_mode_mean_tokens", false);
    let with = Encoder::load(folder.path(), 1).unwrap().encode(&sentences()).unwrap();
    std::fs::remove_file(folder.path().join("modules.json")).unwrap();
    let bare = Encoder::load(folder.path(), 1).unwrap();
    assert_eq!(bare.encode(&sentences()).unwrap(), with);
    assert_eq!((bare.spec().pooling, bare.spec().longest, bare.spec().normalize), (Pooling::Mean, 24, false));
    // Tensors of a model that was saved with a head on it.
    let named: Vec<_> = sized(shapes(&reference()["config"]), false).into_iter().map(|(n, s, v)| (format!("bert.{n}"), s, v)).collect();
    save(&folder.path().join("model.safetensors"), &named);
    assert_eq!(Encoder::load(folder.path(), 1).unwrap().encode(&sentences()).unwrap(), with);
}

#[test]
fn neighbours_order_and_threads_change_no_bit() {
    let folder = folder("pooling_mode_mean_tokens", true);
    // More tokens than one batch has, of all lengths up to beyond the longest.
    let word = |i: usize| ["cat", "dog", "red ball", "the", "x1", "and", "number"][i % 7];
    let many: Vec<String> = (0..300).map(|i| (0..i % 31).map(|k| word(i * 5 + k * 3)).collect::<Vec<_>>().join(" ")).collect();
    let encoder = Encoder::load(folder.path(), 2).unwrap();
    let together = encoder.encode(&many).unwrap();
    let row = |i: usize| &together[i * encoder.width()..][..encoder.width()];
    for (i, text) in many.iter().enumerate().step_by(7) {
        assert_eq!(encoder.encode(std::slice::from_ref(text)).unwrap(), row(i), "{text}");
    }
    let turned: Vec<String> = many.iter().rev().cloned().collect();
    let back: Vec<f32> = encoder.encode(&turned).unwrap().chunks(encoder.width()).rev().flatten().copied().collect();
    assert_eq!(back, together);
    for threads in [1, 3] {
        assert_eq!(Encoder::load(folder.path(), threads).unwrap().encode(&many).unwrap(), together, "{threads} threads");
    }
}

#[test]
fn tokens_are_the_references_and_control_tokens_are_text() {
    let (folder, reference) = (folder("pooling_mode_cls_token", false), reference());
    let config = json!({"architectures": ["LlamaForCausalLM"], "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 96, "max_position_embeddings": 64});
    let spec = Spec::parse(Path::new("config.json"), &config).unwrap();
    let tokenizer = Tokenizer::read(folder.path(), &spec).unwrap();
    for (text, ids) in sentences().iter().zip(reference["ids"].as_array().unwrap()) {
        let mut ours = tokenizer.encode_whole(text, Control::Text).unwrap();
        let longest = reference["longest"].as_u64().unwrap() as usize;
        if ours.len() > longest {
            ours.truncate(longest - 1);
            ours.push(3);
        }
        assert_eq!(ours, tokens(ids), "{text}");
    }
    // Two titles that a control token would cut to the same sentence.
    let encoder = Encoder::load(folder.path(), 1).unwrap();
    let two = encoder.encode(&["cat [SEP]".into(), "cat".into()]).unwrap();
    assert_ne!(two[..encoder.width()], two[encoder.width()..]);
}

#[test]
fn titles_are_kept_and_damage_is_made_good() {
    let (folder, cache) = (folder("pooling_mode_mean_tokens", false), tempfile::tempdir().unwrap());
    let titles: Vec<String> = (0..40).map(|i| format!("the cat and ball {i}")).collect();
    let open = |hash: &str, prefix: &str, titles: &[String]| {
        let encoder = Encoder::load(folder.path(), 2).unwrap();
        TitleVectors::new(encoder, hash, prefix, titles, Some(cache.path())).unwrap()
    };
    let lines: Vec<String> = [&titles[7], "red dog", "", &titles[39]].map(|t: &str| t.to_owned()).into();
    let (made, read) = open("a", "", &titles);
    let best = made.best(&lines).unwrap();
    assert!(!read && best[0].unwrap().0 == 7 && best[3].unwrap().0 == 39 && (best[0].unwrap().1 - 1.0).abs() < 1e-6, "{best:?}");
    let again = |hash: &str, prefix: &str, titles: &[String], read: bool| {
        let (made, was_read) = open(hash, prefix, titles);
        assert_eq!(was_read, read);
        made.best(&lines).unwrap()
    };
    assert_eq!(again("a", "", &titles, true), best);
    // Line by line, and each against all cosines.
    assert_eq!(lines.iter().map(|l| made.best(std::slice::from_ref(l)).unwrap()[0]).collect::<Vec<_>>(), best);
    // Another encoder, prefix or catalogue has a file of its own.
    again("b", "", &titles, false);
    assert_ne!(again("a", "query: ", &titles, false), best);
    again("a", "", &titles[1..], false);
    let files = || -> Vec<_> { std::fs::read_dir(cache.path()).unwrap().map(|e| e.unwrap().path()).collect() };
    assert_eq!(files().len(), 4);
    for file in files() {
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&file, bytes).unwrap();
    }
    assert_eq!(again("a", "", &titles, false), best);
    assert_eq!(again("a", "", &titles, true), best);
    for file in files() {
        std::fs::write(&file, b"short").unwrap();
    }
    assert_eq!(again("a", "", &titles, false), best);
    // Of equal titles the first.
    let twins = vec!["dog".to_owned(), "cat".into(), "cat".into()];
    assert_eq!(open("a", "", &twins).0.best(&["cat".into()]).unwrap()[0].unwrap().0, 1);
    assert_eq!(open("a", "", &[]).0.best(&lines).unwrap(), [None; 4]);
}

#[test]
fn titles_beyond_one_part_are_found_as_well() {
    let folder = folder("pooling_mode_mean_tokens", true);
    let titles: Vec<String> = (0..16_400).map(|i| format!("{i}")).collect();
    let (made, _) = TitleVectors::new(Encoder::load(folder.path(), 2).unwrap(), "", "", &titles, None).unwrap();
    // More lines than are matched at a time.
    let lines: Vec<String> = (0..70).map(|i| titles[16_399 - i * 3].clone()).collect();
    let best = made.best(&lines).unwrap();
    let encoder = Encoder::load(folder.path(), 2).unwrap();
    let (all, asked, d) = (encoder.encode(&titles).unwrap(), encoder.encode(&lines).unwrap(), encoder.width());
    for (i, line) in asked.chunks(d).enumerate() {
        let cosine = |t: &[f32]| line.iter().zip(t).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let most = all.chunks(d).map(cosine).fold(f64::MIN, f64::max);
        let (title, found) = best[i].unwrap();
        assert!((f64::from(found) - most).abs() < 1e-5 && (cosine(&all[title as usize * d..][..d]) - most).abs() < 1e-5, "{}", lines[i]);
    }
}

#[test]
fn folders_that_are_no_encoder_are_named() {
    #[track_caller]
    fn case(change: impl Fn(&Path), parts: &[&str]) {
        let folder = folder("pooling_mode_mean_tokens", true);
        change(folder.path());
        let message = Encoder::load(folder.path(), 1).err().expect("refused").to_string();
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }
    fn edit(file: &'static str, key: &'static str, value: Value) -> impl Fn(&Path) {
        move |folder: &Path| {
            let path = folder.join(file);
            let mut all: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            all[key] = value.clone();
            std::fs::write(path, all.to_string()).unwrap();
        }
    }
    let config = |key, value| edit("config.json", key, value);
    let remove = |file: &'static str| move |f: &Path| std::fs::remove_file(f.join(file)).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"] {
        case(remove(file), &[file]);
    }
    case(|f| std::fs::remove_dir_all(f).unwrap(), &["no such folder"]);
    case(config("architectures", json!(["BertModell"])), &["unknown encoder `BertModell`", "`BertModel`"]);
    case(config("architectures", json!(["XLMRobertaModel"])), &["XLMRobertaModel", "BertModel"]);
    case(config("architectures", json!(null)), &["`architectures` is missing"]);
    case(config("hidden_act", json!("relu")), &["`hidden_act` is `relu`", "`gelu`"]);
    case(config("position_embedding_type", json!("relative_key")), &["relative_key", "`absolute`"]);
    case(config("num_attention_heads", json!(3)), &["`num_attention_heads` 3", "44"]);
    case(config("num_hidden_layers", json!(4)), &["encoder.layer.3", "missing"]);
    case(config("intermediate_size", json!(73)), &["shape [72, 44]", "[73, 44]"]);
    case(config("hidden_size", json!(48)), &["`word_embedding_dimension` is 44", "48"]);
    case(config("vocab_size", json!(90)), &["tokenizer.json", "embedding table ends at 89"]);
    case(config("vocab_size", json!(97)), &["shape [96, 44]", "[97, 44]"]);
    case(config("hidden_size", json!(-1)), &["`hidden_size` is -1"]);
    case(config("max_position_embeddings", json!(65)), &["position_embeddings", "[65, 44]"]);
    case(|f| write(f, "modules.json", &json!({})), &["modules.json", "not a list"]);
    case(|f| write(f, "modules.json", &json!([])), &["no Pooling"]);
    case(|f| write(f, "modules.json", &json!([{"path": ""}])), &["module 0 has no `type`"]);
    let kinds = |kinds: &[&str]| -> Value { kinds.iter().map(|k| json!({"type": k, "path": "1_Pooling"})).collect() };
    case(|f| write(f, "modules.json", &kinds(&["a.Transformer", "a.Pooling", "a.Dense"])), &["`Dense`", "not supported"]);
    case(|f| write(f, "modules.json", &kinds(&["a.Transformer", "a.Poling"])), &["unknown module `Poling`", "`Pooling`"]);
    case(|f| write(f, "modules.json", &kinds(&["a.Pooling", "a.Transformer"])), &["module 0 is `Pooling`"]);
    case(|f| write(f, "modules.json", &json!([{"type": "Transformer", "path": "../x"}])), &["`../x`", "out of the folder"]);
    case(|f| write(f, "1_Pooling/config.json", &pooling("pooling_mode_lasttoken")), &["unknown pooling `pooling_mode_lasttoken`"]);
    case(edit("1_Pooling/config.json", "pooling_mode_cls_token", json!(true)), &["2 ways of pooling"]);
    case(edit("1_Pooling/config.json", "pooling_mode_mean_tokens", json!(false)), &["0 ways of pooling"]);
    case(edit("1_Pooling/config.json", "include_prompt", json!(false)), &["`include_prompt`"]);
    case(edit("sentence_bert_config.json", "max_seq_length", json!("long")), &["`max_seq_length` is \"long\""]);
    case(edit("sentence_bert_config.json", "max_seq_length", json!(1)), &["tokenizer.json"]);
    case(|f| std::fs::write(f.join("tokenizer.json"), "{}").unwrap(), &["tokenizer.json", "not a tokenizer"]);
    let cut = |f: &Path| std::fs::write(f.join("model.safetensors"), &std::fs::read(f.join("model.safetensors")).unwrap()[..9000]).unwrap();
    case(cut, &["model.safetensors", "not a whole safetensors file"]);
}

#[test]
fn weights_without_a_finite_result_are_refused() {
    let folder = folder("pooling_mode_mean_tokens", true);
    let mut all = sized(shapes(&reference()["config"]), false);
    all.iter_mut().find(|t| t.0 == "encoder.layer.2.output.dense.bias").unwrap().2[0] = f32::NAN;
    save(&folder.path().join("model.safetensors"), &all);
    let message = Encoder::load(folder.path(), 1).unwrap().encode(&["cat".into()]).unwrap_err().to_string();
    assert!(message.contains("not finite"), "{message}");
}
