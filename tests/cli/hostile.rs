//! Hostile ids, titles, headers and file names: no character that moves the cursor, turns the reading direction or hides reaches a terminal,
//! and nothing floods it.

use crate::sandbox::{Ran, Sandbox};
use lumos::base::clean;

/// An operating-system command that retitles a window, colours, a carriage return, C1, right-to-left overrides, a zero-width blank.
const EVIL: &str = "\u{1b}]0;pwned\u{7}\u{1b}[31mRED\r\u{9b}2J\u{202e}live\u{2066}\u{200b}\u{2028}\u{feff}";

/// 3,000 characters without a blank.
fn long() -> String {
    "A".repeat(3000)
}

/// 40 users with eight items each; the first user's id and some items' are hostile, the last user's and item's are long.
fn world() -> Sandbox {
    let sandbox = Sandbox::new();
    let user = |u: usize| if u == 39 { long() } else { format!("../u{u}{EVIL}").replace('\r', "") };
    let item = |i: usize| if i == 29 { long() } else { format!("<b>i{i}</b>{EVIL}").replace('\r', "") };
    let mut inter = "user_id:token\titem_id:token\ttimestamp:float\n".to_string();
    for u in 0..40 {
        for k in 0..8 {
            inter += &format!("{}\t{}\t{}\n", user(u), item((u * 7 + k * 3) % 30), 1_000_000 + k);
        }
    }
    let mut items = "item_id:token\ttitle:token_seq\tcategories:token_seq\n".to_string();
    for i in 0..30 {
        let title = if i % 5 == 0 { long() } else { format!("<script>{EVIL}</script> t{i} 日本語タイトル").replace('\r', "") };
        items += &format!("{}\t{title}\t'c{EVIL}{}'\n", item(i), i % 3).replace('\r', "");
    }
    sandbox.write("evil.inter", inter.as_bytes());
    sandbox.write("evil.item", items.as_bytes());
    let config = "[data]\nname = \"evil\"\nformat = \"recbole\"\ninter = \"evil.inter\"\nitems = \"evil.item\"\n[model]\ndim = 8\n\
        [eval]\nk = [5]\nselect = \"HR@5\"\n[methods.federated]\nmodel.blocks = 1\nlocal.epochs = 1\nfederation.rounds = 1\nloss.negatives = 4\n";
    sandbox.write("evil.toml", config.as_bytes());
    sandbox
}

