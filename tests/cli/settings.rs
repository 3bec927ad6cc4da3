//! The real binary and what a user may type wrong, and its quiet habits.

use crate::sandbox::{Sandbox, small};

#[test]
fn a_mistyped_setting_gets_the_nearest_name() {
    let sandbox = Sandbox::new();
    let run = sandbox.lumos(&["train", &small(), "--set", "loss.tua=1"]);
    run.refused(1, &["error: setting `loss.tua`", "did you mean `loss.tau`"]);
    sandbox.lumos(&["train", &small(), "--set", "method=lumas"]).refused(1, &["did you mean `lumos`"]);
    sandbox.lumos(&["train", &small(), "--set", "model.backbone=sasrek"]).refused(1, &["did you mean `sasrec`"]);
    sandbox.lumos(&["trian", &small()]).refused(2, &["train"]);
    assert!(!sandbox.path().join("runs").exists(), "nothing may be written");
}

#[test]
fn values_out_of_range_are_refused() {
    let sandbox = Sandbox::new();
    for (set, parts) in [
        ("federation.fraction=0", &["federation.fraction", "above 0"][..]),
        ("federation.fraction=2", &["federation.fraction", "at most 1"]),
        ("model.heads=3", &["model.heads", "divisor of model.dim"]),
        ("loss.tau=-1", &["loss.tau"]),
        ("model.dim=wide", &["model.dim", "wide", "whole number"]),
        ("eval.k=5,5000", &["eval.k", "5000", "120"]),
        ("federation.cohort=5000", &["federation.cohort", "200"]),
        ("loss.negatives=500", &["loss.negatives", "120"]),
        ("loss.popularity=1.5", &["loss.popularity", "between 0 and 1"]),
    ] {
        let set = format!("--set={set}");
        sandbox.lumos(&["train", &small(), "--set=eval.select=HR@5", &set]).refused(1, parts);
    }
    assert!(!sandbox.path().join("runs").exists(), "nothing may be written");
}

/// What a flag says is called by the flag's name, with its range.
#[test]
fn values_of_flags_are_refused_by_the_name_of_the_flag() {
    let sandbox = Sandbox::new();
    let config = small();
    let train = |more: &[&str]| sandbox.lumos(&[&["train", config.as_str(), "--out", "r"], more].concat());
    train(&["--threads", "99999"]).refused(2, &["--threads", "must be between 0 and 4096"]);
    train(&["--seed", "99999999999999999999"]).refused(2, &["--seed", "must be between 0 and 9223372036854775807"]);
    train(&["--device", "cdua"]).refused(2, &["--device", "did you mean `cuda`"]);
    sandbox.lumos(&["eval", "r", "--device", "gpu"]).refused(2, &["--device", "did you mean `cuda`"]);
    sandbox.lumos(&["eval", "r", "--threads", "5000"]).refused(2, &["--threads", "must be between 0 and 4096"]);
    let prepare = |format: &str| sandbox.lumos(&["data", "prepare", "--format", format, "--inter", "x.inter", "--out", "y"]);
    prepare("excel").refused(2, &["--format", "recbole, csv"]);
    prepare("synthetic").refused(2, &["--format", "recbole, csv"]);
    sandbox
        .lumos(&["data", "synth", "--mean-length", "-1", "--out", "z"])
        .refused(1, &["--mean-length", "is -1, must be between 3 and 10000"]);
    sandbox.lumos(&["data", "synth", "--users", "4294967296", "--out", "z"]).refused(2, &["--users", "between 0 and 4294967295"]);
    train(&["--set", "=3"]).refused(1, &["KEY=VALUE"]);
    assert_eq!(std::fs::read_dir(sandbox.path()).unwrap().count(), 1, "nothing may be written");
}

#[test]
fn missing_and_unreadable_files_are_named() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["train", "nowhere.toml"]).refused(1, &["nowhere.toml", "cannot read"]);
    sandbox.lumos(&["train", "."]).refused(1, &["cannot read"]);
    sandbox.write("broken.toml", b"seed = 1\n[model\n");
    sandbox.lumos(&["train", "broken.toml"]).refused(1, &["broken.toml:2:", "TOML"]);
    sandbox.write("latin.toml", b"# caf\xe9\n");
    sandbox.lumos(&["config", "latin.toml"]).refused(1, &["latin.toml:1:", "UTF-8"]);
    sandbox.write("real.toml", b"[data]\nname = \"x\"\nformat = \"recbole\"\ninter = \"no-such.inter\"\n");
    let absent = sandbox.lumos(&["train", "real.toml"]);
    absent.refused(1, &["no-such.inter", "../shared/data/no-such.inter", "LUMOS_DATA"]);
    assert!(!absent.stderr().contains("check the path"), "advice is given once: {}", absent.stderr());
    sandbox.lumos(&["eval", "no-run"]).refused(1, &["no-run", "no such folder"]);
    std::fs::create_dir(sandbox.path().join("empty")).unwrap();
    sandbox.lumos(&["eval", "empty"]).refused(1, &["holds no run"]);
    sandbox.lumos(&["data", "stats", "empty"]).refused(1, &["empty"]);
}

