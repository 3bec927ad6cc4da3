//! Free text to catalogue lines: BM25 over words (Robertson and Zaragoza, 2009), as CALRec grounds a model's titles.

use std::collections::HashMap;

use super::line::words;

/// Saturation of a repeated word.
const K1: f32 = 1.2;
/// How far a long title is discounted.
const B: f32 = 0.75;

/// An index over catalogue lines.
pub struct Matcher {
    /// Words to terms.
    terms: HashMap<String, u32>,
    /// Bounds of a term's postings `[V + 1]`.
    offsets: Vec<u64>,
    /// Lines that have the term, with the term's weight in each.
    postings: Vec<(u32, f32)>,
    /// Inverse document frequency `[V]`.
    idf: Vec<f32>,
    /// Of a word that no line has: the largest there can be.
    idf_unknown: f32,
    /// What a line scores against itself `[L]`.
    own: Vec<f32>,
    /// Lines by their words, for equal ones.
    exact: HashMap<Vec<u32>, u32>,
    /// Mean number of words of a line.
    mean: f32,
}

/// Scores of one query, kept from line to line.
#[derive(Default)]
pub struct Scratch {
    scores: HashMap<u32, f32>,
}

/// How much a word counts that occurs `count` times in a line of `length` words.
fn weight(count: f32, length: f32, mean: f32) -> f32 {
    count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length / mean))
}

impl Matcher {
    /// An index over `lines` `[L]`; empty lines match nothing.
    pub fn new(lines: &[String]) -> Matcher {
        let mut terms: HashMap<String, u32> = HashMap::new();
        let mut bags: Vec<Vec<u32>> = Vec::with_capacity(lines.len());
        for line in lines {
            let bag = words(line).map(|word| {
                let next = terms.len() as u32;
                *terms.entry(word).or_insert(next)
            });
            bags.push(bag.collect());
        }
        let filled = bags.iter().filter(|b| !b.is_empty()).count().max(1);
        let mean = (bags.iter().map(Vec::len).sum::<usize>() as f32 / filled as f32).max(1.0);
        let mut exact = HashMap::with_capacity(bags.len());
        let mut frequency = vec![0u64; terms.len()];
        let mut counted: Vec<Vec<(u32, f32)>> = Vec::with_capacity(bags.len());
        for (line, bag) in bags.into_iter().enumerate() {
            let counts = counts(&bag);
            for (term, _) in &counts {
                frequency[*term as usize] += 1;
            }
            if !bag.is_empty() {
                exact.entry(bag).or_insert(line as u32);
            }
            counted.push(counts);
        }
        let n = filled as f32;
        let idf = |df: f32| (1.0 + (n - df + 0.5) / (df + 0.5)).ln();
        let idfs: Vec<f32> = frequency.iter().map(|df| idf(*df as f32)).collect();
        let mut offsets = vec![0u64];
        for df in &frequency {
            offsets.push(offsets[offsets.len() - 1] + df);
        }
        let mut next: Vec<u64> = offsets[..terms.len()].to_vec();
        let mut postings = vec![(0, 0.0); offsets[terms.len()] as usize];
        let mut own = vec![0.0; lines.len()];
        for (line, counts) in counted.iter().enumerate() {
            let length = counts.iter().map(|(_, c)| c).sum();
            for &(term, count) in counts {
                let weight = weight(count, length, mean);
                postings[next[term as usize] as usize] = (line as u32, weight);
                next[term as usize] += 1;
                own[line] += count * idfs[term as usize] * weight;
            }
        }
        Matcher { terms, offsets, postings, idf: idfs, idf_unknown: idf(0.0), own, exact, mean }
    }

    /// The terms of `query`, and how many of its words no line has.
    fn known(&self, query: &str) -> (Vec<u32>, u32) {
        let mut unknown = 0u32;
        let mut bag = Vec::new();
        for word in words(query) {
            match self.terms.get(&word) {
                Some(term) => bag.push(*term),
                None => unknown += 1,
            }
        }
        (bag, unknown)
    }

