//! The event files of a run, read by a parser that shares nothing with the writer.

use crate::sandbox::{Sandbox, small};
use serde_json::Value;
use std::collections::BTreeMap;

/// CRC-32C bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

fn unmasked(bytes: &[u8]) -> u32 {
    let masked = u32::from_le_bytes(bytes.try_into().unwrap()).wrapping_sub(0xa282_ead8);
    masked.rotate_left(15)
}

/// A field of a protocol buffer: its number and its value.
#[derive(Clone, Debug, PartialEq)]
enum Field<'a> {
    Number(u64),
    Double(f64),
    Float(f32),
    Bytes(&'a [u8]),
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    fn number(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for i in 0.. {
            let (&byte, rest) = bytes.split_first().expect("a whole number");
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 128 {
                break;
            }
        }
        value
    }
    fn take<'a>(bytes: &mut &'a [u8], n: usize) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(n);
        *bytes = rest;
        taken
    }
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let key = number(&mut bytes);
        let value = match key & 7 {
            0 => Field::Number(number(&mut bytes)),
            1 => Field::Double(f64::from_le_bytes(take(&mut bytes, 8).try_into().unwrap())),
            2 => {
                let n = number(&mut bytes) as usize;
                Field::Bytes(take(&mut bytes, n))
            }
            5 => Field::Float(f32::from_le_bytes(take(&mut bytes, 4).try_into().unwrap())),
            kind => panic!("wire type {kind}"),
        };
        out.push((key >> 3, value));
    }
    out
}

/// One file: the data of its records, in order.
fn records(mut file: &[u8]) -> Vec<&[u8]> {
    let mut out = Vec::new();
    while !file.is_empty() {
        let n = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        assert_eq!(unmasked(&file[8..12]), crc32c(&file[..8]), "checksum of a length");
        let data = &file[12..12 + n];
        assert_eq!(unmasked(&file[12 + n..16 + n]), crc32c(data), "checksum of a record");
        out.push(data);
        file = &file[16 + n..];
    }
    out
}

/// Names of a run's event files, in the order in which a reader takes them.
fn files(sandbox: &Sandbox, run: &str) -> Vec<String> {
    let folder = sandbox.path().join(run).join("tensorboard");
    let mut names: Vec<String> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.iter().all(|n| n.starts_with("events.out.tfevents.")), "{names:?}");
    names.into_iter().map(|n| format!("{run}/tensorboard/{n}")).collect()
}

/// Scalars of a run by tag and step; each must be there once.
fn scalars(sandbox: &Sandbox, run: &str) -> BTreeMap<(String, u64), f32> {
    let mut out = BTreeMap::new();
    for name in files(sandbox, run) {
        let file = sandbox.read(&name);
        for (i, record) in records(&file).into_iter().enumerate() {
            let event: BTreeMap<u64, Field> = fields(record).into_iter().collect();
            let Some(Field::Double(time)) = event.get(&1) else { panic!("{name}: no time in {event:?}") };
            assert!(*time > 1.6e9 && *time < 1e11, "{time}");
            assert_eq!(i == 0, event.get(&3) == Some(&Field::Bytes(b"brain.Event:2")), "the version comes first and once");
            let Some(Field::Number(step)) = event.get(&2) else { panic!("no step") };
            let Some(Field::Bytes(summary)) = event.get(&5) else { continue };
            for (number, value) in fields(summary) {
                let Field::Bytes(value) = value else { panic!("{value:?}") };
                assert_eq!(number, 1);
                let found = fields(value);
                if let [(1, _), (9, _)] = found[..] {
                    continue;
                }
                let [(1, Field::Bytes(tag)), (2, Field::Float(x))] = found[..] else { panic!("{value:?}") };
                let tag = String::from_utf8(tag.to_vec()).unwrap();
                assert!(out.insert((tag.clone(), *step), x).is_none(), "{tag} at {step} twice");
            }
        }
    }
    out
}

fn inside(bytes: &[u8], number: u64) -> &[u8] {
    let found = fields(bytes).into_iter().find_map(|(at, value)| if at == number { Some(value) } else { None });
    let Some(Field::Bytes(found)) = found else { panic!("no field {number} in {bytes:?}") };
    found
}

