//! What a setting that chooses among names is made by.

macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// Every name that the setting accepts.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// The name as it stands in a configuration file.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }
    };
}

/// A choice to which other crates add names (see [`super::names::Names`]).
macro_rules! open_choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$cmeta:meta])* $constant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(&'static str);

        impl $name {
            $($(#[$cmeta])* pub const $constant: $name = $name($text);)+

            /// The names of LUMOS itself.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            fn known() -> &'static $crate::config::names::Names {
                static KNOWN: $crate::config::names::Names = $crate::config::names::Names::new($name::NAMES);
                &KNOWN
            }

            /// Every name that the setting accepts, those that were registered last.
            pub fn all() -> &'static [&'static str] {
                $name::known().all()
            }

            /// The choice of this name, if it is known.
            pub fn find(name: &str) -> Option<$name> {
                $name::all().iter().copied().find(|known| *known == name).map($name)
            }

            /// The name as it stands in a configuration file.
            pub fn name(self) -> &'static str {
                self.0
            }

            /// Makes a name known in this process, for settings that are read from now on. False where it is known already.
            pub(crate) fn register(name: &'static str) -> bool {
                $name::known().add(name)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(reader: D) -> Result<$name, D::Error> {
                $name::known().read(reader).map($name)
            }
        }
    };
}

pub(super) use {choice, open_choice};
