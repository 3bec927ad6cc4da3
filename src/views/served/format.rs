//! The field of a request that holds an answer to its form. Every server has its own; `docs/views.md` has the table.

use serde_json::{Value, json};

use crate::config::AnswerFormat;

/// Name and value of the field that asks for `n` names; `None` where nothing is asked for.
pub(super) fn field(format: AnswerFormat, n: usize) -> Option<(&'static str, Value)> {
    Some(match format {
        AnswerFormat::JsonSchema => {
            ("response_format", json!({"type": "json_schema", "json_schema": {"name": "items", "strict": true, "schema": schema(n)}}))
        }
        AnswerFormat::JsonObjectSchema => ("response_format", json!({"type": "json_object", "schema": schema(n)})),
        AnswerFormat::JsonObject => ("response_format", json!({"type": "json_object"})),
        AnswerFormat::StructuredOutputs => ("structured_outputs", json!({"json": schema(n)})),
        AnswerFormat::GuidedJson => ("guided_json", schema(n)),
        AnswerFormat::Grammar => ("grammar", json!(grammar(n))),
        AnswerFormat::Ebnf => ("ebnf", json!(grammar(n))),
        AnswerFormat::Lines => return None,
    })
}

/// Whether an endpoint's complaint with `status` is about the field of `format`. Some servers call a request that they do not
/// understand their own failure (500); there the field has to be named.
pub(super) fn is_meant(format: AnswerFormat, status: u16, complaint: &str) -> bool {
    let Some((name, _)) = field(format, 1) else { return false };
    match status {
        500 => complaint.contains(name),
        400..=499 => [name, "grammar", "schema"].iter().any(|word| complaint.contains(word)),
        _ => false,
    }
}

/// An object with one list of `n` strings.
fn schema(n: usize) -> Value {
    let items = json!({"type": "array", "items": {"type": "string"}, "minItems": n, "maxItems": n});
    json!({"type": "object", "properties": {"items": items}, "required": ["items"], "additionalProperties": false})
}

/// `n` lines, in the notation of llama.cpp, which XGrammar (SGLang's default) reads too.
fn grammar(n: usize) -> String {
    format!("root ::= {}\nline ::= [^\\n\\x00-\\x1f]+ \"\\n\"\n", vec!["line"; n].join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_asks_in_its_own_field_for_as_many_names() {
        let of = |format| field(format, 3).unwrap();
        let most = |format, path: &str| {
            let (name, value) = of(format);
            (name, value.pointer(&format!("{path}/properties/items/maxItems")).and_then(Value::as_u64))
        };
        assert_eq!(most(AnswerFormat::JsonSchema, "/json_schema/schema"), ("response_format", Some(3)));
        assert_eq!(most(AnswerFormat::JsonObjectSchema, "/schema"), ("response_format", Some(3)));
        assert_eq!(most(AnswerFormat::StructuredOutputs, "/json"), ("structured_outputs", Some(3)));
        assert_eq!(most(AnswerFormat::GuidedJson, ""), ("guided_json", Some(3)));
        assert_eq!(of(AnswerFormat::JsonObject), ("response_format", json!({"type": "json_object"})));
        let (name, grammar) = of(AnswerFormat::Grammar);
        assert!(name == "grammar" && grammar.as_str().unwrap().starts_with("root ::= line line line\n"), "{grammar}");
        assert_eq!(of(AnswerFormat::Ebnf), ("ebnf", grammar));
        assert_eq!(field(AnswerFormat::Lines, 3), None);
        let complaint = "body: guided_json is not permitted";
        assert!([400, 422, 500].iter().all(|status| is_meant(AnswerFormat::GuidedJson, *status, complaint)));
        assert!(!is_meant(AnswerFormat::GuidedJson, 503, complaint) && !is_meant(AnswerFormat::GuidedJson, 500, "bad schema"));
        assert!(is_meant(AnswerFormat::GuidedJson, 400, "bad schema") && !is_meant(AnswerFormat::Lines, 400, complaint));
    }
}
