//! The rank of every user's target in a file, so that two runs can be compared user by user.

use crate::base::files::write_file;
use crate::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;

/// Header key. One key with one JSON text, because a map of several has no order and equal ranks must give equal bytes.
const KEY: &str = "lumos";

/// What the ranks are of.
#[derive(Serialize, Deserialize)]
struct Meta {
    /// Fingerprint of the data set.
    fingerprint: String,
    /// SHA-256 over the fingerprint and the ranks, in hex.
    sha256: String,
}

/// Writes `ranks [U]` (counted from 1; [`crate::eval::MISS`] for a masked target, 0 where a user has no target) with the data set's
/// fingerprint and a checksum.
pub fn write_ranks(path: &Path, ranks: &[u32], fingerprint: &str) -> Result<()> {
    let fail = |e: &dyn std::fmt::Display| Error::mismatch(path, format!("cannot write ranks: {e}"));
    let bytes: Vec<u8> = ranks.iter().flat_map(|r| r.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::U32, vec![ranks.len()], &bytes).map_err(|e| fail(&e))?;
    let meta = Meta { fingerprint: fingerprint.to_string(), sha256: digest(fingerprint, &bytes) };
    let header = HashMap::from([(KEY.to_string(), serde_json::to_string(&meta).map_err(|e| fail(&e))?)]);
    write_file(path, &safetensors::serialize([("ranks", view)], Some(header)).map_err(|e| fail(&e))?)
}

/// The ranks and the fingerprint that [`write_ranks`] wrote, compared with their checksum.
pub fn read_ranks(path: &Path) -> Result<(Vec<u32>, String)> {
    parse_ranks(path, &std::fs::read(path).map_err(Error::io(path, "read"))?)
}

/// [`read_ranks`] of `bytes`, which are called `path` in messages.
pub fn parse_ranks(path: &Path, bytes: &[u8]) -> Result<(Vec<u32>, String)> {
    let remedy = "write it anew with `lumos eval`";
    let damaged = |why: &dyn std::fmt::Display| Error::mismatch(path, format!("damaged ({why}); {remedy}"));
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(&e))?;
    let Some(text) = header.metadata().as_ref().and_then(|m| m.get(KEY)) else {
        return Err(Error::mismatch(path, format!("has no checksum, as earlier versions wrote it; {remedy}")));
    };
    let meta: Meta = serde_json::from_str(text).map_err(|e| damaged(&e))?;
    let file = SafeTensors::deserialize(bytes).map_err(|e| damaged(&e))?;
    let view = file.tensor("ranks").map_err(|e| damaged(&e))?;
    if view.dtype() != Dtype::U32 || view.shape().len() != 1 {
        return Err(damaged(&"ranks are not a list of 32-bit counts"));
    }
    if digest(&meta.fingerprint, view.data()) != meta.sha256 {
        return Err(damaged(&"it does not match its checksum"));
    }
    Ok((view.data().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect(), meta.fingerprint))
}

fn digest(fingerprint: &str, ranks: &[u8]) -> String {
    let mut sum = Sha256::new();
    sum.update(format!("{fingerprint} {}\n", ranks.len()));
    sum.update(ranks);
    hex::encode(sum.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_found_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ranks");
        let ranks = [3, 0, 1, crate::eval::MISS, 77];
        write_ranks(&path, &ranks, "abc").unwrap();
        assert_eq!(read_ranks(&path).unwrap(), (ranks.to_vec(), "abc".to_string()));
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                let message = parse_ranks(&path, &bytes).unwrap_err().to_string();
                assert!(message.contains("lumos eval"), "byte {at}, bit {bit}: {message}");
            }
            assert!(parse_ranks(&path, &whole[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn ranks_without_a_checksum_are_refused_with_the_remedy() {
        let bytes = 5u32.to_le_bytes();
        let view = TensorView::new(Dtype::U32, vec![1], &bytes).unwrap();
        let old = safetensors::serialize([("ranks", view)], Some(HashMap::from([("fingerprint".into(), "abc".into())]))).unwrap();
        let message = parse_ranks(Path::new("ranks"), &old).unwrap_err().to_string();
        assert!(message.contains("no checksum") && message.contains("lumos eval"), "{message}");
    }
}
