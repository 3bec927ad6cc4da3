//! Replies that are no answer: thoughts without an end, nothing at all, complaints with status 200.

use lumos::Error;
use lumos::config::{AnswerFormat, Fallback, ServedSettings, ViewSettings};
use lumos::views::{self, Built, Options};
use serde_json::{Value, json};

use super::{dataset, settings, titles};
use crate::endpoint::{Asked, Endpoint, Reply, model};

/// Every format of answers.
const FORMATS: [AnswerFormat; 8] = [
    AnswerFormat::JsonSchema,
    AnswerFormat::JsonObjectSchema,
    AnswerFormat::JsonObject,
    AnswerFormat::StructuredOutputs,
    AnswerFormat::GuidedJson,
    AnswerFormat::Grammar,
    AnswerFormat::Ebnf,
    AnswerFormat::Lines,
];

/// A build against an endpoint whose completions have this message and end.
fn build(format: AnswerFormat, finish: &'static str, message: impl Fn(&Asked) -> Value + Send + Sync + 'static) -> lumos::Result<Built> {
    let server = Endpoint::new(move |asked| {
        let choice = json!({"index": 0, "message": message(asked), "finish_reason": finish});
        Reply::Status(200, "", json!({"choices": [choice]}).to_string())
    });
    build_at(&server, format)
}

fn build_at(server: &Endpoint, format: AnswerFormat) -> lumos::Result<Built> {
    let served = ServedSettings { format, retries: 1, ..settings(&server.url).served };
    let patient = ViewSettings { served, max_failed: 1.0, fallback: Fallback::None, ..settings(&server.url) };
    views::build_with(&dataset(12), &patient, &Options::default())
}

/// Every user failed, for a reason with `part`, and no line was taken for an item.
#[track_caller]
fn nothing(built: lumos::Result<Built>, part: &str) {
    let built = built.unwrap();
    assert_eq!(built.failures.len(), 12);
    assert!(built.failures.iter().all(|f| f.reason.contains(part)), "{:?}", built.failures[0]);
    assert_eq!(built.generation.unwrap().grounded_share, 0.0);
    assert!(built.views.users.iter().all(|view| view.future.is_empty()));
}

#[test]
fn thoughts_without_an_end_are_never_items() {
    let names = titles();
    for format in FORMATS {
        let musing = format!("<think>\nendless musing \"{}\"\n{}", names[5], names.join("\n"));
        nothing(build(format, "length", move |_| json!({"content": musing.clone()})), "still thinking");
    }
    // Where the prompt began the thoughts, nothing marks them.
    let musing = format!("Let me see. The user liked {} and\n{}", names[3], names[5]);
    for format in FORMATS {
        let musing = musing.clone();
        nothing(build(format, "length", move |_| json!({"content": musing.clone()})), "cut off");
    }
    // Neither do a list's lines.
    let long = names.join("\n");
    nothing(build(AnswerFormat::Lines, "length", move |_| json!({"content": long.clone()})), "cut off");
}

#[test]
fn what_follows_the_thoughts_is_the_answer() {
    for opening in ["<think>\n", ""] {
        let (answers, names) = (model(titles()), titles());
        let thinking = move |asked: &Asked| json!({"content": format!("{opening}so: \"{}\"\n</think>\n\n{}", names[7], answers(asked))});
        let built = build(AnswerFormat::JsonSchema, "stop", thinking).unwrap();
        let answers = model(titles());
        let plain = build(AnswerFormat::JsonSchema, "stop", move |asked| json!({"content": answers(asked)})).unwrap();
        assert_eq!((built.views, built.failures.len()), (plain.views, 0));
    }
    // Parts of a content, and JSON that was cut off in the midst of the last name.
    let answers = model(titles());
    let parts = move |asked: &Asked| json!({"content": [{"type": "text", "text": answers(asked)}]});
    assert!(build(AnswerFormat::JsonSchema, "stop", parts).unwrap().failures.is_empty());
    let answers = model(titles());
    let cut = move |asked: &Asked| json!({"content": answers(asked).trim_end_matches(['}', ']', '"'])});
    let built = build(AnswerFormat::JsonSchema, "length", cut).unwrap();
    assert!(built.generation.unwrap().grounded_share > 0.9);
    // A list in lines that ends by itself.
    let long = titles().join("\n");
    assert!(build(AnswerFormat::Lines, "stop", move |_| json!({"content": long.clone()})).unwrap().failures.is_empty());
}

#[test]
fn replies_that_are_no_answer_are_reported_in_their_own_words() {
    // What will go no better for the question.
    for (message, part) in [
        (json!({"content": null, "reasoning_content": "musing about Star Wars"}), ": musing about Star Wars"),
        (json!({"content": "", "reasoning": "musing"}), "gave no answer"),
        (json!({"content": null, "refusal": "I must not\u{1b}[31m"}), "the model refuses: I must not"),
        (json!({"content": "", "tool_calls": [{"function": {"name": "f"}}]}), "calls a tool"),
    ] {
        let built = build(AnswerFormat::JsonSchema, "stop", move |_| message.clone());
        assert!(built.as_ref().unwrap().failures.iter().all(|f| !f.reason.contains('\u{1b}')));
        nothing(built, part);
    }
    // What may go better, and never does.
    for (body, part) in [
        (json!({"choices": [{"message": {"role": "assistant", "content": null, "note": "out of words"}}]}), "out of words"),
        (json!({"error": {"message": "model \u{1b}]0;x\u{7} overloaded \u{202e}", "type": "server_error"}}), "status 200: model"),
        (json!({"error": "slow down"}), "status 200: slow down"),
        (json!({"choices": []}), "{\"choices\":[]}"),
        (json!({"detail": "wrong door"}), "wrong door"),
    ] {
        let server = Endpoint::new(move |_| Reply::Status(200, "", body.to_string()));
        match build_at(&server, AnswerFormat::JsonSchema) {
            Err(Error::Setting { key, message }) => {
                assert!(key == "views.served.url" && message.contains(part), "{message}");
                assert!(!message.contains(['\u{1b}', '\u{7}', '\u{202e}']) && message.len() < 800, "{message:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_system_turn_that_the_endpoint_refuses_leads_the_user_turn() {
    let systems = ["future", "paraphrase", "counterfactual"].map(|view| {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("configs/prompts/{view}.toml"));
        let file: toml::Table = std::fs::read_to_string(file).unwrap().parse().unwrap();
        file["system"].as_str().unwrap().trim().to_owned()
    });
    for (status, complaint) in [
        (400, json!({"message": "System role not supported"})),
        (500, json!({"error": "Conversation roles must alternate user/assistant"})),
    ] {
        let answers = model(titles());
        let server = Endpoint::new(move |asked| match asked.body["messages"][0]["role"].as_str() {
            Some("system") => Reply::Status(status, "", complaint.to_string()),
            _ => Reply::Says(answers(asked)),
        });
        let built = build_at(&server, AnswerFormat::JsonSchema).unwrap();
        assert!(built.failures.is_empty(), "{:?}", built.failures);
        let asked = server.asked();
        let answered = server.answered();
        let alone = |a: &Asked| a.body["messages"].as_array().unwrap().len() == 1;
        let led = |a: &Asked| systems.iter().any(|words| a.user_text().starts_with(&format!("{words}\n\n")));
        assert!(answered.iter().all(|a| alone(a) && led(a)), "{}", answered[0].user_text());
        assert!(asked.len() - answered.len() <= 6, "one refusal of each connection is enough");
    }
}
