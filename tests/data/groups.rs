//! Groups of users by a column: read, kept in the folder, refused where they cannot be.

use crate::cli::Sandbox;
use crate::common::{SMALL_INTER, ensure, put, quiet, recbole};
use lumos::base::files::sha256_hex;
use lumos::config::DataSettings;
use lumos::data::{
    Dataset, FORMAT_VERSION, GROUPED_VERSION, RawBuilder, RawData, Reader, Source, load, load_manifest, prepare, register_reader,
};
use std::fs;
use std::path::Path;

/// Four users at two sites; `eve` is too short to stay and alone at a third.
const LOG: &str = "site,user_id,item_id,timestamp\n\
    south,ann,a,1\nnorth,bob,b,1\nsouth,ann,b,2\nnorth,bob,a,2\nsouth,ann,c,3\nnorth,bob,c,3\n east ,eve,a,1\n\
    south,cid,c,1\nsouth,cid,b,2\nsouth,cid,a,3\nnorth,dot,a,1\nnorth,dot,c,2\nnorth,dot,b,3\n";

fn csv(dir: &Path, text: &str, column: &str) -> DataSettings {
    DataSettings {
        format: "csv".into(),
        inter: Some(put(dir, "log.csv", text)),
        group_column: column.into(),
        min_length: 3,
        ..DataSettings::default()
    }
}

fn made(settings: &DataSettings) -> lumos::Result<Dataset> {
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("set");
    prepare(settings, &dir, false, &quiet)?;
    load(&dir)
}

fn refused(settings: &DataSettings) -> String {
    made(settings).unwrap_err().to_string()
}

#[test]
fn a_column_becomes_groups_and_comes_back_from_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (with, without) = (csv(dir.path(), LOG, "site"), csv(dir.path(), LOG, ""));
    let data = made(&with).unwrap();
    let groups = data.groups.clone().unwrap();
    assert_eq!((groups.column.as_str(), &groups.names[..]), ("site", &["north".to_string(), "south".into()][..]), "no group without users");
    let of: Vec<(&str, &str)> = data.user_tokens.iter().enumerate().map(|(u, token)| (token.as_str(), groups.name(u))).collect();
    assert_eq!(of, [("ann", "south"), ("bob", "north"), ("cid", "south"), ("dot", "north")]);
    assert_eq!(groups.sizes(), [2, 2]);
    // Nothing else differs but the fingerprint.
    let plain = made(&without).unwrap();
    assert_ne!(plain.fingerprint, data.fingerprint);
    assert_eq!(plain, Dataset { groups: None, fingerprint: plain.fingerprint.clone(), ..data });
}

#[test]
fn recbole_and_the_synthetic_world_have_groups_too() {
    let dir = tempfile::tempdir().unwrap();
    let rows: Vec<String> = SMALL_INTER
        .lines()
        .enumerate()
        .map(|(i, row)| {
            let site = if i == 0 {
                "site:token"
            } else if row.starts_with('a') {
                "x"
            } else {
                "y"
            };
            format!("{row}\t{site}\n")
        })
        .collect();
    let inter = put(dir.path(), "s.inter", rows.concat());
    let settings = DataSettings { min_length: 4, group_column: "site".into(), ..recbole("small", &inter, None) };
    assert_eq!(made(&settings).unwrap().groups.unwrap().of, [0, 1, 1, 1, 1]);
    let number = put(dir.path(), "n.inter", rows.concat().replace("site:token", "site:float"));
    assert!(refused(&DataSettings { inter: Some(number), ..settings.clone() }).contains("group column `site` has type `float`"));

    let world = DataSettings { synth_users: 200, synth_items: 100, group_column: "site".into(), ..DataSettings::default() };
    let data = made(&world).unwrap();
    let groups = data.groups.as_ref().unwrap();
    assert!(groups.names.len() > 1 && groups.sizes().iter().sum::<u64>() == data.users() as u64, "{groups:?}");
    let plain = made(&DataSettings { group_column: String::new(), ..world.clone() }).unwrap();
    assert_eq!(plain, Dataset { groups: None, fingerprint: plain.fingerprint.clone(), ..data });
    let message = refused(&DataSettings { group_column: "region".into(), ..world });
    assert!(message.contains("data.group_column") && message.contains("`site`"), "{message}");
}

