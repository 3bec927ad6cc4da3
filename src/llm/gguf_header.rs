//! The header of a GGUF file, held against limits and the file's length before anything is allocated by what it says.
//!
//! candle's reader bounds single counts and lengths. It does not bound what they add up to, keeps 32 bytes for an array's element of
//! one byte, divides by the alignment, multiplies dimensions without a check, and reads tensors that share their bytes once each.

use candle_core::quantized::gguf_file::Content;
use std::collections::HashSet;
use std::io::{Read, Seek, SeekFrom};

/// Most tensors; models of 405 billion weights have about 1,100.
const MOST_TENSORS: u64 = 1 << 17;
/// Most entries of metadata; published files have a few dozen.
const MOST_ENTRIES: u64 = 1 << 14;
/// Most elements of all arrays together; a vocabulary of 262,144 tokens has three arrays of as many.
const MOST_ELEMENTS: u64 = 1 << 23;
/// Most bytes of a key and of a tensor's name.
const MOST_NAME: u64 = 1 << 16;
/// Arrays inside arrays.
const DEEPEST: u32 = 4;

/// Why a header is refused.
type Outcome<T> = Result<T, String>;

/// A reader that knows how much is left.
struct Header<'r, R> {
    reader: &'r mut R,
    left: u64,
    /// Bytes of a count or length: 4 in version 1, 8 in later ones.
    width: usize,
    elements: u64,
}

/// Refuses a header that cannot be true of a file of this length; leaves the reader at its start. Gives the number of tensors.
pub(super) fn check(reader: &mut (impl Read + Seek)) -> Outcome<u64> {
    let reason = |e: std::io::Error| e.to_string();
    let left = reader.seek(SeekFrom::End(0)).map_err(reason)?;
    reader.seek(SeekFrom::Start(0)).map_err(reason)?;
    let tensors = Header { reader, left, width: 8, elements: 0 }.walk()?;
    reader.seek(SeekFrom::Start(0)).map_err(reason)?;
    Ok(tensors)
}

/// Refuses tensors that do not lie in a file of `length` bytes, or lie on one another.
pub(super) fn check_tensors(content: &Content, tensors: u64, length: u64) -> Outcome<()> {
    if content.tensor_infos.len() as u64 != tensors {
        return Err("a tensor's name occurs twice".into());
    }
    let mut all = 0u64;
    for (name, info) in &content.tensor_infos {
        let dims = info.shape.dims();
        let name = || crate::llm::shown(name);
        let elements = dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d as u64)).filter(|n| *n > 0 && !dims.is_empty());
        let elements = elements.ok_or_else(|| format!("`{}` has shape {dims:?}, which no tensor can have", name()))?;
        let (block, bytes) = (info.ggml_dtype.block_size() as u64, info.ggml_dtype.type_size() as u64);
        let bytes = elements.div_ceil(block).checked_mul(bytes);
        let end = bytes.and_then(|bytes| content.tensor_data_offset.checked_add(info.offset)?.checked_add(bytes));
        match (bytes, end) {
            (Some(bytes), Some(end)) if end <= length => all = all.saturating_add(bytes),
            _ => return Err(format!("`{}` of shape {dims:?} ends behind the file's {length} bytes", name())),
        }
    }
    if all > length {
        return Err(format!("its tensors have {all} bytes together, the file has {length}: they lie on one another"));
    }
    Ok(())
}

