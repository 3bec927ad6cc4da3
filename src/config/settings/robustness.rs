use serde::{Deserialize, Deserializer, Serialize};

/// An attack by malicious clients, beside what `federation.rules` lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttackSettings {
    /// An attack with options other than `share`, such as `sign-flip scale=3` or `a-hum draws=10`; `none`: no attack.
    pub name: String,
    /// Share of malicious clients, the same ones in every round: of the clients themselves, or, for an attack with clients of its own, as many as
    /// that share of the users, beside them.
    pub share: f64,
    /// Items that the attack promotes and `ER@K` looks at: ids, `least-popular`, `least-popular:N`, or `popularity:LOW-HIGH:N` for N items between
    /// two shares of the catalogue in the order of rising popularity. Empty: `least-popular` for an attack that promotes, else none.
    #[serde(deserialize_with = "ids")]
    pub target: Vec<String>,
    /// Text that is put behind the titles of `carriers`, to sway a language model that reads them; `{target}` stands for the target's title. Empty:
    /// titles stay as they are. Views are then made from the changed catalogue.
    pub titles: String,
    /// Items whose titles carry that text, named as in `target`. Empty: the targets themselves.
    #[serde(deserialize_with = "ids")]
    pub carriers: Vec<String>,
    /// First round in which malicious clients act; before it those of an attack's own stay away, and the others are honest.
    pub from: u32,
}

impl Default for AttackSettings {
    fn default() -> Self {
        AttackSettings { name: "none".into(), share: 0.01, target: Vec::new(), titles: String::new(), carriers: Vec::new(), from: 1 }
    }
}

/// Ids of a list; numbers are ids as they are written.
fn ids<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    struct Id(String);
    struct Read;
    impl serde::de::Visitor<'_> for Read {
        type Value = Id;
        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str("the id of an item")
        }
        fn visit_str<E: serde::de::Error>(self, id: &str) -> Result<Id, E> {
            Ok(Id(id.to_string()))
        }
        fn visit_i64<E: serde::de::Error>(self, id: i64) -> Result<Id, E> {
            Ok(Id(id.to_string()))
        }
        fn visit_u64<E: serde::de::Error>(self, id: u64) -> Result<Id, E> {
            Ok(Id(id.to_string()))
        }
    }
    impl<'de> Deserialize<'de> for Id {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Id, D::Error> {
            from.deserialize_any(Read)
        }
    }
    Ok(Vec::<Id>::deserialize(from)?.into_iter().map(|id| id.0).collect())
}

/// A defence of the server, beside what `federation.rules` lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DefenceSettings {
    /// A rule that is a defence, with its options, such as `trimmed-mean trim=0.2`; `none`: no defence.
    pub name: String,
}

impl Default for DefenceSettings {
    fn default() -> Self {
        DefenceSettings { name: "none".into() }
    }
}

/// Noise in the histories of users and in the catalogue: what a training, its views and its rankings see of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NoiseSettings {
    /// Share of each user's training items that are replaced by items that the user has not met, from 0 to 0.5. The items to be found stay.
    pub share: f64,
    /// Share of the catalogue's titles that change places among each other, from 0 to 1: what views are made from then calls an item by the name of another.
    pub titles: f64,
}

impl Default for NoiseSettings {
    fn default() -> Self {
        NoiseSettings { share: 0.0, titles: 0.0 }
    }
}
