//! Source files that people really have: other separators, dates, duplicates, repeats, catalogues of another data set. Through the real
//! binary, where messages name flags.

use crate::cli::Sandbox;
use serde_json::Value;

const USERS: u32 = 12;
const STEPS: u32 = 8;

/// A table of [`USERS`] users with [`STEPS`] interactions each, ten seconds apart; `time` writes the seconds.
fn table(separator: char, header: [&str; 3], time: impl Fn(u64) -> String) -> String {
    let mut text = header.join(&separator.to_string()) + "\n";
    for user in 0..USERS {
        for step in 0..STEPS {
            let seconds = 1_600_000_000 + u64::from(10 * step);
            let cells = [format!("u{user}"), format!("i{}", (user + 3 * step) % 20), time(seconds)];
            text += &(cells.join(&separator.to_string()) + "\n");
        }
    }
    text
}

const TYPED: [&str; 3] = ["user_id:token", "item_id:token", "timestamp:float"];
const PLAIN: [&str; 3] = ["user_id", "item_id", "timestamp"];

fn atomic() -> String {
    table('\t', TYPED, |t| t.to_string())
}

/// Words of `lumos data prepare` for `inter` and what comes behind.
fn words<'a>(inter: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let format = if inter.ends_with(".csv") { "csv" } else { "recbole" };
    [&["data", "prepare", "--format", format, "--inter", inter, "--out", "set", "--overwrite"], more].concat()
}

#[track_caller]
fn refused(inter: (&str, &str), more: &[&str], parts: &[&str]) {
    let sandbox = Sandbox::new();
    sandbox.write(inter.0, inter.1.as_bytes());
    sandbox.lumos(&words(inter.0, more)).refused(1, parts);
    assert!(!sandbox.path().join("set").exists());
}

/// What `prepare` prints, and the statistics.
#[track_caller]
fn prepared(sandbox: &Sandbox, inter: (&str, &str), more: &[&str]) -> (String, Value) {
    sandbox.write(inter.0, inter.1.as_bytes());
    let out = sandbox.lumos(&words(inter.0, more)).done();
    (out, sandbox.lumos(&["data", "stats", "set", "--json"]).json())
}

#[test]
fn separators_are_named() {
    for (separator, name) in [(',', "commas"), (' ', "blanks"), (';', "semicolons"), ('|', "bars")] {
        let text = table(separator, TYPED, |t| t.to_string());
        refused(("a.inter", &text), &[], &["a.inter:1", &format!("separated by {name}"), "tabs"]);
    }
    let text = table(',', PLAIN, |t| t.to_string());
    refused(("a.inter", &text), &[], &["separated by commas", "no types", "--format=csv"]);
    let (head, rows) = atomic().split_once('\n').map(|(h, r)| (h.to_string(), r.replace('\t', " "))).unwrap();
    refused(("a.inter", &format!("{head}\n{rows}")), &[], &["a.inter:2", "1 fields where the header has 3", "blanks", "tabs"]);
    for (separator, name) in [('\t', "tabs"), (';', "semicolons")] {
        refused(("a.csv", &table(separator, PLAIN, |t| t.to_string())), &[], &["a.csv:1", &format!("separated by {name}"), "commas"]);
    }
    refused(("a.csv", &atomic()), &[], &["tabs", "--format=recbole"]);
}

#[test]
fn what_is_no_table_is_recognised() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n";
    for name in ["a.inter", "a.csv", "a.inter.gz"] {
        let sandbox = Sandbox::new();
        sandbox.write(name, pointer.as_bytes());
        sandbox.lumos(&words(name, &[])).refused(1, &["Git LFS pointer", "git lfs pull"]);
    }
    refused(("a.inter", "PK\u{3}\u{4}rest"), &[], &["zip archive"]);
    refused(("a.csv", "<!DOCTYPE html>\n<html>"), &[], &["web page"]);
}

#[test]
fn columns_that_are_missing() {
    let bare: String = atomic().lines().map(|line| line.rsplit_once('\t').unwrap().0.to_string() + "\n").collect();
    refused(("a.inter", &bare), &[], &["`timestamp`", "--time-column=''", "user_id, item_id"]);
    let sandbox = Sandbox::new();
    sandbox.write("a.inter", bare.as_bytes());
    let message = sandbox.lumos(&words("a.inter", &[])).stderr();
    assert!(!message.contains("nearest") && !message.contains("data."), "{message}");
    let (_, stats) = prepared(&sandbox, ("a.inter", &bare), &["--time-column", ""]);
    assert_eq!((&stats["interactions"], &stats["time_unit"]), (&(USERS * STEPS).into(), &Value::Null));
    // In a file settings have their own names.
    let config = "[data]\nname = \"bare\"\nformat = \"recbole\"\ninter = \"a.inter\"\n";
    sandbox.write("a.toml", config.as_bytes());
    sandbox.lumos(&["data", "build", "a.toml"]).refused(1, &["`timestamp`", "data.time_column=''"]);
    refused(("a.inter", &atomic()), &["--k-core", "500"], &["--min-length", "--k-core=500"]);
    sandbox
        .lumos(&["data", "prepare", "--format", "recbole", "--inter", "a.inter", "--time-column", "", "--out", "set"])
        .refused(1, &["--overwrite"]);
}

