//! Commands of the documentation that need no file from outside are run, in the order of the pages, and what they print is held against what the page
//! shows. `ml-100k` is a small world under the real one's names, so that figures are others; words, columns and the order of lines are not.

use crate::documented::{pages, root, shown, words};
use crate::real;
use crate::sandbox::Sandbox;
use std::fmt::Write;

/// Beginnings of commands that are run, with what is put behind so that none takes long.
const RUN: [(&str, &[&str]); 26] = [
    ("compare runs/twin runs/lumos", &[]),
    ("completions", &[]),
    ("config", &[]),
    ("data fetch --list", &[]),
    ("data prepare --format recbole --inter ml-100k/", &[]),
    ("data stats", &[]),
    ("data synth", &[]),
    ("doctor", &[]),
    ("eval runs/lumos", &[]),
    ("export runs/twin", &[]),
    ("man", &[]),
    ("methods lumos", &[]),
    ("methods", &[]),
    ("plot runs/twin runs/lumos", &[]),
    ("privacy account", &[]),
    ("privacy infer runs/lumos", &["--clients", "3"]),
    ("recommend runs/lumos", &[]),
    ("report runs/", &[]),
    ("reproduce --list", &[]),
    ("runs", &[]),
    ("train configs/ml-100k.toml --out runs/lumos", &SHORT),
    ("train configs/ml-100k.toml --set method=fed-sasrec --out runs/twin", &SHORT),
    ("train configs/quickstart.toml", &SMALL),
    ("views inspect configs/ml-100k.toml", &[]),
    ("views list", &[]),
    ("watch runs/lumos", &[]),
];
const SHORT: [&str; 4] = ["--set", "federation.rounds=2", "--set", "eval.every=1"];
const SMALL: [&str; 8] =
    ["--set", "federation.rounds=1", "--set", "eval.every=1", "--set", "data.synth_users=200", "--set", "data.synth_items=120"];

/// Words of the reader's own, which stand for what is not there.
const OWN: [&str; 10] = ["runs/ml-100k", "FILE", "FOLDER", "CONFIG", "NAME", "METRIC", "RUN", "KEY", "DATA-SET", "mine"];

/// A small world in the place of ml-100k, in the files and under the names of the real one.
fn stand_in(sandbox: &Sandbox) {
    let titled = [(50, "Star Wars"), (181, "Return of the Jedi"), (172, "Empire Strikes Back, The")];
    let mut items = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n".to_string();
    for item in 1..=200_u64 {
        let title = titled.iter().find(|(id, _)| *id == item).map_or(format!("Film {item}"), |(_, title)| title.to_string());
        writeln!(items, "{item}\t{title}\t{}\t{}", 1930 + item % 70, ["Comedy", "Drama", "Horror Thriller"][(item % 3) as usize]).unwrap();
    }
    let mut rows = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n".to_string();
    for user in 0..150_u64 {
        // The first user of the real file.
        let name = if user == 0 { 196 } else { 300 + user };
        // A stride without a divisor of 200: no user comes back to an item.
        let stride = [7, 9, 11, 13][(user % 4) as usize];
        for step in 0..20 + user % 9 {
            writeln!(rows, "{name}\t{}\t3\t{}", 1 + (user * user * 31 + step * stride) % 200, 881_250_949 + user * 100 + step).unwrap();
        }
    }
    for folder in ["raw/ml-100k", "configs"] {
        std::fs::create_dir_all(sandbox.path().join(folder)).unwrap();
    }
    sandbox.write("raw/ml-100k/ml-100k.inter", rows.as_bytes());
    sandbox.write("raw/ml-100k/ml-100k.item", items.as_bytes());
    for name in ["ml-100k.toml", "quickstart.toml"] {
        std::fs::copy(root().join("configs").join(name), sandbox.path().join("configs").join(name)).unwrap();
    }
}

/// A line without what depends on data, machine and time: numbers and digests as `#`, blanks as one, rules as `-`. Of a row that begins with a
/// number, which is one of a list of titles, that number alone.
fn form(line: &str) -> String {
    let mut out = String::new();
    for word in line.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        if word.bytes().all(|byte| byte == b'-') {
            out.push('-');
            continue;
        }
        let mut rest = word;
        while let Some(first) = rest.chars().next() {
            let digest = rest.bytes().take_while(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).count();
            // A digest is followed by a dash, not by a sign.
            let sign = usize::from(matches!(first, '+' | '-' | '.') && !out.ends_with('#'));
            let number = rest[sign..].bytes().take_while(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b',')).count();
            let is_number = rest[sign..].starts_with(|c: char| c.is_ascii_digit());
            if digest >= 8 && rest[..digest].bytes().any(|byte| byte.is_ascii_digit()) {
                out.push('#');
                rest = &rest[digest..];
            } else if is_number {
                // A comma or a point at the end is one of the sentence.
                let number = rest[sign..][..number].trim_end_matches([',', '.']).len() + sign;
                out.push('#');
                rest = &rest[number..];
            } else {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    let out = out.replace("p < #", "p = #");
    if out.starts_with("# ") && out.contains(char::is_alphabetic) { "#".into() } else { out }
}

/// Lines in their form; of several of one form that follow each other, one.
fn forms<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut all: Vec<String> = lines.map(form).collect();
    all.dedup();
    all
}

