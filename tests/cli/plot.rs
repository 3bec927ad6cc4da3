//! `lumos plot`: curves of runs as a picture, and what cannot be drawn.

use crate::sandbox::{Ran, Sandbox, small};

#[test]
fn curves_of_runs_are_drawn_over_each_cost() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["train", &small(), "--out", "runs/a<b"]).done();
    sandbox.lumos(&["train", &small(), "--out", "runs/twin", "--set", "method=fed-sasrec"]).done();
    for (cost, name) in [
        ("rounds", ">round<"),
        ("visits", ">visits of clients<"),
        ("gigabytes", ">gigabytes down and up<"),
        ("seconds", ">seconds of training<"),
    ] {
        sandbox.lumos(&["plot", "runs/a<b", "runs/twin", "--x", cost, "--log", "--y", "HR@5", "--out", "curves.svg"]).done();
        let svg = String::from_utf8(sandbox.read("curves.svg")).unwrap();
        assert!(svg.starts_with("<svg xmlns=") && svg.trim_end().ends_with("</svg>") && svg.contains(name), "{cost}: {svg}");
        assert!(svg.contains("a&lt;b") && svg.contains(">twin<") && !svg.contains("NaN"), "{svg}");
        assert_eq!(svg.matches("<polyline").count(), 2, "{svg}");
    }
}

#[test]
fn the_ending_of_a_picture_says_what_is_written() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["train", &small(), "--out", "runs/a"]).done();
    sandbox.lumos(&["plot", "runs/a", "--y", "HR@5", "--out", "a.svgz"]).refused(1, &["a.svgz", "did you mean `svg`?", "png"]);
    sandbox.lumos(&["plot", "runs/a", "--y", "HR@5", "--out", "a"]).refused(1, &[".svg or .png"]);
    sandbox.lumos(&["plot", "runs/a", "--y", "HR@5", "--out", "runs"]).refused(1, &["is a folder"]);
    let png = sandbox.lumos(&["plot", "runs/a", "--y", "HR@5", "--out", "a.png"]);
    if cfg!(feature = "png") {
        png.done();
        let bytes = sandbox.read("a.png");
        // Where a PNG's width stands: two pixels to a unit of the SVG.
        assert!(bytes.starts_with(b"\x89PNG") && bytes[16..20] == 1440_u32.to_be_bytes(), "{:?}", &bytes[..24]);
    } else {
        png.refused(1, &["a.png", "--features png", ".svg"]);
        assert!(!sandbox.path().join("a.png").exists());
    }
}

/// What a command that did its work says on stderr.
#[track_caller]
fn remarks(ran: &Ran) -> String {
    assert!(ran.0.status.success(), "{}", ran.stderr());
    ran.stderr()
}

#[test]
fn a_folder_of_runs_stands_for_them_and_files_beside_them_are_left_out() {
    let sandbox = Sandbox::new();
    let config = small();
    sandbox.lumos(&["sweep", &config, "--seeds", "1,2", "--out", "runs/seeds"]).done();
    sandbox.lumos(&["train", &config, "--out", "runs/popularity", "--set", "method=popularity"]).done();
    let mut beside: Vec<String> = std::fs::read_dir(sandbox.path().join("runs/seeds"))
        .unwrap()
        .map(|entry| format!("runs/seeds/{}", entry.unwrap().file_name().to_str().unwrap()))
        .collect();
    beside.sort();
    assert!(beside.contains(&"runs/seeds/sweep.json".to_string()), "{beside:?}");
    for command in [&["plot", "--y", "HR@5", "--out", "a.svg"][..], &["report", "--out", "a.html"][..]] {
        let name = command.last().unwrap();
        let all: Vec<&str> = command.iter().copied().chain(beside.iter().map(String::as_str)).collect();
        assert_eq!(remarks(&sandbox.lumos(&all)), "left out: runs/seeds/sweep.json is a file, and runs are folders\n");
        let by_name = sandbox.read(name);
        sandbox.lumos(&[command, &["runs/seeds"]].concat()).done();
        assert_eq!(sandbox.read(name), by_name, "a folder stands for all of its runs");
        sandbox.lumos(&[command, &["runs/seeds/sweep.json"]].concat()).refused(1, &["sweep.json", "is a file", "folder of a run"]);
        sandbox.lumos(&[command, &["data"]].concat()).refused(1, &["data", "holds no run"]);
    }
    // A baseline that trains nothing has no curve.
    let said = remarks(&sandbox.lumos(&["plot", "runs", "--y", "HR@5", "--out", "all.svg"]));
    assert!(said.starts_with("left out: runs/popularity has no validation"), "{said}");
    assert_eq!(String::from_utf8(sandbox.read("all.svg")).unwrap().matches("<polyline").count(), 2);
}

#[test]
fn what_cannot_be_drawn_is_said() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["train", &small(), "--out", "a"]).done();
    sandbox.lumos(&["plot", "a", "--y", "HR@6"]).refused(1, &["a", "unknown metric `HR@6`", "HR@5"]);
    sandbox.lumos(&["plot", "none"]).refused(1, &["none"]);
    sandbox.lumos(&["train", &small(), "--out", "p", "--set", "method=popularity"]).done();
    sandbox.lumos(&["plot", "p"]).refused(1, &["p", "no validation"]);
    let central = ["train", &small(), "--out", "c", "--set", "method=sasrec-ce", "--set", "model.dim=8", "--set", "federation.rounds=2"];
    sandbox.lumos(&central).done();
    sandbox.lumos(&["plot", "c", "--x", "gigabytes", "--y", "HR@10"]).refused(1, &["c", "sends nothing"]);
    assert!(!sandbox.path().join("plot.svg").exists(), "nothing is left of what was refused");
}
