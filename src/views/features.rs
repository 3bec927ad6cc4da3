//! Items as sparse vectors: TF-IDF over title words, categories, brand and also-bought links, and their cosine.

use std::collections::HashMap;

use crate::data::ItemText;

/// Words that say nothing about what an item is.
const STOP_WORDS: &[&str] = &["an", "and", "at", "by", "for", "from", "in", "is", "of", "on", "or", "the", "to", "with", "your"];
/// Terms lighter than this (they stand in nearly every item) are left out.
const MIN_IDF: f32 = 1e-3;
/// A category that more than this share of the items has does not tell items apart.
const BROAD: f64 = 0.5;
/// How many times an item's own mark counts among its links, so that a direct link outweighs one shared neighbour.
const OWN_LINK: f32 = 3.0;
/// Term that no item has.
const NO_TERM: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq)]
enum Field {
    Title,
    Category,
    Brand,
    Link,
}

impl Field {
    /// Weight of a field beside the others.
    fn weight(self) -> f32 {
        match self {
            Field::Title | Field::Category | Field::Link => 1.0,
            Field::Brand => 0.4,
        }
    }
}

/// Unit vectors of all items, packed: item `i` owns entries `offsets[i]..offsets[i + 1]`, sorted by term.
///
/// A term's weight is `(1 + ln tf) ln((I + 1) / df)`, divided by the root of the number of terms that the field has in the
/// item: a long title or link list does not drown a category, and a field of common terms weighs little.
pub struct Features {
    offsets: Vec<u64>,
    terms: Vec<u32>,
    weights: Vec<f32>,
    /// Items that have the term `[V]`.
    frequency: Vec<u32>,
    /// Whether the term is a category narrow enough to tell items apart `[V]`.
    narrow: Vec<bool>,
}

/// Terms while they are collected.
#[derive(Default)]
struct Vocabulary {
    ids: HashMap<String, u32>,
    links: Vec<u32>,
    fields: Vec<Field>,
    frequency: Vec<u32>,
}

impl Vocabulary {
    fn text(&mut self, field: Field, key: String) -> u32 {
        let next = self.fields.len() as u32;
        let id = *self.ids.entry(key).or_insert(next);
        if id == next {
            self.add(field);
        }
        id
    }

    fn link(&mut self, item: u32) -> u32 {
        if self.links[item as usize] == NO_TERM {
            self.links[item as usize] = self.fields.len() as u32;
            self.add(Field::Link);
        }
        self.links[item as usize]
    }

    fn add(&mut self, field: Field) {
        self.fields.push(field);
        self.frequency.push(0);
    }
}

impl Features {
    /// Vectors of the catalogue `[I]`.
    pub fn new(catalogue: &[ItemText]) -> Features {
        let n = catalogue.len();
        let mut vocabulary = Vocabulary { links: vec![NO_TERM; n], ..Default::default() };
        let mut linked = vec![false; n];
        for item in catalogue {
            for &other in item.also_bought.iter().filter(|j| (**j as usize) < n) {
                linked[other as usize] = true;
            }
        }
        // Entries before weighting: (term, count), in order of term inside an item.
        let (mut offsets, mut entries) = (vec![0u64], Vec::<(u32, f32)>::new());
        let mut own: Vec<(u32, f32)> = Vec::new();
        for (index, item) in catalogue.iter().enumerate() {
            own.clear();
            collect(index as u32, item, linked[index], &mut vocabulary, &mut own);
            own.sort_by_key(|(term, _)| *term);
            let start = entries.len();
            for &(term, count) in &own {
                match entries[start..].last_mut() {
                    Some(last) if last.0 == term => last.1 += count,
                    _ => entries.push((term, count)),
                }
            }
            for (term, _) in &entries[start..] {
                vocabulary.frequency[*term as usize] += 1;
            }
            offsets.push(entries.len() as u64);
        }
        Features::weighted(n, &vocabulary, &offsets, &entries)
    }

