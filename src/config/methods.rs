//! Methods by name. A method is a file of settings: it sets the keys that define it and nothing else, so that a configuration file or the
//! command line stays in charge of the rest. Each key stands in a table that says where the choice comes from:
//!
//! ```toml
//! summary = "lumos with a harder contrast"
//! paper = "none yet"
//! family = "federated"
//! base = "lumos"          # a method of LUMOS whose choices hold first
//!
//! [set.ours]              # or [set.paper], or [set.second-hand]
//! loss.lambda = 0.2
//! ```
//!
//! Those of LUMOS lie in `methods/`; a new one is a file there and a line in `EMBEDDED`, or anywhere else and named by `--method-file`.

use super::schema::Schema;
use crate::base::names;
use crate::{Error, Result};
use parking_lot::RwLock;
use serde::Serialize;
use std::path::Path;
use std::sync::LazyLock;
use toml::{Table, Value};

macro_rules! embed {
    ($($name:literal),+ $(,)?) => { &[$(($name, include_str!(concat!("../../methods/", $name, ".toml")))),+] };
}

/// The methods of LUMOS, in the order in which `lumos methods` lists them.
const EMBEDDED: &[(&str, &str)] = embed![
    "lumos",
    "lumos-literal",
    "lumos-adam",
    "lumos-gru4rec",
    "fed-sasrec",
    "fedsgd-sasrec",
    "lumos-fedsgd",
    "fed-gru4rec",
    "fed-bert4rec",
    "ptf-fsr",
    "fed-transitions",
    "fed-cl4srec",
    "fellas",
    "pfsr",
    "sasrec",
    "sasrec-ce",
    "gru4rec",
    "bert4rec",
    "cl4srec",
    "duorec",
    "gcl4sr",
    "calrec",
    "transitions",
    "popularity",
    "lumos-no-future",
    "lumos-no-paraphrase",
    "lumos-no-counterfactual",
    "lumos-random-counterfactual",
    "lumos-random-views",
    "lumos-history-counterfactual",
    "lumos-joint",
    "lumos-item-mean",
    "lumos-cohort-mean",
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

/// What the local steps of `method` are counted in: visits of clients, or mini-batches of one participant.
pub fn steps_unit(method: &str) -> &'static str {
    if is_centralised(method) { "steps" } else { "client-epochs" }
}

/// Whether `method` is one of a single participant, for which nothing is a client-epoch.
pub fn is_centralised(method: &str) -> bool {
    find(method).is_ok_and(|method| method.family == Family::Centralised)
}

/// Where a choice comes from. Also the name of its table in a method's file.
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
    /// Every origin.
    pub const ALL: [Whose; 3] = [Whose::Paper, Whose::SecondHand, Whose::Ours];

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
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// Dotted key.
    pub key: String,
    /// Value, as it is written after `--set key=`.
    pub value: String,
    /// Where the choice comes from.
    pub whose: Whose,
}

/// A preset.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Method {
    /// Name, as in `method = "lumos"`.
    pub name: String,
    /// One line.
    pub summary: String,
    /// Where the method was published.
    pub paper: String,
    /// Who trains.
    pub family: Family,
    /// A method whose choices hold first; those of this one replace them.
    pub base: Option<String>,
    /// What the method sets itself.
    pub choices: Vec<Choice>,
    /// The file's text, for a method that is not one of LUMOS.
    #[serde(skip)]
    pub source: Option<String>,
}

