//! Python's literals as JSON values: the dialect of the Amazon 2014 metadata (`{'asin': '0001', 'price': 1.5, 'also': None}`).

use serde_json::{Map, Number, Value};

/// Most lists and dictionaries inside each other.
const DEPTH: usize = 64;

/// Reads a literal: dictionaries with texts for keys, lists, tuples, texts, numbers, `True`, `False` and `None`.
///
/// # Errors
/// What is wrong, with the place in the text, counted in characters from 1.
pub(super) fn literal(text: &str) -> Result<Value, String> {
    let mut rest = Rest { chars: text.chars().collect(), at: 0 };
    let value = rest.value(DEPTH)?;
    rest.blanks();
    if rest.at < rest.chars.len() { Err(rest.wrong("something follows the value")) } else { Ok(value) }
}

struct Rest {
    chars: Vec<char>,
    at: usize,
}

impl Rest {
    fn wrong(&self, what: &str) -> String {
        format!("{what} at character {}", self.at + 1)
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn skip(&mut self, wanted: char) -> bool {
        self.blanks();
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth == 0 {
            return Err(self.wrong("too many lists inside each other"));
        }
        self.blanks();
        match self.peek() {
            Some('{') => self.dictionary(depth),
            Some('[') => self.list(']', depth),
            Some('(') => self.list(')', depth),
            Some('\'' | '"') => self.text().map(Value::String),
            Some('u' | 'b') if matches!(self.chars.get(self.at + 1), Some('\'' | '"')) => {
                self.at += 1;
                self.text().map(Value::String)
            }
            Some(_) => self.word(),
            None => Err(self.wrong("a value is missing")),
        }
    }

    fn dictionary(&mut self, depth: usize) -> Result<Value, String> {
        self.at += 1;
        let mut map = Map::new();
        while !self.skip('}') {
            let Value::String(key) = self.value(depth - 1)? else { return Err(self.wrong("a key is no text")) };
            if !self.skip(':') {
                return Err(self.wrong("a colon is missing"));
            }
            let value = self.value(depth - 1)?;
            map.insert(key, value);
            if !self.skip(',') && self.peek() != Some('}') {
                return Err(self.wrong("a comma or a closing brace is missing"));
            }
        }
        Ok(Value::Object(map))
    }

    fn list(&mut self, end: char, depth: usize) -> Result<Value, String> {
        self.at += 1;
        let mut all = Vec::new();
        while !self.skip(end) {
            all.push(self.value(depth - 1)?);
            if !self.skip(',') && self.peek() != Some(end) {
                return Err(self.wrong("a comma or a closing bracket is missing"));
            }
        }
        Ok(Value::Array(all))
    }

    fn text(&mut self) -> Result<String, String> {
        let quote = self.peek();
        self.at += 1;
        let mut out = String::new();
        loop {
            let c = self.peek().ok_or_else(|| self.wrong("a quote is not closed"))?;
            self.at += 1;
            match c {
                c if Some(c) == quote => return Ok(out),
                '\\' => {
                    let escape = self.peek().ok_or_else(|| self.wrong("a quote is not closed"))?;
                    self.at += 1;
                    match escape {
                        'n' => out.push('\n'),
                        't' => out.push('\t'),
                        'r' => out.push('\r'),
                        'x' => out.push(self.code(2)?),
                        'u' => out.push(self.code(4)?),
                        'U' => out.push(self.code(8)?),
                        '\n' => {}
                        '\'' | '"' | '\\' => out.push(escape),
                        other => out.extend(['\\', other]),
                    }
                }
                c => out.push(c),
            }
        }
    }

    /// A character by `digits` hexadecimal digits; what is none, half of a pair, becomes the mark for that.
    fn code(&mut self, digits: usize) -> Result<char, String> {
        let mut code = 0;
        for _ in 0..digits {
            let digit = self.peek().and_then(|c| c.to_digit(16)).ok_or_else(|| self.wrong("a hexadecimal digit is missing"))?;
            self.at += 1;
            code = code * 16 + digit;
        }
        Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn word(&mut self) -> Result<Value, String> {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-' | '_')) {
            self.at += 1;
        }
        let word: String = self.chars[start..self.at].iter().collect();
        match word.as_str() {
            "None" | "null" | "nan" | "NaN" => return Ok(Value::Null),
            "True" | "true" => return Ok(Value::Bool(true)),
            "False" | "false" => return Ok(Value::Bool(false)),
            _ => {}
        }
        let number = word.parse::<i64>().ok().map(Number::from);
        let number = number.or_else(|| word.parse::<f64>().ok().and_then(Number::from_f64));
        number.map(Value::Number).ok_or_else(|| {
            self.at = start;
            self.wrong("a value is neither text in quotes nor a number, a list, a dictionary, True, False or None")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::literal;
    use serde_json::json;

    #[test]
    fn literals_of_every_kind() {
        let text = r#"{'asin': '0001', "title": "it's \"A\"", 'price': 1.5, 'n': -3, 'none': None, 'yes': True,
            'categories': [['Beauty', 'Hair'], []], 'pair': ('a', 1,), u'caf\xe9': u'\u20ac\n\d',}"#;
        let wanted = json!({"asin": "0001", "title": "it's \"A\"", "price": 1.5, "n": -3, "none": null, "yes": true,
            "categories": [["Beauty", "Hair"], []], "pair": ["a", 1], "café": "€\n\\d"});
        assert_eq!(literal(text).unwrap(), wanted);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, part) in [
            ("{'a': 'b", "not closed"),
            ("{'a' 'b'}", "colon is missing at character 6"),
            ("{'a': b}", "at character 7"),
            ("{1: 2}", "no text"),
            ("{'a': 1} x", "follows"),
            ("['a' 'b']", "comma"),
            ("", "missing"),
            ("'\\x4'", "hexadecimal"),
            (&"[".repeat(1000), "inside each other"),
        ] {
            let message = literal(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
