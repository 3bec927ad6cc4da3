//! The files of a zip archive that are stored as they are, which is how `torch.save` writes them.

use flate2::Crc;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// An archive in memory.
pub(super) struct Archive<'b> {
    bytes: &'b [u8],
    entries: Vec<Entry>,
    /// Places of the entries whose checksum was found right. A storage may be read for several tensors.
    sound: RefCell<BTreeSet<usize>>,
}

struct Entry {
    name: String,
    method: u16,
    crc: u32,
    packed: u64,
    size: u64,
    /// Where its local header begins.
    at: u64,
}

/// Longest end of an archive: its fixed part and a comment.
const END: usize = 22 + u16::MAX as usize;

/// Length of the fixed part of an entry of the directory.
const FIXED: usize = 46;

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Where the directory of the archive begins.
fn directory(bytes: &[u8]) -> Option<usize> {
    let from = bytes.len().saturating_sub(END);
    let end = from + bytes[from..].windows(4).rposition(|w| w == b"PK\x05\x06")?;
    let locator = end.checked_sub(20).filter(|at| bytes[*at..].starts_with(b"PK\x06\x07"));
    match locator {
        None => usize::try_from(word(bytes, end + 16)?).ok(),
        Some(locator) => {
            let end = usize::try_from(long(bytes, locator + 8)?).ok()?;
            let found = bytes.get(end..)?.starts_with(b"PK\x06\x06");
            found.then(|| long(bytes, end.checked_add(48)?))?.and_then(|at| usize::try_from(at).ok())
        }
    }
}

/// The entry at the start of `bytes`, and what lies behind it.
fn entry(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (name, extra, comment) = (short(bytes, 28)?.into(), usize::from(short(bytes, 30)?), usize::from(short(bytes, 32)?));
    let rest = bytes.get(FIXED..)?;
    let (name, rest) = rest.split_at_checked(name)?;
    let (extra, rest) = rest.split_at_checked(extra)?;
    let (_, rest) = rest.split_at_checked(comment)?;
    let mut wide = wide(extra).unwrap_or_default().chunks_exact(8);
    // Where a number does not fit into 32 bits, the next of 64 bits stands for it.
    let mut number = |at: usize| match word(bytes, at)? {
        u32::MAX => long(wide.next()?, 0),
        small => Some(u64::from(small)),
    };
    let (size, packed, at) = (number(24)?, number(20)?, number(42)?);
    let name = String::from_utf8_lossy(name).into_owned();
    Some((Entry { name, method: short(bytes, 10)?, crc: word(bytes, 16)?, packed, size, at }, rest))
}

/// The numbers of 64 bits among the extra fields of an entry.
fn wide(mut extra: &[u8]) -> Option<&[u8]> {
    loop {
        let (id, length) = (short(extra, 0)?, usize::from(short(extra, 2)?));
        let field = extra.get(4..4 + length)?;
        if id == 1 {
            return Some(field);
        }
        extra = &extra[4 + length..];
    }
}

impl<'b> Archive<'b> {
    /// The archive in `bytes`.
    ///
    /// # Errors
    /// Why it is none, or not a whole one.
    pub fn open(bytes: &'b [u8]) -> Result<Archive<'b>, String> {
        let cut = || "it is not a whole archive; fetch or copy it again".to_string();
        let mut rest = directory(bytes).and_then(|at| bytes.get(at..)).ok_or_else(cut)?;
        let mut entries = Vec::new();
        while rest.starts_with(b"PK\x01\x02") {
            let (entry, behind) = entry(rest).ok_or_else(cut)?;
            entries.push(entry);
            rest = behind;
        }
        if entries.is_empty() {
            return Err(cut());
        }
        Ok(Archive { bytes, entries, sound: RefCell::default() })
    }

    /// Bytes of the whole archive.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Takes every checksum for right, so that changed bytes get behind them.
    pub fn trusted(self) -> Archive<'b> {
        self.sound.borrow_mut().extend(0..self.entries.len());
        self
    }

    /// The only file whose name ends with `ending`; its name without it, and its bytes.
    ///
    /// # Errors
    /// Where there is none or more than one, and as for [`Archive::file`].
    pub fn only(&self, ending: &str) -> Result<(&str, &'b [u8]), String> {
        let mut found = self.entries.iter().filter_map(|entry| entry.name.strip_suffix(ending));
        match (found.next(), found.next()) {
            (Some(folder), None) => Ok((folder, self.file(&format!("{folder}{ending}"))?)),
            (None, _) => Err(format!("the archive holds no `{ending}`, so that it was not written by torch.save")),
            (Some(_), Some(_)) => Err(format!("the archive holds more than one `{ending}`")),
        }
    }

    /// The bytes of the file called `name`, after its checksum.
    ///
    /// # Errors
    /// Where it is missing, packed, cut or changed.
    pub fn file(&self, name: &str) -> Result<&'b [u8], String> {
        let place = self.entries.iter().position(|entry| entry.name == name);
        let place = place.ok_or_else(|| format!("the archive has no file `{name}`"))?;
        let entry = &self.entries[place];
        if entry.method != 0 || entry.packed != entry.size {
            return Err(format!("`{name}` is packed; torch.save stores files as they are: save the model again"));
        }
        let bytes = self.content(entry).ok_or_else(|| format!("`{name}` is cut; fetch or copy the file again"))?;
        if !self.sound.borrow().contains(&place) {
            let mut crc = Crc::new();
            crc.update(bytes);
            if crc.sum() != entry.crc {
                return Err(format!("the checksum of `{name}` is wrong; fetch or copy the file again"));
            }
            self.sound.borrow_mut().insert(place);
        }
        Ok(bytes)
    }

    fn content(&self, entry: &Entry) -> Option<&'b [u8]> {
        let local = self.bytes.get(usize::try_from(entry.at).ok()?..)?;
        let local = local.starts_with(b"PK\x03\x04").then_some(local)?;
        let head = 30 + usize::from(short(local, 26)?) + usize::from(short(local, 28)?);
        local.get(head..)?.get(..usize::try_from(entry.size).ok()?)
    }
}
