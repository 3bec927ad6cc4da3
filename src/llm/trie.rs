//! The titles of a catalogue as token sequences, sorted: a trie without nodes.
//!
//! A node is a run of titles that begin alike, so a subtree is a range of places and the items under it are counted by two binary
//! searches. Only nodes over many titles keep a list of their children; the others are scanned. In memory and on disk a title costs
//! its tokens (two bytes each, three where the vocabulary is larger than 65,536) and eight bytes.

use super::tokenizer::Tokenizer;
use crate::base::{rng, sealed};
use crate::{Error, Result};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A place in a trie's order of titles. It is not the item: [`TitleTrie::item`] says which item is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u32);

impl Place {
    /// Its number in the trie's order, from 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A run of titles that share their first tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    places: Range<u32>,
    depth: u32,
    /// Its list of children, where it has one.
    list: u32,
}

impl Node {
    /// Places, in the trie's order, of the items under this node.
    pub fn places(&self) -> Range<Place> {
        Place(self.places.start)..Place(self.places.end)
    }

    /// Tokens from the root to this node.
    pub fn depth(&self) -> usize {
        self.depth as usize
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.places.len()
    }
}

const NO_LIST: u32 = u32::MAX;

/// Titles under a node from which on its children are listed.
const LISTED: usize = 48;

/// Titles tokenised at a time.
const CHUNK: usize = 8192;

#[derive(Clone, Copy)]
struct Child {
    token: u32,
    first: u32,
    list: u32,
}

/// Titles of a catalogue in the tokens of one tokenizer. Items without a title are left out.
pub struct TitleTrie {
    /// Bytes of a token: 2 or 3.
    width: usize,
    /// Tokens of all titles in sorted order, one after another.
    tokens: Vec<u8>,
    /// Where each title's tokens begin `[N + 1]`.
    starts: Vec<u32>,
    /// The item at each place `[N]`.
    items: Vec<u32>,
    /// The place of each item `[I]`; `u32::MAX` where it has none.
    places: Vec<u32>,
    /// Children of listed nodes, each list ended by the next one's start.
    children: Vec<Child>,
    lists: Vec<u32>,
}

/// The line a title stands on, as it is tokenised: what ends a line before it and the list's mark, so that its first token is the one
/// that a model would write there.
fn line(mark: &str, title: &str) -> String {
    if mark.is_empty() { format!("\n{title}") } else { format!("\n{mark} {title}") }
}

/// A title on one line: blanks of all kinds become single spaces.
pub fn clean_title(title: &str) -> String {
    title.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
}

