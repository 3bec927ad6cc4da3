//! The embeddings of a catalogue's titles, kept on disk, and the title nearest to a line: exact, by all cosines.

use super::super::cpu::matrix::Matrix;
use super::super::weights::{Plain, Stored};
use super::{Encoder, unit};
use crate::Result;
use crate::base::sealed;
use memmap2::Mmap;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Titles of one part: its cosines with a block of lines stay in the cache.
const PART: usize = 16_384;
/// Lines matched at a time.
const LINES: usize = 64;

const MAGIC: &[u8; 8] = b"LUMEMBD2";

/// Titles as vectors of length 1. Of `L` titles with `d` numbers it keeps `4 L d` bytes: 1.5 GB for a million of 384. A line costs
/// `2 L d` operations; the vectors stream through memory once for 64 lines asked about together.
pub struct TitleVectors {
    encoder: Encoder,
    prefix: String,
    /// Parts of [`PART`] titles.
    parts: Vec<Matrix>,
}

impl TitleVectors {
    /// The vectors of `titles` `[L]`, each with `prefix` before it: read from `cache` where they were made before, else computed
    /// and stored there. `hash` distinguishes encoders. Says whether they were read.
    ///
    /// # Errors
    /// As [`Encoder::encode`]; and where the folder cannot be written. A damaged file is made again.
    pub fn new(encoder: Encoder, hash: &str, prefix: &str, titles: &[String], cache: Option<&Path>) -> Result<(TitleVectors, bool)> {
        let mut sha = Sha256::new();
        for text in [hash, prefix].into_iter().chain(titles.iter().map(String::as_str)) {
            sha.update((text.len() as u64).to_le_bytes());
            sha.update(text);
        }
        let key = sha.finalize();
        let name: String = hex::encode(&key[..8]);
        let path: Option<PathBuf> = cache.map(|folder| folder.join(format!("titles-{name}.vectors")));
        let width = encoder.width();
        let numbers = 4 * titles.len() * width;
        if let Some(map) = path.as_deref().and_then(map)
            && let Some(body) = sealed::body(&map, MAGIC, &key).filter(|body| body.len() == numbers)
        {
            let parts = parts(body, width);
            return Ok((TitleVectors { encoder, prefix: prefix.into(), parts }, true));
        }
        let mut bytes = sealed::begin(MAGIC, &key, numbers);
        let head = bytes.len();
        for some in titles.chunks(PART) {
            vectors(&encoder, prefix, some)?.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
        }
        let made = parts(&bytes[head..], width);
        if let Some(path) = path {
            sealed::write(&path, bytes)?;
        }
        Ok((TitleVectors { encoder, prefix: prefix.into(), parts: made }, false))
    }

    /// For each line the title of the largest cosine and the cosine; of equals the first. `None` where there is no title.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn best(&self, lines: &[String]) -> Result<Vec<Option<(u32, f32)>>> {
        let mut all = Vec::with_capacity(lines.len());
        let mut cosines = Vec::new();
        for lines in lines.chunks(LINES) {
            let x = vectors(&self.encoder, &self.prefix, lines)?;
            let mut best: Vec<Option<(u32, f32)>> = vec![None; lines.len()];
            for (part, m) in self.parts.iter().enumerate() {
                // `[lines, titles of the part]`
                cosines.resize(lines.len() * m.outputs, 0.0);
                self.encoder.pool.install(|| {
                    m.apply(&x, &mut cosines);
                    best.par_iter_mut().zip(cosines.par_chunks_exact(m.outputs)).for_each(|(best, row)| {
                        let found = first_largest(row, (part * PART) as u32);
                        *best = best.filter(|b| b.1 >= found.1).or(Some(found));
                    });
                });
            }
            all.extend(best);
        }
        Ok(all)
    }
}

/// Cosines are compared as they are: an encoder gives finite numbers only.
fn first_largest(row: &[f32], from: u32) -> (u32, f32) {
    let mut best = (from, f32::NEG_INFINITY);
    for (i, &x) in row.iter().enumerate() {
        if x > best.1 {
            best = (from + i as u32, x);
        }
    }
    best
}

fn vectors(encoder: &Encoder, prefix: &str, texts: &[String]) -> Result<Vec<f32>> {
    let mut rows = if prefix.is_empty() {
        encoder.encode(texts)?
    } else {
        encoder.encode(&texts.iter().map(|t| format!("{prefix}{t}")).collect::<Vec<_>>())?
    };
    rows.chunks_exact_mut(encoder.width()).for_each(unit);
    Ok(rows)
}

fn map(path: &Path) -> Option<Mmap> {
    let file = File::open(path).ok()?;
    // SAFETY: read only, and checked whole before it is used. Files of this name are replaced, never rewritten.
    unsafe { Mmap::map(&file) }.ok()
}

fn parts(bytes: &[u8], width: usize) -> Vec<Matrix> {
    let part = |bytes: &[u8]| {
        let plain = Plain::new(Stored::F32, bytes.len() / (4 * width), width, bytes);
        Matrix::new(&plain.into_iter().collect::<Vec<_>>(), None, false)
    };
    bytes.chunks(4 * width * PART).map(part).collect()
}