/// Why `printed` does not have the lines of `shown` in their order. Blank lines and `...` stand for any lines.
fn missing(shown: &[String], printed: &str, exact: bool) -> Option<String> {
    let of =
        |lines: Vec<&str>| if exact { lines.iter().map(|line| line.trim_end().to_string()).collect() } else { forms(lines.into_iter()) };
    let printed: Vec<String> = of(printed.lines().collect());
    let mut at = 0;
    for part in shown.split(|line| line.trim().is_empty() || line.trim() == "...").filter(|part| !part.is_empty()) {
        let wanted = of(part.iter().map(String::as_str).collect());
        match printed[at..].windows(wanted.len()).position(|window| window == wanted) {
            Some(found) => at += found + wanted.len(),
            None => return Some(format!("these lines are not printed:\n{}\nbut\n{}", wanted.join("\n"), printed[at..].join("\n"))),
        }
    }
    None
}

#[test]
fn what_a_page_shows_is_what_its_commands_print() {
    let sandbox = Sandbox::new();
    stand_in(&sandbox);
    let (mut run, mut compared, mut wrong) = (0, 0, Vec::new());
    for page in pages() {
        for shown in shown(&std::fs::read_to_string(&page).unwrap()) {
            let (mut printed, mut whole) = (String::new(), true);
            for command in &shown.commands {
                let more = RUN.iter().find(|(begin, _)| {
                    command.strip_prefix(begin).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '/']) || begin.ends_with('/'))
                });
                let words = words(command).filter(|words| !words.iter().any(|word| OWN.contains(&word.as_str())));
                let ((Some((_, more)), Some(words)), true) = ((more, words), lumos::cli::takes(words_of(command)).is_ok()) else {
                    whole = false;
                    continue;
                };
                let words: Vec<&str> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
                let ran = sandbox.command(&words).env("LUMOS_DATA", sandbox.path().join("raw")).output().unwrap();
                let text = String::from_utf8_lossy(&ran.stdout).into_owned();
                if !ran.status.success() {
                    wrong.push(format!("{}: lumos {command}: {}", page.display(), String::from_utf8_lossy(&ran.stderr)));
                }
                // A figure that is promised behind the command is in what it prints.
                let promised =
                    command.rsplit("  ").next().filter(|_| command.contains("  ")).and_then(|text| text.strip_prefix("epsilon "));
                if promised.is_some_and(|figure| !text.contains(figure)) {
                    wrong.push(format!("{}: lumos {command}: {text}", page.display()));
                }
                printed += &text;
                run += 1;
            }
            if whole && !shown.output.is_empty() {
                wrong.extend(
                    missing(&shown.output, &printed, false).map(|why| format!("{}: lumos {:?}: {why}", page.display(), shown.commands)),
                );
                compared += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(run >= 40 && compared >= 5, "{run} commands were run, the output of {compared} blocks was compared");
}

fn words_of(command: &str) -> Vec<String> {
    words(command).unwrap_or_default()
}

/// The figures of the data set that the README walks through, where the real one lies here.
#[test]
fn the_figures_of_the_real_data_set_are_those_of_the_readme() {
    let Some(folder) = real::data("ml-100k") else { return };
    let sandbox = Sandbox::new();
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let all = shown(&text);
    let block = all.iter().find(|shown| shown.commands.iter().any(|command| command.starts_with("data stats"))).unwrap();
    let mut printed = String::new();
    for command in &block.commands {
        let words = words_of(command);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ran = sandbox.command(&words).env("LUMOS_DATA", folder.parent().unwrap()).output().unwrap();
        printed += &String::from_utf8_lossy(&ran.stdout);
    }
    assert_eq!(missing(&block.output, &printed, true), None);
}

#[test]
fn lines_are_held_against_each_other_without_what_changes() {
    assert_eq!(form("HR@20    A 0.2556  B 0.2662  +0.0106 (+4.1 %)  [-0.0053, +0.0265]  p < .001"), "HR@# A # B # # (# %) [#, #] p = #");
    assert_eq!(form("views catalogue: made (data/x-views/a3bbe7d78ef130f8-8eb5d82ac31aecae)"), "views catalogue: made (data/x-views/#-#)");
    assert_eq!(
        (form("  1 ~  I.Q.    Comedy"), form("-------  ---"), form("best of 100 rounds.")),
        ("#".into(), "- -".into(), "best of # rounds.".into())
    );
    let shown = |text: &str| text.lines().map(String::from).collect::<Vec<_>>();
    assert_eq!(missing(&shown("a 1\n...\nb\n\nc"), "x\na 22\ny\nb\nz\nc\n", false), None);
    assert!(missing(&shown("a\nb"), "a\nx\nb\n", false).is_some() && missing(&shown("b\n\na"), "a\nb\n", false).is_some());
    assert!(missing(&shown("a 1"), "a 2\n", true).is_some());
}