impl Method {
    /// Reads the method `name` from the text of its file, which lies at `path`.
    ///
    /// # Errors
    /// [`Error::Data`] for what is no TOML and for missing or unknown entries, [`Error::Setting`] for unknown settings and wrong values.
    pub fn parse(name: &str, text: &str, path: &Path) -> Result<Method> {
        let fail = |line: u64, message: String| Error::Data { path: path.to_path_buf(), line, message };
        let mut table = text.parse::<Table>().map_err(|e| {
            let line = e.span().map_or(0, |s| 1 + text[..s.start].matches('\n').count() as u64);
            fail(line, format!("is not valid TOML: {}", e.message().trim()))
        })?;
        let mut word = |key: &str| match table.remove(key) {
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(fail(0, format!("`{key}` is {other}, wanted text in quotes"))),
            None => Ok(None),
        };
        let needed =
            |key: &str, value: Option<String>| value.ok_or_else(|| fail(0, format!("`{key}` is missing; a method needs {NEEDED}")));
        let summary = needed("summary", word("summary")?)?;
        let paper = needed("paper", word("paper")?)?;
        let family = needed("family", word("family")?)?;
        let base = word("base")?;
        let family = Family::ALL
            .into_iter()
            .find(|f| f.name() == family)
            .ok_or_else(|| fail(0, names::unknown("family", &family, Family::ALL.map(Family::name))))?;
        let set = match table.remove("set") {
            Some(Value::Table(set)) => set,
            Some(other) => return Err(fail(0, format!("`set` is {other}, wanted tables such as [set.ours]"))),
            None => Table::new(),
        };
        if let Some(key) = table.keys().next() {
            return Err(fail(0, names::unknown("entry", key, ["summary", "paper", "family", "base", "set"])));
        }
        let schema = Schema::new()?;
        let mut choices: Vec<Choice> = Vec::new();
        for (name, part) in set {
            let Some(whose) = Whose::ALL.into_iter().find(|w| w.name() == name) else {
                return Err(fail(0, names::unknown("table [set.NAME] with the name", &name, Whose::ALL.map(Whose::name))));
            };
            let place = format!("{}, [set.{name}]", path.display());
            let Value::Table(part) = part else { return Err(fail(0, format!("`set.{name}` is {part}, wanted a table of settings"))) };
            for (key, value) in schema.flatten(&part, &place)? {
                if ["method", "compare"].contains(&key.as_str()) || key.starts_with("data.") {
                    let message = format!("{place}: belongs to an experiment, not to a method; write it in a configuration file");
                    return Err(Error::setting(key, message));
                }
                if choices.iter().any(|c| c.key == key) {
                    return Err(Error::setting(key, format!("{}: is set in two tables; keep one", path.display())));
                }
                choices.push(Choice { key, value: value.as_str().map_or_else(|| value.to_string(), str::to_string), whose });
            }
        }
        Ok(Method { name: name.to_string(), summary, paper, family, base, choices, source: None })
    }

    /// Every choice, those of the base included; each key once.
    pub fn all_choices(&self) -> Result<Vec<Choice>> {
        let mut all = match &self.base {
            Some(base) => find(base)?.all_choices()?,
            None => Vec::new(),
        };
        for choice in &self.choices {
            all.retain(|c: &Choice| c.key != choice.key);
            all.push(choice.clone());
        }
        Ok(all)
    }
}

const NEEDED: &str = "summary, paper and family";

/// Methods of files that were named while the program runs.
static REGISTERED: RwLock<Vec<&'static Method>> = RwLock::new(Vec::new());

fn embedded() -> Result<&'static [Method]> {
    static ALL: LazyLock<Result<Vec<Method>>> = LazyLock::new(|| {
        let parse = |(name, text): &(&str, &str)| Method::parse(name, text, Path::new(&format!("methods/{name}.toml")));
        EMBEDDED.iter().map(parse).collect()
    });
    // The files are part of the program and each is read by a test.
    ALL.as_deref().map_err(|e| Error::Usage(format!("a method of this build cannot be read: {e}")))
}

/// Every method: those of LUMOS, then those of files.
pub fn all() -> Result<Vec<&'static Method>> {
    let registered = REGISTERED.read();
    Ok(embedded()?.iter().chain(registered.iter().copied()).collect())
}

/// The method called `name`, or a message with the nearest name.
pub fn find(name: &str) -> Result<&'static Method> {
    let all = all()?;
    let names = || all.iter().map(|m| m.name.as_str());
    all.iter().copied().find(|m| m.name == name).ok_or_else(|| Error::setting("method", names::unknown("method", name, names())))
}

/// Reads the method in the file `path`, called like the file without its ending, and makes it known by its name.
///
/// # Errors
/// See [`Method::parse`] and [`register`].
pub fn register_file(path: &Path) -> Result<&'static Method> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    register(stem, &text, path)
}

