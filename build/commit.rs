//! The commit of the checkout that is being built.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A commit, and the files that change when another one is checked out or made.
pub struct Commit {
    /// Its name in hex.
    pub name: String,
    /// Files that exist.
    pub watch: Vec<PathBuf>,
}

/// The commit that is checked out in `root`: a clone or a worktree, not a folder that merely lies inside one. `None` without git and in
/// an unpacked archive.
pub fn of(root: &Path) -> Option<Commit> {
    if !root.join(".git").exists() {
        return None;
    }
    let git = |words: &[&str]| {
        let output = Command::new("git").arg("-C").arg(root).args(words).output().ok().filter(|o| o.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim_end().to_string())
    };
    let name = git(&["rev-parse", "--verify", "HEAD"])?;
    // A branch is a file of its own, or a line of the packed ones; where none is checked out HEAD holds the commit itself.
    let branch = git(&["rev-parse", "--symbolic-full-name", "HEAD"]).unwrap_or_default();
    let path = |name: &str| git(&["rev-parse", "--git-path", name]).map(|path| root.join(path));
    let watch = ["HEAD", branch.as_str(), "packed-refs"].into_iter().filter(|name| !name.is_empty()).filter_map(path);
    Some(Commit { name, watch: watch.filter(|path| path.is_file()).collect() })
}
