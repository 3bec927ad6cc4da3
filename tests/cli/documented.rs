//! Every command that the README and the pages under docs/ show, in blocks and within lines, is one that the program takes, with settings that there are.
//! `documented_runs` runs those that it can.

use std::path::{Path, PathBuf};

/// What stands for a value of the reader's own, and a value.
const PLACEHOLDERS: [(&str, &str); 5] = [
    ("SEED", "1"),
    ("method=NAME", "method=lumos"),
    ("method=METHOD", "method=lumos"),
    ("attack.name=NAME", "attack.name=fed-rec-attack"),
    ("federation.rounds=R", "federation.rounds=40"),
];

/// A name that a program of the reader's own has made known, so that its settings cannot be read here.
const FOREIGN: &str = "two-ahead";

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages, the README first: the others take for granted what it has made.
pub fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.retain(|page| page.extension().is_some_and(|ending| ending == "md"));
    pages.sort();
    pages.insert(0, root().join("README.md"));
    pages
}

/// Commands that stand together, without the program's name.
#[derive(Debug, Default, PartialEq)]
pub struct Shown {
    pub commands: Vec<String>,
    /// What the page says they print, in lines.
    pub output: Vec<String>,
    /// Whether they stand within a line.
    pub inline: bool,
    /// Whether that is one of a table.
    pub table: bool,
}

/// The command of a line of a block: it begins with `lumos`. A block of output has tables that begin with the name as well, with more than one
/// blank behind it.
fn command(line: &str) -> Option<&str> {
    line.trim().strip_prefix("lumos ").filter(|rest| rest.starts_with(char::is_lowercase))
}

/// The commands of a page in their order: lines of a block for a shell, or indented, with what a backslash at the end carries on; and code within
/// lines. A fenced block without any that follows within a few lines is what the block before prints.
pub fn shown(text: &str) -> Vec<Shown> {
    let mut found: Vec<Shown> = Vec::new();
    let mut lines = text.lines();
    // How many lines ago the last fenced block of commands ended.
    let mut since = usize::MAX;
    while let Some(line) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            let is_shell = ["", "sh", "bash"].contains(&kind.trim());
            let commands = if is_shell { commands(&block) } else { Vec::new() };
            if !commands.is_empty() {
                found.push(Shown { commands, ..Shown::default() });
                since = 0;
            } else if is_shell && since <= 4 {
                let last = found.iter_mut().rev().find(|shown| !shown.inline).expect("a block was shown before");
                last.output = block.iter().map(|line| line.to_string()).collect();
                since = usize::MAX;
            }
            continue;
        }
        since = since.saturating_add(1);
        if line.starts_with("    ") {
            let mut block = vec![line];
            while block.last().is_some_and(|line| line.ends_with('\\')) {
                block.extend(lines.next());
            }
            let commands = commands(&block);
            if !commands.is_empty() {
                found.push(Shown { commands, ..Shown::default() });
            }
            continue;
        }
        let spans = line.split('`').skip(1).step_by(2).filter_map(command);
        found.extend(spans.map(|span| Shown {
            commands: vec![span.replace("\\|", "|")],
            inline: true,
            table: line.starts_with('|'),
            ..Shown::default()
        }));
    }
    found
}

fn commands(block: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = block.iter();
    while let Some(line) = lines.next() {
        let Some(rest) = command(line) else { continue };
        let mut command = rest.to_string();
        while let Some(open) = command.strip_suffix('\\') {
            command = format!("{}{}", open, lines.next().map_or("", |line| line.trim()));
        }
        found.push(command);
    }
    found
}