#[test]
fn config_says_where_each_value_came_from() {
    let sandbox = Sandbox::new();
    let text = sandbox.lumos(&["config", &small(), "--set", "local.lr=0.25", "--seed", "9"]).done();
    for (line, origin) in [
        ("lr = 0.25", "command line"),
        ("seed = 9", "command line"),
        ("synth_users = 200", "file"),
        ("rounds = 4", "method table"),
        ("contrast = \"decoupled\"", "method"),
        ("eps = 1e-8", "default"),
    ] {
        let found = text.lines().find(|l| l.starts_with(line)).unwrap_or_else(|| panic!("no `{line}` in\n{text}"));
        assert!(found.ends_with(&format!("# {origin}")), "{found}");
    }
    let json = sandbox.lumos(&["config", &small(), "--json"]).json();
    assert_eq!(json["federation.rounds"]["value"], 4);
    assert_eq!(json["federation.rounds"]["origin"], "method table");
    assert!(json["data.inter"]["value"].is_null());
}

#[test]
fn methods_and_doctor_answer() {
    let sandbox = Sandbox::new();
    let text = sandbox.lumos(&["methods"]).done();
    for name in ["lumos", "lumos-literal", "fed-sasrec", "fed-gru4rec", "sasrec", "popularity", "lumos-no-future"] {
        assert!(text.lines().any(|l| l.split_whitespace().next() == Some(name)), "{name} is not listed");
    }
    let one = sandbox.lumos(&["methods", "lumos-literal"]).done();
    assert!(one.contains("joint") && one.contains("second-hand") && one.contains("2602.09306"), "{one}");
    sandbox.lumos(&["methods", "lumoz"]).refused(1, &["did you mean `lumos`"]);
    let json = sandbox.lumos(&["doctor", "--json"]).json();
    assert!(json["cores"].as_u64().unwrap() > 0 && json["gpu_backend"] == cfg!(feature = "cuda"), "{json}");
}

/// A comparison of the two says what the views give, and nothing else.
#[test]
fn methods_with_views_differ_from_their_twins_by_views_and_contrast_alone() {
    let sandbox = Sandbox::new();
    let values = |method: &str| sandbox.lumos(&["config", "--set", &format!("method={method}"), "--json"]).json();
    for (twin, method) in [("fed-sasrec", "lumos"), ("fed-gru4rec", "lumos-gru4rec")] {
        let (without, with) = (values(twin), values(method));
        let differ: Vec<_> = with
            .as_object()
            .unwrap()
            .iter()
            .filter(|(key, set)| set["value"] != without[*key]["value"])
            .map(|(key, _)| key.as_str())
            .collect();
        let views = [
            "federation.upload_rows",
            "loss.anchor",
            "loss.contrast",
            "loss.lambda",
            "loss.paraphrase_inputs",
            "loss.pool",
            "method",
            "views.generator",
        ];
        assert_eq!(differ, views, "{method} against {twin}");
    }
}

/// What of CUDA is missing is said line by line, each with what to do, and nothing fails for it.
#[test]
fn doctor_speaks_of_the_gpu() {
    let sandbox = Sandbox::new();
    let text = sandbox.lumos(&["doctor"]).done();
    let line = |name: &str| {
        let found = text.lines().find_map(|l| l.strip_prefix(name).filter(|rest| rest.starts_with(' ')));
        found.unwrap_or_else(|| panic!("no line `{name}`:\n{text}")).trim().to_string()
    };
    for name in ["nvidia driver", "kernels", "nvrtc", "nvml", "nccl"] {
        assert!(!line(name).is_empty(), "{name}");
    }
    let json = sandbox.lumos(&["doctor", "--json"]).json();
    let auto = line("device taken by auto");
    assert!(json["gpu_usable"] == true || auto.starts_with("CPU ("), "{auto}");
    if json["cuda"]["gpus"].as_array().unwrap().is_empty() && cfg!(feature = "cuda") {
        assert!(line("nvidia driver").contains("--device cpu"), "{text}");
    }
    assert_eq!(json["cuda"]["kernels"], line("kernels"));
}

#[test]
fn help_teaches_by_example() {
    let sandbox = Sandbox::new();
    for command in
        [&["run"][..], &["train"], &["eval"], &["compare"], &["recommend"], &["config"], &["data", "prepare"], &["views", "build"]]
    {
        let mut words = command.to_vec();
        words.push("--help");
        assert!(sandbox.lumos(&words).done().contains("Example"), "{command:?}");
    }
}

/// A reader that leaves early (`| head`) is no error, and nothing is said on stderr.
#[cfg(unix)]
#[test]
fn a_broken_pipe_ends_quietly() {
    use std::process::{Command, Stdio};
    for words in [&["methods"][..], &["config"], &["doctor"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let child = Command::new(env!("CARGO_BIN_EXE_lumos")).args(words).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{words:?}: {:?}", output.status);
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
