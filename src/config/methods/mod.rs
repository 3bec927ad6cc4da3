//! Methods by name. A method is a preset: it sets the keys that define it and nothing else, so that a file or the command line stays in
//! charge of the rest. A new method is one file here and one line in `ALL`.

mod fed_gru4rec;
mod fed_sasrec;
mod lumos;
mod lumos_gru4rec;
mod lumos_literal;
mod lumos_no_counterfactual;
mod lumos_no_future;
mod lumos_no_paraphrase;
mod lumos_random_counterfactual;
mod lumos_random_views;
mod popularity;
mod sasrec;

use super::names;
use crate::{Error, Result};
use serde::Serialize;

/// Every method, in the order in which `lumos methods` lists them.
const ALL: &[&Method] = &[
    &lumos::METHOD,
    &lumos_literal::METHOD,
    &lumos_gru4rec::METHOD,
    &fed_sasrec::METHOD,
    &fed_gru4rec::METHOD,
    &sasrec::METHOD,
    &popularity::METHOD,
    &lumos_no_future::METHOD,
    &lumos_no_paraphrase::METHOD,
    &lumos_no_counterfactual::METHOD,
    &lumos_random_counterfactual::METHOD,
    &lumos_random_views::METHOD,
];

/// Who trains. Also the name of a table `[methods.<family>]` in a file, which holds for every method of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Every user is a client.
    Federated,
    /// One participant holds every sequence.
    Centralised,
    /// Nothing is trained.
    Baseline,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 3] = [Family::Federated, Family::Centralised, Family::Baseline];

    /// The name as it stands in a file.
    pub fn name(self) -> &'static str {
        match self {
            Family::Federated => "federated",
            Family::Centralised => "centralised",
            Family::Baseline => "baseline",
        }
    }
}

/// Where a choice comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whose {
    /// The method's own paper says so.
    Paper,
    /// Published summaries of the paper say so; the paper itself was not read on this point.
    SecondHand,
    /// Chosen here, because the paper is silent or because it measured better.
    Ours,
}

impl Whose {
    /// The word shown to a reader.
    pub fn name(self) -> &'static str {
        match self {
            Whose::Paper => "paper",
            Whose::SecondHand => "second-hand",
            Whose::Ours => "ours",
        }
    }
}

/// One key that a method sets.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Choice {
    /// Dotted key.
    pub key: &'static str,
    /// Value, as it is written after `--set key=`.
    pub value: &'static str,
    /// Where the choice comes from.
    pub whose: Whose,
}

const fn choice(key: &'static str, value: &'static str, whose: Whose) -> Choice {
    Choice { key, value, whose }
}

/// A preset.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Method {
    /// Name, as in `method = "lumos"`.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Where the method was published.
    pub paper: &'static str,
    /// Who trains.
    pub family: Family,
    /// A method whose choices hold first; those of this one replace them.
    pub base: Option<&'static str>,
    /// What the method sets itself.
    pub choices: &'static [Choice],
}

impl Method {
    /// Every choice, those of the base included; each key once.
    pub fn all_choices(&self) -> Vec<Choice> {
        let mut all = match self.base.and_then(|base| ALL.iter().find(|m| m.name == base)) {
            Some(base) => base.all_choices(),
            None => Vec::new(),
        };
        for choice in self.choices {
            all.retain(|c: &Choice| c.key != choice.key);
            all.push(*choice);
        }
        all
    }
}

/// Every method.
pub fn all() -> &'static [&'static Method] {
    ALL
}

/// The method called `name`, or a message with the nearest name.
pub fn find(name: &str) -> Result<&'static Method> {
    ALL.iter()
        .copied()
        .find(|m| m.name == name)
        .ok_or_else(|| Error::setting("method", names::unknown("method", name, ALL.iter().map(|m| m.name))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_bases_exist() {
        let mut seen = std::collections::BTreeSet::new();
        for method in all() {
            assert!(seen.insert(method.name), "{} stands twice", method.name);
            assert!(Family::ALL.iter().all(|f| f.name() != method.name));
            if let Some(base) = method.base {
                assert!(find(base).is_ok(), "{base}");
                assert_ne!(base, method.name);
            }
            assert!(!method.summary.is_empty() && !method.paper.is_empty());
        }
    }

    #[test]
    fn a_choice_replaces_the_one_of_its_base() {
        let all = find("lumos-random-views").unwrap().all_choices();
        let generators: Vec<&str> = all.iter().filter(|c| c.key == "views.generator").map(|c| c.value).collect();
        assert_eq!(generators, ["random"]);
        assert!(all.iter().any(|c| c.key == "loss.contrast" && c.value == "decoupled"));
    }
}
