//! The prepared folder on disk: written into a temporary folder beside, renamed when whole, checked when read.
//!
//! * `sequences.safetensors`: `offsets` u64 `[U + 1]`, `items` u32 `[N]`, and where known `times` i64 or f64 `[N]`,
//!   whose unit stands in the manifest (`stats.time_unit`); in a folder of [`SPLIT_VERSION`] `train`, `validation` and `test` u32 `[U]`
//! * `users.csv`: index, token, and in a folder of [`GROUPED_VERSION`] the group
//! * `items.csv`: index, token, title, categories (joined with `|`, a `|` inside escaped as `\|`), brand, also_bought
//!   (item indices joined with `|`)
//! * `manifest.json`: see [`Manifest`]
//! * `SHA256SUMS`: checksums of the files above, in the form that `sha256sum -c` reads

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::dataset::{Cuts, Dataset, ItemText, UserGroups};
use super::manifest::{FORMAT_VERSION, GROUPED_VERSION, Manifest, SPLIT_VERSION};
use super::text::{join_bars, split_bars};
use super::times::{TimeValues, Times};
use crate::base::files::{Draft, sha256_hex};
use crate::{Error, Result};

pub(super) const MANIFEST: &str = "manifest.json";
const SUMS: &str = "SHA256SUMS";
const SEQUENCES: &str = "sequences.safetensors";
const USERS: &str = "users.csv";
const ITEMS: &str = "items.csv";
/// Every file of the folder; without the last one it is no data set.
const FILES: [&str; 5] = [SEQUENCES, USERS, ITEMS, MANIFEST, SUMS];
const USER_COLUMNS: &[&str] = &["index", "token"];
const GROUPED_COLUMNS: &[&str] = &["index", "token", "group"];
const ITEM_COLUMNS: &[&str] = &["index", "token", "title", "categories", "brand", "also_bought"];
const REMEDY: &str = "prepare it again with --overwrite (`lumos data prepare` or `lumos data build`)";

/// Refuses to put a data set where something else lies.
pub(super) fn check_target(out: &Path, overwrite: bool) -> Result<()> {
    if out.file_name().is_none() {
        return Err(Error::mismatch(out, "is no name for a folder; give one, such as data/my-set"));
    }
    if !out.exists() {
        return match out.is_symlink() {
            true => Err(Error::mismatch(out, "is a link to nothing; make the folder that it names, or choose another one")),
            false => Ok(()),
        };
    }
    let mut names = fs::read_dir(out).map_err(Error::io(out, "open as a folder"))?.flatten().map(|e| e.file_name());
    // Our files without their checksums are what a replacement that was killed has left behind.
    if is_set(out) && !overwrite {
        Err(Error::mismatch(out, "holds a prepared data set already; pass --overwrite to replace it, or choose another folder"))
    } else if is_set(out) || names.all(|n| FILES.iter().any(|f| n == *f)) {
        Ok(())
    } else {
        Err(Error::mismatch(out, "holds files but no prepared data set; it will not be overwritten, choose another folder"))
    }
}

/// Whether `dir` looks like a prepared data set, whole or damaged.
pub(super) fn is_set(dir: &Path) -> bool {
    dir.join(MANIFEST).exists() && dir.join(SUMS).exists()
}