/// Asserts that stdout and stderr are clean and no line is long; gives both.
#[track_caller]
fn tame(ran: &Ran) -> String {
    let text = ran.stdout() + &ran.stderr();
    let bad: Vec<char> = text.chars().filter(|c| (c.is_control() && *c != '\n') || clean::hidden(*c)).collect();
    assert!(bad.is_empty(), "{bad:?} in {text:?}");
    assert!(text.lines().all(|line| line.chars().count() < 700), "a flood: {text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

#[test]
fn every_command_shows_hostile_text_tamed() {
    let sandbox = world();
    let user = format!("../u0{EVIL}").replace('\r', "");
    let run = |words: &[&str]| sandbox.lumos(words);
    let prepared = tame(&run(&["data", "prepare", "--format", "recbole", "--inter", "evil.inter", "--items", "evil.item", "--out", "d"]));
    assert!(prepared.contains("prepared in d"), "{prepared}");
    tame(&run(&["data", "stats", "d"]));
    let trained = tame(&run(&["train", "evil.toml", "--out", "r"]));
    assert!(trained.contains("run folder: r"), "{trained}");
    tame(&run(&["train", "evil.toml", "--out", "r2", "--set", "method=fed-sasrec"]));
    tame(&run(&["compare", "r", "r2"]));
    tame(&run(&["eval", "r"]));
    let shown = tame(&run(&["recommend", "r", "--user", &user, "-k", "30"]));
    assert!(shown.contains("<b>i1</b>") && shown.contains("日本語"), "{shown}");
    let shown = tame(&run(&["recommend", "r", "--user", &long()]));
    assert!(shown.contains("history: 8 items"), "{shown}");
    let shown = tame(&run(&["views", "inspect", "evil.toml", "--user", &user]));
    assert!(shown.contains("user ../u0") && shown.contains("counterfactual"), "{shown}");

    // Messages: a near id is named, a far one is not, neither floods.
    let near = tame(&run(&["recommend", "r", "--user", &user[..user.len() - 3]]));
    assert!(near.contains("did you mean `../u0"), "{near}");
    let near = tame(&run(&["views", "inspect", "evil.toml", "--user", &user.replace("pwned", "pwnd")]));
    assert!(near.contains("did you mean `../u0"), "{near}");
    for far in [format!("{}B", long()), EVIL.repeat(20), "x\ny".to_string()] {
        let message = tame(&run(&["recommend", "r", "--history", &far]));
        assert!(message.starts_with("error: --history: ") && message.trim_end().lines().count() == 1, "{message}");
        assert!(!message.contains("did you mean"), "{message}");
    }
    for words in [
        ["train", "evil.toml", "--set", &format!("{EVIL}=1")],
        ["train", "evil.toml", "--set", &format!("model.backbone={EVIL}")],
        ["train", "evil.toml", "--set", &format!("method={}", long())],
        ["train", "evil.toml", "--device", EVIL],
        ["recommend", "r", "--user", EVIL],
        ["recommend", "r", "-k", EVIL],
        ["recommend", EVIL, "--user", "u"],
        ["data", "stats", EVIL, "--json"],
        ["compare", EVIL, &long(), "r"],
        ["train", EVIL, "--out", "x"],
        [EVIL, "a", "b", "c"],
    ] {
        let ran = run(&words);
        assert!(!ran.0.status.success());
        tame(&ran);
    }

    // Pages and JSON: nothing to reorder a page; JSON is exact.
    let page = String::from_utf8(sandbox.read("r/report.html")).unwrap();
    assert!(!page.chars().any(|c| (c.is_control() && c != '\n') || clean::hidden(c)));
    let json = run(&["recommend", "r", "--user", &user, "--json"]).json();
    assert_eq!(json["user"], user.as_str());
}

#[test]
fn hostile_headers_are_told_tamed() {
    let sandbox = Sandbox::new();
    let header = format!("who{EVIL}\twhat\twhen\n").replace('\r', "");
    let columns = |n: usize| (0..n).map(|i| format!("c{i}{EVIL}").replace('\r', "")).collect::<Vec<_>>().join(",");
    sandbox.write("typeless.inter", (header + "a\tx\t1\n").as_bytes());
    sandbox.write("unknown.inter", format!("user_id:{EVIL}\titem_id:token\n").replace('\r', "").as_bytes());
    sandbox.write("wide.csv", format!("{}\n1\n", columns(5000)).as_bytes());
    sandbox.write("long.csv", format!("{},user_id\n1,2\n", long()).as_bytes());
    sandbox.write("time.csv", format!("user_id,item_id,timestamp\na,x,{EVIL}\n").replace('\r', "").as_bytes());
    for (format, file) in
        [("recbole", "typeless.inter"), ("recbole", "unknown.inter"), ("csv", "wide.csv"), ("csv", "long.csv"), ("csv", "time.csv")]
    {
        let ran = sandbox.lumos(&["data", "prepare", "--format", format, "--inter", file, "--out", "d"]);
        assert!(!ran.0.status.success(), "{file}");
        let text = ran.stdout() + &ran.stderr();
        assert!(text.chars().count() < 9000, "{file}: a flood of {}", text.chars().count());
        assert!(!text.chars().any(|c| (c.is_control() && c != '\n') || clean::hidden(c)), "{file}: {text:?}");
        assert!(text.contains(file), "{text}");
    }
}
