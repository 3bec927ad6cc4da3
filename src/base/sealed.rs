//! Files that are believed whole or not at all, such as what is computed from titles once and read again: eight bytes that name the kind, the key of
//! what it was made from, the body, a SHA-256 of all that.

use super::files::write_file;
use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::path::Path;

/// Bytes of a digest, and of a key.
const SUM: usize = 32;

/// The body of `bytes`, if they are a whole file of this kind and key.
pub fn body<'b>(bytes: &'b [u8], kind: &[u8; 8], key: &[u8]) -> Option<&'b [u8]> {
    let (sealed, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM)?)?;
    let body = sealed.strip_prefix(kind)?.strip_prefix(key)?;
    (Sha256::digest(sealed)[..] == *sum).then_some(body)
}

/// The start of a file of this kind and key, for a body of `room` bytes to follow.
pub fn begin(kind: &[u8; 8], key: &[u8], room: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(kind.len() + key.len() + room + SUM);
    bytes.extend_from_slice(kind);
    bytes.extend_from_slice(key);
    bytes
}

/// Closes what [`begin`] began and writes it; the folder is made where it is missing.
///
/// # Errors
/// Where it cannot be written.
pub fn write(path: &Path, mut bytes: Vec<u8>) -> Result<()> {
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    }
    write_file(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_back_and_any_damage_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("a.file");
        let (kind, key) = (b"LUMTEST1", [7u8; SUM]);
        let mut bytes = begin(kind, &key, 3);
        bytes.extend_from_slice(b"abc");
        write(&path, bytes).unwrap();
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(body(&whole, kind, &key), Some(&b"abc"[..]));
        assert_eq!(body(&whole, b"LUMTEST2", &key), None);
        assert_eq!(body(&whole, kind, &[8u8; SUM]), None);
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert_eq!(body(&damaged, kind, &key), None, "byte {at}");
            assert_eq!(body(&whole[..at], kind, &key), None, "cut at {at}");
        }
    }
}
