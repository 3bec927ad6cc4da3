//! The kernel that stores keys and values for the candle engine: every word to its place, and nothing else touched.

use lumos_simt::check::Random;

/// Stores `rows` rows of `width` words at places without order, in blocks of `threads`.
fn stores<Word: Copy + PartialEq + std::fmt::Debug>(name: &str, of: fn(u64) -> Word, rows: usize, width: usize, threads: u32) {
    let mut random = Random::new((rows * 1000 + width) as u64);
    let held = 2 * rows + 3;
    let mut places: Vec<u32> = (0..held as u32).collect();
    for i in (1..held).rev() {
        places.swap(i, random.below(i + 1));
    }
    places.truncate(rows);
    // Any bits, those of NaNs among them.
    let x: Vec<Word> = (0..rows * width).map(|_| of(random.bits())).collect();
    let before: Vec<Word> = (0..held * width).map(|_| of(random.bits())).collect();
    let mut cache = before.clone();
    // A block more than is needed.
    let blocks = (rows * width).div_ceil(threads as usize) as u32 + 1;
    let (at, to) = (places.as_ptr(), cache.as_mut_ptr());
    launch!(name, [blocks, 1, 1], [threads, 1, 1], 0, x.as_ptr(), at, to, rows as u32, width as u32).unwrap();
    let mut expected = before;
    for (row, &place) in x.chunks_exact(width).zip(&places) {
        expected[place as usize * width..][..width].copy_from_slice(row);
    }
    assert_eq!(cache, expected, "{name}: {rows} rows of {width} in blocks of {threads}");
}

#[test]
fn rows_go_to_their_places_bit_for_bit() {
    for (rows, width, threads) in [(1, 1, 32), (1, 8, 1024), (3, 7, 64), (17, 33, 96), (40, 64, 1024), (5, 127, 256)] {
        stores("store_16", |bits| bits as u16, rows, width, threads);
        stores("store_32", |bits| bits as u32, rows, width, threads);
    }
}