#[test]
fn lists_are_not_ids() {
    for (header, what) in [
        (["user_id:token", "item_id:token_seq", "timestamp:float"], "item column `item_id` has type `token_seq`"),
        (["user_id:float_seq", "item_id:token", "timestamp:float"], "user column `user_id` has type `float_seq`"),
        (["user_id:token", "item_id:token", "timestamp:float_seq"], "time column `timestamp` has type `float_seq`"),
    ] {
        refused(("a.inter", &table('\t', header, |t| t.to_string())), &[], &["a.inter:1", what, "list"]);
    }
    let augmented = "user_id:token\titem_id_list:token_seq\titem_id:token\ntimestamp:float\nu\ta b\tc\t1\n";
    refused(("a.inter", augmented), &[], &["`item_id_list`", "augmented", "one row an interaction"]);
    refused(("a.csv", "user_id,item_id_list,item_id,timestamp\nu,a b,c,1\n"), &[], &["`item_id_list`", "augmented"]);
    refused(("a.csv", "user_id,item_id,timestamp\nu,\"['a', 'b']\",1\n"), &[], &["a.csv:2", "the item is the list `['a', 'b']`"]);
    refused(("a.csv", "user_id,item_id,timestamp\nu,a b c,1\nv,a d,1\n"), &[], &["single row", "each interaction a row"]);
}

#[test]
fn times_order_right_and_know_their_unit() {
    let sandbox = Sandbox::new();
    // Later rows are 20 nanoseconds earlier: closer than a 64-bit float can tell apart.
    let mut text = TYPED.join("\t") + "\n";
    for user in 0..5 {
        text += &(0..8).map(|i| format!("u{user}\ti{i}\t{}\n", 1_600_000_000_000_000_160u64 - 20 * i)).collect::<String>();
    }
    let (_, stats) = prepared(&sandbox, ("a.inter", &text), &[]);
    assert_eq!((&stats["time_unit"], &stats["same_day"]), (&"nanoseconds".into(), &1.0.into()));
    let set = lumos::data::load(&sandbox.path().join("set")).unwrap();
    let tokens: Vec<&str> = set.sequence(0).iter().map(|i| set.item_tokens[*i as usize].as_str()).collect();
    assert_eq!(tokens, ["i7", "i6", "i5", "i4", "i3", "i2", "i1", "i0"]);
    let times = lumos::data::load_times(&sandbox.path().join("set")).unwrap().unwrap();
    let lumos::data::TimeValues::Integer(times) = times.values else { panic!("whole numbers") };
    assert_eq!(times[..2], [1_600_000_000_000_000_020, 1_600_000_000_000_000_040]);

    // Every two hours over midnight, in every unit and as dates: one neighbour in eight lies on another day.
    let hours = |step: u64| 1_600_000_000 + 720 * (step - 1_600_000_000);
    let date = |t: u64| format!("2020-09-{}", 13 + (t - 1_599_955_200) / 86_400);
    let clock = |t: u64| format!("{:02}:{:02}:{:02}", t / 3600 % 24, t / 60 % 60, t % 60);
    type Writer<'a> = (&'static str, &'static str, &'a dyn Fn(u64) -> String);
    let writers: [Writer; 8] = [
        ("seconds", "s", &|t| hours(t).to_string()),
        ("seconds", "f", &|t| format!("{}.25", hours(t))),
        ("milliseconds", "ms", &|t| format!("{}000", hours(t))),
        ("microseconds", "us", &|t| format!("{}000000", hours(t))),
        ("nanoseconds", "ns", &|t| format!("{}000000000", hours(t))),
        ("nanoseconds", "T", &|t| format!("{}T{}Z", date(hours(t)), clock(hours(t)))),
        ("nanoseconds", "blank", &|t| format!("{} {}.5", date(hours(t)), clock(hours(t)))),
        ("nanoseconds", "zone", &|t| format!("{}T{}+00:00", date(hours(t)), clock(hours(t)))),
    ];
    for (unit, what, time) in writers {
        for (name, text) in [("a.inter", table('\t', TYPED, time)), ("a.csv", table(',', PLAIN, time))] {
            let (_, stats) = prepared(&sandbox, (name, &text), &[]);
            assert_eq!((&stats["time_unit"], &stats["same_day"]), (&unit.into(), &(6.0 / 7.0).into()), "{what}");
        }
    }
    let positions = table('\t', TYPED, |t| (t - 1_600_000_000).to_string());
    let (_, stats) = prepared(&sandbox, ("a.inter", &positions), &[]);
    assert_eq!((&stats["time_unit"], &stats["same_day"]), (&"positions".into(), &Value::Null));
    let mixed = table('\t', TYPED, |t| if t > 1_600_000_020 { "2020-09-13".into() } else { t.to_string() });
    refused(("b.inter", &mixed), &[], &["b.inter:5", "dates and numbers"]);
    refused(("b.inter", &table('\t', TYPED, |_| "2021-02-29".into())), &[], &["b.inter:2", "no day 29"]);
}

