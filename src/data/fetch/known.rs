//! The table of known sets.

use crate::base::names;
use crate::{Error, Result};
use serde::Deserialize;

/// A public data set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownSet {
    /// Name.
    pub name: String,
    /// What it is, in one line.
    pub about: String,
    /// Whose it is.
    pub owner: String,
    /// The owner's page about it, with the terms that count.
    pub page: String,
    /// The terms in short.
    pub terms: String,
    /// Flags of `lumos data prepare` for it, `DIR` standing for the folder of the files.
    pub prepare: String,
    /// Its files.
    #[serde(rename = "file")]
    pub files: Vec<KnownFile>,
}

/// A file of a known set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownFile {
    /// Name.
    pub name: String,
    /// Address.
    pub url: String,
    /// Length in bytes, where it is known.
    pub bytes: Option<u64>,
    /// MD5 in hex, where the owner has published it.
    pub md5: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    set: Vec<KnownSet>,
}

/// All known sets.
///
/// # Errors
/// Where the table of this build is damaged.
pub fn known_sets() -> Result<Vec<KnownSet>> {
    let table: Table = toml::from_str(include_str!("known_sets.toml")).map_err(|e| Error::Usage(format!("known_sets.toml: {e}")))?;
    Ok(table.set)
}

/// The set called `name`.
///
/// # Errors
/// [`Error::Usage`] for an unknown name, with the nearest.
pub fn known_set(name: &str) -> Result<KnownSet> {
    let sets = known_sets()?;
    let unknown = names::unknown("data set", name, sets.iter().map(|set| set.name.as_str()));
    sets.into_iter().find(|set| set.name == name).ok_or(Error::Usage(unknown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        for set in known_sets().unwrap() {
            assert!(!set.files.is_empty() && set.page.starts_with("https://") && !set.terms.trim().is_empty(), "{set:?}");
            for file in &set.files {
                assert!(file.url.ends_with(&file.name) && set.prepare.contains(&format!("DIR/{}", file.name)), "{file:?}");
                assert!(file.md5.as_ref().is_none_or(|md5| md5.len() == 32 && md5.bytes().all(|b| b.is_ascii_hexdigit())), "{file:?}");
            }
        }
        let message = known_set("ml-10k").unwrap_err().to_string();
        assert!(message.contains("did you mean `ml-100k`"), "{message}");
    }
}
