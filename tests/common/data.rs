//! Helpers of the data tests: real data where there is some, small files where there is none.
#![allow(dead_code)]

#[path = "real.rs"]
mod outside;

use std::path::{Path, PathBuf};

use lumos::config::DataSettings;
use lumos::data::{Dataset, Steps, find_or_prepare};

/// The folder of a real data set.
#[track_caller]
pub fn real(set: &str) -> Option<PathBuf> {
    outside::data(set)
}

/// Settings for RecBole files.
pub fn recbole(name: &str, inter: &Path, items: Option<&Path>) -> DataSettings {
    DataSettings {
        name: name.into(),
        format: "recbole".into(),
        inter: Some(inter.to_path_buf()),
        items: items.map(Path::to_path_buf),
        ..DataSettings::default()
    }
}

/// Writes `text` to `name` in `dir` and tells where it lies.
pub fn put(dir: &Path, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// A property tried on `n` cases; failures are printed, not stored beside the sources.
pub fn cases(n: u32) -> proptest::test_runner::Config {
    proptest::test_runner::Config { cases: n, failure_persistence: None, ..Default::default() }
}

/// Progress that goes nowhere.
pub fn quiet(_: &str, _: u64, _: u64) {}

/// The data set of `settings` in the folder `dir` and whether it was there already.
pub fn ensure(settings: &DataSettings, dir: &Path, overwrite: bool) -> lumos::Result<(Dataset, bool)> {
    let steps = Steps { progress: &quiet, note: &|_| (), stopped: &|| false };
    let found = find_or_prepare(&DataSettings { dir: Some(dir.to_path_buf()), ..settings.clone() }, overwrite, &steps)?;
    assert_eq!(found.dir, dir);
    Ok((found.dataset, found.reused))
}

/// Five users with four to six interactions on six items, not grouped by user, with ties and a repetition.
pub const SMALL_INTER: &str = "user_id:token\titem_id:token\ttimestamp:float\n\
    ann\ta\t100\nbob\tb\t5\nann\tb\t50\nann\tc\t100\nbob\ta\t5\nbob\tc\t4\nann\td\t100\nbob\td\t9\ncid\te\t1\ncid\ta\t2\n\
    cid\tb\t3\ncid\ta\t4\ndot\ta\t7\ndot\tb\t7\ndot\tc\t7\ndot\td\t7\neve\ta\t1.5\neve\tb\t-2\neve\tc\t1e3\neve\tf\t0\n";

/// Its catalogue: `x` has no interaction, `e` and `f` have no row.
pub const SMALL_ITEM: &str = "item_id:token\ttitle:token_seq\tcategories:token_seq\tbrand:token\talso_bought:token_seq\n\
    a\tSalt &amp; \"Pepper\"\t'Home | Garden', 'Pots'\tAcme, Inc.\tb x c\n\
    x\tGhost\t'None'\tNobody\ta\n\
    b\t\"A \"\"quoted\"\" title\"\tHome Pots\t\t\n\
    c\t\t\t\ta a c\n\
    d\tÜmlaut\t\t\tx\n";
