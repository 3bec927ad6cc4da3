//! The real binary and Parquet: lists that it writes are read again, by itself and by pyarrow where there is one; a build without it says so.

use crate::sandbox::{Sandbox, small};

#[cfg(not(feature = "parquet"))]
#[test]
fn a_build_without_parquet_names_the_feature() {
    let sandbox = Sandbox::new();
    sandbox.write("rows.parquet", b"PAR1rest");
    sandbox.write("rows.arrow", b"ARROW1rest");
    for (format, file) in [("parquet", "rows.parquet"), ("auto", "rows.parquet"), ("arrow", "rows.arrow"), ("auto", "rows.arrow")] {
        let words = ["data", "prepare", "--format", format, "--inter", file, "--out", "set"];
        sandbox.lumos(&words).refused(1, &["--features parquet", "CSV"]);
    }
    let words = ["data", "prepare", "--format", "csv", "--inter", "rows.arrow", "--out", "set"];
    sandbox.lumos(&words).refused(1, &["rows.arrow", "this is an Arrow file", "arrow reads it"]);
    let words = ["data", "prepare", "--format", "csv", "--inter", "rows.parquet", "--out", "set"];
    sandbox.lumos(&words).refused(1, &["rows.parquet", "this is a Parquet file", "parquet reads it"]);
    sandbox.lumos(&["train", &small(), "--set", "method=popularity", "--out", "run"]).done();
    sandbox.lumos(&["recommend", "run", "--all", "--out", "lists.parquet"]).refused(1, &["--features parquet", "csv"]);
    assert!(!sandbox.path().join("lists.parquet").exists());
}

#[cfg(feature = "parquet")]
#[test]
fn lists_come_back_as_they_were_written() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["train", &small(), "--set", "method=popularity", "--out", "run"]).done();
    for name in ["lists.parquet", "lists.csv"] {
        sandbox.lumos(&["recommend", "run", "--all", "--out", name, "-k", "6"]).done();
    }
    // Ranks as times: each list comes back as a sequence, the same from both files.
    let columns = ["--columns", "user=user,item=item,time=rank"];
    for (format, name) in [("parquet", "lists.parquet"), ("auto", "lists.parquet"), ("csv", "lists.csv")] {
        let out = format!("set-{format}");
        let words = ["data", "prepare", "--format", format, "--inter", name, "--out", &out, "--name", "lists"];
        sandbox.lumos(&[&words[..], &columns].concat()).done();
    }
    let load = |format: &str| lumos::data::load(&sandbox.path().join(format!("set-{format}"))).unwrap();
    let (wanted, mut found) = (load("csv"), load("parquet"));
    assert_eq!((wanted.users(), wanted.sequence(0).len()), (200, 6));
    found.fingerprint.clone_from(&wanted.fingerprint);
    assert!(found == wanted && load("auto").items == wanted.items);
    let python = std::env::var("LUMOS_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = "import pyarrow.parquet as q; t = q.read_table('lists.parquet'); c = open('lists.csv').read().splitlines()[1:]
r = t.to_pylist(); assert len(r) == len(c) == 1200 and t.column_names == ['user', 'rank', 'item', 'score']
for a, b in zip(r, c):
    u, n, i, s = b.split(','); assert (a['user'], a['rank'], a['item']) == (u, int(n), i) and abs(a['score'] - float(s)) < 1e-4";
    if !std::process::Command::new(&python).args(["-c", "import pyarrow.parquet"]).output().is_ok_and(|output| output.status.success()) {
        return crate::real::skip(format!("{python} has no pyarrow; LUMOS_PYTHON names another Python")).unwrap_or(());
    }
    let read = std::process::Command::new(&python).args(["-c", script]).current_dir(sandbox.path()).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
}