impl TitleTrie {
    /// From the titles of all items `[I]`. `separator` is the token that ends a line; it is in no title. `mark` begins every line, such as `-`;
    /// empty where lines have none.
    ///
    /// # Errors
    /// Where the tokenizer cannot express a title, or there are more tokens than fit.
    pub fn build(titles: &[&str], tokenizer: &Tokenizer, separator: u32, mark: &str) -> Result<TitleTrie> {
        let lead = 1 + mark.len();
        let mut rows: Vec<(Vec<u32>, u32)> = Vec::with_capacity(titles.len());
        for (chunk, part) in titles.chunks(CHUNK).enumerate() {
            let lines: Vec<String> = part.iter().map(|t| clean_title(t)).filter(|t| !t.is_empty()).map(|t| line(mark, &t)).collect();
            let kept = (0..part.len()).filter(|i| !clean_title(part[*i]).is_empty());
            for (i, encoding) in kept.zip(tokenizer.encode_many(lines)?) {
                // Line end and mark come first. A token that reaches over them cannot be written after them.
                let from = encoding.get_offsets().iter().position(|(_, end)| *end > lead).unwrap_or(encoding.len());
                let mut tokens = encoding.get_ids()[from..].to_vec();
                if encoding.get_offsets().get(from).is_some_and(|(start, _)| *start < lead) {
                    tokens = tokenizer.encode(&clean_title(part[i]), super::tokenizer::Control::Text)?;
                }
                tokens.retain(|t| *t != separator && !tokenizer.is_special(*t));
                if !tokens.is_empty() {
                    rows.push((tokens, (chunk * CHUNK + i) as u32));
                }
            }
        }
        // Of items with the same title none may be preferred for its number.
        rows.par_sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| mixed(a.1).cmp(&mixed(b.1))));
        let total: usize = rows.iter().map(|r| r.0.len()).sum();
        if total >= u32::MAX as usize || titles.len() >= NO_LIST as usize {
            return Err(Error::Usage(format!("the catalogue's titles have {total} tokens; at most 4 billion fit")));
        }
        let width = if rows.iter().all(|r| r.0.iter().all(|t| *t < 1 << 16)) { 2 } else { 3 };
        let mut trie = TitleTrie {
            width,
            tokens: Vec::with_capacity(total * width),
            starts: Vec::with_capacity(rows.len() + 1),
            items: Vec::with_capacity(rows.len()),
            places: vec![u32::MAX; titles.len()],
            children: Vec::new(),
            lists: Vec::new(),
        };
        trie.starts.push(0);
        for (tokens, item) in rows {
            trie.places[item as usize] = trie.items.len() as u32;
            trie.items.push(item);
            tokens.iter().for_each(|t| trie.tokens.extend_from_slice(&t.to_le_bytes()[..width]));
            trie.starts.push((trie.tokens.len() / width) as u32);
        }
        trie.list();
        Ok(trie)
    }

    /// Lists the children of every node over many titles.
    fn list(&mut self) {
        (self.children, self.lists) = (Vec::new(), Vec::new());
        let n = self.items.len() as u32;
        let mut open = vec![(0..n, 0u32, None::<usize>)];
        // Breadth first: a node's children lie together.
        let mut next = 0;
        while next < open.len() {
            let (places, depth, parent) = open[next].clone();
            next += 1;
            let id = self.lists.len() as u32;
            self.lists.push(self.children.len() as u32);
            if let Some(parent) = parent {
                self.children[parent].list = id;
            }
            let mut first = places.start + self.ending(&places, depth);
            while first < places.end {
                let token = self.token(first, depth);
                let end = self.run_end(first..places.end, depth, token);
                self.children.push(Child { token, first, list: NO_LIST });
                if (end - first) as usize >= LISTED {
                    open.push((first..end, depth + 1, Some(self.children.len() - 1)));
                }
                first = end;
            }
        }
        self.lists.push(self.children.len() as u32);
    }

    fn length(&self, place: u32) -> u32 {
        self.starts[place as usize + 1] - self.starts[place as usize]
    }

    fn token(&self, place: u32, depth: u32) -> u32 {
        let at = (self.starts[place as usize] + depth) as usize * self.width;
        let b = &self.tokens[at..at + self.width];
        u32::from(b[0]) | u32::from(b[1]) << 8 | if self.width == 3 { u32::from(b[2]) << 16 } else { 0 }
    }

    /// How many titles of the run end at `depth`; they stand first.
    fn ending(&self, places: &Range<u32>, depth: u32) -> u32 {
        (places.clone()).take_while(|p| self.length(*p) == depth).count() as u32
    }

    /// Where the run of `token` at `depth` that begins `places` ends: steps that double, then halves.
    fn run_end(&self, places: Range<u32>, depth: u32, token: u32) -> u32 {
        let (mut low, mut step) = (places.start, 1);
        while low + step < places.end && self.token(low + step, depth) == token {
            low += step;
            step *= 2;
        }
        let mut high = (low + step).min(places.end);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.token(middle, depth) == token { low = middle } else { high = middle }
        }
        high
    }

    /// The node of all titles.
    pub fn root(&self) -> Node {
        Node { places: 0..self.items.len() as u32, depth: 0, list: if self.lists.len() > 1 { 0 } else { NO_LIST } }
    }

    /// Gives `each` every token that can follow at `node`, in order, and where it leads.
    pub fn children(&self, node: &Node, mut each: impl FnMut(u32, Node)) {
        if node.list != NO_LIST {
            let range = self.lists[node.list as usize] as usize..self.lists[node.list as usize + 1] as usize;
            for i in range.clone() {
                let child = self.children[i];
                let end = if i + 1 < range.end { self.children[i + 1].first } else { node.places.end };
                each(child.token, Node { places: child.first..end, depth: node.depth + 1, list: child.list });
            }
            return;
        }
        let mut first = node.places.start + self.ending(&node.places, node.depth);
        while first < node.places.end {
            let token = self.token(first, node.depth);
            let end = self.run_end(first..node.places.end, node.depth, token);
            each(token, Node { places: first..end, depth: node.depth + 1, list: NO_LIST });
            first = end;
        }
    }

    /// Where `token` leads from `node`.
    pub fn child(&self, node: &Node, token: u32) -> Option<Node> {
        let mut found = None;
        self.children(node, |t, child| {
            if t == token {
                found = Some(child);
            }
        });
        found
    }

    /// Places of the items whose titles end at `node`.
    pub fn ends(&self, node: &Node) -> impl Iterator<Item = Place> + '_ {
        let depth = node.depth;
        node.places.clone().take_while(move |p| self.length(*p) == depth).map(Place)
    }

    /// The item at `place`.
    pub fn item(&self, Place(place): Place) -> u32 {
        self.items[place as usize]
    }

    /// The place of `item`, if it has a title.
    pub fn place(&self, item: u32) -> Option<Place> {
        self.places.get(item as usize).copied().filter(|p| *p != u32::MAX).map(Place)
    }

    /// Every place, in order.
    pub fn places(&self) -> impl Iterator<Item = Place> + use<> {
        (0..self.items.len() as u32).map(Place)
    }

    /// Number of items with a title.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether no item has a title.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Where the numbers of the title at `place` begin in a list of one number for each of its tokens and one for its end, all titles in order.
    pub fn offset(&self, Place(place): Place) -> usize {
        self.starts[place as usize] as usize + place as usize
    }

    /// Tokens of the item at `place`.
    pub fn title(&self, Place(place): Place) -> Vec<u32> {
        (0..self.length(place)).map(|d| self.token(place, d)).collect()
    }

    /// Tokens of all titles.
    pub fn token_count(&self) -> usize {
        self.tokens.len() / self.width
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.tokens.len()
            + 4 * (self.starts.len() + self.items.len() + self.places.len() + self.lists.len())
            + std::mem::size_of_val(&self.children[..])
    }
}

