//! Completions and manual pages follow the command line.

use crate::sandbox::Sandbox;

#[test]
fn shells_learn_every_command() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = sandbox.lumos(&["completions", shell]).done();
        assert!(["train", "recommend", "--resume"].iter().all(|word| text.contains(word.trim_start_matches('-'))), "{shell}: {text}");
    }
    let script = sandbox.write("lumos.bash", sandbox.lumos(&["completions", "bash"]).done().as_bytes());
    let words = "source \"$0\"; COMP_WORDS=(lumos tra); COMP_CWORD=1; _lumos lumos tra lumos; echo \"${COMPREPLY[@]}\"";
    let out = std::process::Command::new("bash").args(["-c", words]).arg(&script).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "train", "{}", String::from_utf8_lossy(&out.stderr));
    sandbox.lumos(&["completions", "bahs"]).refused(2, &["bahs", "bash"]);
}

#[test]
fn there_is_a_manual_page_of_every_command() {
    let sandbox = Sandbox::new();
    let said = sandbox.lumos(&["man", "share/man1"]).done();
    let pages: Vec<_> = std::fs::read_dir(sandbox.path().join("share/man1")).unwrap().collect();
    assert!(said.starts_with(&format!("{} pages", pages.len())) && pages.len() > 20, "{said}");
    let page = String::from_utf8(sandbox.read("share/man1/lumos-train.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("\\-\\-resume"), "{page}");
    sandbox.write("file", b"");
    sandbox.lumos(&["man", "file/man1"]).refused(1, &["file/man1", "create"]);
}
