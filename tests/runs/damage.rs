//! Damaged files of a run: the checkpoint before is used and named, or the message has the remedy; never another result.

use super::{copy, draws, prepared, same_outcome, snapshot, train};
use std::path::Path;

/// Flips a bit of the file, or cuts it short.
fn spoil(path: &Path, seed: u64) {
    let mut random = draws(seed);
    let mut bytes = std::fs::read(path).unwrap();
    let place = random.below(bytes.len() as u64) as usize;
    if seed.is_multiple_of(4) {
        bytes.truncate(place)
    } else {
        bytes[place] ^= 1 << random.below(8)
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn the_checkpoint_before_takes_the_place_of_a_damaged_one() {
    let sandbox = prepared();
    let at = |name: &str| sandbox.path().join(name);
    let (three, six) = (["federation.rounds=3", "eval.every=1", "local.lr=0.3"], ["federation.rounds=6", "eval.every=1", "local.lr=0.3"]);
    sandbox.lumos(&train("whole", &six, &[])).done();
    sandbox.lumos(&train("base", &three, &[])).done();
    let best: u64 = serde_json::from_slice::<serde_json::Value>(&std::fs::read(at("base/result.json")).unwrap()).unwrap()["best_round"]
        .as_u64()
        .unwrap();
    assert_eq!(best, 3, "the last round of this world is its best, on which the cases below stand");
    type Harm<'a> = &'a dyn Fn(&Path);
    let (last, previous, best) = ("checkpoints/last.safetensors", "checkpoints/previous.safetensors", "checkpoints/best.safetensors");
    let fell_back = "Going on from the checkpoint before it, of round 2";
    let cases: [(&str, Harm, &str); 7] = [
        ("nothing", &|_| (), "resumed after round 3"),
        ("a flipped bit", &|run| spoil(&run.join(last), 5), fell_back),
        ("cut short", &|run| spoil(&run.join(last), 8), fell_back),
        ("empty", &|run| std::fs::write(run.join(last), b"").unwrap(), fell_back),
        ("missing", &|run| std::fs::remove_file(run.join(last)).unwrap(), fell_back),
        ("best damaged", &|run| spoil(&run.join(best), 7), "resumed after round 3"),
        ("best missing", &|run| std::fs::remove_file(run.join(best)).unwrap(), "resumed after round 3"),
    ];
    for (name, harm, word) in cases {
        copy(&at("base"), &at(name));
        harm(&at(name));
        let text = sandbox.lumos(&train(name, &six, &["--resume"])).done();
        assert!(text.contains(word), "{name}: {text}");
        if word == fell_back {
            assert!(text.contains("last.safetensors") && text.contains("resumed after round 2"), "{name}: {text}");
        }
        same_outcome(&at(name), &at("whole"), name);
    }
    // A finished run whose last checkpoint is damaged ends as it had ended.
    copy(&at("base"), &at("finished"));
    spoil(&at("finished").join(last), 6);
    let text = sandbox.lumos(&train("finished", &three, &["--resume"])).done();
    assert!(text.contains(fell_back), "{text}");
    same_outcome(&at("finished"), &at("base"), "finished");
    // Where stdout is kept for JSON, stderr has the word.
    copy(&at("base"), &at("json"));
    spoil(&at("json").join(last), 6);
    let ran = sandbox.lumos(&train("json", &three, &["--resume", "--json"]));
    assert!(ran.0.status.success() && ran.stderr().contains(fell_back), "{}", ran.stderr());
    serde_json::from_str::<serde_json::Value>(ran.stdout().trim()).unwrap();
    // Nothing left to go on from: the message has the remedy, and nothing is changed further.
    copy(&at("base"), &at("hopeless"));
    [last, previous].iter().for_each(|file| spoil(&at("hopeless").join(file), 9));
    let damaged = || snapshot(&at("hopeless/checkpoints"));
    let before = damaged();
    sandbox
        .lumos(&train("hopeless", &six, &["--resume"]))
        .refused(1, &["last.safetensors", "damaged", "restore it from a copy", "train again"]);
    assert!(damaged() == before);
}

/// Whatever bit of a checkpoint is flipped, the run ends in the bits of an undisturbed one.
#[test]
fn damage_of_a_checkpoint_changes_no_result() {
    let sandbox = prepared();
    let at = |name: &str| sandbox.path().join(name);
    let sets = ["federation.rounds=2", "eval.every=1", "compare=lumos"];
    sandbox.lumos(&train("whole", &sets, &[])).done();
    for seed in 0..super::times("LUMOS_FLIPS", 6) {
        let name = format!("case{seed}");
        copy(&at("whole"), &at(&name));
        std::fs::remove_file(at(&name).join("result.json")).unwrap();
        let file = ["last", "best", "previous"][(seed % 3) as usize];
        spoil(&at(&name).join(format!("checkpoints/{file}.safetensors")), 100 + seed);
        sandbox.lumos(&train(&name, &sets, &["--resume"])).done();
        same_outcome(&at(&name), &at("whole"), &format!("seed {seed}, {file}"));
    }
}

#[test]
fn damaged_ranks_are_not_compared() {
    let sandbox = prepared();
    let sets = ["federation.rounds=1"];
    sandbox.lumos(&train("a", &sets, &[])).done();
    let (file, good) = (sandbox.path().join("a/ranks-test.safetensors"), sandbox.read("a/ranks-test.safetensors"));
    for seed in 0..6 {
        spoil(&file, seed);
        sandbox.lumos(&["compare", "a", "a"]).refused(1, &["ranks-test.safetensors", "lumos eval"]);
        std::fs::write(&file, &good).unwrap();
    }
    spoil(&file, 1);
    sandbox.lumos(&["eval", "a"]).done();
    assert!(sandbox.read("a/ranks-test.safetensors") == good);
    sandbox.lumos(&["compare", "a", "a"]).done();
}

#[test]
fn a_damaged_line_of_metrics_is_named_by_its_number_and_a_torn_one_is_cut_off() {
    let sandbox = prepared();
    let at = |name: &str| sandbox.path().join(name);
    let (three, five) = (["federation.rounds=3", "eval.every=1"], ["federation.rounds=5", "eval.every=1"]);
    sandbox.lumos(&train("base", &three, &[])).done();
    sandbox.lumos(&train("whole", &five, &[])).done();
    let text = std::fs::read_to_string(at("base/metrics.jsonl")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3);
    for number in 1..=3 {
        let name = format!("line{number}");
        copy(&at("base"), &at(&name));
        // One digit of the loss is another one: still JSON, still a number.
        let place = lines[number - 1].find("\"rec_loss\":").unwrap() + 13;
        let mut damaged: Vec<Vec<u8>> = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
        let digit = &mut damaged[number - 1][place];
        *digit = if *digit == b'1' { b'2' } else { b'1' };
        std::fs::write(at(&name).join("metrics.jsonl"), damaged.join(&b'\n')).unwrap();
        let mut file = std::fs::OpenOptions::new().append(true).open(at(&name).join("metrics.jsonl")).unwrap();
        std::io::Write::write_all(&mut file, b"\n").unwrap();
        let before = snapshot(&at(&name).join("checkpoints"));
        let words = ["metrics.jsonl", &format!("line {number} is damaged"), "restore the file from a copy"];
        sandbox.lumos(&train(&name, &five, &["--resume"])).refused(1, &words);
        sandbox.lumos(&["plot", &name, "--out", "curves.svg"]).refused(1, &words);
        assert!(snapshot(&at(&name).join("checkpoints")) == before, "nothing is changed further");
    }
    // Killed while the line of round 4 was being written.
    copy(&at("base"), &at("torn"));
    std::fs::write(at("torn/metrics.jsonl"), text.clone() + &lines[2][..lines[2].len() / 2]).unwrap();
    sandbox.lumos(&train("torn", &five, &["--resume"])).done();
    same_outcome(&at("torn"), &at("whole"), "a torn line");
}