/// Writes the folder `out` in one step; foreign files in it stay. `Manifest`, `Dataset` and times must belong together.
pub(super) fn write(out: &Path, overwrite: bool, manifest: &Manifest, dataset: &Dataset, times: Option<&Times>) -> Result<()> {
    let draft = Draft::of(&fs::canonicalize(out).unwrap_or_else(|_| out.to_path_buf()))?;
    let mut sums = String::new();
    let mut put = |name: &str, bytes: &[u8]| {
        sums.push_str(&format!("{}  {name}\n", sha256_hex(bytes)));
        draft.put(name, bytes)
    };
    put(SEQUENCES, &sequences(dataset, times, out)?)?;
    let users = dataset.user_tokens.iter().enumerate();
    let users = match &dataset.groups {
        None => table(out, USER_COLUMNS, users.map(|(index, token)| [index.to_string(), token.clone()]))?,
        Some(of) => table(out, GROUPED_COLUMNS, users.map(|(i, token)| [i.to_string(), token.clone(), of.name(i).to_owned()]))?,
    };
    put(USERS, &users)?;
    put(ITEMS, &table(out, ITEM_COLUMNS, dataset.item_tokens.iter().zip(&dataset.catalogue).enumerate().map(item_row))?)?;
    let json = serde_json::to_string_pretty(manifest).map_err(|e| Error::mismatch(out, format!("cannot write the manifest: {e}")))?;
    put(MANIFEST, (json + "\n").as_bytes())?;
    draft.put(SUMS, sums.as_bytes())?;
    // Looked at again: preparing took time, and what lies there now must not be lost.
    check_target(out, overwrite)?;
    draft.replace(out, &FILES)
}

fn sequences(dataset: &Dataset, times: Option<&Times>, out: &Path) -> Result<Vec<u8>> {
    let fail = |e: safetensors::SafeTensorError| Error::mismatch(out, format!("cannot write the sequences: {e}"));
    let offsets: Vec<u8> = dataset.offsets.iter().flat_map(|v| v.to_le_bytes()).collect();
    let items: Vec<u8> = dataset.items.iter().flat_map(|v| v.to_le_bytes()).collect();
    let times: Option<(Dtype, Vec<u8>)> = times.map(|t| match &t.values {
        TimeValues::Integer(all) => (Dtype::I64, all.iter().flat_map(|v| v.to_le_bytes()).collect()),
        TimeValues::Float(all) => (Dtype::F64, all.iter().flat_map(|v| v.to_le_bytes()).collect()),
    });
    let mut tensors = vec![
        ("offsets", TensorView::new(Dtype::U64, vec![dataset.offsets.len()], &offsets).map_err(fail)?),
        ("items", TensorView::new(Dtype::U32, vec![dataset.items.len()], &items).map_err(fail)?),
    ];
    let bytes = |all: &[u32]| all.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let cuts = dataset.cuts.as_ref().map(|c| [("train", bytes(&c.train)), ("validation", bytes(&c.validation)), ("test", bytes(&c.test))]);
    for (name, bytes) in cuts.iter().flatten() {
        tensors.push((*name, TensorView::new(Dtype::U32, vec![dataset.users()], bytes).map_err(fail)?));
    }
    if let Some((dtype, times)) = &times {
        tensors.push(("times", TensorView::new(*dtype, vec![dataset.items.len()], times).map_err(fail)?));
    }
    safetensors::serialize(tensors, None).map_err(fail)
}

fn item_row((index, (token, text)): (usize, (&String, &ItemText))) -> [String; 6] {
    let bought: Vec<String> = text.also_bought.iter().map(u32::to_string).collect();
    [index.to_string(), token.clone(), text.title.clone(), join_bars(&text.categories), text.brand.clone(), bought.join("|")]
}

fn table<const W: usize>(out: &Path, header: &[&str], rows: impl Iterator<Item = [String; W]>) -> Result<Vec<u8>> {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let fail = |e: ::csv::Error| Error::mismatch(out, format!("cannot write a table: {e}"));
    writer.write_record(header).map_err(fail)?;
    for row in rows {
        writer.write_record(&row).map_err(fail)?;
    }
    writer.into_inner().map_err(|e| Error::mismatch(out, format!("cannot write a table: {e}")))
}

/// A prepared folder whose checksums and version were found right.
struct Checked {
    dir: PathBuf,
    manifest: Manifest,
    sums: Vec<(String, String)>,
}

