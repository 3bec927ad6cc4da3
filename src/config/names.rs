//! Lists of names that grow: what a setting accepts of LUMOS itself and of other crates.

use parking_lot::RwLock;
use serde::de::{Deserializer, Error, Visitor};
use std::fmt;

/// The names that a setting accepts.
pub(super) struct Names {
    own: &'static [&'static str],
    /// The same with what was registered, once something was.
    all: RwLock<Option<&'static [&'static str]>>,
}

impl Names {
    /// The names of LUMOS itself.
    pub const fn new(own: &'static [&'static str]) -> Names {
        Names { own, all: RwLock::new(None) }
    }

    /// Every name, in the order of registration.
    pub fn all(&self) -> &'static [&'static str] {
        self.all.read().unwrap_or(self.own)
    }

    /// Adds a name. False where it is there already.
    pub fn add(&self, name: &'static str) -> bool {
        let mut all = self.all.write();
        let before = all.unwrap_or(self.own);
        if before.contains(&name) {
            return false;
        }
        // Serde names what it wanted by a static list; a process registers a handful of names.
        *all = Some(Vec::leak(before.iter().copied().chain([name]).collect()));
        true
    }

    /// Reads one of the names.
    pub fn read<'de, D: Deserializer<'de>>(&self, reader: D) -> Result<&'static str, D::Error> {
        reader.deserialize_str(OneOf(self.all()))
    }
}

struct OneOf(&'static [&'static str]);

impl Visitor<'_> for OneOf {
    type Value = &'static str;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<&'static str, E> {
        self.0.iter().copied().find(|name| *name == text).ok_or_else(|| E::unknown_variant(text, self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::IntoDeserializer;
    use serde::de::value::Error as Refusal;

    #[test]
    fn names_grow_and_are_read_as_the_same_word() {
        let names = Names::new(&["a", "b"]);
        let read = |text: &str| names.read(IntoDeserializer::<Refusal>::into_deserializer(text));
        assert!(read("c").unwrap_err().to_string().contains("`a` or `b`"));
        assert!(names.add("c") && !names.add("c") && !names.add("a"));
        assert_eq!((read("c"), read("a"), names.all()), (Ok("c"), Ok("a"), &["a", "b", "c"][..]));
        assert!(read("d").unwrap_err().to_string().contains("`a`, `b`, `c`"));
    }
}
