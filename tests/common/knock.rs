//! Inputs for doors: whole files with bytes changed, cut, doubled and mixed, by seed.

use lumos::base::rng::{Purpose, Stream};
use std::path::Path;

/// How often each seed is changed; `LUMOS_FUZZ_TIMES` multiplies it.
fn times(usual: u64) -> u64 {
    usual * std::env::var("LUMOS_FUZZ_TIMES").map_or(1, |n| n.parse().unwrap_or_else(|_| panic!("LUMOS_FUZZ_TIMES={n} is no number")))
}

/// Numbers and words that readers stumble over.
const ODD: [&[u8]; 20] = [
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x00\x00\x00\x00\x00\x00\x00\x80",
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\x7f",
    b"1000000000",
    b"-1",
    b"0",
    b"1e308",
    b"null",
    b"[]",
    b"{}",
    b"\"",
    b"{{",
    b"{%",
    b"%}",
    b"((((((((((((((((",
    b"</think>",
    b"<think>",
    "\u{202e}\u{200b}\u{10ffff}\u{130}".as_bytes(),
    b"[[[[[[[[[[[[[[[[",
];

/// `seeds`, each changed `n` times in a few places, given to `door`. With `LUMOS_FUZZ_CORPUS=DIR` the seeds are also written to `DIR/NAME`,
/// for `cargo fuzz run NAME DIR/NAME`.
pub fn knock(name: &str, seeds: &[Vec<u8>], n: u64, door: impl Fn(&[u8])) {
    if let Some(folder) = std::env::var_os("LUMOS_FUZZ_CORPUS").map(|root| Path::new(&root).join(name)) {
        std::fs::create_dir_all(&folder).unwrap();
        seeds.iter().enumerate().for_each(|(i, seed)| std::fs::write(folder.join(format!("seed-{i}")), seed).unwrap());
    }
    for (s, seed) in seeds.iter().enumerate() {
        door(seed);
        for i in 0..times(n) {
            let mut draw = Stream::new(11, Purpose::Bench, s as u64, i);
            let mut below = |n: usize| draw.below(n.max(1) as u64) as usize;
            let mut bytes = seed.clone();
            for _ in 0..=below(4) {
                let at = below(bytes.len() + 1);
                match below(8) {
                    0 if at < bytes.len() => bytes[at] ^= 1 << below(8),
                    1 if at < bytes.len() => bytes[at] = below(256) as u8,
                    2 => bytes.truncate(at),
                    3 => drop(bytes.drain(at..(at + below(16)).min(bytes.len()))),
                    4 => {
                        let copy = bytes[at..(at + below(64)).min(bytes.len())].to_vec();
                        let to = below(bytes.len() + 1);
                        bytes.splice(to..to, copy);
                    }
                    5 => {
                        let odd = ODD[below(ODD.len())];
                        let end = (at + odd.len()).min(bytes.len());
                        bytes.splice(at..end, odd.iter().copied());
                    }
                    6 => {
                        let odd = ODD[below(ODD.len())];
                        bytes.splice(at..at, odd.iter().copied());
                    }
                    _ => {
                        let other = &seeds[below(seeds.len())];
                        let from = below(other.len());
                        bytes.truncate(at);
                        bytes.extend_from_slice(&other[from..]);
                    }
                }
            }
            door(&bytes);
        }
    }
}
