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