impl Checked {
    fn open(dir: &Path) -> Result<Checked> {
        let sums_path = dir.join(SUMS);
        if !dir.is_dir() || !sums_path.exists() {
            return Err(Error::mismatch(dir, "is not a prepared data set; make one with `lumos data prepare`"));
        }
        let bytes = fs::read(&sums_path).map_err(Error::io(&sums_path, "read"))?;
        let text = String::from_utf8(bytes).map_err(|_| damaged(&sums_path, "not text"))?;
        let sums = text.lines().filter_map(|l| l.split_once("  ")).map(|(s, n)| (n.to_owned(), s.to_owned())).collect();
        let mut checked = Checked { dir: dir.to_path_buf(), manifest: placeholder(), sums };
        let path = dir.join(MANIFEST);
        let bytes = fs::read(&path).map_err(Error::io(&path, "read"))?;
        checked.verify(MANIFEST, &bytes)?;
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| damaged(&path, &e.to_string()))?;
        if !is_current(&value) {
            let found = value.get("version").map_or("none".into(), serde_json::Value::to_string);
            return Err(Error::mismatch(path, format!("has format version {found}, this program has {FORMAT_VERSION}; {REMEDY}")));
        }
        checked.manifest = serde_json::from_value(value).map_err(|e| damaged(&path, &e.to_string()))?;
        Ok(checked)
    }

    fn verify(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.dir.join(name);
        let Some((_, sum)) = self.sums.iter().find(|(n, _)| n == name) else {
            return Err(damaged(&path, &format!("{SUMS} does not list it")));
        };
        if *sum == sha256_hex(bytes) { Ok(()) } else { Err(damaged(&path, &format!("its checksum differs from {SUMS}"))) }
    }

    fn read(&self, name: &str) -> Result<(PathBuf, Vec<u8>)> {
        let path = self.dir.join(name);
        let bytes = fs::read(&path).map_err(Error::io(&path, "read"))?;
        self.verify(name, &bytes)?;
        Ok((path, bytes))
    }

    /// Hands the tensors of the sequences to `take`, out of the mapped file.
    fn with_sequences<T>(&self, take: impl FnOnce(&Path, &SafeTensors) -> Result<T>) -> Result<T> {
        let path = self.dir.join(SEQUENCES);
        let file = File::open(&path).map_err(Error::io(&path, "open"))?;
        // SAFETY: prepared files are never changed in place (the whole folder is replaced by a rename), and everything that
        // leaves this function is a copy made after the checksum was found right.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(&path, "map"))?;
        self.verify(SEQUENCES, &map)?;
        let tensors = SafeTensors::deserialize(&map).map_err(|e| damaged(&path, &e.to_string()))?;
        take(&path, &tensors)
    }
}

fn is_current(manifest: &serde_json::Value) -> bool {
    let version = manifest.get("version").and_then(serde_json::Value::as_u64);
    [FORMAT_VERSION, GROUPED_VERSION, SPLIT_VERSION].map(|known| Some(u64::from(known))).contains(&version)
}

/// Whether `dir` was written by another version of the format. False where that cannot be found out.
pub(super) fn is_other_version(dir: &Path) -> bool {
    let text = fs::read(dir.join(MANIFEST)).unwrap_or_default();
    serde_json::from_slice(&text).is_ok_and(|v: serde_json::Value| v.get("version").is_some() && !is_current(&v))
}

/// The manifest's seat until the real one is read.
fn placeholder() -> Manifest {
    let raw = super::RawStats { users: 0, items: 0, interactions: 0 };
    Manifest {
        version: FORMAT_VERSION,
        program: String::new(),
        name: String::new(),
        fingerprint: String::new(),
        settings: Default::default(),
        inter: None,
        items: None,
        raw,
        source_notes: Default::default(),
        dropped: Default::default(),
        removed: Default::default(),
        stats: super::stats(&Dataset::default()),
    }
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::mismatch(path, format!("is damaged ({why}); {REMEDY}"))
}

