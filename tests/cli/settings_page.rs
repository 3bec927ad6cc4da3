//! `docs/settings.md` is written from the types: their fields, comments and defaults.
//!
//!     LUMOS_WRITE_DOCS=1 cargo test --test cli settings_page        writes the page anew

use crate::sandbox::Sandbox;
use lumos::config::Schema;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// A field or a name that a setting accepts, with its comment.
struct Entry {
    name: String,
    kind: String,
    about: String,
}

/// What stands in the sources: structs by name with their comment and fields, choices with their comment and names.
#[derive(Default)]
struct Types(BTreeMap<String, (String, Vec<Entry>)>);

impl Types {
    /// Reads the types of one file. A comment belongs to the next line that is neither a comment nor an attribute.
    fn read(&mut self, text: &str) {
        let (mut about, mut open, mut choice) = (String::new(), None::<String>, false);
        for line in text.lines().map(str::trim) {
            if let Some(words) = line.strip_prefix("///") {
                about += words;
                continue;
            }
            if line.starts_with("#[") {
                continue;
            }
            let about = plain(std::mem::take(&mut about).trim());
            if line == "choice! {" || line == "open_choice! {" {
                choice = true;
                continue;
            }
            let field = line.strip_prefix("pub ").and_then(|l| l.split_once(": "));
            let accepted = line.split_once(" = \"").filter(|(name, _)| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
            let opened = line.strip_suffix(" {").and_then(|l| l.strip_prefix("pub struct ").or_else(|| choice.then_some(l)));
            choice = false;
            if let Some(name) = opened {
                self.0.insert(name.into(), (about, Vec::new()));
                open = Some(name.into());
            } else if line == "}" {
                open = None;
            } else if let Some((_, entries)) = open.as_ref().and_then(|name| self.0.get_mut(name)) {
                let entry = match (field, accepted) {
                    (Some((name, kind)), _) => Entry { name: name.into(), kind: kind.trim_end_matches(',').into(), about },
                    (_, Some((_, text))) => Entry { name: text.trim_end_matches([',', '"']).into(), kind: String::new(), about },
                    _ => continue,
                };
                entries.push(entry);
            }
        }
    }

    /// Adds the section of the struct `name` and those below it to `page`, and the keys to `keys`.
    fn section(&self, name: &str, path: &str, page: &mut String, keys: &mut Vec<String>, schema: &Schema) {
        let (about, fields) = &self.0[name];
        let defaults = schema.defaults();
        let title = if path.is_empty() { "At the top level" } else { path };
        let _ = write!(page, "\n## {title}\n\n{about}\n\n");
        let mut below = Vec::new();
        for field in fields {
            let key = if path.is_empty() { field.name.clone() } else { format!("{path}.{}", field.name) };
            if !schema.keys().any(|k| k == key) {
                below.push((field.kind.as_str(), key));
                continue;
            }
            let default = defaults.get(&key).map_or("not set".into(), |value| format!("`{value}`"));
            let _ = writeln!(page, "- **`{key}`** ({default}): {}", field.about);
            let kind = field.kind.trim_start_matches("Vec<").trim_start_matches("Option<").trim_end_matches('>');
            for one in self.0.get(kind).map_or(&[][..], |(_, names)| names) {
                let _ = writeln!(page, "  - `{}`: {}", one.name, one.about);
            }
            keys.push(key);
        }
        for (kind, key) in below.into_iter().filter(|(kind, _)| self.0.contains_key(*kind)) {
            self.section(kind, &key, page, keys, schema);
        }
    }
}

/// A comment as it reads on a page: links to items of the source become their names.
fn plain(about: &str) -> String {
    about.replace("[`crate::", "`").replace("[`super::", "`").replace("[`", "`").replace("`]", "`")
}

fn page() -> (String, Vec<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config");
    let folder = fs::read_dir(root.join("settings")).unwrap().map(|entry| entry.unwrap().path());
    let files = ["settings.rs", "choices.rs", "clients.rs"].map(|name| root.join(name)).into_iter().chain(folder);
    let mut types = Types::default();
    files.collect::<std::collections::BTreeSet<PathBuf>>().iter().for_each(|file| types.read(&fs::read_to_string(file).unwrap()));
    let mut page = "# Settings\n\n\
        Every setting with its default and what it means, written from the types in `src/config/settings` (a test compares the two). \
        The default in\nbrackets is that of the program; a method's preset sets others (`lumos methods NAME`), and `lumos config` shows what a run \
        would use and where each\nvalue comes from. One setting on the terminal: `lumos config --explain loss.tau`.\n"
        .to_string();
    let mut keys = Vec::new();
    types.section("Settings", "", &mut page, &mut keys, &Schema::new().unwrap());
    (page, keys)
}

#[test]
fn the_page_of_settings_is_that_of_the_types() {
    let (page, mut keys) = page();
    let schema = Schema::new().unwrap();
    keys.sort();
    assert_eq!(keys, schema.keys().collect::<Vec<_>>(), "a setting without its place on the page");
    let bare: Vec<&str> = page.lines().filter(|line| line.trim_start().starts_with("- ") && line.trim_end().ends_with(':')).collect();
    assert!(bare.is_empty(), "settings without a comment: {bare:?}");
    for key in schema.keys() {
        let listed: Vec<String> = page
            .lines()
            .skip_while(|line| !line.starts_with(&format!("- **`{key}`**")))
            .skip(1)
            .map_while(|line| line.strip_prefix("  - `"))
            .map(|line| line.split('`').next().unwrap().to_string())
            .collect();
        // Names that other tests of this process have registered come last; only these two settings take any.
        let mut accepted = schema.names(key);
        if ["model.backbone", "views.generator"].contains(&key) {
            assert!(!listed.is_empty(), "{key} has no list");
            accepted.truncate(listed.len());
        }
        assert!(listed.is_empty() || listed == accepted, "{key} accepts {accepted:?}, and the page lists {listed:?}");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    if std::env::var_os("LUMOS_WRITE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    let first = page.lines().zip(there.lines()).find(|(a, b)| a != b);
    assert!(there == page, "docs/settings.md is not that of the types ({first:?}): LUMOS_WRITE_DOCS=1 cargo test --test cli settings_page");
}

#[test]
fn one_setting_is_explained_on_the_terminal() {
    let sandbox = Sandbox::new();
    let out = sandbox.lumos(&["config", "--explain", "loss.resample"]).done();
    assert!(out.contains("`loss.resample`") && out.contains("`shared`: Once a visit for all positions together"), "{out}");
    assert!(!out.contains("loss.tau"), "{out}");
    let section = sandbox.lumos(&["config", "--explain", "privacy"]).done();
    assert!(section.contains("`privacy.epsilon`") && !section.contains("`eval.k`"), "{section}");
    sandbox.lumos(&["config", "--explain", "loss.tua"]).refused(1, &["loss.tua", "did you mean `loss.tau`"]);
}