#[test]
fn duplicate_rows_are_dropped_and_said() {
    let sandbox = Sandbox::new();
    let twice: String = atomic().lines().enumerate().map(|(at, line)| format!("{line}\n").repeat(if at == 0 { 1 } else { 2 })).collect();
    let n = u64::from(USERS * STEPS);
    let (out, stats) = prepared(&sandbox, ("a.inter", &twice), &[]);
    assert!(out.contains(&format!("{n} of {} rows", 2 * n)) && out.contains("--duplicates=keep"), "{out}");
    assert_eq!((&stats["interactions"], &stats["duplicates"], &stats["dropped"]["duplicates"]), (&n.into(), &0.into(), &n.into()));
    assert!(sandbox.lumos(&["data", "stats", "set"]).done().contains(&format!("0, {n} dropped")));
    let set = lumos::data::load(&sandbox.path().join("set")).unwrap();
    prepared(&sandbox, ("b.inter", &atomic()), &["--name", "set"]);
    let single = lumos::data::load(&sandbox.path().join("set")).unwrap();
    assert_eq!((set.items, set.offsets), (single.items, single.offsets));
    let (out, stats) = prepared(&sandbox, ("a.inter", &twice), &["--duplicates", "keep"]);
    assert!(!out.contains("duplicates:"), "{out}");
    assert_eq!((&stats["interactions"], &stats["duplicates"], &stats["dropped"]["duplicates"]), (&(2 * n).into(), &n.into(), &0.into()));
    let refuse =
        ["--duplicates: ", &format!("{n} rows"), "line 3 repeats line 2", "user `u0`, item `i0`, time 1600000000", "--duplicates=drop"];
    refused(("a.inter", &twice), &["--duplicates", "refuse"], &refuse);
    sandbox.lumos(&words("a.inter", &["--duplicates", "dorp"])).refused(2, &["dorp", "drop, keep, refuse"]);
    // `data build` and `train` say it as well, with the setting's name.
    sandbox.write("a.toml", b"[data]\nname = \"twice\"\nformat = \"recbole\"\ninter = \"a.inter\"\n");
    let built = sandbox.lumos(&["data", "build", "a.toml"]).done();
    assert!(built.contains("data.duplicates=keep keeps them"), "{built}");
    sandbox
        .lumos(&["data", "build", "a.toml", "--set", "data.duplicates=refuse"])
        .refused(1, &["`data.duplicates`", "line 3 repeats line 2"]);
    let other = sandbox.lumos(&["data", "build", "a.toml", "--set", "data.duplicates=keep"]).done();
    assert!(other.contains("data.duplicates was \"drop\", is \"keep\""), "another data set: {other}");
}

#[test]
fn repeats_are_kept_or_dropped() {
    let sandbox = Sandbox::new();
    let mut text = TYPED.join("\t") + "\n";
    for user in 0..4 {
        text += &["a", "a", "b", "a", "c", "c", "c", "d", "e", "b"]
            .iter()
            .enumerate()
            .map(|(at, item)| format!("u{user}\t{item}\t{at}\n"))
            .collect::<String>();
    }
    for (repeats, sequence, dropped) in [("keep", "aabacccdeb", 0), ("first", "abcde", 20), ("consecutive", "abacdeb", 12)] {
        let (out, stats) = prepared(&sandbox, ("a.inter", &text), &["--repeats", repeats]);
        let set = lumos::data::load(&sandbox.path().join("set")).unwrap();
        let tokens: String = set.sequence(0).iter().map(|i| set.item_tokens[*i as usize].as_str()).collect();
        assert_eq!((tokens.as_str(), &stats["dropped"]["repeats"]), (sequence, &dropped.into()));
        let line = format!("repeats: {dropped} of 40");
        assert_eq!(out.contains(&line) && out.contains(&format!("(--repeats={repeats})")), dropped > 0, "{out}");
    }
}

