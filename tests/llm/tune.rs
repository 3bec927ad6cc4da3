//! A model that is trained: the same network as the one that writes, gradients as differences say, and back.

use super::common::{Loaded, sized};
use candle_core::{Device, Tensor, Var};
use lumos::llm::tune::{Adapt, Named, Optimiser, Rates, Tuned};
use lumos::llm::{Model, Options, Place, Spec};
use serde_json::{Value, json};
use std::path::Path;

fn config(class: &str, more: Value) -> Value {
    let mut config = json!({
        "architectures": [class], "vocab_size": 37, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 20, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
        "rope_theta": 1e4, "tie_word_embeddings": true, "eos_token_id": 0, "hidden_act": "silu",
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

fn tensors(config: &Value) -> (Spec, Vec<Named>) {
    let spec = Spec::parse(Path::new("config.json"), config).unwrap();
    let tensors = sized(spec.tensors(), spec.norm_offset);
    (spec, tensors)
}

fn tuned(config: &Value, adapt: Adapt) -> Tuned {
    let (spec, tensors) = tensors(config);
    Tuned::of(spec, tensors, adapt, Device::Cpu).unwrap()
}

const LOW_RANK: Adapt = Adapt::LowRank { rank: 3, scale: 6.0, seed: 4 };

/// Token sequences of odd lengths.
fn sequences() -> Vec<Vec<u32>> {
    [1, 5, 17, 2].iter().enumerate().map(|(i, n)| (0..*n as u32).map(|t| (t * 7 + 3 * i as u32 + 1) % 37).collect()).collect()
}

fn logits(model: &Tuned, sequences: &[Vec<u32>]) -> Tensor {
    let hidden = model.hidden(&sequences.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    let ends = sequences.iter().scan(0, |end, tokens| {
        *end += tokens.len() as u32;
        Some(*end - 1)
    });
    model.logits(&hidden, &ends.collect::<Vec<_>>()).unwrap()
}

fn floats(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// A number that depends on every logit.
fn objective(model: &Tuned, sequences: &[Vec<u32>]) -> Tensor {
    let x = logits(model, sequences);
    let weights = Tensor::arange(0f32, x.elem_count() as f32, &Device::Cpu).unwrap().reshape(x.dims()).unwrap();
    (x.tanh().unwrap() * (weights * 0.37).unwrap().sin().unwrap()).unwrap().sum_all().unwrap()
}

#[test]
fn every_trained_family_computes_what_the_writing_network_does() {
    let window = json!({"sliding_window": 4});
    let biases = json!({"attention_bias": true, "mlp_bias": true, "tie_word_embeddings": false});
    let kinds = [
        ("LlamaForCausalLM", json!({})),
        ("LlamaForCausalLM", biases),
        ("MistralForCausalLM", window),
        ("Qwen2ForCausalLM", json!({})),
        ("Qwen3ForCausalLM", json!({})),
    ];
    for (class, more) in kinds {
        let config = config(class, more);
        let loaded = Loaded::random(&config, 1);
        let expected = loaded.network.last_logits(&loaded.ops, &sequences()).unwrap();
        for adapt in [Adapt::Full, LOW_RANK] {
            let found = floats(&logits(&tuned(&config, adapt), &sequences()));
            let off = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let size = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
            assert!(off <= 1e-5 * size.max(1.0), "{class} {adapt:?}: {off} of {size}");
        }
    }
    let gemma = config("Gemma2ForCausalLM", json!({}));
    let (spec, tensors) = tensors(&gemma);
    let refused = Tuned::of(spec, tensors, Adapt::Full, Device::Cpu).err().unwrap().to_string();
    assert!(refused.contains("Gemma2"), "{refused}");
}

/// Adds `by` to one number of `var`.
fn nudge(var: &Var, at: usize, by: f32) {
    let mut values = floats(var);
    values[at] += by;
    var.set(&Tensor::from_vec(values, var.dims(), &Device::Cpu).unwrap()).unwrap();
}

#[test]
fn gradients_are_what_differences_say() {
    for (class, adapt) in [("LlamaForCausalLM", Adapt::Full), ("Qwen3ForCausalLM", LOW_RANK), ("Qwen2ForCausalLM", LOW_RANK)] {
        let model = tuned(&config(class, json!({})), adapt);
        for (name, var) in model.trained().iter().filter(|(name, _)| name.ends_with(".up")) {
            // At rest `down` would have no gradient.
            (0..var.elem_count()).for_each(|i| nudge(var, i, 0.05 * ((i * 13 + name.len()) as f32).sin()));
        }
        let sequences = sequences();
        let gradients = objective(&model, &sequences).backward().unwrap();
        for (name, var) in model.trained() {
            let gradient = floats(gradients.get(&var).unwrap_or_else(|| panic!("{name} has no gradient")));
            let size = gradient.iter().fold(0f32, |m, g| m.max(g.abs()));
            let largest = (0..gradient.len()).max_by(|a, b| gradient[*a].abs().total_cmp(&gradient[*b].abs())).unwrap();
            for at in [largest, gradient.len() / 2] {
                let step = 5e-3;
                let value = |by: f32| {
                    nudge(&var, at, by);
                    let value = objective(&model, &sequences).to_scalar::<f32>().unwrap();
                    nudge(&var, at, -by);
                    value
                };
                let difference = (value(step) - value(-step)) / (2.0 * step);
                let off = (difference - gradient[at]).abs();
                assert!(off <= 0.02 * size + 2e-3, "{class} {name}[{at}]: {difference} by differences, {} of {size}", gradient[at]);
            }
        }
    }
}

#[test]
fn steps_go_down_and_the_result_writes() {
    let config = config("LlamaForCausalLM", json!({}));
    let rates = Rates { lr: 0.01, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.01, decoupled: true, clip: 1.0 };
    for adapt in [Adapt::Full, LOW_RANK] {
        let model = tuned(&config, adapt);
        let mut optimiser = Optimiser::new(model.trained()).unwrap();
        let mut values = Vec::new();
        for _ in 0..8 {
            let value = objective(&model, &sequences());
            values.push(value.to_scalar::<f32>().unwrap());
            optimiser.step(&value.backward().unwrap(), &rates).unwrap();
        }
        assert!(values[7] < values[0] - 0.1, "{adapt:?}: {values:?}");
        // Merged into plain weights it is the same model.
        let (spec, _) = tensors(&config);
        let merged = Tuned::of(spec, model.weights().unwrap(), Adapt::Full, Device::Cpu).unwrap();
        let [a, b] = [&model, &merged].map(|model| floats(&logits(model, &sequences())));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-4), "{adapt:?}");
    }
}

#[test]
fn an_optimiser_goes_on_where_it_was() {
    let config = config("LlamaForCausalLM", json!({}));
    let rates = Rates { lr: 0.01, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.0, decoupled: true, clip: 0.0 };
    let go_on = |model: &Tuned, optimiser: &mut Optimiser| {
        for _ in 0..3 {
            optimiser.step(&objective(model, &sequences()).backward().unwrap(), &rates).unwrap();
        }
    };
    let whole = tuned(&config, LOW_RANK);
    let mut optimiser = Optimiser::new(whole.trained()).unwrap();
    go_on(&whole, &mut optimiser);
    let kept = optimiser.tensors().unwrap();
    go_on(&whole, &mut optimiser);

    let again = tuned(&config, LOW_RANK);
    let mut second = Optimiser::new(again.trained()).unwrap();
    let find = |name: &str, shape: &[usize]| {
        let found = kept.iter().find(|(n, s, _)| n == name && s == shape);
        found.map(|(_, _, values)| &values[..]).ok_or_else(|| lumos::Error::Usage(name.into()))
    };
    second.restore(3, find).unwrap();
    go_on(&again, &mut second);
    assert_eq!(whole.weights().unwrap(), again.weights().unwrap());
    let before = second.tensors().unwrap();
    assert!(second.restore(0, |name, _| Err(lumos::Error::Usage(name.into()))).is_err());
    assert_eq!((second.tensors().unwrap(), second.steps), (before, 6));
}

#[test]
fn a_retrained_model_writes_with_its_new_weights() {
    let options = Options { place: Place::named("cpu").unwrap(), threads: 1, ..Options::default() };
    let mut model = Model::small(3, &options).unwrap();
    let tuned = Tuned::new(&model, Adapt::Full, Device::Cpu).unwrap();
    let texts: Vec<Vec<u32>> = vec![vec![5, 9, 3], vec![7], vec![]];
    let start = [65, 66, 67, 68];
    let by_hand = |tuned: &Tuned| -> Vec<f64> {
        let one = |text: &Vec<u32>| {
            let whole = [&start[..], text].concat();
            let hidden = tuned.hidden(&[&whole]).unwrap();
            let rows: Vec<u32> = (0..text.len() as u32).map(|i| start.len() as u32 - 1 + i).collect();
            if rows.is_empty() {
                return 0.0;
            }
            let logits = tuned.logits(&hidden, &rows).unwrap().to_vec2::<f32>().unwrap();
            let log = |(row, token): (&Vec<f32>, &u32)| {
                f64::from(row[*token as usize]) - row.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln()
            };
            logits.iter().zip(text).map(log).sum()
        };
        texts.iter().map(one).collect()
    };
    let likely = |model: &Model| model.engine(Default::default()).unwrap().log_likelihoods(&start, &texts).unwrap();
    let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
    let before = likely(&model);
    assert!(near(&before, &by_hand(&tuned)), "{before:?}");
    for (_, var) in tuned.trained() {
        var.set(&(var.as_tensor() * 1.5).unwrap()).unwrap();
    }
    model.retrained(tuned.weights().unwrap(), &options).unwrap();
    let after = likely(&model);
    assert!(near(&after, &by_hand(&tuned)) && !near(&after, &before), "{after:?}");
    let mut short = tuned.weights().unwrap();
    short.pop();
    assert!(model.retrained(short, &options).is_err());
    assert!(near(&likely(&model), &after));
}
