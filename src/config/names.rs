//! Settings that name one of a list which grows: the names of LUMOS, and those that another crate has registered.
//!
//! A value can only be made of a name that is known, so whoever holds one need not check it again. What a name stands for is known to the
//! layer that keeps its register.

macro_rules! names {
    ($(#[$meta:meta])* $name:ident, $what:literal { $($(#[$nmeta:meta])* $constant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(&'static str);

        impl $name {
            $($(#[$nmeta])* pub const $constant: $name = $name($text);)+

            /// Names of LUMOS, then registered ones in the order of their registration.
            fn known() -> &'static parking_lot::RwLock<&'static [&'static str]> {
                static KNOWN: parking_lot::RwLock<&'static [&'static str]> = parking_lot::RwLock::new(&[$($text),+]);
                &KNOWN
            }

            /// Every name that the setting accepts: those of LUMOS, then registered ones.
            pub fn names() -> &'static [&'static str] {
                *$name::known().read()
            }

            /// The name as it stands in a configuration file.
            pub const fn name(self) -> &'static str {
                self.0
            }

            /// Makes `name` known.
            ///
            /// # Errors
            /// [`Error::Usage`](crate::Error::Usage) where it is taken or cannot stand in a configuration file.
            pub(crate) fn register(name: &'static str) -> crate::Result<$name> {
                $crate::config::names::fits(concat!("a ", $what), name)?;
                let mut known = $name::known().write();
                if known.contains(&name) {
                    return Err($crate::config::names::taken(concat!("a ", $what), name));
                }
                *known = known.iter().copied().chain([name]).collect::<Vec<_>>().leak();
                Ok($name(name))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::Error;

            /// The value called `name`; an unknown name is refused with the nearest known one.
            fn from_str(name: &str) -> crate::Result<$name> {
                let known = $name::names();
                let found = known.iter().find(|k| **k == name);
                found.map(|k| $name(k)).ok_or_else(|| {
                    crate::Error::Usage(crate::base::names::unknown($what, name, known.iter().copied()))
                })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<$name, D::Error> {
                let name = String::deserialize(from)?;
                let known = $name::names();
                let found = known.iter().find(|k| **k == name);
                found.map(|k| $name(k)).ok_or_else(|| serde::de::Error::unknown_variant(&name, known))
            }
        }
    };
}

use crate::{Error, Result};

/// Refuses a name that cannot stand in a configuration file or before options.
///
/// # Errors
/// [`Error::Usage`].
pub(crate) fn fits(what: &str, name: &str) -> Result<()> {
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let message = || format!("`{}` is no name for {what}; use letters, digits, `-` and `_`", crate::base::clean::id(name));
    if plain { Ok(()) } else { Err(Error::Usage(message())) }
}

/// The error for a name that something else has.
pub(crate) fn taken(what: &str, name: &str) -> Error {
    Error::Usage(format!("there is {what} `{name}` already; give this one another name"))
}

names! {
    /// The sequence encoder. What a name stands for: [`crate::model::backbones`].
    Backbone, "backbone" {
        /// Self-attentive sequential recommendation (Kang and McAuley, ICDM 2018), pre-norm blocks.
        SASREC = "sasrec",
        /// Gated recurrent units (Hidasi et al., ICLR 2016), one layer per block.
        GRU4REC = "gru4rec",
        /// Bidirectional self-attention trained on masked items (Sun et al., CIKM 2019), norms behind the residuals.
        BERT4REC = "bert4rec",
    }
}

names! {
    /// Where views come from. What a name stands for: [`crate::views::generators`].
    GeneratorKind, "generator" {
        /// No views.
        NONE = "none",
        /// The embedded catalogue generator.
        CATALOGUE = "catalogue",
        /// Uniform random items in all three views: an ablation.
        RANDOM = "random",
        /// Catalogue views with uniform random items as the counterfactual: an ablation.
        RANDOM_COUNTERFACTUAL = "random-counterfactual",
        /// A language model in a local folder, `views.llm`.
        LLM = "llm",
        /// A language model behind an OpenAI-compatible endpoint, `views.served`.
        SERVED = "served",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    names! {
        /// For this test.
        Fruit, "fruit" {
            /// One.
            APPLE = "apple",
            /// Two.
            PEAR = "pear",
        }
    }

    #[test]
    fn a_registered_name_is_read_and_written_like_the_others() {
        let unknown = |name: &str| name.parse::<Fruit>().unwrap_err().to_string();
        assert!(unknown("plum").contains("Valid: apple, pear"), "{}", unknown("plum"));
        assert!(unknown("aple").contains("did you mean `apple`"));
        assert!(serde_json::from_str::<Fruit>("\"plum\"").unwrap_err().to_string().contains("expected `apple` or `pear`"));
        let plum = Fruit::register("plum").unwrap();
        assert_eq!(Fruit::names(), ["apple", "pear", "plum"]);
        assert_eq!("plum".parse::<Fruit>().unwrap(), plum);
        assert_eq!(serde_json::from_str::<Fruit>("\"plum\"").unwrap(), plum);
        assert_eq!((serde_json::to_string(&plum).unwrap(), plum.name()), ("\"plum\"".to_string(), "plum"));
        assert!(plum != Fruit::APPLE && Fruit::PEAR.name() == "pear");
        for name in ["plum", "apple", "", "two words", "a=b"] {
            let error = Fruit::register(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{name}");
        }
        assert_eq!(Fruit::names().len(), 3);
    }
}