#[test]
fn a_user_of_two_groups_and_missing_columns_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let message = refused(&csv(dir.path(), &LOG.replace("south,ann,c", "west,ann,c"), "site"));
    for part in ["user `ann`", "`site`", "`south` (line 2)", "`west`", "log.csv:6"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    let message = refused(&csv(dir.path(), &LOG.replace("south,ann,c", ",ann,c"), "site"));
    assert!(message.contains("user `ann` has no value of `site`") && message.contains("log.csv:6"), "{message}");
    let message = refused(&csv(dir.path(), LOG, "sits"));
    assert!(message.contains("there is no column `sits`; the nearest is `site`") && message.contains("data.group_column"), "{message}");
}

/// A format without groups.
struct Plain;

impl Reader for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn reads_files(&self) -> bool {
        false
    }

    fn read(&self, _: &DataSettings, _: Option<&mut Source>, _: Option<&mut Source>, _: &lumos::data::Progress) -> lumos::Result<RawData> {
        let mut builder = RawBuilder::new(false);
        for item in ["a", "b", "c"] {
            builder.interaction(Path::new("plain"), 1, "ann", item, None)?;
        }
        builder.end_interactions(Path::new("plain"))?;
        Ok(builder.finish())
    }
}

#[test]
fn a_reader_without_groups_refuses_the_column() {
    register_reader(Plain).unwrap();
    let settings = DataSettings { format: "plain".into(), min_length: 3, ..DataSettings::default() };
    assert!(made(&settings).unwrap().groups.is_none());
    let message = refused(&DataSettings { group_column: "site".into(), ..settings });
    assert!(message.contains("data.group_column") && message.contains("format `plain` reads no groups"), "{message}");
}

#[test]
fn folders_from_before_there_were_groups_still_open() {
    let dir = tempfile::tempdir().unwrap();
    let settings = DataSettings { synth_users: 50, synth_items: 40, synth_mean_length: 6.0, ..DataSettings::default() };
    let out = dir.path().join("old");
    let manifest = prepare(&settings, &out, false, &quiet).unwrap();
    // As versions without groups made it.
    assert_eq!(
        (manifest.version, manifest.fingerprint.as_str()),
        (FORMAT_VERSION, "73bc6dc9e680db0f734180f6a41188623c4fe364692cad4d312cdc35c0fcf9a5")
    );
    let text = fs::read_to_string(out.join("manifest.json")).unwrap();
    let old: String = text.lines().filter(|line| !line.contains("group_column")).map(|line| format!("{line}\n")).collect();
    assert_ne!(old, text);
    fs::write(out.join("manifest.json"), &old).unwrap();
    let sums = fs::read_to_string(out.join("SHA256SUMS")).unwrap();
    fs::write(out.join("SHA256SUMS"), sums.replace(&sha256_hex(text.as_bytes()), &sha256_hex(old.as_bytes()))).unwrap();
    let (data, reused) = ensure(&settings, &out, false).unwrap();
    assert!(reused && data.groups.is_none());

    // A folder with groups says so by its version, and one without them is not taken for it.
    let grouped = DataSettings { group_column: "site".into(), ..settings };
    let message = ensure(&grouped, &out, false).unwrap_err().to_string();
    assert!(message.contains("data.group_column was"), "{message}");
    ensure(&grouped, &out, true).unwrap();
    assert_eq!(load_manifest(&out).unwrap().version, GROUPED_VERSION);
    assert!(ensure(&grouped, &out, false).unwrap().1);
}

#[test]
fn the_commands_take_and_show_groups() {
    let sandbox = Sandbox::new();
    sandbox.write("log.csv", LOG.as_bytes());
    let run = |words: &str| sandbox.lumos(&words.split(' ').collect::<Vec<_>>());
    run("data prepare --format csv --inter log.csv --min-length 3 --group-column site --out set").done();
    let text = run("data stats set").done();
    assert!(text.contains("2 groups by `site`:\n  north: 2 users\n  south: 2 users"), "{text}");
    assert_eq!(run("data stats set --json").json()["groups"], serde_json::json!({"north": 2, "south": 2}));
    run("data prepare --format csv --inter log.csv --group-column sits --out other").refused(1, &["`sits`", "--group-column"]);
    run("data synth --users 60 --items 60 --group-column site --out world").done();
    assert!(run("data stats world").done().contains("groups by `site`"));
}
