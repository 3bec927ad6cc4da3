//! Every command that the README and the pages under docs/ show is one that the program takes, with settings that there are; quick ones are run.

use crate::sandbox::Sandbox;
use std::path::{Path, PathBuf};

/// What stands for a value of the reader's own, and a value.
const PLACEHOLDERS: [(&str, &str); 2] = [("SEED", "1"), ("method=NAME", "method=lumos")];

/// A name that a program of the reader's own has made known, so that its settings cannot be read here.
const FOREIGN: &str = "two-ahead";

/// Beginnings of commands that need no file from outside and no time.
const QUICK: [&str; 6] = ["doctor", "methods lumos", "privacy account", "data synth", "data stats data/sites", "data fetch --list"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.retain(|page| page.extension().is_some_and(|ending| ending == "md"));
    pages.push(root().join("README.md"));
    pages.sort();
    pages
}

/// The commands of a page without the program's name, in their order: lines of a block for a shell, or indented, that begin with `lumos`, with what a backslash at
/// the end carries on. A block of output has tables that begin with the name as well, with more than one blank behind it.
fn commands(text: &str) -> Vec<String> {
    let (mut found, mut block) = (Vec::new(), None);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            block = if block.is_some() { None } else { Some(["", "sh", "bash"].contains(&kind.trim())) };
            continue;
        }
        let inside = block.unwrap_or(line.starts_with("    "));
        let Some(rest) = line.trim().strip_prefix("lumos ").filter(|rest| inside && rest.starts_with(char::is_lowercase)) else { continue };
        let mut command = rest.to_string();
        while let Some(open) = command.strip_suffix('\\') {
            command = format!("{}{}", open, lines.next().unwrap_or_default().trim());
        }
        found.push(command);
    }
    found
}

/// The words of a command; what stands behind two blanks, or a `#`, is said about it. Nothing for one that a shell has to complete.
fn words(command: &str) -> Option<Vec<String>> {
    let mut quoted = None;
    let bytes = command.as_bytes();
    let end = (0..bytes.len()).find(|&at| {
        match (quoted, bytes[at]) {
            (None, quote @ (b'\'' | b'"')) => quoted = Some(quote),
            (Some(quote), byte) if quote == byte => quoted = None,
            _ => {}
        }
        quoted.is_none() && (command[at..].starts_with("  ") || command[at..].starts_with(" #") || command[at..].starts_with(" | "))
    });
    let command = &command[..end.unwrap_or(bytes.len())];
    let command = PLACEHOLDERS.iter().fold(command.to_string(), |text, (name, value)| text.replace(name, value));
    (!command.contains("$(")).then(|| shlex::split(&command).unwrap_or_else(|| panic!("{command}")))
}

/// The values of `--set` among `words`, and the configuration of LUMOS that they go with.
fn settings(words: &[String]) -> (Option<PathBuf>, Vec<String>) {
    let sets = words.windows(2).filter(|pair| pair[0] == "--set").map(|pair| pair[1].clone()).collect();
    let config = words.iter().find(|word| word.starts_with("configs/") && word.ends_with(".toml")).map(|name| root().join(name));
    (config, sets)
}

#[test]
fn every_command_on_every_page_is_taken() {
    let (mut checked, mut wrong) = (0, Vec::new());
    for page in pages() {
        for command in commands(&std::fs::read_to_string(&page).unwrap()) {
            let Some(words) = words(&command) else { continue };
            let mut refuse = |why: String| wrong.push(format!("{}: lumos {command}: {why}", page.display()));
            if let Err(why) = lumos::cli::takes(words.iter().cloned()) {
                refuse(why);
            }
            let (config, sets) = settings(&words);
            if !command.contains(FOREIGN)
                && let Err(why) = lumos::load_settings(config.as_deref(), &sets)
            {
                refuse(why.to_string());
            }
            checked += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 50, "{checked}");
}

#[test]
fn quick_commands_do_what_their_page_says() {
    let sandbox = Sandbox::new();
    let mut run = 0;
    for page in pages() {
        for command in commands(&std::fs::read_to_string(&page).unwrap()) {
            if !QUICK.iter().any(|quick| command.starts_with(quick)) {
                continue;
            }
            let words = words(&command).unwrap();
            let said = sandbox.lumos(&words.iter().map(String::as_str).collect::<Vec<_>>()).done();
            // A figure that is promised behind the command is in what it prints.
            let promised = command.rsplit("  ").next().filter(|_| command.contains("  ")).and_then(|text| text.strip_prefix("epsilon "));
            assert!(promised.is_none_or(|figure| said.contains(figure)), "{command}: {said}");
            run += 1;
        }
    }
    assert!(run >= 5, "{run}");
}

#[test]
fn commands_are_found_and_cut() {
    let text = "text\n```\nlumos train a.toml \\\n    --set x=1        why\nlumos    validation    test\n```\n```rust\nlumos no\n```\n    lumos eval runs/a # why\n";
    let found: Vec<Vec<String>> = commands(text).iter().map(|command| words(command).unwrap()).collect();
    assert_eq!(found, [vec!["train", "a.toml", "--set", "x=1"], vec!["eval", "runs/a"]]);
    assert_eq!(words("x --separator '|' --set 'a=b  c'").unwrap(), ["x", "--separator", "|", "--set", "a=b  c"]);
    assert!(words("train $(printf x)").is_none());
    assert!(lumos::cli::takes(["trian".to_string()]).unwrap_err().contains("train"));
}
