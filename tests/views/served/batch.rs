//! Requests and answers that pass through files: the same views as from an endpoint that is asked one by one.

use super::{bodies, dataset, ensure, model, sane, settings, titles};
use crate::cli::Sandbox;
use crate::endpoint::Asked;
use lumos::config::ViewSettings;
use lumos::data::Dataset;
use lumos::views::served::batch::{Answers, Requests};
use lumos::views::{self, Options, Views};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

fn export(data: &Dataset, settings: &ViewSettings, root: &Path) -> Vec<Value> {
    let path = root.join("requests.jsonl");
    let _ = std::fs::remove_file(&path);
    let requests = Requests::begin(&path).unwrap();
    let options = Options { threads: 2, batch: Some(&requests), ..Options::default() };
    views::ensure_with(data, settings, root, &options).unwrap();
    let written = requests.finish().unwrap() as usize;
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), written);
    lines
}

fn import(data: &Dataset, settings: &ViewSettings, root: &Path, files: &[&Path], give_up: bool) -> lumos::Result<Views> {
    let answers = Answers::read(files, give_up)?;
    let options = Options { threads: 2, batch: Some(&answers), ..Options::default() };
    Ok(views::ensure_with(data, settings, root, &options)?.0)
}

/// What an engine writes for `request`.
fn answer(request: &Value, says: &dyn Fn(&Asked) -> String) -> String {
    let asked = Asked { number: 0, head: String::new(), body: request["body"].clone() };
    let message = json!({"role": "assistant", "content": says(&asked)});
    let body = json!({
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
    });
    json!({"id": "x", "custom_id": request["custom_id"], "response": {"status_code": 200, "request_id": "y", "body": body}, "error": null})
        .to_string()
}

