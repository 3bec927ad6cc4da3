//! Answers of models that think aloud before they answer.

/// How models mark the begin and the end of what they think.
const MARKS: [(&str, &str); 4] =
    [("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<seed:think>", "</seed:think>"), ("[THINK]", "[/THINK]")];

/// What to do about thoughts that leave no room for an answer.
pub const REMEDY: &str = "raise views.text.line_tokens, or use a model or an endpoint that does not think";

/// Why an answer without an end of its thoughts is not used, and what to do.
pub fn unfinished() -> String {
    format!("the model was still thinking when its answer ended; {REMEDY}")
}

/// What an answer says after its thoughts; all of it where there are none. `opened`: the prompt had begun the thoughts already, so that
/// only their end can stand in `text`. `None` where thoughts have no end: nothing of them is an answer.
pub fn answer_of(text: &str, opened: bool) -> Option<&str> {
    let end = |close: &str| text.rfind(close).map(|at| at + close.len());
    let spoken = MARKS.iter().filter_map(|(_, close)| end(close)).max();
    let answer = &text[spoken.unwrap_or(0)..];
    let open = spoken.is_none() && opened || MARKS.iter().any(|(open, _)| answer.contains(open));
    (!open).then_some(answer)
}

/// Whether `text`, a prompt or its end, begins thoughts and leaves them open.
pub fn opens_thoughts(text: &str) -> bool {
    MARKS.iter().any(|(open, close)| text.rfind(open) > text.rfind(close))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_follows_the_thoughts_is_an_answer() {
        for (text, opened, answer) in [
            ("A\nB", false, Some("A\nB")),
            ("<think>\nso: \"Star Wars\"\n</think>\nA", false, Some("\nA")),
            ("so: \"Star Wars\"\n</think>\nA", true, Some("\nA")),
            ("so: \"Star Wars\"\n</think>\nA", false, Some("\nA")),
            ("<think>\nendless \"Star Wars\"", false, None),
            ("Sure!\n<think>\nendless", false, None),
            ("so <think> it </think> is </think> A", true, Some(" A")),
            ("<think>a</think>B<think>c", false, None),
            ("endless \"Star Wars\"", true, None),
            ("[THINK]so[/THINK]A", false, Some("A")),
            ("<thinking>so", false, None),
            ("", false, Some("")),
            ("", true, None),
        ] {
            assert_eq!(answer_of(text, opened), answer, "{text:?} {opened}");
        }
    }

    #[test]
    fn prompts_that_begin_thoughts_are_known() {
        assert!(opens_thoughts("user: x\nassistant:\n<think>\n") && opens_thoughts("<think></think><think>"));
        assert!(!opens_thoughts("assistant:\n<think>\n\n</think>\n\n") && !opens_thoughts("") && !opens_thoughts("</think>"));
    }
}
