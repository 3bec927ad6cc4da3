//! Who is a client: a name, or a name with a number.

use crate::base::names::nearest;
use serde::{Deserialize, Serialize};

/// Who is a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// `user`: every user is a client with one sequence.
    User,
    /// `one`: one participant holds every sequence. Centralised training with mini-batches.
    One,
    /// `groups:N`: each of N participants (silos) holds the sequences of its users and trains on them in mini-batches.
    Groups(u32),
    /// `column`: each value of `data.group_column` is a participant that holds the sequences of its users.
    Column,
}

impl std::fmt::Display for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Clients::User => f.write_str("user"),
            Clients::One => f.write_str("one"),
            Clients::Column => f.write_str("column"),
            Clients::Groups(n) => write!(f, "groups:{n}"),
        }
    }
}

impl std::str::FromStr for Clients {
    type Err = String;

    fn from_str(text: &str) -> Result<Clients, String> {
        let groups = || text.strip_prefix("groups:")?.parse().ok().filter(|n| *n > 0).map(Clients::Groups);
        match text {
            "user" => Ok(Clients::User),
            "one" => Ok(Clients::One),
            "column" => Ok(Clients::Column),
            _ => groups().ok_or_else(|| {
                let hint =
                    nearest(text, ["user", "one", "groups:N", "column"]).map_or(String::new(), |name| format!("; did you mean `{name}`?"));
                format!("\"user\", \"one\", \"groups:N\" with N of at least 1, or \"column\"{hint}")
            }),
        }
    }
}

impl Serialize for Clients {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Clients {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Clients, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_read_and_write() {
        for clients in [Clients::User, Clients::One, Clients::Groups(7), Clients::Column] {
            assert_eq!(clients.to_string().parse(), Ok(clients));
        }
        for (text, meant) in [("grups:4", "groups:N"), ("usr", "user"), ("groups", "groups:N")] {
            let message = text.parse::<Clients>().unwrap_err();
            assert!(message.contains(&format!("did you mean `{meant}`?")), "{text}: {message}");
        }
        for text in ["groups:0", "groups:-1", "groups:x", "groups:4294967296", ""] {
            assert!(text.parse::<Clients>().unwrap_err().contains("N of at least 1"), "{text}");
        }
    }
}
