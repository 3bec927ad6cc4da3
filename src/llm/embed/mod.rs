//! Sentence embeddings: a BERT encoder in the form of `sentence-transformers` (all-MiniLM, gte, bge, e5), on the CPU.
//!
//! Sentences are packed without padding, so that neither their order nor their lengths cost anything; a sentence's embedding has the
//! same bits whatever stands beside it and whatever the number of threads.

mod network;
pub(super) mod spec;
mod titles;

pub use spec::{Pooling, SentenceSpec, Shape};
pub use titles::TitleVectors;

use super::spec::read_json;
use super::tokenizer::Tokenizer;
use super::weights::Weights;
use crate::base::parallel;
use crate::{Error, Result};
use network::Bert;
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tokens of a batch; a longer sentence is one by itself, filled up to a multiple.
const BATCH: usize = 32;
/// Sentences tokenised at a time.
const CHUNK: usize = 8192;

/// An encoder of sentences, loaded.
pub struct Encoder {
    folder: PathBuf,
    spec: SentenceSpec,
    tokenizer: Tokenizer,
    network: Bert,
    pool: Arc<rayon::ThreadPool>,
}

impl Encoder {
    /// Loads a folder in the form of `sentence-transformers`, or of a bare `BertModel` (mean over tokens). `threads` 0: all cores.
    ///
    /// # Errors
    /// Where a file is missing or broken, the encoder is of another kind, or the parts do not belong together.
    pub fn load(folder: &Path, threads: usize) -> Result<Encoder> {
        let spec = SentenceSpec::read(folder)?;
        let mut tokenizer = Tokenizer::with_rows(&spec.folder, spec.shape.vocab)?;
        tokenizer.cut_at(spec.longest)?;
        let network = Bert::new(&Weights::open(&spec.folder)?, &spec.shape)?;
        Ok(Encoder { folder: folder.into(), spec, tokenizer, network, pool: parallel::pool(threads)? })
    }

    /// Shape and choices.
    pub fn spec(&self) -> &SentenceSpec {
        &self.spec
    }

    /// Numbers of an embedding.
    pub fn width(&self) -> usize {
        self.spec.shape.width
    }

    /// Embeddings `[N, d]` of `sentences`, of length 1 where the folder asks for that. What stands beyond the longest sequence is
    /// cut off; text that looks like a control token is read as text.
    ///
    /// # Errors
    /// Where the tokenizer cannot express a sentence, or the weights give no finite number.
    pub fn encode(&self, sentences: &[String]) -> Result<Vec<f32>> {
        let mut out = vec![0.0; sentences.len() * self.width()];
        for (texts, rows) in sentences.chunks(CHUNK).zip(out.chunks_mut(CHUNK * self.width())) {
            self.pool.install(|| self.chunk(texts, rows))?;
        }
        Ok(out)
    }

    fn chunk(&self, texts: &[String], mut out: &mut [f32]) -> Result<()> {
        let texts = texts.iter().map(|t| if self.spec.lower { t.to_lowercase() } else { t.clone() }).collect();
        let encodings = self.tokenizer.sentences(texts)?;
        let mut batches = Vec::new();
        let mut next = 0;
        while next < encodings.len() {
            let (mut tokens, mut ends) = (Vec::new(), Vec::new());
            while let Some(e) = encodings.get(next).filter(|e| tokens.is_empty() || tokens.len() + e.len() <= BATCH) {
                tokens.extend_from_slice(e.get_ids());
                ends.push(tokens.len());
                next += 1;
            }
            // A sentence alone decides how many rows there are, so that its bits do not depend on those beside it.
            tokens.resize(tokens.len().max(1).next_multiple_of(BATCH), 0);
            let (vectors, rest) = std::mem::take(&mut out).split_at_mut(ends.len() * self.width());
            out = rest;
            batches.push((tokens, ends, vectors));
        }
        batches.into_par_iter().try_for_each(|(tokens, ends, rows)| {
            self.pool_rows(&self.network.forward(&tokens, &ends)?, &ends, rows);
            if rows.iter().all(|x| x.is_finite()) {
                return Ok(());
            }
            Err(Error::mismatch(&self.folder, "the encoder's weights give numbers that are not finite; download it again"))
        })
    }

    /// One row for each sentence `[S, d]` of the last hidden states `[T, d]`; 0 for a sentence without tokens.
    fn pool_rows(&self, hidden: &[f32], ends: &[usize], out: &mut [f32]) {
        let width = self.width();
        let mut start = 0;
        for (&end, row) in ends.iter().zip(out.chunks_exact_mut(width)) {
            let mut tokens = hidden[start * width..end * width].chunks_exact(width);
            match (self.spec.pooling, tokens.next()) {
                (_, None) => (),
                (Pooling::Cls, Some(first)) => row.copy_from_slice(first),
                (Pooling::Max, Some(first)) => {
                    row.copy_from_slice(first);
                    tokens.for_each(|t| row.iter_mut().zip(t).for_each(|(r, x)| *r = r.max(*x)));
                }
                (Pooling::Mean, Some(first)) => {
                    row.copy_from_slice(first);
                    tokens.for_each(|t| row.iter_mut().zip(t).for_each(|(r, x)| *r += x));
                    let n = (end - start) as f32;
                    row.iter_mut().for_each(|r| *r /= n);
                }
            }
            if self.spec.normalize {
                unit(row);
            }
            start = end;
        }
    }
}

/// Normalises a vector to length 1; a zero vector stays.
fn unit(row: &mut [f32]) {
    let length = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if length > 0.0 {
        row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}