#[test]
fn a_choice_about_repeats_ends_the_note_on_returning_users() {
    let sandbox = Sandbox::new();
    let rows = (0..20).map(|row| format!("u{}\t{}\t{row}\n", row / 5, ["a", "b", "c", "d", "a"][row % 5])).collect::<String>();
    let text = TYPED.join("\t") + "\n" + &rows;
    let (out, _) = prepared(&sandbox, ("a.inter", &text), &[]);
    assert!(out.contains("100.0 % of the test targets") && out.contains("--repeats=first"), "{out}");
    let (out, _) = prepared(&sandbox, ("a.inter", &text), &["--repeats", "keep"]);
    assert!(!out.contains("targets"), "{out}");
}

fn catalogue(id: char, genre: &str) -> String {
    let rows = (0..20).map(|i| format!("{id}{i}\tT {i}\t'A', 'B{i}'\t1.0\n")).collect::<String>();
    format!("item_id:token\ttitle:token_seq\t{genre}:token_seq\tprice:float\n{rows}")
}

#[test]
fn catalogues_are_found_by_their_columns() {
    let sandbox = Sandbox::new();
    sandbox.write("a.item", catalogue('i', "genre").as_bytes());
    let (out, stats) = prepared(&sandbox, ("a.inter", &atomic()), &["--items", "a.item"]);
    assert!(out.contains("titles from `title`, categories from `genre`; columns not used: price"), "{out}");
    assert_eq!((&stats["items_with_title"], &stats["items_with_categories"]), (&20.into(), &20.into()));

    sandbox.write("a.item", catalogue('i', "kind").as_bytes());
    let (out, stats) = prepared(&sandbox, ("a.inter", &atomic()), &["--items", "a.item"]);
    assert!(out.contains("categories none (--category-column names a column); columns not used: kind, price"), "{out}");
    assert_eq!(stats["items_with_categories"], 0);
    let (out, stats) = prepared(&sandbox, ("a.inter", &atomic()), &["--items", "a.item", "--category-column", "kind"]);
    assert!(out.contains("categories from `kind`"), "{out}");
    assert_eq!(stats["items_with_categories"], 20);
    let named = |more: &[&'static str]| sandbox.lumos(&words("a.inter", &[&["--items", "a.item"], more].concat()));
    named(&["--title-column", "titel"]).refused(1, &["a.item:1", "`titel`", "nearest is `title`", "--title-column"]);
    sandbox.lumos(&words("a.inter", &["--brand-column", "b"])).refused(1, &["--brand-column", "--items"]);
    let set = lumos::data::load(&sandbox.path().join("set")).unwrap();
    assert_eq!(set.catalogue[0].categories, ["A", "B0"]);
}

#[test]
fn a_catalogue_of_another_data_set_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("a.item", catalogue('x', "genre").as_bytes());
    sandbox.write("a.inter", atomic().as_bytes());
    sandbox.lumos(&words("a.inter", &["--items", "a.item"])).refused(1, &["none of its 20 items", "`x0`", "`i0`", "--item-column"]);
    let few: String = catalogue('x', "genre").replace("x7\t", "i7\t");
    sandbox.write("a.item", few.as_bytes());
    let (out, _) = prepared(&sandbox, ("a.inter", &atomic()), &["--items", "a.item"]);
    assert!(out.contains("only 1 of 20 items have a row in it (1 of its 20 rows fit an item)"), "{out}");
    // An empty catalogue describes nothing and contradicts nothing.
    sandbox.write("a.item", b"item_id:token\ttitle:token_seq\n");
    prepared(&sandbox, ("a.inter", &atomic()), &["--items", "a.item"]);
}

#[test]
fn a_world_beyond_memory_is_refused_before_it_is_made() {
    let sandbox = Sandbox::new();
    for (flag, part) in [("--items", "GiB"), ("--users", "too many")] {
        sandbox.lumos(&["data", "synth", flag, "4000000000", "--out", "w"]).refused(1, &[&format!("error: {flag}: "), part]);
    }
    sandbox
        .lumos(&["data", "synth", "--users", "350000000", "--mean-length", "12", "--items", "3000000000", "--out", "w"])
        .refused(1, &["GiB"]);
}
