use serde::{Deserialize, Serialize};

/// An attack by malicious clients, beside what `federation.rules` lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttackSettings {
    /// A rule that is an attack, with options other than `share`, such as `sign-flip scale=3`; `none`: no attack.
    pub name: String,
    /// Share of the clients that are malicious, the same ones in every round.
    pub share: f64,
}

impl Default for AttackSettings {
    fn default() -> Self {
        AttackSettings { name: "none".into(), share: 0.01 }
    }
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
