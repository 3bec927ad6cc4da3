//! What the build script finds out about the checkout.

#[path = "../../build/commit.rs"]
mod commit;
use crate::real;
use std::path::Path;
use std::process::Command;

fn git(folder: &Path, words: &[&str]) -> bool {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]);
    // Neither the user's settings nor a surrounding checkout.
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env_remove("GIT_DIR");
    command.args(words).current_dir(folder).output().is_ok_and(|o| o.status.success())
}

/// The commit of a clone, of a branch that is packed, of a worktree and of a checkout without a branch; the files to watch change with it.
#[test]
fn the_commit_is_found_wherever_git_keeps_it() {
    let place = tempfile::tempdir().unwrap();
    let clone = place.path().join("clone");
    std::fs::create_dir(&clone).unwrap();
    if !git(&clone, &["init", "-q", "-b", "trunk"]) {
        real::skip::<()>("git is not here");
        return;
    }
    assert!(commit::of(&clone).is_none(), "nothing is committed yet");
    let another = |folder: &Path| assert!(git(folder, &["commit", "-q", "--allow-empty", "-m", "x"]));
    another(&clone);
    let read = |found: &commit::Commit| found.watch.iter().map(|p| std::fs::read(p).unwrap()).collect::<Vec<_>>();
    let first = commit::of(&clone).unwrap();
    assert!(first.name.len() >= 40 && first.name.bytes().all(|b| b.is_ascii_hexdigit()), "{}", first.name);
    let before = read(&first);
    another(&clone);
    let second = commit::of(&clone).unwrap();
    assert!(first.name != second.name && before != read(&first), "a new commit is noticed");
    assert!(git(&clone, &["pack-refs", "--all"]));
    assert_eq!(commit::of(&clone).unwrap().name, second.name);

    assert!(git(&clone, &["worktree", "add", "-q", "../tree", "-b", "side"]));
    let tree = place.path().join("tree");
    let there = commit::of(&tree).unwrap();
    assert_eq!(there.name, second.name);
    let before = read(&there);
    another(&tree);
    assert!(before != read(&there) || commit::of(&tree).unwrap().watch != there.watch, "a commit in a worktree is noticed");
    assert_eq!(commit::of(&clone).unwrap().name, second.name);
    assert!(git(&tree, &["checkout", "-q", "--detach"]));
    assert!(!commit::of(&tree).unwrap().watch.is_empty());

    let archive = clone.join("unpacked");
    std::fs::create_dir(&archive).unwrap();
    assert!(commit::of(&archive).is_none(), "a folder inside a checkout is not that checkout");
}