#[test]
fn files_give_the_views_that_an_endpoint_gives() {
    let (server, data, settings_of) = (sane(), dataset(40), settings);
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let s = settings_of(&server.url);
    let (online, manifest) = ensure(&data, &s, one.path()).unwrap();

    let requests = export(&data, &s, two.path());
    let ids: BTreeSet<&str> = requests.iter().map(|r| r["custom_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), requests.len(), "every name is its own");
    assert!(requests.iter().all(|r| r["method"] == "POST" && r["url"] == "/v1/chat/completions"));
    let sent: BTreeSet<String> = requests.iter().map(|r| r["body"].to_string()).collect();
    assert_eq!(sent, bodies(&server.asked()), "the questions are those of the endpoint");

    // The first file lacks every third answer, has an error for another, and is in no order; the second has the rest.
    let says = model(titles());
    let (first, second) = (two.path().join("first.jsonl"), two.path().join("second.jsonl"));
    let mut lines: Vec<String> = requests.iter().enumerate().filter(|(i, _)| i % 3 > 0).map(|(_, r)| answer(r, &says)).collect();
    lines[5] = json!({"custom_id": requests[8]["custom_id"], "response": null, "error": {"message": "it fell over"}}).to_string();
    lines.reverse();
    std::fs::write(&first, lines.join("\n") + "\n\n").unwrap();
    let message = import(&data, &s, two.path(), &[&first], false).unwrap_err().to_string();
    let answered: BTreeSet<&str> = lines.iter().map(|l| l.as_str()).filter(|l| l.contains("\"status_code\":200")).collect();
    let lacking = requests.len() - answered.len();
    assert!(message.contains(&format!("{lacking} of {}", requests.len())) && message.contains("export-requests"), "{message}");

    let rest = export(&data, &s, two.path());
    assert_eq!(rest.len(), lacking, "what was answered is not asked again");
    std::fs::write(&second, rest.iter().map(|r| answer(r, &says) + "\n").collect::<String>()).unwrap();
    assert_eq!(import(&data, &s, two.path(), &[&first, &second], false).unwrap(), online);
    let imported = views::load_manifest(&views::store_dir(two.path(), &data, &s)).unwrap();
    let (a, b) = (manifest.generation.unwrap(), imported.generation.unwrap());
    assert_eq!((a.lines, a.grounded_share, a.prompt_tokens), (b.lines, b.grounded_share, b.prompt_tokens));
    assert!(export(&data, &s, two.path()).is_empty(), "the views are there");
}

#[test]
fn answers_of_another_study_and_broken_lines_are_refused() {
    let (data, root) = (dataset(10), tempfile::tempdir().unwrap());
    let s = settings("http://batch.invalid/v1");
    let says = model(titles());
    let file = root.path().join("answers.jsonl");
    let requests = export(&data, &s, root.path());
    std::fs::write(&file, requests.iter().map(|r| answer(r, &says) + "\n").collect::<String>()).unwrap();
    let other = ViewSettings { seed: s.seed + 1, ..s.clone() };
    let message = import(&data, &other, root.path(), &[&file], false).unwrap_err().to_string();
    assert!(message.contains("no answer is of this data set and these settings") && message.contains("lumos-"), "{message}");
    for (line, word) in [
        ("{\"custom_id\": \"x\"", "is no JSON"),
        ("{\"response\": {}}", "has no `custom_id`"),
        ("{\"custom_id\": \"x\"}", "has no `response`"),
        (&requests[0].to_string(), "is a request, not an answer"),
    ] {
        std::fs::write(&file, format!("\n{line}\n")).unwrap();
        let message = import(&data, &s, root.path(), &[&file], false).unwrap_err().to_string();
        assert!(message.contains("answers.jsonl:2: ") && message.contains(word), "{message}");
    }
}

#[test]
fn whoever_gives_up_has_the_fallback_for_those_without_an_answer() {
    let (data, root) = (dataset(20), tempfile::tempdir().unwrap());
    let s = ViewSettings { max_failed: 0.5, ..settings("http://batch.invalid/v1") };
    let says = model(titles());
    let file = root.path().join("answers.jsonl");
    let requests = export(&data, &s, root.path());
    // Nothing of the first user.
    let of_first = |r: &Value| r["custom_id"].as_str().unwrap().split('-').nth(2) == Some("0");
    std::fs::write(&file, requests.iter().filter(|r| !of_first(r)).map(|r| answer(r, &says) + "\n").collect::<String>()).unwrap();
    assert!(import(&data, &s, root.path(), &[&file], false).is_err());
    let made = import(&data, &s, root.path(), &[&file], true).unwrap();
    let manifest = views::load_manifest(&views::store_dir(root.path(), &data, &s)).unwrap();
    assert_eq!(manifest.failures.iter().map(|f| f.user.as_str()).collect::<Vec<_>>(), ["u0"]);
    assert!(manifest.failures[0].reason.contains("no answer") && !made.users[0].future.is_empty());
}

#[test]
fn by_the_commands() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["data", "build", "small.toml"]).done();
    let titles: Vec<String> =
        lumos::data::load(&sandbox.path().join("data/small")).unwrap().catalogue.into_iter().map(|t| t.title).collect();
    let words = ["--data", "data/small", "--set", "views.served.model=tiny", "--users", "12"];
    let export = |out: &'static str| [&["views", "export-requests"][..], &words, &["--out", out, "--json"]].concat();
    let written = sandbox.lumos(&export("requests.jsonl")).json();
    let requests: Vec<Value> =
        String::from_utf8(sandbox.read("requests.jsonl")).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(written["requests"], requests.len());
    let says = model(titles);
    sandbox.write("answers.jsonl", requests.iter().map(|r| answer(r, &says) + "\n").collect::<String>().as_bytes());
    let import = [&["views", "import-answers"][..], &words, &["--answers", "answers.jsonl", "--json"]].concat();
    let made = sandbox.lumos(&import).json();
    assert!(sandbox.path().join(made["folder"].as_str().unwrap()).join("views.safetensors").exists(), "{made}");
    let again = sandbox.lumos(&export("none.jsonl")).json();
    assert!(again["requests"] == 0 && again["made"] == true && !sandbox.path().join("none.jsonl").exists(), "{again}");
    sandbox.lumos(&[&["views", "import-answers"][..], &words, &["--answers", "requests.jsonl"]].concat()).refused(1, &["is a request"]);
}
