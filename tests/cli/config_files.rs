//! Every file under `configs/` loads with every method, and a few that must not load say why.

use lumos::config::{self, Origin, methods};
use lumos::settings;
use std::path::{Path, PathBuf};

fn configs() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "toml"));
    files.sort();
    files
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn load(text: &str, sets: &[&str]) -> Result<config::Effective, String> {
    let file = file(text);
    let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
    settings::load(Some(file.path()), &sets).map_err(|e| e.to_string())
}

#[track_caller]
fn refused(text: &str, sets: &[&str], parts: &[&str]) {
    let message = load(text, sets).expect_err("must be refused");
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn every_config_loads_with_every_method() {
    let names: Vec<String> = configs().iter().map(|p| p.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    for wanted in ["amazon-beauty", "amazon-cell-phones", "mind-1000", "ml-100k", "quickstart"] {
        assert!(names.iter().any(|n| n == wanted), "configs/{wanted}.toml is missing");
    }
    for path in configs() {
        for method in methods::all().unwrap() {
            let set = format!("method={}", method.name);
            let effective = settings::load(Some(&path), &[set]).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert_eq!(effective.settings.method, method.name);
            for choice in method.all_choices().unwrap() {
                let origin = effective.origins[&choice.key];
                assert!(matches!(origin, Origin::Method | Origin::MethodTable), "{}: {} is from {origin:?}", path.display(), choice.key);
            }
        }
    }
}

#[test]
fn defaults_load_without_a_file() {
    let effective = settings::load(None, &[]).unwrap();
    assert_eq!(effective.settings.method, "lumos");
    assert_eq!(effective.origins["federation.rounds"], Origin::Default);
}

#[test]
fn later_layers_win_and_say_so() {
    let text = "method = \"fed-sasrec\"\nseed = 5\n[local]\nlr = 0.5\nepochs = 3\n[methods.federated]\nlocal.epochs = 4\n\
                model.dim = 8\n[methods.fed-sasrec]\nmodel.dim = 16\n[methods.lumos]\nmodel.dim = 32\n";
    let e = load(text, &["local.lr=.25", "eval.k=1,20"]).unwrap();
    let s = &e.settings;
    assert_eq!((s.seed, s.local.lr, s.local.epochs, s.model.dim, s.eval.k.as_slice()), (5, 0.25, 4, 16, [1, 20].as_slice()));
    let origin = |key: &str| e.origins[key];
    assert_eq!(origin("seed"), Origin::File);
    assert_eq!(origin("local.lr"), Origin::CommandLine);
    assert_eq!(origin("local.epochs"), Origin::MethodTable);
    assert_eq!(origin("model.dim"), Origin::MethodTable);
    assert_eq!(origin("loss.contrast"), Origin::Method);
    assert_eq!(origin("model.max_len"), Origin::Default);
    assert_eq!(load(text, &["method=lumos", "local.lr=.25"]).unwrap().settings.model.dim, 32);
}

#[test]
fn a_preset_is_not_silently_overruled() {
    let text = "method = \"lumos\"\n[loss]\ntau = 0.07\n";
    refused(text, &[], &["loss.tau", "0.07", "0.5", "[methods.lumos]", "--set loss.tau=0.07"]);
    assert!(load(text, &["method=lumos-literal"]).is_ok(), "equal values are no disagreement");
    assert_eq!(load(text, &["loss.tau=0.07"]).unwrap().settings.loss.tau, 0.07, "the remedy of the message");
    let table = "method = \"lumos\"\n[methods.lumos]\nloss.tau = 0.07\n";
    assert_eq!(load(table, &[]).unwrap().settings.loss.tau, 0.07);
    assert_eq!(load("method = \"lumos\"", &["loss.tau=0.2"]).unwrap().settings.loss.tau, 0.2);
}

#[test]
fn unknown_names_get_the_nearest() {
    refused("[loss]\ntua = 1.0\n", &[], &["loss.tua", "did you mean `loss.tau`", "loss.lambda"]);
    refused("[los]\n", &[], &["los"]);
    refused("[model]\nbackbone = \"sasrek\"\n", &[], &["model.backbone", "did you mean `sasrec`", "gru4rec"]);
    refused("[federation]\nshared = [\"item\"]\n", &[], &["federation.shared", "did you mean `items`", "encoder"]);
    refused("method = \"lumas\"\n", &[], &["did you mean `lumos`", "fed-sasrec"]);
    refused("compare = [\"fed-sasrek\"]\n", &[], &["compare", "did you mean `fed-sasrec`"]);
    refused("[methods.lumoss]\nseed = 1\n", &[], &["methods.lumoss", "did you mean `lumos`"]);
    refused("[methods.lumos]\nloss.tua = 1.0\n", &["method=fed-sasrec"], &["[methods.lumos]", "did you mean `loss.tau`"]);
    refused("[data]\nformat = \"recbol\"\n", &[], &["data.format", "did you mean `recbole`"]);
    refused("", &["model.dims=8"], &["command line", "did you mean `model.dim`"]);
}

#[test]
fn wrong_types_say_key_found_and_wanted() {
    refused("[model]\ndim = \"64\"\n", &[], &["model.dim", "the text \"64\"", "a whole number"]);
    refused("[model]\ndim = 64.5\n", &[], &["model.dim", "the number 64.5", "a whole number"]);
    refused("[model]\ndim = -1\n", &[], &["model.dim", "the whole number -1", "between 0 and 4294967295"]);
    refused("[model]\ndim = 5000000000\n", &[], &["model.dim", "5000000000", "4294967295"]);
    refused("[loss]\ntau = true\n", &[], &["loss.tau", "true", "a number"]);
    refused("model = 3\n", &[], &["model", "a table of settings"]);
    refused("[loss.tau]\nx = 1\n", &[], &["loss.tau", "a table", "a number"]);
    refused("[eval]\nk = [5, \"ten\"]\n", &[], &["eval.k"]);
    refused("[eval]\nk = 5\n", &[], &["eval.k", "a list"]);
    refused("", &["seed=-1"], &["seed", "between 0 and 9223372036854775807"]);
    refused("", &["seed"], &["KEY=VALUE"]);
    refused("", &["loss.tau=warm"], &["loss.tau", "warm", "a number"]);
    refused("methods = 1\n", &[], &["[methods.<name>]"]);
    refused("[methods.lumos]\ndata.k_core = 3\n", &[], &["data.k_core", "top level"]);
}

#[test]
fn broken_files_say_where() {
    refused("seed = 1\n[model\ndim = 3\n", &[], &[":2:", "not valid TOML"]);
    let file = file("");
    std::fs::write(file.path(), b"seed = 1\nmethod = \"\xff\"\n").unwrap();
    let message = settings::load(Some(file.path()), &[]).unwrap_err().to_string();
    assert!(message.contains(":2:") && message.contains("UTF-8"), "{message}");
    let message = settings::load(Some(Path::new("no/such/file.toml")), &[]).unwrap_err().to_string();
    assert!(message.contains("no/such/file.toml") && message.contains("cannot read"), "{message}");
}

#[test]
fn ranges_are_held() {
    for (set, parts) in [
        ("model.heads=3", &["model.heads", "64", "1, 2, 4"][..]),
        ("model.heads=0", &["model.heads"]),
        ("model.dim=0", &["model.dim"]),
        ("model.dropout=1", &["model.dropout", "below 1"]),
        ("model.dropout=nan", &["model.dropout"]),
        ("federation.fraction=0", &["federation.fraction", "is 0", "above 0"]),
        ("federation.fraction=2", &["federation.fraction", "is 2", "at most 1"]),
        ("federation.rounds=0", &["federation.rounds"]),
        ("federation.shared=items,items", &["federation.shared", "twice"]),
        ("federation.dropout_rate=1", &["federation.dropout_rate"]),
        ("privacy.epsilon=-1", &["privacy.epsilon", "at least 0"]),
        ("privacy.delta=1", &["privacy.delta", "a probability"]),
        ("privacy.clip=0", &["privacy.clip", "above 0"]),
        ("loss.tau=0", &["loss.tau", "above 0"]),
        ("loss.tau=inf", &["loss.tau", "finite"]),
        ("loss.lambda=-0.1", &["loss.lambda"]),
        ("loss.negatives=0", &["loss.negatives"]),
        ("loss.counterfactual=false", &["loss.contrast", "joint"]),
        ("views.generator=none", &["views.generator", "loss.contrast=none"]),
        ("views.future_min=6", &["views.future_min", "views.future_max", "5"]),
        ("views.served.longest_wait_s=-1", &["views.served.longest_wait_s", "between 0 and 604800"]),
        ("threads=99999", &["threads", "is 99999, must be between 0 and 4096"]),
        ("model.dim=5000", &["model.dim", "is 5000, must be between 1 and 4096"]),
        ("seed=99999999999999999999", &["seed", "99999999999999999999", "must be between 0 and"]),
        ("federation.rounds=4294967296", &["federation.rounds", "between 0 and 4294967295"]),
        ("views.served.format=json", &["views.served.format", "json-"]),
        ("local.lr=0", &["local.lr"]),
        ("local.lr=1e300", &["local.lr", "finite"]),
        ("local.epochs=0", &["local.epochs"]),
        ("eval.k=[0]", &["eval.k"]),
        ("eval.k=[]", &["eval.k"]),
        ("eval.k=[20,20]", &["eval.k", "twice"]),
        ("eval.select=HR@7", &["eval.select", "[5, 10, 20]"]),
        ("eval.select=HIT@20", &["eval.select", "`HIT`", "HR, NDCG, MRR"]),
        ("eval.select=NDGC@20", &["eval.select", "did you mean `NDCG@20`"]),
        ("eval.select=HR", &["eval.select", "HR, NDCG, MRR", "NDCG@20"]),
        ("data.format=csv", &["data.inter", "csv"]),
        ("data.name=a/b", &["data.name"]),
        ("data.synth_mean_length=1", &["data.synth_mean_length"]),
    ] {
        refused("", &[set], parts);
    }
    refused("", &["privacy.noise=1", "federation.average=per-item"], &["federation.average", "per-item", "`cohort`"]);
}

#[test]
fn a_data_set_bounds_some_values() {
    let s = settings::load(None, &["federation.cohort=50".into()]).unwrap().settings;
    assert!(settings::validate_against(&s, 100, 100).is_ok());
    for (users, items, key) in [(100, 19, "eval.k"), (49, 100, "federation.cohort")] {
        let message = settings::validate_against(&s, users, items).unwrap_err().to_string();
        assert!(message.contains(key), "{message}");
    }
    let s = settings::load(None, &["loss.negatives=100".into()]).unwrap().settings;
    assert!(settings::validate_against(&s, 100, 100).unwrap_err().to_string().contains("loss.negatives"));
}

#[test]
fn effective_settings_read_back_to_the_same_bits() {
    let sets = ["loss.tau=0.3", "local.lr=0.0123456789", "local.eps=1e-12", "data.dir=some/where", "federation.shared=encoder"];
    let effective = load("seed = 9\n", &sets).unwrap();
    let text = effective.to_toml().unwrap();
    assert!(text.contains("tau = 0.3") && text.contains("# command line"), "{text}");
    let written = file(&text);
    assert_eq!(settings::load_written(written.path()).unwrap(), effective.settings);
}