/// Decodes a one-axis tensor of `W`-byte numbers.
fn decode<T, const W: usize>(path: &Path, all: &SafeTensors, name: &str, dtype: Dtype, from: fn([u8; W]) -> T) -> Result<Vec<T>> {
    let tensor = all.tensor(name).map_err(|e| damaged(path, &e.to_string()))?;
    if tensor.dtype() != dtype || tensor.shape().len() != 1 {
        let message = format!("tensor {name} is {:?} {:?}, {dtype:?} with one axis is needed", tensor.dtype(), tensor.shape());
        return Err(damaged(path, &message));
    }
    let (words, _) = tensor.data().as_chunks::<W>();
    Ok(words.iter().map(|w| from(*w)).collect())
}

/// The manifest of the prepared folder `dir`, checked.
///
/// # Errors
/// [`Error::Io`] where it cannot be read, [`Error::Mismatch`] where it is damaged, of another version or no data set at all.
pub fn load_manifest(dir: &Path) -> Result<Manifest> {
    Ok(Checked::open(dir)?.manifest)
}

/// The times of the packed interactions `[N]` of the prepared folder `dir`; `None` where the source has none.
///
/// # Errors
/// As [`load`].
pub fn load_times(dir: &Path) -> Result<Option<Times>> {
    let checked = Checked::open(dir)?;
    checked.with_sequences(|path, all| {
        let (tensor, unit) = (all.tensor("times").ok(), checked.manifest.stats.time_unit);
        let (tensor, unit) = match (tensor, unit) {
            (Some(tensor), Some(unit)) => (tensor, unit),
            (None, None) => return Ok(None),
            _ => return Err(damaged(path, "its times do not fit the manifest")),
        };
        let values = match tensor.dtype() {
            Dtype::I64 => TimeValues::Integer(decode(path, all, "times", Dtype::I64, i64::from_le_bytes)?),
            _ => TimeValues::Float(decode(path, all, "times", Dtype::F64, f64::from_le_bytes)?),
        };
        let finite = !matches!(&values, TimeValues::Float(all) if all.iter().any(|t| !t.is_finite()));
        let times = Times { values, unit };
        if times.len() as u64 != checked.manifest.stats.interactions || !finite {
            return Err(damaged(path, "times do not fit the interactions"));
        }
        Ok(Some(times))
    })
}

/// Reads the prepared folder `dir`, every checksum and every index checked.
///
/// # Errors
/// [`Error::Io`] where a file cannot be read, [`Error::Mismatch`] where one is damaged, of another version or missing.
pub fn load(dir: &Path) -> Result<Dataset> {
    let checked = Checked::open(dir)?;
    let (offsets, items, cuts) = checked.with_sequences(|path, all| {
        let offsets = decode(path, all, "offsets", Dtype::U64, u64::from_le_bytes)?;
        let items = decode(path, all, "items", Dtype::U32, u32::from_le_bytes)?;
        let part = |name| decode(path, all, name, Dtype::U32, u32::from_le_bytes);
        let cuts = match checked.manifest.version {
            SPLIT_VERSION => Some(Cuts { train: part("train")?, validation: part("validation")?, test: part("test")? }),
            _ => None,
        };
        Ok((offsets, items, cuts))
    })?;
    let (user_tokens, groups) = load_users(&checked)?;
    let (item_tokens, catalogue) = load_items(&checked)?;
    let path = dir.join(SEQUENCES);
    check_sequences(&path, &offsets, &items, user_tokens.len(), item_tokens.len())?;
    if cuts.as_ref().is_some_and(|cuts| !cuts.fit(&offsets)) {
        return Err(damaged(&path, "its cuts do not fit the sequences"));
    }
    let Manifest { name, fingerprint, stats, .. } = checked.manifest;
    let dataset = Dataset {
        name,
        fingerprint,
        user_tokens,
        item_tokens,
        offsets,
        items,
        catalogue,
        groups,
        cuts,
        released: None,
        altered: String::new(),
    };
    let counts = (dataset.users() as u64, dataset.item_count() as u64, dataset.items.len() as u64);
    if counts != (stats.users, stats.items, stats.interactions) {
        return Err(damaged(&dir.join(MANIFEST), "its counts do not fit the files"));
    }
    Ok(dataset)
}

