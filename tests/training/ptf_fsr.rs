//! `ptf-fsr` in real rounds and through the real binary: same bits however it is run, nothing but items and labels on the wire, and it learns.

use super::ring::world;
use super::sandbox::Sandbox;
use lumos::config::{Backbone, Contrast, GeneratorKind, InitWeights, Mask, RecLoss, Settings};
use lumos::data::{Dataset, Split};
use lumos::engine::{NamedTensor, TensorData};
use lumos::eval::{metrics, popularity_ranks};
use lumos::federation::Trainer;
use lumos::federation::protocol::ptf_fsr::{Labelled, Upload};
use lumos::testing::valid;
use lumos::views::Views;

fn settings(options: &str) -> Settings {
    let mut s = Settings { seed: 3, threads: 1, ..Default::default() };
    s.model.max_len = 8;
    s.model.init_weights = InitWeights::Xavier;
    s.loss.rec = RecLoss::Bce;
    s.loss.contrast = Contrast::None;
    s.views.generator = GeneratorKind::NONE;
    s.local.lr = 0.01;
    s.local.epochs = 5;
    s.federation.fraction = 1.0;
    s.federation.protocol = format!("ptf-fsr server-dim=16 {options}");
    s
}

fn train(settings: &Settings, data: &Dataset, rounds: u64) -> Vec<NamedTensor> {
    let views = Views::default();
    let mut trainer = Trainer::new(valid(settings), data.clone(), views.clone()).unwrap();
    for _ in 0..rounds {
        trainer.round().unwrap();
    }
    trainer.tensors().unwrap()
}

/// Trainings that take different ways through the protocol: parts of a cohort, both contrasts, small mini-batches.
fn kinds() -> Vec<(&'static str, Settings)> {
    let mut part = settings("server-batch=7 peer-after=1");
    (part.federation.fraction, part.federation.dropout_rate) = (0.4, 0.2);
    let mut on_disk = settings("server-dropout=0 client-dropout=0 candidates=1");
    on_disk.federation.private_memory_mb = 0;
    let mut gru = settings("client-dim=6 past-weight=0");
    gru.model.backbone = Backbone::GRU4REC;
    vec![("whole", settings("peer-after=1 server-batch=48")), ("part", part), ("on disk", on_disk), ("gru", gru)]
}

#[test]
fn the_number_of_threads_leaves_no_trace() {
    let (data, _) = world(80, 40, 1);
    for (name, mut s) in kinds() {
        let one = train(&s, &data, 3);
        s.threads = 3;
        assert!(one == train(&s, &data, 3), "{name}");
    }
}

#[test]
fn a_resumed_run_ends_with_the_same_bits() {
    let (data, _) = world(50, 30, 2);
    let views = Views::default();
    for (name, s) in kinds() {
        let whole = train(&s, &data, 4);
        let half = train(&s, &data, 2);
        let mut trainer = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        trainer.restore(&half, 2).unwrap();
        assert!(half == trainer.tensors().unwrap(), "{name}: what was restored is what is given back");
        trainer.round().unwrap();
        trainer.round().unwrap();
        assert!(whole == trainer.tensors().unwrap(), "{name}");
    }
}

#[test]
fn a_checkpoint_that_does_not_fit_is_refused_and_changes_nothing() {
    let (data, _) = world(30, 20, 1);
    let views = Views::default();
    let s = settings("");
    let state = train(&s, &data, 2);
    for (name, part) in [
        ("items", "`items`"),
        ("private", "`private`"),
        ("uploads", "`uploads`"),
        ("received", "`received`"),
        ("optimizer.steps", "`optimizer.steps`"),
    ] {
        let mut bad = state.clone();
        let tensor = bad.iter_mut().find(|t| t.name == name).unwrap();
        match &mut tensor.data {
            TensorData::U8(bytes) => {
                bytes.pop();
                tensor.shape[0] -= 1;
            }
            _ => (tensor.shape, tensor.data) = (vec![1], TensorData::F32(vec![0.0])),
        }
        let mut trainer = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        let before = trainer.tensors().unwrap();
        let message = trainer.restore(&bad, 2).unwrap_err().to_string();
        assert!(message.contains(part), "{name}: {message}");
        assert!(before == trainer.tensors().unwrap(), "{name}");
    }
    let averaging = Settings { federation: Default::default(), ..s.clone() };
    let mut trainer = Trainer::new(valid(&averaging), data.clone(), views.clone()).unwrap();
    assert!(trainer.restore(&state, 2).is_err(), "a checkpoint of another protocol");
}