/// Makes a method known by its name for as long as the program runs.
///
/// # Errors
/// [`Error::Data`] where the name is taken by another method or cannot name a folder, where the base is missing, and as [`Method::parse`].
pub fn register(name: &str, text: &str, path: &Path) -> Result<&'static Method> {
    let fail = |message: String| Error::Data { path: path.to_path_buf(), line: 0, message };
    let plain = !name.is_empty() && !name.starts_with('.') && name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
    if !plain || Family::ALL.iter().any(|f| f.name() == name) {
        return Err(fail(format!("`{name}` cannot name a method; call the file by letters, digits, `-` and `_`, and not like a family")));
    }
    let method = Method { source: Some(text.to_string()), ..Method::parse(name, text, path)? };
    if let Some(base) = &method.base {
        let own = embedded()?;
        // Not another file's, so that a run folder is complete with one file.
        if !own.iter().any(|m| m.name == *base) {
            return Err(fail(names::unknown("base", base, own.iter().map(|m| m.name.as_str()))));
        }
    }
    let mut registered = REGISTERED.write();
    match embedded()?.iter().chain(registered.iter().copied()).find(|m| m.name == name) {
        Some(known) if *known == method => Ok(known),
        Some(_) => Err(fail(format!("there is another method called `{name}`; call the file otherwise"))),
        None => {
            // A few hundred bytes for each file that is named, once.
            let method: &'static Method = Box::leak(Box::new(method));
            registered.push(method);
            Ok(method)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Method> {
        Method::parse("mine", text, Path::new("mine.toml"))
    }

    #[test]
    fn names_are_unique_and_bases_exist() {
        let mut seen = std::collections::BTreeSet::new();
        for method in embedded().unwrap() {
            assert!(seen.insert(&method.name), "two methods are called {}", method.name);
            assert!(Family::ALL.iter().all(|f| f.name() != method.name));
            if let Some(base) = &method.base {
                assert_ne!(*base, method.name);
            }
            method.all_choices().unwrap();
            assert!(!method.summary.is_empty() && !method.paper.is_empty());
        }
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/methods")).unwrap();
        let mut files: Vec<String> = files.map(|f| f.unwrap().path().file_stem().unwrap().to_str().unwrap().to_string()).collect();
        files.sort();
        assert!(seen.into_iter().eq(files.iter()), "every file in methods/ has a line in EMBEDDED");
    }

    #[test]
    fn a_choice_replaces_the_one_of_its_base() {
        let all = find("lumos-random-views").unwrap().all_choices().unwrap();
        let generators: Vec<&str> = all.iter().filter(|c| c.key == "views.generator").map(|c| c.value.as_str()).collect();
        assert_eq!(generators, ["random"]);
        assert!(all.iter().any(|c| c.key == "loss.contrast" && c.value == "decoupled"));
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        let head = "summary = \"s\"\npaper = \"p\"\nfamily = \"federated\"\n";
        assert_eq!(parse(&format!("{head}[set.ours]\nlocal.lr = 0.5\n")).unwrap().choices[0].value, "0.5");
        for (text, part) in [
            ("summary = 1".to_string(), "`summary` is 1"),
            ("summary = \"s\"\npaper = \"p\"".to_string(), "`family` is missing"),
            (head.replace("federated", "federatd"), "did you mean `federated`"),
            (format!("{head}bse = \"lumos\""), "did you mean `base`"),
            (format!("{head}[set.ours]\nlocal.lrr = 0.5"), "local.lr"),
            (format!("{head}[set.ours]\nlocal.lr = \"x\""), "wanted a number"),
            (format!("{head}[set.ours]\ndata.name = \"x\""), "belongs to an experiment"),
            (format!("{head}[set.ours]\nlocal.lr = 0.5\n[set.paper]\nlocal.lr = 0.5"), "two tables"),
            (format!("{head}set.ours = 3"), "table of settings"),
            (format!("{head}set = 3"), "[set.ours]"),
            (format!("{head}[set.our]\nlocal.lr = 0.5"), "did you mean `ours`"),
            ("summary = ".to_string(), "mine.toml:1"),
        ] {
            let message = parse(&text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}\n{message}");
        }
    }

    #[test]
    fn a_file_is_known_once_registered_and_a_name_means_one_method() {
        let text = "summary = \"s\"\npaper = \"p\"\nfamily = \"federated\"\nbase = \"lumos\"\n[set.ours]\nloss.tau = 0.9\n";
        let path = Path::new("registered-here.toml");
        register("registered-here", text, path).unwrap();
        register("registered-here", text, path).unwrap();
        let choices = find("registered-here").unwrap().all_choices().unwrap();
        assert!(choices.iter().any(|c| c.key == "loss.tau" && c.value == "0.9"));
        for (name, text) in [("registered-here", text.replace("0.9", "0.8")), ("lumos", text.to_string()), ("federated", text.to_string())]
        {
            assert!(register(name, &text, path).is_err(), "{name}");
        }
        let lost = register("lost", &text.replace("\"lumos\"", "\"lums\""), path).unwrap_err().to_string();
        assert!(lost.contains("did you mean `lumos`"), "{lost}");
    }
}
