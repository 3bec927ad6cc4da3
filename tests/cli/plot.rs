//! `lumos plot`: curves of runs as a picture, and what cannot be drawn.

use crate::sandbox::{Sandbox, small};

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
fn what_cannot_be_drawn_is_said() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["train", &small(), "--out", "a"]).done();
    sandbox.lumos(&["plot", "a", "--y", "HR@6"]).refused(1, &["a", "unknown metric `HR@6`", "HR@5"]);
    sandbox.lumos(&["plot", "none"]).refused(1, &["none"]);
    sandbox.lumos(&["train", &small(), "--out", "p", "--set", "method=popularity"]).done();
    sandbox.lumos(&["plot", "p"]).refused(1, &["p", "no validation"]);
    assert!(!sandbox.path().join("plot.svg").exists(), "nothing is left of what was refused");
}