/// Every field of what crosses the wire by name, so that none can be added unseen: items and labels, and no weight among them.
#[test]
fn what_crosses_the_wire_are_items_and_labels() {
    let upload = Upload { items: vec![1, 2, 3], last: 4, negatives: vec![7, 8, 9] };
    let Upload { items, last, negatives }: Upload = upload.clone();
    let numbers: Vec<u32> = items.into_iter().chain([last]).chain(negatives).collect();
    assert_eq!(upload.bytes(), 8 + 4 * numbers.len() as u64);
    let sent = Labelled { upload, labels: vec![0.5; 6] };
    let Labelled { upload, labels }: Labelled = sent.clone();
    assert_eq!(sent.bytes(), upload.bytes() + 4 * labels.len() as u64);

    // A round's bytes follow from the lengths of histories alone, whatever the size of the models.
    let (data, _) = world(40, 30, 1);
    let views = Views::default();
    let lengths = |user| (data.train(user).len() - 1).min(8) as u64;
    let up: u64 = (0..data.users()).map(|user| 8 + 4 * (2 * lengths(user) + 1)).sum();
    for options in ["", "server-dim=32 client-dim=16"] {
        let s = settings(options);
        let mut trainer = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        let report = trainer.round().unwrap();
        assert_eq!((report.clients, report.bytes_up, report.item_rows), (40, up, 0));
        assert!(report.bytes_down > up, "labels come on top of the items");
    }
}

/// Positions of uploads that are not the client's own, out of all but the first ones.
fn replaced(data: &Dataset, tensors: &[NamedTensor]) -> (usize, usize) {
    let uploads = tensors.iter().find(|t| t.name == "uploads").unwrap();
    let TensorData::U8(bytes) = &uploads.data else { panic!("bytes") };
    let words: Vec<u32> = bytes.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect();
    let (mut at, mut others, mut all) = (0, 0, 0);
    while at < words.len() {
        let (client, n, last) = (words[at] as usize, words[at + 1] as usize, words[at + 2]);
        let (items, negatives) = (&words[at + 3..][..n], &words[at + 3 + n..][..n]);
        let train = data.train(client);
        let own = &train[train.len() - 1 - n..train.len() - 1];
        assert_eq!((items[0], last), (own[0], train[train.len() - 1]), "client {client}: the first item and the last are true");
        assert!(negatives.iter().all(|item| !items.contains(item) && !train.contains(item)), "client {client}");
        others += items.iter().zip(own).filter(|(a, b)| a != b).count();
        all += n - 1;
        at += 3 + 2 * n;
    }
    (others, all)
}

#[test]
fn uploads_are_perturbed_as_often_as_is_asked() {
    let (data, _) = world(120, 40, 1);
    assert_eq!(replaced(&data, &train(&settings("replace=0"), &data, 2)).0, 0);
    let (others, all) = replaced(&data, &train(&settings("replace=0.5 candidates=1"), &data, 1));
    let share = others as f64 / all as f64;
    // A replacement may be the item itself, so somewhat below a half.
    assert!((0.33..0.55).contains(&share), "{share}");
    let (others, all) = replaced(&data, &train(&settings("replace=1 candidates=1"), &data, 1));
    assert!(others as f64 / all as f64 > 0.7, "{others} of {all}");
}

fn hit_rate(trainer: &mut Trainer, data: &Dataset) -> f64 {
    let users: Vec<u32> = (0..data.users() as u32).collect();
    metrics(&trainer.rank(Split::Test, &users, &|_, _| {}).unwrap(), &[5]).get("HR@5").unwrap()
}

/// On a ring of 40 items the next one is known nine times out of ten; a popular item is no better than any other.
#[test]
fn the_model_that_ranks_learns_from_uploads_alone() {
    let (data, _) = world(300, 40, 1);
    let views = Views::default();
    let users: Vec<u32> = (0..data.users() as u32).collect();
    let popular = metrics(&popularity_ranks(&data, Mask::History, Split::Test, &users), &[5]).get("HR@5").unwrap();
    for (rank, least) in [(0, 0.5), (1, 0.5), (2, 0.2)] {
        let s = Settings { threads: 2, ..settings(&format!("server-dim=32 server-lr=0.003 server-batch=32 server-epochs=3 rank={rank}")) };
        let mut trainer = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        let before = hit_rate(&mut trainer, &data);
        for _ in 0..8 {
            trainer.round().unwrap();
        }
        let after = hit_rate(&mut trainer, &data);
        println!("rank={rank}: HR@5 {before:.3} before, {after:.3} after, popularity {popular:.3}");
        assert!(after > least && after > 1.5 * popular && after > before, "rank={rank}: {before} {after} {popular}");
    }
}

