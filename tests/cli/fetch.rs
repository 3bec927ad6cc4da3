//! The real binary: nothing is fetched before terms are accepted, and sets are found by name.

use crate::sandbox::Sandbox;

#[test]
fn terms_are_shown_first_and_names_are_known() {
    let sandbox = Sandbox::new();
    let listed = sandbox.lumos(&["data", "fetch", "--list"]).done();
    assert!(listed.contains("ml-1m") && listed.contains("mind-small") && listed.contains("not published"), "{listed}");
    let shown = sandbox.lumos(&["data", "fetch", "ml-1m", "--from", "http://127.0.0.1:1"]);
    shown.refused(1, &["nothing was fetched", "--accept-terms"]);
    assert!(shown.stdout().contains("no commercial use") && shown.stdout().contains("https://grouplens.org/datasets/movielens/1m/"));
    assert!(!sandbox.path().join("data").exists());
    sandbox.lumos(&["data", "fetch", "ml-1k", "--accept-terms"]).refused(1, &["did you mean `ml-1", "mind-small"]);
    sandbox.lumos(&["data", "fetch"]).refused(2, &["NAME"]);
}

/// What this build lacks is said in the list and beside the terms, before they are read and accepted for nothing.
#[test]
fn a_build_without_https_says_so_up_front() {
    let sandbox = Sandbox::new();
    let lacks = !cfg!(feature = "https");
    assert_eq!(sandbox.lumos(&["data", "fetch", "--list"]).done().contains("--features https"), lacks);
    let list = sandbox.lumos(&["data", "fetch", "--list", "--json"]).json();
    let one = list.as_array().unwrap().iter().find(|set| set["name"] == "ml-100k").unwrap();
    assert_eq!(one["lacks"] == "https", lacks, "{one}");
    let terms = |more: &[&str]| sandbox.lumos(&[&["data", "fetch", "ml-100k"], more].concat()).stdout();
    assert_eq!(terms(&[]).contains("--features https"), lacks);
    assert!(!terms(&["--from", "http://127.0.0.1:1"]).contains("--features https"), "another server needs none");
}