/// Offsets must rise from 0 to the number of interactions, sequences hold three items or more, indices be in range.
fn check_sequences(path: &Path, offsets: &[u64], items: &[u32], users: usize, item_count: usize) -> Result<()> {
    let ends_fit = offsets.first() == Some(&0) && offsets.last() == Some(&(items.len() as u64));
    if offsets.len() != users + 1 || !ends_fit {
        return Err(damaged(path, "offsets do not fit users and items"));
    }
    if let Some(user) = offsets.windows(2).position(|w| w[1] < w[0] || w[1] - w[0] < 3) {
        return Err(damaged(path, &format!("the sequence of user {user} has fewer than three items")));
    }
    match items.iter().find(|i| **i as usize >= item_count) {
        Some(item) => Err(damaged(path, &format!("item index {item} is out of range, there are {item_count} items"))),
        None => Ok(()),
    }
}

/// The rows of a table below its header, each with its index checked.
fn read_table(
    checked: &Checked,
    name: &str,
    header: &[&str],
    mut row: impl FnMut(&Path, &::csv::StringRecord) -> Result<()>,
) -> Result<()> {
    let (path, bytes) = checked.read(name)?;
    let mut reader = ::csv::ReaderBuilder::new().from_reader(&bytes[..]);
    let fail = |e: ::csv::Error| damaged(&path, &e.to_string());
    if !reader.headers().map_err(fail)?.iter().eq(header.iter().copied()) {
        return Err(damaged(&path, "its header is not the one written by this version"));
    }
    let mut record = ::csv::StringRecord::new();
    let mut index = 0u64;
    while reader.read_record(&mut record).map_err(fail)? {
        if record[0].parse() != Ok(index) {
            return Err(damaged(&path, &format!("row {index} has the index {}", &record[0])));
        }
        row(&path, &record)?;
        index += 1;
    }
    Ok(())
}

fn load_users(checked: &Checked) -> Result<(Vec<String>, Option<UserGroups>)> {
    let (version, column) = (checked.manifest.version, &checked.manifest.settings.group_column);
    let grouped = version == GROUPED_VERSION || version == SPLIT_VERSION && !column.is_empty();
    let (mut tokens, mut groups) = (Vec::new(), Vec::new());
    read_table(checked, USERS, if grouped { GROUPED_COLUMNS } else { USER_COLUMNS }, |_, r| {
        tokens.push(r[1].to_owned());
        groups.extend(r.get(2).map(str::to_owned));
        Ok(())
    })?;
    Ok((tokens, grouped.then(|| UserGroups::new(&checked.manifest.settings.group_column, &groups))))
}

fn load_items(checked: &Checked) -> Result<(Vec<String>, Vec<ItemText>)> {
    let (mut tokens, mut catalogue) = (Vec::new(), Vec::new());
    let limit = checked.manifest.stats.items;
    read_table(checked, ITEMS, ITEM_COLUMNS, |path, r| {
        let bought = r[5].split('|').filter(|b| !b.is_empty()).map(|b| b.parse::<u32>().ok().filter(|b| u64::from(*b) < limit));
        let also_bought = bought
            .collect::<Option<Vec<u32>>>()
            .ok_or_else(|| damaged(path, &format!("also_bought of item {} is no list of items", &r[0])))?;
        tokens.push(r[1].to_owned());
        catalogue.push(ItemText { title: r[2].to_owned(), categories: split_bars(&r[3]), brand: r[4].to_owned(), also_bought });
        Ok(())
    })?;
    Ok((tokens, catalogue))
}
