//! A batch as the kernels want it: lists of numbers, uploaded in one piece.

use super::super::network::{BLOCK, Batch};
use std::ops::Range;

/// Queries of a block of attention's threads.
const TILE: usize = 16;

/// Lists within one buffer of 32-bit numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lists {
    /// All numbers.
    pub numbers: Vec<i32>,
    /// Tokens `[T]`.
    pub tokens: Range<usize>,
    /// Positions `[T]`.
    pub positions: Range<usize>,
    /// Places of the rows' keys in the cache `[T]`: block * 16 + position in it.
    pub places: Range<usize>,
    /// Attention's tiles `[n, 4]`: first row, rows, position of the first row, start in `tables`.
    pub tiles: Range<usize>,
    /// Block numbers.
    pub tables: Range<usize>,
    /// Rows whose logits are wanted.
    pub wanted: Range<usize>,
}

impl Lists {
    /// For heads of which `group` share a key head.
    pub fn new(batch: &Batch, group: usize) -> Lists {
        let mut lists = Lists::default();
        let numbers = &mut lists.numbers;
        let mut list = |values: &mut dyn Iterator<Item = i32>| {
            let start = numbers.len();
            numbers.extend(values);
            start..numbers.len()
        };
        let rows = || batch.segments.iter().flat_map(|s| (s.position..s.position + s.rows).map(move |position| (s, position)));
        let place = |table: usize, position: usize| batch.tables[table + position / BLOCK] as usize * BLOCK + position % BLOCK;
        lists.tokens = list(&mut batch.tokens.iter().map(|t| *t as i32));
        lists.positions = list(&mut rows().map(|(_, position)| position as i32));
        lists.places = list(&mut rows().map(|(s, position)| place(s.table.start, position) as i32));
        let most = (TILE / group.min(TILE)).max(1);
        let tiles = batch.segments.iter().flat_map(|s| {
            let tile = move |from: usize| [s.row + from, most.min(s.rows - from), s.position + from, s.table.start];
            (0..s.rows).step_by(most).flat_map(tile)
        });
        lists.tiles = list(&mut tiles.map(|n| n as i32));
        lists.tables = list(&mut batch.tables.iter().map(|b| *b as i32));
        lists.wanted = list(&mut batch.wanted.iter().map(|r| *r as i32));
        lists
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_tile_and_has_its_place() {
        let mut batch = Batch::default();
        batch.push(&[5, 6, 7, 8, 9], 14, &[3, 0], true);
        batch.push(&[1], 40, &[7, 2, 5], true);
        batch.push(&[2; 20], 0, &[9, 4], false);
        for (group, most) in [(1, 16), (3, 5), (7, 2), (16, 1), (40, 1)] {
            let l = Lists::new(&batch, group);
            let of = |r: &Range<usize>| &l.numbers[r.clone()];
            assert_eq!(of(&l.tokens)[..6], [5, 6, 7, 8, 9, 1]);
            assert_eq!(of(&l.positions)[..6], [14, 15, 16, 17, 18, 40]);
            assert_eq!(of(&l.places)[..6], [3 * 16 + 14, 3 * 16 + 15, 0, 1, 2, 5 * 16 + 8]);
            assert_eq!(of(&l.wanted), [4, 5]);
            let mut next = 0;
            for tile in of(&l.tiles).as_chunks::<4>().0 {
                assert_eq!(tile[0], next);
                assert!(tile[1] >= 1 && tile[1] <= most, "{tile:?}");
                assert_eq!(tile[2], of(&l.positions)[tile[0] as usize]);
                let segment = batch.segments.iter().find(|s| (s.row..s.row + s.rows).contains(&(next as usize))).unwrap();
                assert!((next + tile[1]) as usize <= segment.row + segment.rows);
                assert_eq!(tile[3] as usize, segment.table.start);
                next += tile[1];
            }
            assert_eq!(next, 26);
        }
    }
}
