//! The row-sparse encoding of a client's update, and what it costs. Little-endian:
//! `magic u32, client u32, weight u32, P u32, R u32`, then `P` f32 of dense change, `R` item ids u32, `R * d` f32 of rows.

use super::Update;
use crate::{Error, Result};

const MAGIC: u32 = 0x554D_554C;
const HEADER: usize = 20;

/// Bytes of an update with `dense` weights and `rows` rows of width `d`.
pub fn encoded_len(dense: usize, rows: usize, d: usize) -> u64 {
    (HEADER + 4 * dense + rows * (4 + 4 * d)) as u64
}

/// Bytes of what is sent to a client before its visit: `dense` weights and `rows` rows of width `d`, with `moments` the server's second moments of
/// them as well.
pub fn sent_len(dense: usize, rows: usize, d: usize, moments: bool) -> u64 {
    encoded_len(dense, rows, d) + if moments { 4 * (dense + rows * d) as u64 } else { 0 }
}

/// Encodes an update.
pub fn encode(update: &Update) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + 4 * (update.dense.len() + update.items.len() + update.rows.len()));
    for word in [MAGIC, update.client, update.weight, update.dense.len() as u32, update.items.len() as u32] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend(update.dense.iter().flat_map(|x| x.to_le_bytes()));
    out.extend(update.items.iter().flat_map(|x| x.to_le_bytes()));
    out.extend(update.rows.iter().flat_map(|x| x.to_le_bytes()));
    out
}

/// Decodes an update of rows of width `d`. Anything malformed is refused.
pub fn decode(bytes: &[u8], d: usize) -> Result<Update> {
    let bad = |what: &str| Error::Usage(format!("update of {} bytes: {what}; the sender is broken or speaks another version", bytes.len()));
    let word = |i: usize| bytes.get(4 * i..4 * i + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).ok_or_else(|| bad("too short"));
    if word(0)? != MAGIC {
        return Err(bad("not a LUMOS update"));
    }
    let (client, weight, dense, rows) = (word(1)?, word(2)?, word(3)? as usize, word(4)? as usize);
    if encoded_len(dense, rows, d) != bytes.len() as u64 {
        return Err(bad("its length does not fit its header"));
    }
    let floats = |from: usize, n: usize| (from..from + n).map(|i| word(i).map(f32::from_bits)).collect::<Result<Vec<f32>>>();
    Ok(Update {
        client,
        weight,
        dense: floats(5, dense)?,
        items: (5 + dense..5 + dense + rows).map(word).collect::<Result<_>>()?,
        rows: floats(5 + dense + rows, rows * d)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip_and_length(client in any::<u32>(), weight in any::<u32>(), d in 1usize..9, dense in prop::collection::vec(-1e3f32..1e3, 0..40), items in prop::collection::vec(any::<u32>(), 0..12)) {
            let rows = (0..items.len() * d).map(|i| i as f32).collect();
            let update = Update { client, weight, dense, items, rows };
            let bytes = encode(&update);
            prop_assert_eq!(bytes.len() as u64, encoded_len(update.dense.len(), update.items.len(), d));
            prop_assert_eq!(decode(&bytes, d).unwrap(), update);
        }

        #[test]
        fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), d in 1usize..9) {
            prop_assert!(decode(&bytes, d).is_err());
        }

        #[test]
        fn a_cut_update_is_refused(keep in 0usize..107) {
            let update = Update { client: 1, weight: 2, dense: vec![1.0; 7], items: vec![3, 4], rows: vec![0.5; 13 * 2] };
            let bytes = encode(&update);
            prop_assert!(keep >= bytes.len() || decode(&bytes[..keep], 13).is_err());
        }
    }
}