/// The words of a command; what stands behind two blanks, or a `#`, is said about it, and what a shell does with its output is left out. Nothing for one that a shell or the reader has to complete.
pub fn words(command: &str) -> Option<Vec<String>> {
    let mut quoted = None;
    let bytes = command.as_bytes();
    let end = (0..bytes.len()).find(|&at| {
        match (quoted, bytes[at]) {
            (None, quote @ (b'\'' | b'"')) => quoted = Some(quote),
            (Some(quote), byte) if quote == byte => quoted = None,
            _ => {}
        }
        quoted.is_none() && (command[at..].starts_with("  ") || [" #", " | ", " > "].iter().any(|end| command[at..].starts_with(end)))
    });
    let command = &command[..end.unwrap_or(bytes.len())];
    let command = PLACEHOLDERS.iter().fold(command.to_string(), |text, (name, value)| text.replace(name, value));
    (!command.contains("$(") && !command.contains("...")).then(|| shlex::split(&command).unwrap_or_else(|| panic!("{command}")))
}

/// The values of `--set` among `words`, and the configuration of LUMOS that they go with; nothing where
/// there are neither, or the reader is to name the configuration.
fn settings(words: &[String]) -> Option<(Option<PathBuf>, Vec<String>)> {
    let mut sets: Vec<String> = words.windows(2).filter(|pair| pair[0] == "--set").map(|pair| pair[1].clone()).collect();
    // Settings beside a list of methods go with them.
    let methods = words.windows(2).find(|pair| pair[0] == "--methods").and_then(|pair| pair[1].split(',').next());
    sets.extend(methods.map(|method| format!("method={method}")));
    let config = words.iter().find(|word| word.starts_with("configs/") && word.ends_with(".toml"));
    match config {
        Some(name) if name.contains("DATA-SET") => None,
        Some(name) => Some((Some(root().join(name)), sets)),
        None if sets.is_empty() => None,
        None => Some((None, sets)),
    }
}

#[test]
fn every_command_on_every_page_is_taken() {
    let (mut blocks, mut within, mut wrong) = (0, 0, Vec::new());
    for page in pages() {
        for shown in shown(&std::fs::read_to_string(&page).unwrap()) {
            for command in &shown.commands {
                let Some(words) = words(command) else { continue };
                let mut refuse = |why: String| wrong.push(format!("{}: lumos {command}: {why}", page.display()));
                if let Err(why) = lumos::cli::takes(words.iter().cloned()) {
                    // Within a text a command may be named without its arguments.
                    let named = shown.inline
                        && (why.contains("required arguments were not provided")
                            || why.contains("Usage: lumos") && !why.contains("error:"));
                    if !named || shown.table && words.iter().any(|word| word.starts_with('-')) {
                        refuse(why);
                    }
                }
                if let Some((config, sets)) = settings(&words)
                    && !command.contains(FOREIGN)
                    && let Err(why) = lumos::load_settings(config.as_deref(), &sets)
                {
                    refuse(why.to_string());
                }
                *(if shown.inline { &mut within } else { &mut blocks }) += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(blocks > 50 && within > 100, "{blocks} in blocks, {within} within lines");
}

#[test]
fn commands_are_found_and_cut() {
    let text = "text\n```\nlumos train a.toml \\\n    --set x=1        why\n```\nIt prints\n```\nlumos    validation    test\n```\n```rust\nlumos no\n```\n    \
                lumos eval runs/a # why\n| a | `lumos runs x \\| y` and `lumos --no` |\n";
    let found = shown(text);
    let all: Vec<Vec<String>> = found.iter().flat_map(|shown| &shown.commands).map(|command| words(command).unwrap()).collect();
    assert_eq!(all, [vec!["train", "a.toml", "--set", "x=1"], vec!["eval", "runs/a"], vec!["runs", "x"]]);
    assert_eq!(found[0].output, ["lumos    validation    test"]);
    assert!(found[1].output.is_empty() && found[2].inline && found[2].table);
    assert_eq!(words("x --separator '|' --set 'a=b  c'").unwrap(), ["x", "--separator", "|", "--set", "a=b  c"]);
    assert!(words("train $(printf x)").is_none() && words("runs DIR...").is_none());
    assert!(lumos::cli::takes(["trian".to_string()]).unwrap_err().contains("train"));
}