/// The records of the plugin for hyperparameters: tag and content, in order.
fn hparams(sandbox: &Sandbox, run: &str) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    for name in files(sandbox, run) {
        for record in records(&sandbox.read(&name)) {
            let event: BTreeMap<u64, Field> = fields(record).into_iter().collect();
            let Some(Field::Bytes(summary)) = event.get(&5) else { continue };
            let value = inside(summary, 1);
            if !fields(value).iter().any(|(number, _)| *number == 9) {
                continue;
            }
            let plugin = inside(inside(value, 9), 1);
            assert_eq!(inside(plugin, 1), b"hparams");
            out.push((String::from_utf8(inside(value, 1).to_vec()).unwrap(), inside(plugin, 2).to_vec()));
        }
    }
    out
}

#[test]
fn a_run_has_one_record_of_its_settings_and_one_of_its_end() {
    let sandbox = Sandbox::new();
    let (config, half) = (small(), ["--set", "federation.rounds=2"]);
    sandbox.lumos(&[&["train", &config, "--out", "a"], &half[..]].concat()).done();
    sandbox.lumos(&["train", &config, "--out", "a", "--resume"]).done();
    let all = hparams(&sandbox, "a");
    let tags: Vec<&str> = all.iter().map(|(tag, _)| tag.as_str()).collect();
    assert_eq!(tags, ["_hparams_/session_start_info", "_hparams_/session_end_info"]);
    let (start, end) = (inside(&all[0].1, 3), inside(&all[1].1, 4));
    let mut settings = BTreeMap::new();
    for (_, entry) in fields(start).into_iter().filter(|(number, _)| *number == 1) {
        let Field::Bytes(entry) = entry else { panic!("{entry:?}") };
        settings.insert(String::from_utf8(inside(entry, 1).to_vec()).unwrap(), fields(inside(entry, 2)).remove(0));
    }
    assert_eq!(settings["model.dim"], (2, Field::Double(8.0)));
    assert_eq!(settings["method"], (3, Field::Bytes(b"lumos")));
    assert_eq!(settings["privacy.secure_sum"], (4, Field::Number(0)));
    assert!(settings.len() > 50, "{}", settings.len());
    // Success, at a time.
    assert_eq!(fields(end)[0], (1, Field::Number(1)));
    assert!(matches!(fields(end)[1], (2, Field::Double(time)) if time > 1.6e9));
}