    fn weighted(n: usize, vocabulary: &Vocabulary, offsets: &[u64], entries: &[(u32, f32)]) -> Features {
        let idf: Vec<f32> = vocabulary.frequency.iter().map(|df| ((n as f64 + 1.0) / f64::from(*df).max(1.0)).ln() as f32).collect();
        let narrow = |term: usize| vocabulary.fields[term] == Field::Category && f64::from(vocabulary.frequency[term]) <= BROAD * n as f64;
        let mut made = Features {
            offsets: vec![0],
            terms: Vec::new(),
            weights: Vec::new(),
            narrow: (0..idf.len()).map(narrow).collect(),
            frequency: vocabulary.frequency.clone(),
        };
        for item in 0..n {
            let own = &entries[offsets[item] as usize..offsets[item + 1] as usize];
            let mut sizes = [0f32; 4];
            for (term, _) in own {
                sizes[vocabulary.fields[*term as usize] as usize] += 1.0;
            }
            let weigh = |term: u32, count: f32| {
                let field = vocabulary.fields[term as usize];
                (1.0 + count.ln()) * idf[term as usize] * field.weight() / sizes[field as usize].sqrt()
            };
            // Terms of this item alone lengthen its vector but can meet no other item: counted, not kept.
            let norm = own.iter().map(|(t, c)| f64::from(weigh(*t, *c)).powi(2)).sum::<f64>().sqrt() as f32;
            for &(term, count) in own {
                if vocabulary.frequency[term as usize] > 1 && idf[term as usize] > MIN_IDF {
                    made.terms.push(term);
                    made.weights.push(weigh(term, count) / norm);
                }
            }
            made.offsets.push(made.terms.len() as u64);
        }
        made
    }

    /// Number of items `I`.
    pub fn item_count(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Number of terms `V`.
    pub(super) fn term_count(&self) -> usize {
        self.frequency.len()
    }

    /// Items that have `term`.
    pub(super) fn frequency(&self, term: u32) -> u32 {
        self.frequency[term as usize]
    }

    /// Terms, in order, and weights of `item`.
    pub fn vector(&self, item: u32) -> (&[u32], &[f32]) {
        let range = self.offsets[item as usize] as usize..self.offsets[item as usize + 1] as usize;
        (&self.terms[range.clone()], &self.weights[range])
    }

    /// Categories of `item` that tell items apart and that another item has as well, as terms in ascending order: what [`Profile::nearness`] takes for a
    /// shared category. A level of a path comes by its name and by its way from the top.
    pub(super) fn narrow_categories(&self, item: u32) -> impl Iterator<Item = u32> + '_ {
        self.vector(item).0.iter().copied().filter(|term| self.narrow[*term as usize])
    }

    /// Whether anything is known of `item` that another item shares.
    pub fn known(&self, item: u32) -> bool {
        self.offsets[item as usize] < self.offsets[item as usize + 1]
    }

    /// Whether anything is known of any item.
    pub fn any(&self) -> bool {
        !self.terms.is_empty()
    }

    /// Cosine of two items, in `[0, 1]`.
    pub fn cosine(&self, a: u32, b: u32) -> f32 {
        let ((terms, weights), (others, other_weights)) = (self.vector(a), self.vector(b));
        let (mut i, mut j, mut sum) = (0, 0, 0.0);
        while i < terms.len() && j < others.len() {
            match terms[i].cmp(&others[j]) {
                std::cmp::Ordering::Less => i += 1,
                std::cmp::Ordering::Greater => j += 1,
                std::cmp::Ordering::Equal => {
                    sum += weights[i] * other_weights[j];
                    i += 1;
                    j += 1;
                }
            }
        }
        sum.min(1.0)
    }
}

/// The terms of one item, repeated ones several times.
fn collect(index: u32, item: &ItemText, linked: bool, vocabulary: &mut Vocabulary, own: &mut Vec<(u32, f32)>) {
    words(&item.title, |word| own.push((vocabulary.text(Field::Title, format!("t:{word}")), 1.0)));
    let mut path = String::from("p:");
    for level in &item.categories {
        let level = level.trim().to_lowercase();
        if level.is_empty() {
            continue;
        }
        own.push((vocabulary.text(Field::Category, format!("c:{level}")), 1.0));
        // A level by its way from the top too, so that two kinds of "Sets" are not the same.
        path = path + &level + "\u{1f}";
        own.push((vocabulary.text(Field::Category, path.clone()), 1.0));
    }
    let brand = item.brand.trim().to_lowercase();
    if !brand.is_empty() {
        own.push((vocabulary.text(Field::Brand, format!("b:{brand}")), 1.0));
    }
    let n = vocabulary.links.len();
    for &other in item.also_bought.iter().filter(|j| (**j as usize) < n && **j != index) {
        own.push((vocabulary.link(other), 1.0));
    }
    if linked {
        own.push((vocabulary.link(index), OWN_LINK));
    }
}

