//! What an endpoint's reply says: the answer in a completion, and how long to wait for the next try.

use std::time::{Duration, SystemTime};

use serde_json::Value;

/// What an endpoint wrote.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub text: String,
    pub prompt_tokens: u32,
    pub output_tokens: u32,
}

/// The answer in a completion.
///
/// # Errors
/// What is wrong with it otherwise.
pub fn parse(bytes: &[u8]) -> Result<Answer, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|_| "the answer is no JSON".to_owned())?;
    let content = value.pointer("/choices/0/message/content").and_then(Value::as_str);
    let text = content.ok_or("the answer has no `choices[0].message.content`")?;
    // Models that think aloud end that with this mark.
    let text = text.rsplit_once("</think>").map_or(text, |(_, after)| after);
    let tokens = |name: &str| value.pointer(name).and_then(Value::as_u64).map_or(0, |n| n.min(u64::from(u32::MAX)) as u32);
    Ok(Answer { text: text.to_owned(), prompt_tokens: tokens("/usage/prompt_tokens"), output_tokens: tokens("/usage/completion_tokens") })
}

/// How long a `Retry-After` of `text` asks to wait: a number of seconds or a date (RFC 9110, 10.2.3). `None` for anything else. A date is
/// compared with the endpoint's own clock where its `Date` tells, else with ours, which says `now`.
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
    fn completions_are_read_and_others_refused() {
        let whole = br#"{"choices":[{"message":{"content":"<think>so</think>A\nB"}}],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#;
        assert_eq!(parse(whole).unwrap(), Answer { text: "A\nB".into(), prompt_tokens: 7, output_tokens: 3 });
        assert_eq!(parse(br#"{"choices":[{"message":{"content":""}}]}"#).unwrap().output_tokens, 0);
        for broken in [&b"<html>"[..], b"", b"{}", br#"{"choices":[]}"#, br#"{"choices":[{"message":{"content":null}}]}"#, &whole[..40]] {
            assert!(parse(broken).is_err());
        }
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
