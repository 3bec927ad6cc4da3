//! Each tensor as a `.npy` file of its own.

use super::{Exported, Source, write};
use crate::run::{Observer, RunFolder};
use crate::{Error, Result};
use std::path::Path;

/// Writes every weight of the checkpoint `name` as `NAME.npy` into `out`, and the catalogue as `items.csv`. `items.npy` holds the item vectors
/// `[I, d]` in the order of `items.csv`, behind them special rows such as a mask.
///
/// # Errors
/// Where the checkpoint or the data set cannot be read, or `out` not written.
pub fn to_numpy(folder: &RunFolder, name: &str, out: &Path, observer: &dyn Observer) -> Result<Exported> {
    let source = Source::open(folder, name, observer)?;
    let mut files = vec![("items.csv".to_string(), source.catalogue()?)];
    for (name, (shape, values)) in &source.weights {
        files.push((format!("{name}.npy"), npy(shape, values)?));
    }
    write(out, source.round, files)
}

/// NumPy's format 1.0, little-endian 32-bit floats, row-major.
fn npy(shape: &[usize], values: &[f32]) -> Result<Vec<u8>> {
    let axes: String = shape.iter().map(|n| format!("{n},")).collect();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({axes}), }}");
    // Ten bytes come before it, and the values begin at a multiple of 64.
    let length = (header.len() + 11).next_multiple_of(64) - 10;
    let size = u16::try_from(length).map_err(|_| Error::Usage("a tensor has too many axes for numpy".into()))?;
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend(size.to_le_bytes());
    out.extend(format!("{header:<width$}\n", width = length - 1).bytes());
    out.extend(values.iter().flat_map(|x| x.to_le_bytes()));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::npy;

    #[test]
    fn a_file_has_its_header_and_values_at_their_places() {
        let bytes = npy(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
        let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!((10 + length) % 64, 0);
        let header = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
        assert!(header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2,3,), }") && header.ends_with('\n'), "{header:?}");
        assert_eq!(bytes.len(), 10 + length + 24);
        assert_eq!(&bytes[10 + length..][..8], [1f32.to_le_bytes(), 2f32.to_le_bytes()].concat());
    }
}
