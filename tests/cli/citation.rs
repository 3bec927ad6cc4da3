//! CITATION.cff holds what the Citation File Format 1.2.0 asks for: sites that show "cite this" drop a file that does not.

use std::path::Path;

/// The top-level keys of `text` with what stands behind and below each, one entry a line.
fn entries(text: &str) -> Vec<(String, Vec<String>)> {
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        match line.split_once(':').filter(|_| !line.starts_with([' ', '-'])) {
            Some((key, value)) => {
                let value = value.trim().trim_matches('"');
                all.push((key.to_string(), if value.is_empty() { Vec::new() } else { vec![value.to_string()] }));
            }
            None => all.last_mut().expect("a key before its values").1.push(line.trim().to_string()),
        }
    }
    all
}

#[test]
fn the_citation_file_has_what_its_format_asks_for() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("CITATION.cff")).unwrap();
    let all = entries(&text);
    let value = |key: &str| &all.iter().find(|(name, _)| name == key).unwrap_or_else(|| panic!("`{key}` is missing")).1;
    assert_eq!(value("cff-version"), &["1.2.0"]);
    assert!(!value("message").is_empty() && !value("title").is_empty());
    assert!(value("authors").iter().any(|line| line.starts_with("- name:") || line.starts_with("- family-names:")), "{text}");
    assert_eq!(value("type"), &["software"]);
    // The format has no `OR`: a list says that either one will do.
    let cargo = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let of = |key: &str| cargo.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))).unwrap().trim_matches('"').to_string();
    let licences: Vec<String> = of("license").split(" OR ").map(|name| format!("- {name}")).collect();
    assert_eq!(value("license"), &licences);
    assert_eq!(value("version"), &[of("version")]);
    for key in ["type:", "title:", "authors:"] {
        assert!(value("preferred-citation").iter().any(|line| line.starts_with(key)), "a reference needs {key}");
    }
    let known = ["cff-version", "title", "message", "type", "version", "license", "authors", "preferred-citation", "abstract", "keywords"];
    let more = ["repository-code", "url", "date-released", "doi", "identifiers", "contact", "commit", "references", "license-url"];
    all.iter().for_each(|(key, _)| assert!(known.iter().chain(&more).any(|name| name == key), "`{key}` is no key of the format"));
}