const METHOD: [&str; 6] =
    ["--set", "method=ptf-fsr", "--set", "federation.protocol=ptf-fsr server-dim=16 server-batch=64", "--set", "eval.every=2"];

#[test]
fn the_binary_trains_resumes_ranks_and_recommends_with_it() {
    let sandbox = Sandbox::new();
    let train = |out: &str, more: &[&str]| sandbox.lumos(&[&["train", "small.toml", "--out", out], &METHOD[..], more].concat());
    train("short", &["--set", "federation.rounds=2"]).done();
    train("short", &["--resume", "--threads", "1"]).done();
    let json = train("long", &["--threads", "3", "--json"]).json();
    assert_eq!((&json["method"], &json["rounds"], &json["device"]), (&"ptf-fsr".into(), &4.into(), &"CPU".into()));
    assert!(json["bytes_up"].as_u64().unwrap() > 0 && json["bytes_down"].as_u64().unwrap() > 0);
    for file in ["checkpoints/last.safetensors", "checkpoints/best.safetensors", "ranks-test.safetensors"] {
        assert!(sandbox.read(&format!("short/{file}")) == sandbox.read(&format!("long/{file}")), "{file} differs");
    }
    let eval = sandbox.lumos(&["eval", "long", "--json"]).json();
    assert_eq!((&eval["HR@10"], &eval["device"]), (&json["test"]["HR@10"], &"CPU".into()));
    let users = String::from_utf8(sandbox.read("data/small/users.csv")).unwrap();
    let user = users.lines().nth(1).unwrap().split(',').next_back().unwrap().to_string();
    let list = sandbox.lumos(&["recommend", "long", "--user", &user, "-k", "7", "--json"]).json();
    let items: Vec<&str> = list["items"].as_array().unwrap().iter().map(|i| i["item"].as_str().unwrap()).collect();
    assert_eq!(items.len(), 7);
    sandbox.lumos(&["recommend", "long", "--history", items[0], "-k", "3"]).done();

    // What is set holds for every method of the table, the protocol too: here it is left to the method.
    let words = ["run", "small.toml", "--out", "all", "--set", "method=ptf-fsr", "--set", "federation.rounds=1"];
    let table = sandbox.lumos(&words).done();
    assert!(table.contains("ptf-fsr") && table.contains("fed-sasrec") && table.contains("popularity"), "{table}");
    assert!(sandbox.lumos(&["methods", "ptf-fsr"]).done().contains("arXiv 2406.05387"));
}

#[test]
fn what_cannot_be_meant_is_refused_with_the_nearest() {
    let sandbox = Sandbox::new();
    for (set, parts) in [
        ("federation.protocol=ptf-fsr replase=0.5", &["unknown option `replase`", "did you mean `replace`"][..]),
        ("federation.protocol=ptf-fs", &["unknown protocol `ptf-fs`", "did you mean `ptf-fsr`"]),
        ("federation.protocol=ptf-fsr replace=1.5", &["replace is 1.5", "from 0 to 1"]),
        ("federation.protocol=ptf-fsr server-heads=3", &["server-heads is 3", "divisor of server-dim, which is 256"]),
        ("federation.protocol=ptf-fsr candidates=0", &["candidates is 0", "from 1 to 1000"]),
        ("federation.protocol=ptf-fsr rank=3", &["rank is 3", "from 0 to 2"]),
        ("federation.clients=groups:4", &["federation.clients", "one client a user"]),
        ("federation.rules=[\"median\"]", &["federation.rules", "no updates"]),
        ("loss.rec=softmax", &["loss.rec", "bce"]),
    ] {
        let ran = sandbox.lumos(&["train", "small.toml", "--out", "a", "--set", "method=ptf-fsr", "--set", set]);
        ran.refused(1, parts);
    }
    for (device, why) in [("auto", ""), ("cuda", "cuda was asked for, but ")] {
        let sets = ["--set", "method=ptf-fsr", "--set", "federation.rounds=1", "--set", METHOD[3], "--device", device];
        let text = sandbox.lumos(&[&["train", "small.toml", "--out", device][..], &sets].concat()).done();
        assert!(text.contains(&format!("device: CPU ({why}protocol `ptf-fsr` trains and ranks on the CPU)")), "{text}");
    }
}
