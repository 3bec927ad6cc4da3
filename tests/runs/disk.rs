//! A full disk, a limit on files, a folder that may only be read: a clear message, and nothing lost.

use super::cli::{Ran, Sandbox};
use super::real::skip;
use super::{prepared, same_outcome, snapshot, train};
use std::process::Command;

/// The script with `words` for `$@`, run in the sandbox.
fn sh(sandbox: &Sandbox, script: &str, words: &[&str]) -> Ran {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_lumos")]).args(words).current_dir(sandbox.path()).env("LUMOS_PROGRESS_S", "0");
    Ran::new(command.output().unwrap(), &words.join(" "))
}

/// Whether a name space of its own can be had, in which anybody may mount.
fn may_mount(sandbox: &Sandbox) -> bool {
    let works = sh(sandbox, "unshare -rm sh -c 'mkdir -p mnt && mount -t tmpfs -o size=64k tmpfs mnt'", &[]).0.status.success();
    if !works {
        skip::<()>("no mounts in a name space of its own (unshare -rm)");
    }
    works
}

/// Files of at most a given number of blocks, as a quota or `ulimit -f` has it: wherever a run meets the limit, it says so and can go on.
#[test]
fn a_limit_on_files_is_reported_and_the_run_goes_on_without_it() {
    let whole = Sandbox::new();
    whole.lumos(&train("r", &[], &[])).done();
    let mut failed = 0;
    // The first with the signal at its default, which kills whoever does not handle it.
    for (blocks, trap) in [(4, ":"), (2, "trap '' XFSZ"), (16, "trap '' XFSZ"), (24, ":"), (40, ":")] {
        let sandbox = Sandbox::new();
        let ran = sh(&sandbox, &format!("{trap}; ulimit -f {blocks}; exec \"$@\""), &train("r", &[], &[]));
        if !ran.0.status.success() {
            failed += 1;
            ran.refused(1, &["cannot", "make room or choose another disk"]);
        }
        let begun = sandbox.path().join("r/config.toml").exists();
        let more: &[&str] = if begun { &["--resume"] } else { &[] };
        sandbox.lumos(&train("r", &[], more)).done();
        same_outcome(&sandbox.path().join("r"), &whole.path().join("r"), &format!("{blocks} blocks"));
    }
    assert!(failed >= 3, "{failed}");
}

#[test]
fn a_full_disk_is_reported_and_the_run_goes_on_when_there_is_room() {
    let whole = Sandbox::new();
    if !may_mount(&whole) {
        return;
    }
    whole.lumos(&train("r", &[], &[])).done();
    let mut failed = 0;
    for kilobytes in [8, 32, 64, 96, 128, 160, 224] {
        let sandbox = Sandbox::new();
        // The mount is gone with its name space, so that everything happens in there.
        let script = format!(
            "exec unshare -rm sh -c 'mkdir disk && mount -t tmpfs -o size={kilobytes}k tmpfs disk && cp small.toml disk && cd disk && {{
                \"$@\"; echo $? > ../code
                mount -o remount,size=64m ../disk
                resume=; [ ! -f r/config.toml ] || resume=--resume
                \"$@\" $resume > ../again && cp -r r ../r; }}' sh \"$@\""
        );
        let ran = sh(&sandbox, &script, &train("r", &[], &[]));
        let code = String::from_utf8(sandbox.read("code")).unwrap();
        if code.trim() != "0" {
            failed += 1;
            let stderr = ran.stderr();
            assert!(code.trim() == "1" && stderr.starts_with("error: ") && stderr.lines().count() == 1, "{kilobytes}: {code} {stderr}");
            assert!(stderr.contains("make room or choose another disk"), "{kilobytes}: {stderr}");
        }
        assert!(ran.0.status.success(), "{kilobytes}: {}", ran.stderr());
        same_outcome(&sandbox.path().join("r"), &whole.path().join("r"), &format!("{kilobytes} kB"));
    }
    assert!(failed >= 3, "{failed}");
}

#[test]
fn a_folder_that_may_only_be_read_is_read() {
    let sandbox = prepared();
    if !may_mount(&sandbox) {
        return;
    }
    sandbox.lumos(&train("r", &[], &[])).done();
    let before = snapshot(&sandbox.path().join("r"));
    let read_only = |words: &[&str]| {
        let script = "exec unshare -rm sh -c 'mount --bind r r && mount -o remount,ro,bind r && exec \"$@\"' sh \"$@\"";
        sh(&sandbox, script, words)
    };
    let text = read_only(&["eval", "r"]).done();
    assert!(text.contains("HR@10") && text.contains("not kept"), "{text}");
    let result = read_only(&["compare", "r", "r"]).done();
    assert!(result.contains("HR@10"), "{result}");
    read_only(&train("r", &["federation.rounds=9"], &["--resume"])).refused(1, &["r", "Read-only", "choose another folder"]);
    read_only(&train("r/new", &[], &[])).refused(1, &["r/new", "Read-only", "choose another folder"]);
    assert!(snapshot(&sandbox.path().join("r")) == before);
}
