//! The layers of the house: a folder of `src` uses those below it, and no two use each other. And documentation that names files that are
//! there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// From the lowest to the highest, as docs/architecture.md lists them.
const LAYERS: [&str; 19] = [
    "base",
    "config",
    "device",
    "cluster",
    "privacy",
    "data",
    "eval",
    "backend",
    "llm",
    "views",
    "model",
    "engine",
    "federation",
    "settings",
    "run",
    "bench",
    "check",
    "cli",
    "testing",
];

/// Rust files below `folder`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .collect()
}

/// The text without its tests and comments.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// What follows `crate::` in `text`, each name of a braced list by itself.
fn uses(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for after in text.split("crate::").skip(1) {
        let name = |part: &str| part.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        match after.strip_prefix('{') {
            Some(list) => found.extend(list.split('}').next().unwrap_or_default().split(',').map(name)),
            None => found.push(name(after)),
        }
    }
    found
}

#[test]
fn no_layer_uses_one_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let level: BTreeMap<&str, usize> = LAYERS.iter().enumerate().map(|(i, name)| (*name, i)).collect();
    let (mut upward, mut seen) = (Vec::new(), 0);
    for path in sources(&src) {
        let place = path.strip_prefix(&src).unwrap();
        let top = place.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if ["lib", "main"].contains(&top) {
            continue;
        }
        let own = *level.get(top).unwrap_or_else(|| panic!("{top} is no layer: add it here and to docs/architecture.md"));
        for used in uses(&code(&std::fs::read_to_string(&path).unwrap())) {
            if let Some(&other) = level.get(used.as_str()) {
                seen += 1;
                if other > own {
                    upward.push(format!("{} uses {used}, which is above {top}", place.display()));
                }
            }
        }
    }
    assert!(seen > 300, "only {seen} uses were found: does this test still read them?");
    assert!(upward.is_empty(), "{}", upward.join("\n"));
}

#[test]
fn the_documentation_lists_the_layers_in_their_order() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md")).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    let at = |name: &str| rows.iter().position(|row| row.split('|').nth(1).unwrap().contains(&format!("`{name}"))).unwrap_or(usize::MAX);
    for pair in LAYERS.windows(2) {
        let ([a, b], both) = ([at(pair[0]), at(pair[1])], "checked together");
        assert!(a <= b || rows[a].contains(pair[1]), "{} and {} ({both})", pair[0], pair[1]);
        assert!(a < rows.len() && b < rows.len(), "{pair:?} is missing");
    }
}

/// Files and folders that `text` names in backquotes below one of the folders of the repository.
fn named(text: &str) -> Vec<&str> {
    let folders = ["src/", "tests/", "methods/", "configs/", "kernels/", "examples/", "docs/", "benches/", "scripts/", "fuzz/"];
    let quoted = text.split('`').skip(1).step_by(2).filter(|quoted| folders.iter().any(|folder| quoted.starts_with(folder)));
    quoted.filter(|path| !path.contains(['*', ' ', '<', '(', '{'])).collect()
}

#[test]
fn files_that_the_documentation_names_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts: Vec<PathBuf> = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    texts.push(root.join("README.md"));
    let (mut missing, mut seen) = (Vec::new(), 0);
    for path in texts.iter().filter(|path| path.extension().is_some_and(|e| e == "md")) {
        // Blocks of code hold commands, whose files a user makes.
        let text = std::fs::read_to_string(path).unwrap();
        let prose: Vec<&str> = text.split("```").step_by(2).collect();
        for name in prose.iter().flat_map(|prose| named(prose)) {
            seen += 1;
            if !root.join(name.split("::").next().unwrap_or(name)).exists() {
                missing.push(format!("{} names {name}", path.display()));
            }
        }
    }
    assert!(seen > 30, "only {seen} names were found: does this test still read them?");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// A signature without spaces, trailing commas and the underscores of unused arguments.
fn plain(signature: &str) -> String {
    let words: String = signature.split_whitespace().collect::<Vec<_>>().join(" ");
    let tight: String = words.replace("(_", "(").replace(" _", " ").split_whitespace().collect();
    tight.replace(",)", ")")
}

/// The functions that a piece of Rust declares, each up to its body.
fn signatures(text: &str) -> Vec<String> {
    let starts = text.match_indices("fn ").filter(|(at, _)| text[..*at].ends_with([' ', '\n']));
    starts.map(|(at, _)| plain(text[at..].split(['{', ';']).next().unwrap_or_default())).collect()
}

#[test]
fn signatures_that_the_documentation_quotes_are_those_of_the_source() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/extending.md")).unwrap();
    let source: Vec<String> = sources(&root.join("src")).iter().map(|path| code(&std::fs::read_to_string(path).unwrap())).collect();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for block in text.split("```rust,ignore\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()) {
        let name = block.split("pub trait ").nth(1).and_then(|rest| rest.split([':', ' ']).next()).expect("a block shows a trait");
        let heads = [format!("pub trait {name}:"), format!("pub trait {name} {{")];
        let file = source.iter().find(|text| heads.iter().any(|head| text.contains(head.as_str())));
        let body = heads.iter().find_map(|head| file?.split_once(head.as_str())).expect("the trait is in the source").1;
        let body = body.split("\n}").next().unwrap_or_default();
        let known = signatures(body);
        for signature in signatures(&code(block)) {
            seen += 1;
            if !known.contains(&signature) {
                wrong.push(format!("{name}: {signature} is none of\n  {}", known.join("\n  ")));
            }
        }
    }
    assert!(seen > 25, "only {seen} signatures were found: does this test still read them?");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn examples_and_names_of_the_page_on_extending_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/extending.md")).unwrap();
    let listed: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("| `examples/")?.split_once('`')).map(|(name, _)| name).collect();
    for path in sources(&root.join("examples")) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(listed.contains(&name), "docs/extending.md does not list examples/{name}");
    }
    // What a path of the library ends in is declared as public, or is the name of a module.
    let source: Vec<String> = sources(&root.join("src")).iter().map(|path| code(&std::fs::read_to_string(path).unwrap())).collect();
    let (mut missing, mut seen) = (Vec::new(), 0);
    for path in text.split('`').skip(1).step_by(2).filter_map(|quoted| quoted.strip_prefix("lumos::")) {
        let path = path.split(['(', '<']).next().unwrap_or_default();
        let name = path.rsplit("::").next().unwrap_or_default();
        let kinds = ["fn", "trait", "struct", "enum", "type", "mod", "const"];
        let declared = |text: &String| {
            let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
            kinds.iter().any(|kind| text.split(&format!("pub {kind} {name}")).skip(1).any(ends)) || text.contains(&format!(" as {name}"))
        };
        seen += 1;
        if !source.iter().any(declared) {
            missing.push(path.to_string());
        }
    }
    assert!(seen > 8, "only {seen} paths were found: does this test still read them?");
    assert!(missing.is_empty(), "docs/extending.md names {missing:?}");
}
