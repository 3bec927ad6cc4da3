//! Why the reader of the settings refuses a value, in parts instead of in words.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, Deserialize, Deserializer, Expected, IntoDeserializer, Unexpected, Visitor};
use std::fmt::{self, Display};
use toml::Value;

/// A value that does not fit.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    /// It is none of these names.
    Names(&'static [&'static str]),
    /// What was wanted in its place.
    Wanted(String),
    /// Anything else.
    Other(String),
}

impl Refusal {
    fn wanted(expected: &dyn Expected) -> Refusal {
        Refusal::Wanted(match expected.to_string().as_str() {
            "u32" => format!("a whole number between 0 and {}", u32::MAX),
            "u64" => format!("a whole number between 0 and {}", i64::MAX),
            other => other.to_string(),
        })
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Names(names) => write!(f, "one of \"{}\"", names.join("\", \"")),
            Refusal::Wanted(text) | Refusal::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    fn custom<T: Display>(message: T) -> Refusal {
        Refusal::Other(message.to_string())
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Refusal {
        Refusal::Names(expected)
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Refusal {
        Refusal::wanted(expected)
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Refusal {
        Refusal::wanted(expected)
    }
}

/// Reads a `T` from `value`; of a refusal also the dotted key that it is about.
pub(super) fn read<T: for<'de> Deserialize<'de>>(value: Value) -> Result<T, (String, Refusal)> {
    serde_path_to_error::deserialize(Reader(value)).map_err(|e| (e.path().to_string(), e.into_inner()))
}

struct Reader(Value);

impl IntoDeserializer<'_, Refusal> for Reader {
    type Deserializer = Reader;

    fn into_deserializer(self) -> Reader {
        self
    }
}

impl<'de> Deserializer<'de> for Reader {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.0 {
            Value::String(text) => visitor.visit_string(text),
            Value::Integer(n) => visitor.visit_i64(n),
            Value::Float(x) => visitor.visit_f64(x),
            Value::Boolean(b) => visitor.visit_bool(b),
            Value::Datetime(date) => visitor.visit_string(date.to_string()),
            Value::Array(list) => visitor.visit_seq(SeqDeserializer::new(list.into_iter().map(Reader))),
            Value::Table(table) => visitor.visit_map(MapDeserializer::new(table.into_iter().map(|(key, value)| (key, Reader(value))))),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, Refusal> {
        match self.0 {
            Value::String(name) => visitor.visit_enum(name.into_deserializer()),
            _ => Err(Refusal::Wanted("a name".into())),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map
        struct identifier ignored_any
    }
}
