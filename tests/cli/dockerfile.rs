//! What can be said of the Dockerfile without building it.

use std::path::Path;

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The instructions of a Dockerfile with their words, and the stage that each belongs to.
fn instructions(text: &str) -> Vec<(String, Vec<String>)> {
    let lines = text.replace("\\\n", " ");
    let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut stage = String::new();
    lines
        .map(|line| {
            let words: Vec<String> = line.split_whitespace().map(String::from).collect();
            if words[0] == "FROM" {
                stage = words.last().unwrap().clone();
            }
            (stage.clone(), words)
        })
        .collect()
}

/// A version of numbers, as far as it goes.
fn version(text: &str) -> Vec<u32> {
    text.split(|c: char| !c.is_ascii_digit()).take_while(|part| !part.is_empty()).map(|part| part.parse().unwrap()).collect()
}

#[test]
fn stages_images_and_copies_of_the_dockerfile_are_there() {
    let (text, cargo) = (read("Dockerfile"), read("Cargo.toml"));
    let all = instructions(&text);
    let of = |kind: &str| all.iter().filter(|(_, words)| words[0] == kind).collect::<Vec<_>>();
    let mut stages = Vec::new();
    for (stage, words) in of("FROM") {
        let [_, image, as_word, name] = &words[..] else { panic!("a stage has a name: {words:?}") };
        assert_eq!((as_word.as_str(), name), ("AS", stage));
        let (_, tag) = image.split_once(':').unwrap_or_else(|| panic!("{image} names no version"));
        assert!(tag != "latest" && !tag.is_empty(), "{image}");
        stages.push(name.clone());
    }
    assert_eq!(stages, ["build", "cuda", "cpu"], "the last one is built where none is asked for");

    let toolchain = of("FROM")[0].1[1].strip_prefix("rust:").unwrap().to_string();
    let oldest = cargo.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"').to_string();
    assert!(version(&toolchain) >= version(&oldest), "{toolchain} is older than {oldest}");

    let program = "/src/target/release/lumos";
    assert!(cargo.contains("name = \"lumos\"\npath = \"src/main.rs\""), "the program is called so");
    for (stage, words) in of("COPY") {
        let (flags, paths): (Vec<&String>, Vec<&String>) = words[1..].iter().partition(|word| word.starts_with("--"));
        let from = flags.iter().find_map(|flag| flag.strip_prefix("--from="));
        for source in &paths[..paths.len() - 1] {
            match from {
                Some(other) => {
                    assert!(stages.iter().position(|s| s == other) < stages.iter().position(|s| s == stage), "{words:?}");
                    let inside = source.strip_prefix("/src/").unwrap();
                    let there = *source == program || Path::new(env!("CARGO_MANIFEST_DIR")).join(inside).exists();
                    assert!(there, "{source} is not in the build");
                }
                None => assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(source).exists(), "{source}"),
            }
        }
    }
    for stage in ["cuda", "cpu"] {
        let has = |words: &[&str]| all.iter().any(|(s, found)| s == stage && found[..] == *words);
        assert!(has(&["COPY", "--from=build", program, "/usr/local/bin/lumos"]), "{stage}");
        assert!(has(&["ENTRYPOINT", "[\"lumos\"]"]) && has(&["USER", "10001"]), "{stage}");
    }
    // Features that are asked for exist.
    let build = of("RUN")[0].1.join(" ");
    let features = build.split("--features ").nth(1).unwrap().split(' ').next().unwrap();
    assert!(features.split(',').all(|name| cargo.contains(&format!("\n{name} = ["))), "{features}");
}

#[test]
fn instructions_are_read() {
    let found = instructions("# a\nFROM a:1 AS b\nRUN x \\\n  y\n\nCOPY . .\n");
    let words = |at: usize| found[at].1.iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!((words(1), words(2), found[2].0.as_str()), (vec!["RUN", "x", "y"], vec!["COPY", ".", "."], "b"));
    assert!(version("1.95-bookworm") > version("1.94") && version("1.100") > version("1.94.1"));
}
