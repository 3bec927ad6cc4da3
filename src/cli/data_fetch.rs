//! `lumos data fetch`: a public data set from its owner's site.

use super::output::{say, say_json};
use super::progress::Progress;
use super::table::table_with;
use crate::data::{KnownSet, Patience, fetch, known_set, known_sets};
use crate::run::Observer;
use crate::{Error, Result};
use std::path::PathBuf;

/// Fetch a public data set from its owner's site, once you accept the owner's terms
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos data fetch --list
  lumos data fetch ml-1m                               shows the terms
  lumos data fetch ml-1m --accept-terms --out data/raw
A download that is cut goes on where it was: start the same command again. Length and checksum are compared where the owner has published them; where not,
the SHA-256 of what came is kept in FILE.fetched.json, and a second fetch compares the file with it. Most owners use https: build with `--features https`.")]
pub struct Fetch {
    /// Data set, one of --list
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// The data sets that are known
    #[arg(long)]
    list: bool,
    /// You have read the owner's terms and accept them
    #[arg(long)]
    accept_terms: bool,
    /// Folder to write
    #[arg(long, value_name = "DIR", default_value = "data/raw")]
    out: PathBuf,
    /// Folder of another server that has the same files
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Whether the owner of `set` uses https and this build does not.
fn lacks_https(set: &KnownSet) -> bool {
    !cfg!(feature = "https") && set.files.iter().any(|file| file.url.starts_with("https:"))
}

/// What to do about a build without https.
const NO_HTTPS: &str = "is fetched by https, which this build lacks: build with `--features https`, or download the files yourself";

fn terms(set: &KnownSet) -> String {
    format!("{}\nfrom {}, {}\nTerms, in short; the text at the page counts:\n{}", set.about, set.owner, set.page, set.terms.trim())
}

fn list(json: bool) -> Result<()> {
    let sets = known_sets()?;
    if json {
        let one = |set: &KnownSet| serde_json::json!({ "name": set.name, "about": set.about, "owner": set.owner, "page": set.page, "lacks": lacks_https(set).then_some("https") });
        return say_json(&sets.iter().map(one).collect::<Vec<_>>());
    }
    let size = |set: &KnownSet| {
        let bytes: Option<u64> = set.files.iter().map(|file| file.bytes).sum();
        bytes.map_or("not published".into(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6))
    };
    let checksum = |set: &KnownSet| if set.files.iter().all(|file| file.md5.is_some()) { "MD5" } else { "not published" }.to_string();
    let rows: Vec<Vec<String>> = sets.iter().map(|set| vec![set.name.clone(), size(set), checksum(set), set.about.clone()]).collect();
    say(table_with(&["data set", "size", "checksum", "what"], &rows, |column| column != 1))?;
    let lacking: Vec<&str> = sets.iter().filter(|set| lacks_https(set)).map(|set| set.name.as_str()).collect();
    match lacking[..] {
        [] => Ok(()),
        ref names => say(format!("\n{}: {NO_HTTPS}", names.join(", "))),
    }
}

pub fn main(args: &Fetch) -> Result<()> {
    let Some(name) = args.name.as_deref().filter(|_| !args.list) else { return list(args.json) };
    let set = known_set(name)?;
    if !args.accept_terms {
        say(terms(&set))?;
        if args.from.is_none() && lacks_https(&set) {
            // Before anybody reads terms for nothing.
            say(format!("\n{} {NO_HTTPS}", set.name))?;
        }
        return Err(Error::Usage(format!("nothing was fetched; `lumos data fetch {name} --accept-terms` says that you accept the terms")));
    }
    let progress = Progress::new(args.json);
    let report = |what: &str, done, total| progress.stage(what, done, total);
    let fetched = fetch(&set, &args.out, args.from.as_deref(), &Patience::default(), &report)?;
    drop(progress);
    let prepare = format!("lumos data prepare {} --out data/{}", set.prepare.replace("DIR", &args.out.display().to_string()), set.name);
    if args.json {
        let one = |file: &crate::data::Fetched| serde_json::json!({ "path": file.path, "reused": file.reused, "verified": file.verified, "received": file.received });
        return say_json(&serde_json::json!({ "files": fetched.iter().map(one).collect::<Vec<_>>(), "prepare": prepare }));
    }
    for file in &fetched {
        let how = if file.reused { "was there already" } else { "fetched" };
        let checked = if file.verified { "the owner's checksum" } else { "checksum not published" };
        say(format!("{}: {how}, {} bytes, {checked}, SHA-256 {}", file.path.display(), file.received.bytes, file.received.sha256))?;
    }
    say(prepare)
}
