//! Finding, reading, checking and decompressing source files.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::manifest::SourceFile;
use super::reader::data_error;
use crate::base::files::sha256_hex;
use crate::{Error, Result};

/// A source file in memory: checked to be UTF-8, decompressed where it was gzip or zstd.
pub struct Source {
    /// Where it was found.
    pub path: PathBuf,
    /// Its text, without a byte order mark.
    pub text: String,
    /// Size, change time and checksum of the file as it lies on disk.
    pub file: SourceFile,
}

/// Where `path` is: as it is when absolute; else under the working folder, `$LUMOS_DATA`, `../shared/data`, in this order.
///
/// # Errors
/// [`Error::Io`] that lists every place looked at.
pub fn resolve_source(path: &Path) -> Result<PathBuf> {
    let mut looked = vec![path.to_path_buf()];
    if path.is_relative() {
        if let Some(root) = std::env::var_os("LUMOS_DATA").filter(|v| !v.is_empty()) {
            looked.push(Path::new(&root).join(path));
        }
        looked.push(Path::new("../shared/data").join(path));
    }
    if let Some(found) = looked.iter().find(|p| p.exists()) {
        return Ok(found.clone());
    }
    let list: Vec<String> = looked.iter().map(|p| p.display().to_string()).collect();
    let remedy = "give the full path or set LUMOS_DATA to the folder of the data sets";
    let reason = std::io::Error::new(std::io::ErrorKind::NotFound, format!("looked for {}; {remedy}", list.join(", ")));
    Err(Error::io(path, "find")(reason))
}

/// Size and change time (nanoseconds since 1970) of a file: what tells cheaply whether it changed.
pub(super) fn size_and_time(path: &Path) -> Result<(u64, u64)> {
    let meta = fs::metadata(path).map_err(Error::io(path, "read"))?;
    let time = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos() as u64);
    Ok((meta.len(), time))
}

/// Reads the whole file at `path`.
pub(super) fn read_source(path: &Path) -> Result<Source> {
    let (_, modified) = size_and_time(path)?;
    let bytes = fs::read(path).map_err(Error::io(path, "read"))?;
    let file = SourceFile { path: path.to_path_buf(), bytes: bytes.len() as u64, modified, sha256: sha256_hex(&bytes) };
    let mut bytes = decompress(path, bytes)?;
    if bytes.starts_with(b"\xEF\xBB\xBF") {
        bytes.drain(..3);
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(data_error(path, 0, "the file is empty"));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() as u64;
        data_error(path, line, format!("byte {at} is not UTF-8; convert the file (for example with iconv)"))
    })?;
    Ok(Source { path: path.to_path_buf(), text, file })
}

/// Unpacks gzip and zstd, known by their first bytes or, so that a wrong one is named as such, by the file's ending.
fn decompress(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let broken = |what: &str, why: String| data_error(path, 0, format!("not a whole {what} file ({why}); fetch it again"));
    if bytes.starts_with(&[0x1f, 0x8b]) || ending == "gz" {
        let mut out = Vec::new();
        flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut out).map_err(|e| broken("gzip", e.to_string()))?;
        Ok(out)
    } else if bytes.starts_with(&0xFD2F_B528u32.to_le_bytes()) || ending == "zst" {
        unzstd(&bytes).map_err(|why| broken("zstd", why))
    } else {
        Ok(bytes)
    }
}

/// Every frame of a zstd file, skippable ones left out, content checksums verified.
fn unzstd(mut rest: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let mut out = Vec::new();
    while !rest.is_empty() {
        if let [a @ 0x50..=0x5f, 0x2a, 0x4d, 0x18, b, c, d, e, ..] = *rest {
            debug_assert!(a & 0xf0 == 0x50);
            let skip = 8 + u32::from_le_bytes([b, c, d, e]) as usize;
            rest = rest.get(skip..).ok_or("a skippable frame is cut short")?;
            continue;
        }
        let mut decoder = ruzstd::decoding::StreamingDecoder::new(&mut rest).map_err(|e| e.to_string())?;
        decoder.read_to_end(&mut out).map_err(|e| e.to_string())?;
        let frame = decoder.into_frame_decoder();
        if let Some(stored) = frame.get_checksum_from_data()
            && frame.get_calculated_checksum() != Some(stored)
        {
            return Err("its checksum is wrong".into());
        }
    }
    Ok(out)
}
