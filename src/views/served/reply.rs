//! What an endpoint's reply says: the answer in a completion, and how long to wait for the next try.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::views::text::{REMEDY, answer_of, is_json, unfinished};

/// What an endpoint wrote.
#[derive(Debug, PartialEq)]
pub struct Answer {
    /// What stands behind the model's thoughts.
    pub text: String,
    /// The text ended for want of room, and nothing shows that it is more than thoughts which the prompt began: it follows no thoughts,
    /// and it does not begin as JSON.
    pub doubtful: bool,
    pub prompt_tokens: u32,
    pub output_tokens: u32,
}

/// Why a reply is no answer, in the endpoint's own words.
#[derive(Debug, PartialEq)]
pub enum Trouble {
    /// May go better the next time.
    Again(String),
    /// Will go no better.
    Never(String),
}

/// The answer in a completion.
///
/// # Errors
/// What is wrong with it otherwise. It can be long, and its words are foreign.
pub fn parse(bytes: &[u8]) -> Result<Answer, Trouble> {
    let again = |why: String| Err(Trouble::Again(why));
    let never = |why: String| Err(Trouble::Never(why));
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else {
        return again(format!("the answer is no JSON: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(4096)])));
    };
    if let Some(words) = complaint(&value) {
        return again(format!("the endpoint says with status 200: {words}"));
    }
    let Some(choice) = value.pointer("/choices/0") else { return again(format!("the answer has no `choices`: {value}")) };
    let message = &choice["message"];
    let finish = choice["finish_reason"].as_str().unwrap_or_default();
    let content = content(&message["content"]);
    if content.as_ref().is_none_or(|text| text.trim().is_empty()) {
        let words = |key: &str| message[key].as_str().filter(|text| !text.trim().is_empty());
        if let Some(refusal) = words("refusal") {
            return never(format!("the model refuses: {refusal}"));
        }
        if finish == "content_filter" {
            return never("the endpoint filtered the answer (finish_reason `content_filter`)".into());
        }
        if let Some(thoughts) = words("reasoning_content").or(words("reasoning")) {
            return never(format!("the model thought and gave no answer; {REMEDY}: {thoughts}"));
        }
        if message["tool_calls"].as_array().is_some_and(|calls| !calls.is_empty()) {
            return never(format!("the model calls a tool instead of answering: {}", message["tool_calls"]));
        }
    }
    let Some(content) = content else { return again(format!("the answer has no `choices[0].message.content`: {choice}")) };
    let Some(text) = answer_of(&content, false) else { return never(unfinished()) };
    let tokens = |name: &str| value.pointer(name).and_then(Value::as_u64).map_or(0, |n| n.min(u64::from(u32::MAX)) as u32);
    Ok(Answer {
        doubtful: finish == "length" && text.len() == content.len() && !is_json(text),
        text: text.to_owned(),
        prompt_tokens: tokens("/usage/prompt_tokens"),
        output_tokens: tokens("/usage/completion_tokens"),
    })
}

/// What an endpoint complains about in a reply that claims to be one.
fn complaint(value: &Value) -> Option<String> {
    let error = [value.get("error"), value.pointer("/choices/0/error")].into_iter().flatten().find(|e| !e.is_null());
    let error = error.or_else(|| (value["object"] == "error").then_some(value))?;
    Some(error["message"].as_str().or(error.as_str()).map_or_else(|| error.to_string(), str::to_owned))
}

/// A message's content: a text, or the texts of its parts.
fn content(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => Some(parts.iter().filter_map(|part| part["text"].as_str()).collect()),
        _ => None,
    }
}

/// How long a `Retry-After` of `text` asks to wait: a number of seconds or a date (RFC 9110, 10.2.3). `None` for anything else. A date is
/// compared with the endpoint's own clock where its `Date` gives it, else with ours, which says `now`.
pub fn retry_after(text: &str, date: Option<&str>, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        // What exceeds a `Duration` is as good as never; negative numbers and `nan` are no waits.
        return (seconds >= 0.0).then(|| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let now = date.and_then(|date| httpdate::parse_http_date(date.trim()).ok()).unwrap_or(now);
    Some(until.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_are_read_and_others_refused_in_their_own_words() {
        let whole = br#"{"choices":[{"message":{"content":"<think>so</think>A\nB"}}],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#;
        let answer = Answer { text: "A\nB".into(), doubtful: false, prompt_tokens: 7, output_tokens: 3 };
        assert_eq!(parse(whole).unwrap(), answer);
        let opened = parse(br#"{"choices":[{"message":{"content":"so</think>A"},"finish_reason":"length"}]}"#).unwrap();
        assert_eq!((opened.text.as_str(), opened.doubtful), ("A", false));
        for (content, doubtful) in [("so A", true), ("[so] A", true), ("[\"A\"", false), ("{ \"items\": [\"A", false)] {
            let body = serde_json::json!({"choices": [{"message": {"content": content}, "finish_reason": "length"}]});
            assert_eq!(parse(body.to_string().as_bytes()).unwrap().doubtful, doubtful, "{content}");
        }
        let parts = br#"{"choices":[{"message":{"content":[{"type":"text","text":"A\n"},{"type":"image"},{"type":"text","text":"B"}]}}]}"#;
        let parts = parse(parts).unwrap();
        assert_eq!((parts.text.as_str(), parts.doubtful), ("A\nB", false));
        assert_eq!(parse(br#"{"choices":[{"message":{"content":""}}]}"#).unwrap().output_tokens, 0);
        let words = |body: &[u8]| match parse(body).unwrap_err() {
            Trouble::Again(why) => (false, why),
            Trouble::Never(why) => (true, why),
        };
        for (body, never, said) in [
            (&b"<html>login</html>"[..], false, "no JSON: <html>login"),
            (b"", false, "no JSON"),
            (b"{}", false, "no `choices`: {}"),
            (br#"{"choices":[]}"#, false, "no `choices`: {\"choices\":[]}"),
            (br#"{"choices":[{"message":{"content":null,"x":"why"}}]}"#, false, "why"),
            (br#"{"error":{"message":"model overloaded","type":"server_error"}}"#, false, "says with status 200: model overloaded"),
            (br#"{"error":"slow down"}"#, false, "says with status 200: slow down"),
            (br#"{"object":"error","message":"no such model"}"#, false, "no such model"),
            (br#"{"choices":[{"error":{"code":5}}]}"#, false, "{\"code\":5}"),
            (br#"{"choices":[{"message":{"content":null,"refusal":"I cannot"}}]}"#, true, "refuses: I cannot"),
            (br#"{"choices":[{"message":{"content":"","reasoning_content":"hm"}}]}"#, true, "gave no answer"),
            (br#"{"choices":[{"message":{"content":null,"reasoning":"hm"}}]}"#, true, ": hm"),
            (br#"{"choices":[{"message":{"content":"","tool_calls":[{"function":{"name":"f"}}]}}]}"#, true, "tool"),
            (br#"{"choices":[{"message":{"content":""},"finish_reason":"content_filter"}]}"#, true, "filtered"),
            (br#"{"choices":[{"message":{"content":"<think>endless"},"finish_reason":"length"}]}"#, true, "still thinking"),
            (&whole[..40], false, "no JSON"),
        ] {
            let found = words(body);
            assert!(found.0 == never && found.1.contains(said), "{found:?}");
        }
        let deep = [br#"{"choices":"#.as_slice(), &b"[".repeat(100_000)].concat();
        assert!(words(&deep).1.len() < 5000);
    }

    #[test]
    fn waits_are_read_as_seconds_and_as_dates() {
        // The moment of RFC 9110's example, Sun, 06 Nov 1994 08:49:37 GMT.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let read = |text: &str| retry_after(text, None, now);
        assert_eq!(
            (read("0"), read(" 120 "), read("1.5")),
            (Some(Duration::ZERO), Some(Duration::from_secs(120)), Some(Duration::from_millis(1500)))
        );
        assert_eq!(read("Sun, 06 Nov 1994 08:51:37 GMT"), Some(Duration::from_secs(120)));
        assert_eq!(read("Sunday, 06-Nov-94 08:49:38 GMT"), Some(Duration::from_secs(1)), "the older form of RFC 850");
        assert_eq!(read("Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO), "the moment is over");
        assert_eq!((read("1e300"), read("inf")), (Some(Duration::MAX), Some(Duration::MAX)));
        let at = |date: &str| retry_after("Sun, 06 Nov 1994 08:51:37 GMT", Some(date), now);
        assert_eq!(at("Sun, 06 Nov 1994 08:51:30 GMT"), Some(Duration::from_secs(7)), "two clocks need not agree");
        assert_eq!(at("now"), Some(Duration::from_secs(120)));
        for text in ["soon", "", "-1", "nan", "Sun, 06 Nov 1994 08:51:37", "Fri, 31 Feb 2026 00:00:00 GMT"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