    /// The lines that have `term`, and what it adds to the score of each where a query has it `count` times.
    fn lines_with(&self, term: u32, count: f32) -> impl Iterator<Item = (u32, f32)> + '_ {
        let idf = self.idf[term as usize];
        let range = self.offsets[term as usize] as usize..self.offsets[term as usize + 1] as usize;
        self.postings[range].iter().map(move |&(line, weight)| (line, count * idf * weight))
    }

    /// The lines that have a word of `query`, by their scores, best first; of equals the one with the lower number.
    pub fn ranked(&self, query: &str) -> Vec<u32> {
        let mut scores: HashMap<u32, f32> = HashMap::new();
        for (term, count) in counts(&self.known(query).0) {
            self.lines_with(term, count).for_each(|(line, score)| *scores.entry(line).or_insert(0.0) += score);
        }
        let mut found: Vec<(u32, f32)> = scores.into_iter().collect();
        found.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        found.into_iter().map(|(line, _)| line).collect()
    }

    /// The line most like `query` and the likeness: what the two score against each other, divided by the larger of what each
    /// scores against itself, so that it is 1 for equal words and small where either says much that the other does not. Lines
    /// for which `open` is false are passed over; of equals the one with the lowest number is taken. `None` where no word is known.
    pub fn best(&self, query: &str, open: impl Fn(u32) -> bool, scratch: &mut Scratch) -> Option<(u32, f32)> {
        let (bag, unknown) = self.known(query);
        if unknown == 0
            && let Some(line) = self.exact.get(&bag)
            && open(*line)
        {
            return Some((*line, 1.0));
        }
        let length = bag.len() as f32 + unknown as f32;
        let scores = &mut scratch.scores;
        scores.clear();
        let mut own = unknown as f32 * self.idf_unknown * weight(1.0, length, self.mean);
        for (term, count) in counts(&bag) {
            own += count * self.idf[term as usize] * weight(count, length, self.mean);
            self.lines_with(term, count).for_each(|(line, score)| *scores.entry(line).or_insert(0.0) += score);
        }
        let likeness = |line: u32, score: f32| (score / own.max(self.own[line as usize])).min(1.0);
        let found = scores.iter().filter(|(line, _)| open(**line)).map(|(line, score)| (*line, likeness(*line, *score)));
        // The order of a hash map must not decide.
        found.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))
    }
}

/// Terms of a bag with their counts, in order of term.
fn counts(bag: &[u32]) -> Vec<(u32, f32)> {
    let mut sorted = bag.to_vec();
    sorted.sort_unstable();
    let mut counts: Vec<(u32, f32)> = Vec::new();
    for term in sorted {
        match counts.last_mut() {
            Some(last) if last.0 == term => last.1 += 1.0,
            _ => counts.push((term, 1.0)),
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher() -> Matcher {
        let lines = ["Red Rose Hand Soap", "Red Rose Hand Cream", "Garden Hose 50 ft", "", "Hose", "Garden Hose 50 ft!"];
        Matcher::new(&lines.map(String::from))
    }

    fn best(m: &Matcher, query: &str) -> Option<(u32, f32)> {
        m.best(query, |_| true, &mut Scratch::default())
    }

    #[test]
    fn equal_words_are_one_and_near_ones_less() {
        let m = matcher();
        assert_eq!(best(&m, "red rose HAND soap."), Some((0, 1.0)));
        assert_eq!(best(&m, "garden hose 50 ft"), Some((2, 1.0)), "of equal lines the first");
        let (line, near) = best(&m, "Rose hand soap").unwrap();
        assert!(line == 0 && (0.5..1.0).contains(&near), "{near}");
        let (line, far) = best(&m, "Rose hand soap with a lot of words that no title has").unwrap();
        assert!(line == 0 && far < 0.3, "{far}");
        assert_eq!(best(&m, "quantum mechanics"), None);
        assert_eq!(best(&m, ""), None);
        let (line, one) = best(&m, "soap").unwrap();
        assert!(line == 0 && one < near, "a single word is less than most of a title");
    }

    #[test]
    fn lines_are_ranked_by_their_scores() {
        let m = matcher();
        assert_eq!(m.ranked("red hose"), [0, 1, 4, 2, 5], "a rare word before a frequent one, a short line before a long one");
        assert_eq!(m.ranked("quantum mechanics"), Vec::<u32>::new());
    }

    #[test]
    fn closed_lines_give_way_to_the_next() {
        let m = matcher();
        let (line, likeness) = m.best("Red Rose Hand Soap", |l| l != 0, &mut Scratch::default()).unwrap();
        assert!(line == 1 && likeness < 1.0);
    }

    #[test]
    fn empty_catalogues_match_nothing() {
        for lines in [vec![], vec![String::new(); 3]] {
            assert_eq!(best(&Matcher::new(&lines), "soap"), None);
        }
    }

    #[test]
    fn order_of_the_catalogue_changes_no_likeness() {
        let lines: Vec<String> = (0..200).map(|i| format!("thing {} kind {} colour {}", i, i % 7, i % 13)).collect();
        let turned: Vec<String> = lines.iter().rev().cloned().collect();
        let (a, b) = (Matcher::new(&lines), Matcher::new(&turned));
        for query in ["thing 3", "kind 2 colour 11 thing 101", "colour 5", "thing 77 of another kind"] {
            let (x, y) = (best(&a, query).unwrap(), best(&b, query).unwrap());
            assert!((x.1 - y.1).abs() < 1e-6, "{query}: {x:?} {y:?}");
        }
    }
}