/// Calls `take` with the words of `text` in lower case: runs of letters and digits without a plural's `s`. Scripts written
/// without blanks are cut into pairs of characters.
fn words(text: &str, mut take: impl FnMut(&str)) {
    let lower = text.to_lowercase();
    for word in lower.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()) {
        if word.chars().any(|c| ('\u{2e80}'..='\u{9fff}').contains(&c)) {
            let chars: Vec<char> = word.chars().collect();
            for pair in chars.chunks(1).filter(|_| chars.len() == 1).chain(chars.windows(2)) {
                take(&pair.iter().collect::<String>());
            }
            continue;
        }
        if STOP_WORDS.contains(&word) || (word.len() == 1 && !word.as_bytes()[0].is_ascii_digit()) {
            continue;
        }
        let plural = word.len() > 3 && word.ends_with('s') && !word.ends_with("ss");
        take(if plural { &word[..word.len() - 1] } else { word });
    }
}

/// The sum of several items' vectors, for quick products with single items.
pub struct Profile<'a> {
    features: &'a Features,
    /// Open addressing; the length is a power of two.
    table: Vec<(u32, f32)>,
    items: f32,
}

impl<'a> Profile<'a> {
    /// The sum over `items`.
    pub fn new(features: &'a Features, items: &[u32]) -> Profile<'a> {
        let entries: usize = items.iter().map(|i| features.vector(*i).0.len()).sum();
        let mut profile =
            Profile { features, table: vec![(NO_TERM, 0.0); (2 * entries + 1).next_power_of_two()], items: items.len().max(1) as f32 };
        for item in items {
            let (terms, weights) = features.vector(*item);
            for (term, weight) in terms.iter().zip(weights) {
                let slot = profile.slot(*term);
                profile.table[slot].0 = *term;
                profile.table[slot].1 += weight;
            }
        }
        profile
    }

    /// Where `term` is, or would be. At most half of the table is full, so the walk ends.
    fn slot(&self, term: u32) -> usize {
        let mask = self.table.len() - 1;
        let mut slot = (term.wrapping_mul(0x9E37_79B1) >> 7) as usize & mask;
        while self.table[slot].0 != term && self.table[slot].0 != NO_TERM {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// Mean cosine of `item` with the items of the profile, and whether it shares a narrow category with one of them.
    pub fn nearness(&self, item: u32) -> (f32, bool) {
        let (terms, weights) = self.features.vector(item);
        let (mut sum, mut category) = (0.0, false);
        for (term, weight) in terms.iter().zip(weights) {
            let found = self.table[self.slot(*term)];
            if found.0 == *term {
                sum += weight * found.1;
                category |= self.features.narrow[*term as usize];
            }
        }
        (sum / self.items, category)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(title: &str, categories: &[&str], links: &[u32]) -> ItemText {
        ItemText {
            title: title.into(),
            categories: categories.iter().map(|c| c.to_string()).collect(),
            also_bought: links.to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn words_are_cut_alike() {
        let mut found = Vec::new();
        words("The Women's 15-Color Palettes, élan 口红色", |w| found.push(w.to_owned()));
        assert_eq!(found, ["women", "15", "color", "palette", "élan", "口红", "红色"]);
    }

    #[test]
    fn shared_words_categories_and_links_make_items_near() {
        let f = Features::new(&[
            item("red lipstick matte", &["Beauty", "Lips"], &[]),
            item("pink lipstick", &["Beauty", "Lips"], &[]),
            item("garden hose", &["Garden"], &[4]),
            item("", &[], &[4]),
            item("", &[], &[]),
            item("", &[], &[]),
        ]);
        assert!(f.cosine(0, 1) > 0.3 && f.cosine(0, 2) == 0.0);
        assert!(f.cosine(2, 3) > 0.0, "two items that link to the same one");
        assert!(f.cosine(3, 4) > 0.5, "a direct link");
        assert!(!f.known(5) && f.cosine(5, 0) == 0.0);
        for i in 0..6 {
            for j in 0..6 {
                assert!((f.cosine(i, j) - f.cosine(j, i)).abs() < 1e-6 && f.cosine(i, j) <= 1.0);
            }
        }
    }

    #[test]
    fn a_profile_is_the_mean_of_cosines() {
        let f = Features::new(&[
            item("red lipstick", &["Lips"], &[]),
            item("pink lipstick", &["Lips"], &[]),
            item("red hose", &["Garden"], &[]),
            item("green hose", &["Garden"], &[]),
        ]);
        let p = Profile::new(&f, &[0, 2]);
        for i in 0..4 {
            let expected = (f.cosine(i, 0) + f.cosine(i, 2)) / 2.0;
            assert!((p.nearness(i).0 - expected).abs() < 1e-5);
        }
        assert!(p.nearness(1).1 && p.nearness(3).1);
        assert!(!Profile::new(&f, &[0]).nearness(3).1);
        assert_eq!(Profile::new(&f, &[]).nearness(0), (0.0, false));
    }
}