/// An order of items that is independent of their numbers.
fn mixed(item: u32) -> [u32; 4] {
    rng::philox([item, 0, 0, 0], [0x7469_746C, 0x6573_0001])
}

const MAGIC: &[u8; 8] = b"LUMTRIE1";

impl TitleTrie {
    /// The trie of a catalogue and a tokenizer: read from `folder` where it was made before, else built and stored there. Says
    /// whether it was read.
    ///
    /// # Errors
    /// As [`TitleTrie::build`]; and where the folder cannot be written. A damaged file is made again.
    pub fn cached(folder: &Path, titles: &[&str], tokenizer: &Tokenizer, separator: u32, mark: &str) -> Result<(TitleTrie, bool)> {
        let mut sha = Sha256::new();
        sha.update(tokenizer.hash());
        sha.update(separator.to_le_bytes());
        sha.update(mark);
        for title in titles {
            sha.update((title.len() as u64).to_le_bytes());
            sha.update(title);
        }
        let key = sha.finalize();
        let name: String = hex::encode(&key[..8]);
        let path: PathBuf = folder.join(format!("titles-{name}.trie"));
        let read = std::fs::read(&path).ok();
        if let Some(trie) = read.and_then(|bytes| TitleTrie::from_body(sealed::body(&bytes, MAGIC, &key)?, titles.len())) {
            return Ok((trie, true));
        }
        let trie = TitleTrie::build(titles, tokenizer, separator, mark)?;
        sealed::write(&path, trie.to_file(&key))?;
        Ok((trie, false))
    }

    fn to_file(&self, key: &[u8]) -> Vec<u8> {
        let mut out = sealed::begin(MAGIC, key, self.bytes());
        out.push(self.width as u8);
        out.extend((self.items.len() as u32).to_le_bytes());
        self.starts.iter().chain(&self.items).for_each(|x| out.extend(x.to_le_bytes()));
        out.extend_from_slice(&self.tokens);
        out
    }

    /// `None` for anything but what [`TitleTrie::to_file`] wrote behind its key.
    fn from_body(body: &[u8], items: usize) -> Option<TitleTrie> {
        let (width, body) = body.split_first()?;
        let (n, body) = body.split_first_chunk::<4>()?;
        let n = u32::from_le_bytes(*n) as usize;
        let (numbers, tokens) = body.split_at_checked(4 * (2 * n + 1))?;
        let mut numbers = numbers.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
        let starts: Vec<u32> = numbers.by_ref().take(n + 1).collect();
        let own: Vec<u32> = numbers.collect();
        let mut places = vec![u32::MAX; items];
        for (place, item) in own.iter().enumerate() {
            *places.get_mut(*item as usize)? = place as u32;
        }
        let width = usize::from(*width);
        let fits = starts.is_sorted() && *starts.last()? as usize * width == tokens.len() && (2..=3).contains(&width);
        let mut trie = TitleTrie { width, tokens: tokens.to_vec(), starts, items: own, places, children: Vec::new(), lists: Vec::new() };
        fits.then(|| {
            trie.list();
            trie
        })
    }
}
