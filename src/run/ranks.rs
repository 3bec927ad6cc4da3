//! The rank of every user's target in a file, so that two runs can be compared user by user.

use crate::base::files::write_file;
use crate::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::path::Path;

/// Writes `ranks [U]` (counted from 1; [`crate::eval::MISS`] for a masked target, 0 where a user has no target) with the data set's fingerprint.
pub fn write_ranks(path: &Path, ranks: &[u32], fingerprint: &str) -> Result<()> {
    let fail = |e: safetensors::SafeTensorError| Error::mismatch(path, format!("cannot write ranks: {e}"));
    let bytes: Vec<u8> = ranks.iter().flat_map(|r| r.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::U32, vec![ranks.len()], &bytes).map_err(fail)?;
    let header = HashMap::from([("fingerprint".to_string(), fingerprint.to_string())]);
    write_file(path, &safetensors::serialize([("ranks", view)], Some(header)).map_err(fail)?)
}

/// The ranks and the fingerprint that [`write_ranks`] wrote.
pub fn read_ranks(path: &Path) -> Result<(Vec<u32>, String)> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let damaged = |why: &dyn std::fmt::Display| Error::mismatch(path, format!("damaged ({why}); write it anew with `lumos eval`"));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e))?;
    let fingerprint = header.metadata().as_ref().and_then(|m| m.get("fingerprint")).cloned().ok_or_else(|| damaged(&"no fingerprint"))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(&e))?;
    let view = file.tensor("ranks").map_err(|e| damaged(&e))?;
    if view.dtype() != Dtype::U32 {
        return Err(damaged(&"ranks are not 32-bit counts"));
    }
    Ok((view.data().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect(), fingerprint))
}