fn lines(sandbox: &Sandbox, run: &str) -> Vec<Value> {
    let text = String::from_utf8(sandbox.read(&format!("{run}/metrics.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn event_files_hold_what_the_metrics_hold() {
    let sandbox = Sandbox::new();
    let result = sandbox.lumos(&["train", &small(), "--out", "a", "--json"]).json();
    let found = scalars(&sandbox, "a");
    let at = |tag: &str, step: u64| found.get(&(tag.to_string(), step)).copied();
    for line in lines(&sandbox, "a") {
        let step = line["round"].as_u64().unwrap();
        for (tag, key) in
            [("loss/next_item", "rec_loss"), ("loss/contrast", "contrast_loss"), ("bytes/up", "bytes_up"), ("bytes/down", "bytes_down")]
        {
            assert_eq!(at(tag, step), Some(line[key].as_f64().unwrap() as f32), "{tag} at {step}");
        }
        let speed = line["client_epochs"].as_f64().unwrap() / line["seconds"].as_f64().unwrap();
        assert_eq!(at("speed/client_epochs_per_s", step), Some(speed as f32));
        for name in ["HR@5", "NDCG@10"] {
            let expected = line.get("valid").map(|v| v[name].as_f64().unwrap() as f32);
            assert_eq!(at(&format!("validation/{name}"), step), expected, "{name} at {step}");
        }
    }
    let best = result["best_round"].as_u64().unwrap();
    assert_eq!(at("test/HR@10", best), Some(result["test"]["HR@10"].as_f64().unwrap() as f32));
    assert!(!found.keys().any(|(tag, _)| tag.starts_with("gpu/") || tag.starts_with("device/")), "no device, nothing of it");
}

/// A test is of the best round, whatever came after it; the contrast has no points in rounds without one, in the page neither.
#[test]
fn test_and_contrast_stand_at_the_rounds_that_they_are_of() {
    let sandbox = Sandbox::new();
    let config = small();
    // Steps so small that no validation is better than the first, and a contrast of two rounds.
    let sets = ["local.lr=1e-12", "eval.every=1", "federation.rounds=4", "loss.lambda_rounds=2"];
    let mut words = vec!["train", config.as_str(), "--out", "a", "--json"];
    sets.iter().for_each(|set| words.extend(["--set", set]));
    let result = sandbox.lumos(&words).json();
    assert_eq!((&result["best_round"], &result["rounds"]), (&1.into(), &4.into()));
    let steps = |found: &BTreeMap<(String, u64), f32>, tag: &str| found.keys().filter(|k| k.0 == tag).map(|k| k.1).collect::<Vec<_>>();
    let found = scalars(&sandbox, "a");
    assert_eq!(steps(&found, "test/HR@10"), [1]);
    assert_eq!(steps(&found, "loss/next_item"), [1, 2, 3, 4]);
    assert_eq!(steps(&found, "loss/contrast"), [1, 2]);
    let html = String::from_utf8(sandbox.read("a/report.html")).unwrap();
    // A point of a curve for each round that has one, in the wide picture and in the narrow one.
    let points = |name: &str| {
        let figure = html.split("<figure>").find(|figure| figure.contains(name)).unwrap_or_else(|| panic!("no figure of {name}"));
        figure.matches("<circle").count()
    };
    assert_eq!((points("Loss of the next item"), points("Loss of the contrast")), (2 * 4, 2 * 2));
    // A run that goes on has one test at its end, not the earlier one beside it.
    words.extend(["--resume", "--set", "federation.rounds=5"]);
    sandbox.lumos(&words).done();
    let found = scalars(&sandbox, "a");
    assert_eq!((steps(&found, "test/HR@10"), steps(&found, "loss/next_item")), (vec![1], vec![1, 2, 3, 4, 5]));
}

/// A run that was killed after its last checkpoint: what it wrote beyond it goes, and comes again once.
#[test]
fn resuming_cuts_the_files_to_the_checkpoint() {
    let sandbox = Sandbox::new();
    let config = small();
    sandbox.lumos(&["train", &config, "--out", "half", "--set", "federation.rounds=2"]).done();
    sandbox.lumos(&["train", &config, "--out", "a"]).done();
    let whole = scalars(&sandbox, "a");
    sandbox.write("a/checkpoints/last.safetensors", &sandbox.read("half/checkpoints/last.safetensors"));
    sandbox.write("a/checkpoints/best.safetensors", &sandbox.read("half/checkpoints/best.safetensors"));
    std::fs::remove_file(sandbox.path().join("a/result.json")).unwrap();
    let first = files(&sandbox, "a").remove(0);
    let torn = [sandbox.read(&first), vec![9; 11]].concat();
    sandbox.write(&first, &torn);
    let text = sandbox.lumos(&["train", &config, "--out", "a", "--resume"]).done();
    assert!(text.contains("resumed after round 2"), "{text}");
    let again = scalars(&sandbox, "a");
    assert!(again.keys().eq(whole.keys()), "{:?} {:?}", again.keys(), whole.keys());
    let same = |tag: &str| !tag.starts_with("speed/");
    assert!(again.iter().filter(|((tag, _), _)| same(tag)).eq(whole.iter().filter(|((tag, _), _)| same(tag))));
    // The new file tells a TensorBoard that is running to forget what came after round 2.
    let names = files(&sandbox, "a");
    assert_eq!(names.len(), 2);
    let second = sandbox.read(&names[1]);
    let start: BTreeMap<u64, Field> = fields(records(&second)[1]).into_iter().collect();
    assert_eq!((start.get(&2), start.get(&7)), (Some(&Field::Number(3)), Some(&Field::Bytes(&[8, 1]))));
}