impl<R: Read> Header<'_, R> {
    fn walk(mut self) -> Outcome<u64> {
        // Both orders of bytes, as candle takes them.
        if !matches!(&self.bytes::<4>()?, b"GGUF" | b"FUGG") {
            return Err("it does not begin with GGUF".into());
        }
        self.width = match self.number()? {
            1 => 4,
            2 | 3 => 8,
            other => return Err(format!("version {other} is not known (1 to 3)")),
        };
        let tensors = self.limited("tensors", MOST_TENSORS)?;
        let entries = self.limited("entries of metadata", MOST_ENTRIES)?;
        let mut keys = HashSet::new();
        for _ in 0..entries {
            let length = self.limited("bytes in a key", MOST_NAME)?;
            let key = self.text(length)?;
            let kind = self.number()?;
            if key == b"general.alignment" {
                self.alignment(kind)?;
            } else {
                self.value(kind, 0)?;
            }
            if let Some(key) = keys.replace(key) {
                return Err(format!("the key `{}` occurs twice", crate::llm::shown(&String::from_utf8_lossy(&key))));
            }
        }
        for _ in 0..tensors {
            let length = self.limited("bytes in a tensor's name", MOST_NAME)?;
            self.skip(length)?;
            let dimensions = self.number()?;
            if dimensions > 4 {
                return Err(format!("a tensor has {dimensions} dimensions, 4 is the most"));
            }
            // Dimensions, the form of the numbers, and where they lie.
            self.skip(u64::from(dimensions) * self.width as u64 + 4 + 8)?;
        }
        Ok(tensors)
    }

    fn bytes<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let mut bytes = [0; N];
        self.take(N as u64)?;
        self.reader.read_exact(&mut bytes).map_err(|e| e.to_string())?;
        Ok(bytes)
    }

    fn take(&mut self, bytes: u64) -> Outcome<()> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or_else(|| format!("its header wants {bytes} more bytes where the file has {}", self.left))?;
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> Outcome<()> {
        self.take(bytes)?;
        match std::io::copy(&mut self.reader.by_ref().take(bytes), &mut std::io::sink()) {
            Ok(n) if n == bytes => Ok(()),
            Ok(_) => Err("the header is cut off".into()),
            Err(e) => Err(e.to_string()),
        }
    }

    fn number(&mut self) -> Outcome<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    /// A count or length.
    fn count(&mut self) -> Outcome<u64> {
        if self.width == 4 { self.number().map(u64::from) } else { self.bytes().map(u64::from_le_bytes) }
    }

    fn limited(&mut self, what: &str, most: u64) -> Outcome<u64> {
        match self.count()? {
            n if n <= most => Ok(n),
            n => Err(format!("its header says {n} {what}, {most} is the most")),
        }
    }

    fn text(&mut self, length: u64) -> Outcome<Vec<u8>> {
        self.take(length)?;
        let mut text = Vec::new();
        self.reader.by_ref().take(length).read_to_end(&mut text).map_err(|e| e.to_string())?;
        Ok(text)
    }

    /// Passes over a value.
    fn value(&mut self, kind: u32, depth: u32) -> Outcome<()> {
        match kind {
            8 => {
                let length = self.count()?;
                self.skip(length)
            }
            9 if depth == DEEPEST => Err(format!("arrays lie in arrays more than {DEEPEST} deep")),
            9 => {
                let (kind, length) = (self.number()?, self.count()?);
                self.elements = self.elements.saturating_add(length);
                if self.elements > MOST_ELEMENTS {
                    return Err(format!("its arrays have {} elements, {MOST_ELEMENTS} is the most", self.elements));
                }
                match size(kind) {
                    Some(size) => self.skip(length * size),
                    None => (0..length).try_for_each(|_| self.value(kind, depth + 1)),
                }
            }
            kind => match size(kind) {
                Some(size) => self.skip(size),
                None => Err(format!("a value of type {kind} is not known (0 to 12)")),
            },
        }
    }

    /// The value by which candle divides.
    fn alignment(&mut self, kind: u32) -> Outcome<()> {
        let size = size(kind).filter(|_| !matches!(kind, 6 | 7 | 12));
        let Some(size) = size else { return Err("`general.alignment` is no whole number".into()) };
        let mut bytes = [0; 8];
        self.take(size)?;
        self.reader.read_exact(&mut bytes[..size as usize]).map_err(|e| e.to_string())?;
        match u64::from_le_bytes(bytes) {
            n if n.is_power_of_two() && n <= 1 << 16 => Ok(()),
            n => Err(format!("`general.alignment` is {n}, it must be a power of 2 up to 65536")),
        }
    }
}

/// Bytes of a number of this type; `None` for texts, arrays and unknown types.
fn size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}
