//! What reads files of others never panics: settings, updates, checkpoints, ranks, prepared folders, views and their journal, changed by
//! seed. The doors of language models are in `tests/llm/doors.rs`; `fuzz/` knocks at all of them without end.

#[path = "../../fuzz/src/doors.rs"]
mod known;
use crate::knock::knock;
use crate::torch;
use known::DOORS;
use lumos::config::{DataSettings, Settings, ViewSettings};
use lumos::data::{self, Dataset};
use lumos::engine::{Update, wire};
use lumos::federation::Trainer;
use lumos::run::import::{Asked, Foreign};
use lumos::run::{Checkpoint, CheckpointMeta, write_ranks};
use lumos::testing::valid;
use lumos::views::{self, Views};
use std::path::Path;

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

/// Seeds must pass their doors whole, or nothing behind the first check is tried.
#[test]
fn updates() {
    let update = |d: usize| Update { client: 3, weight: 2, dense: vec![0.5; 9], items: vec![4, 7], rows: vec![-1.5; 2 * d] };
    let seeds: Vec<Vec<u8>> = [1, 8].map(|d| wire::encode(&update(d))).to_vec();
    assert_eq!(wire::decode(&seeds[1], 8).unwrap(), update(8));
    knock("wire", &seeds, 30_000, known::wire_update);
}

fn saved(settings: &Settings, data: &Dataset) -> Vec<u8> {
    let (views, folder) = (Views::default(), tempfile::tempdir().unwrap());
    let mut trainer = Trainer::new(valid(settings), data.clone(), views.clone()).unwrap();
    trainer.round().unwrap();
    let tensors = trainer.tensors().unwrap();
    Trainer::new(valid(settings), data.clone(), views.clone()).unwrap().restore(&tensors, 1).unwrap();
    let path = folder.path().join("last.safetensors");
    Checkpoint { meta: CheckpointMeta::new(settings, data), tensors }.save(&path).unwrap();
    read(&path)
}

#[test]
fn checkpoints_and_ranks() {
    let data = views::fuzz::world();
    let seeds: Vec<Vec<u8>> = known::runs().iter().map(|settings| saved(settings, &data)).collect();
    knock("checkpoint", &seeds, 2500, known::checkpoint);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ranks");
    write_ranks(&path, &[3, 1, 9], "f00d").unwrap();
    knock("ranks", &[read(&path), b"{\"round\":1}\n{\"round\":2}\n".to_vec()], 2000, known::ranks);
}

#[test]
fn weights_of_other_programs() {
    let shapes = torch::port_shapes(3, 2, 4, 1).into_iter();
    let tensors: torch::Named = shapes.map(|(name, shape)| (name, (shape.clone(), vec![0.5; shape.iter().product()]))).collect();
    let seeds = [torch::saved(&tensors), torch::pickle(&tensors), torch::safetensors(&tensors)];
    for file in [&seeds[0], &seeds[2]] {
        Foreign::parse(Path::new("w"), file, &Asked::default()).unwrap();
    }
    knock("weights", &seeds, 20_000, lumos::run::import::fuzz::weights);
}

#[test]
fn source_files() {
    let rows = "u1\ta\t1\nu1\tb\t2\nu1\tc\t3\nu1\tb\t3.5\nu2\ta\t2020-09-13T12:26:40Z\nu2\tb\t5\nu2\tc\t6\nu2\tc\t6\n";
    let catalogue =
        "item_id:token\ttitle:token_seq\tcategories:token_seq\talso_bought:token_seq\na\tSalt &amp; P\t'Home | X'\tb c\nb\t\"A\"\tHome\t\n";
    let atomic = format!("user_id:token\titem_id:token\ttimestamp:float\n{}", rows.replace("2020-09-13T12:26:40Z", "4"));
    let dated = format!(
        "user_id:token\titem_id:token\ttimestamp:token\n{}",
        "u\ta\t2020-09-13\nu\tb\t2020-09-14T01:02:03+02:00\nu\ta\t2020-09-15\n"
    );
    let behind = |inter: &str, items: &str| [inter.as_bytes(), b"\xff", items.as_bytes()].concat();
    let zip = |bytes: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut out, bytes).unwrap();
        out.finish().unwrap()
    };
    let seeds = [behind(&atomic, catalogue), dated.into_bytes(), zip(atomic.as_bytes())];
    knock("recbole", &seeds, 2500, data::fuzz::recbole);
    let comma = |text: &str| text.replace(":token_seq", "").replace(":token", "").replace(":float", "").replace('\t', ",");
    let seeds = [behind(&comma(&atomic), &comma(catalogue)), zip(comma(&atomic).as_bytes())];
    knock("csv", &seeds, 2500, data::fuzz::csv);
}

#[test]
fn prepared_folders() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("world");
    let settings = DataSettings { synth_users: 12, synth_items: 24, synth_mean_length: 5.0, min_length: 3, ..Default::default() };
    data::prepare(&settings, &dir, false, &|_, _, _| ()).unwrap();
    let seed = known::PREPARED.map(|name| read(dir.join(name))).join(known::BETWEEN);
    knock("prepared", &[seed], 4000, known::prepared);
}

#[test]
fn views_and_journals() {
    let (data, settings) = (views::fuzz::world(), ViewSettings::default());
    let folder = tempfile::tempdir().unwrap();
    let made = views::build(&data, &settings, 1, &|_, _| ()).unwrap();
    views::ensure(&data, &settings, folder.path(), 1, &|_, _| ()).unwrap();
    let stored = read(views::store_dir(folder.path(), &data, &settings).join("views.safetensors"));
    assert_eq!(made.users.len(), 3);
    knock("views", &[stored], 20_000, views::fuzz::stored);
    knock("journal", &views::fuzz::a_journal(), 20_000, views::fuzz::journal);
}

#[test]
fn settings_files() {
    let mut seeds: Vec<Vec<u8>> = ["quickstart", "mind-1000"].map(|name| read(format!("configs/{name}.toml"))).to_vec();
    seeds.push(lumos::settings::load(None, &[]).unwrap().to_toml().unwrap().into_bytes());
    knock("settings", &seeds, 150, known::settings);
}

/// A door without a target would never be knocked at for long, and one that no test names not at all.
#[test]
fn every_door_has_a_target_and_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |path: &str| String::from_utf8(read(root.join(path))).unwrap();
    let (manifest, tests) = (text("fuzz/Cargo.toml"), text("tests/data/doors.rs") + &text("tests/llm/doors.rs"));
    for (name, _) in DOORS {
        assert!(manifest.contains(&format!("\nname = \"{name}\"\n")), "fuzz/Cargo.toml has no target {name}");
        assert!(text(&format!("fuzz/fuzz_targets/{name}.rs")).contains("fuzz_target!"), "{name}");
        assert!(tests.contains(&format!("knock(\"{name}\"")), "no test knocks at {name}");
    }
    let files = std::fs::read_dir(root.join("fuzz/fuzz_targets")).unwrap().count();
    assert_eq!(files, DOORS.len(), "a target without a door");
}
