//! Views in the manner of FELLAS (arXiv 2410.04927): the paraphrase puts for each item its nearest other item under noisy vectors of the
//! texts, a fixed codebook; the counterfactual is one random sequence that the user did not take; the future is the history alone.
//!
//! Ours, where FELLAS has vectors of a language model's encoder on the server: TF-IDF vectors of title, categories and brand, projected to 64
//! numbers by random signs and scaled to length 1 before the noise of variance .01 that the published code adds.

use super::random::RandomGenerator;
use super::{Generator, PublicCatalogue, UserViews, ViewKind, mix};
use crate::Result;
use crate::base::parallel;
use crate::base::rng::{Purpose, Stream};
use crate::config::ViewSettings;

/// Numbers of a projected vector.
const WIDTH: usize = 64;
/// Standard deviation of the noise on each of them.
const DEVIATION: f32 = 0.1;
/// A round that no other draw of views has.
const CODEBOOK: u64 = u32::MAX as u64;

/// Text vectors with noise `[I, 64]`, scaled to length 1.
fn noisy_vectors(public: &PublicCatalogue<'_>, seed: u64) -> Vec<[f32; WIDTH]> {
    let unit = |vector: &mut [f32; WIDTH]| {
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.iter_mut().for_each(|x| *x /= length.max(1e-12));
    };
    let vector = |item: u32| {
        let mut vector = [0f32; WIDTH];
        let (terms, weights) = public.features.vector(item);
        for (&term, &weight) in terms.iter().zip(weights) {
            let signs = u64::from(mix(term, 0)) << 32 | u64::from(mix(term, 1));
            for (k, x) in vector.iter_mut().enumerate() {
                *x += if signs >> k & 1 == 1 { weight } else { -weight };
            }
        }
        unit(&mut vector);
        let mut noise = Stream::new(seed, Purpose::Views, CODEBOOK, item.into());
        vector.iter_mut().for_each(|x| *x += DEVIATION * noise.normal());
        unit(&mut vector);
        vector
    };
    (0..public.item_count() as u32).map(vector).collect()
}

/// The nearest other vector of each by cosine, the first of equal ones `[I]`; an only one has itself.
fn nearest_others(vectors: &[[f32; WIDTH]], threads: usize) -> Vec<u32> {
    parallel::map(threads, vectors.len(), 16, |i| {
        let mut best = (f32::NEG_INFINITY, i);
        for (j, other) in vectors.iter().enumerate() {
            let likeness = vectors[i].iter().zip(other).map(|(a, b)| a * b).sum::<f32>();
            if j != i && likeness > best.0 {
                best = (likeness, j);
            }
        }
        best.1 as u32
    })
}

/// Nearest items by the codebook, and random sequences.
pub struct CodebookGenerator<'a> {
    public: &'a PublicCatalogue<'a>,
    random: RandomGenerator<'a>,
    counterfactuals: u32,
    /// What each item becomes `[I]`.
    codebook: Vec<u32>,
}

impl<'a> CodebookGenerator<'a> {
    /// A generator over `public`.
    pub fn new(public: &'a PublicCatalogue<'a>, settings: &ViewSettings, threads: usize) -> CodebookGenerator<'a> {
        let codebook = nearest_others(&noisy_vectors(public, settings.seed), threads);
        CodebookGenerator { public, random: RandomGenerator::new(public, settings), counterfactuals: settings.counterfactuals, codebook }
    }
}

impl Generator for CodebookGenerator<'_> {
    fn name(&self) -> &str {
        "codebook"
    }

    fn generate(&self, user: u32, history: &[u32]) -> Result<UserViews> {
        self.public.check(user, history)?;
        if history.is_empty() {
            return Ok(UserViews::default());
        }
        let random = |i| self.random.sequence(user, history, ViewKind::Counterfactual(i));
        Ok(UserViews {
            future: history.to_vec(),
            paraphrase: history.iter().map(|&item| self.codebook[item as usize]).collect(),
            counterfactuals: (0..self.counterfactuals).map(random).collect(),
        })
    }

    fn notes(&self) -> Vec<String> {
        vec!["the paraphrase is the history under the codebook, the future the history itself".into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codebook_is_the_nearest_other_vector() {
        let mut stream = Stream::new(3, Purpose::Bench, 0, 0);
        let vectors: Vec<[f32; WIDTH]> = (0..40).map(|_| std::array::from_fn(|_| stream.normal())).collect();
        for threads in [1, 3] {
            let found = nearest_others(&vectors, threads);
            for (i, &j) in found.iter().enumerate() {
                let likeness = |k: usize| (0..WIDTH).map(|x| f64::from(vectors[i][x]) * f64::from(vectors[k][x])).sum::<f64>();
                let best = (0..40).filter(|&k| k != i).max_by(|&a, &b| likeness(a).total_cmp(&likeness(b))).unwrap();
                assert_eq!(j as usize, best);
            }
        }
        assert_eq!(nearest_others(&vectors[..1], 1), [0]);
    }
}
