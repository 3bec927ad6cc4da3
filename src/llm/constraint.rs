//! What may be written: lines that each name one catalogue item.

use super::prior::Prior;
use super::trie::{Node, Place, TitleTrie};
use std::sync::Arc;

/// Decides, token by token, what may come next.
pub trait Constraint: Send + Sync {
    /// Puts the tokens that may come next into `tokens`, sorted; none where the text is complete. `biases` are added to their logits, in the same
    /// order; empty where nothing is added.
    fn allowed(&self, tokens: &mut Vec<u32>, biases: &mut Vec<f32>);
    /// Moves on by one allowed token.
    fn accept(&mut self, token: u32);
    /// Items named so far, in order.
    fn items(&self) -> &[u32];
}

/// `lines` titles of the catalogue, one a line, no item twice and none that is forbidden.
///
/// A title ends with the separator; the last line ends the text, and where no title is left, so does the line before.
#[derive(Clone)]
pub struct ItemLines {
    trie: Arc<TitleTrie>,
    lines: usize,
    separator: u32,
    /// Tokens that begin every line, and how many of them the line at hand has.
    mark: Vec<u32>,
    marked: usize,
    calibration: Option<Calibration>,
    /// Places in the trie's order of items that may not be named, sorted.
    taken: Vec<Place>,
    items: Vec<u32>,
    at: Option<Node>,
}

/// What titles are likely without a user, and the temperature of the draw.
#[derive(Clone)]
struct Calibration {
    prior: Arc<Prior>,
    temperature: f32,
}

impl ItemLines {
    /// `lines` lines, each ended by the token `separator`; items in `forbidden` are never named.
    pub fn new(trie: Arc<TitleTrie>, lines: usize, separator: u32, forbidden: &[u32]) -> ItemLines {
        let mut taken: Vec<Place> = forbidden.iter().filter_map(|item| trie.place(*item)).collect();
        taken.sort_unstable();
        taken.dedup();
        let at = Some(trie.root());
        ItemLines { trie, lines, separator, mark: Vec::new(), marked: 0, calibration: None, taken, items: Vec::new(), at }
    }

    /// The same with `mark` at the start of every line. The model has no choice about it, so it is never scored.
    #[must_use]
    pub fn marked(self, mark: &[u32]) -> ItemLines {
        ItemLines { mark: mark.to_vec(), ..self }
    }

    /// The same with titles drawn by how much likelier the prompt makes them than `prior` does; see [`Prior`].
    #[must_use]
    pub fn calibrated(self, prior: Arc<Prior>, temperature: f32) -> ItemLines {
        ItemLines { calibration: Some(Calibration { prior, temperature }), ..self }
    }

    /// Items that may still be named under `node`.
    fn left(&self, node: &Node) -> usize {
        let range = node.places();
        let below = |place: Place| self.taken.partition_point(|t| *t < place);
        node.count() - (below(range.end) - below(range.start))
    }

    /// The items that end at the present node and may be named.
    fn ends(&self) -> impl Iterator<Item = Place> + '_ {
        let ends = self.at.iter().flat_map(|node| self.trie.ends(node));
        ends.filter(|place| self.taken.binary_search(place).is_err())
    }
}

impl Constraint for ItemLines {
    fn allowed(&self, tokens: &mut Vec<u32>, biases: &mut Vec<f32>) {
        tokens.clear();
        biases.clear();
        let Some(node) = &self.at else { return };
        if self.items.len() == self.lines || self.left(&self.trie.root()) == 0 {
            return;
        }
        if let Some(token) = self.mark.get(self.marked) {
            tokens.push(*token);
            return;
        }
        let bias =
            |place: Place, titles: usize| self.calibration.as_ref().map(|c| c.prior.bias(place, node.depth(), titles, c.temperature));
        self.trie.children(node, |token, child| {
            let left = self.left(&child);
            if left > 0 {
                tokens.push(token);
                biases.extend(bias(child.places().start, left));
            }
        });
        if let Some(place) = self.ends().next()
            && let Err(at) = tokens.binary_search(&self.separator)
        {
            tokens.insert(at, self.separator);
            if let Some(bias) = bias(place, self.ends().count()) {
                biases.insert(at, bias);
            }
        }
    }

    fn accept(&mut self, token: u32) {
        if self.marked < self.mark.len() {
            self.marked += 1;
            return;
        }
        let Some(node) = &self.at else { return };
        if token != self.separator {
            self.at = self.trie.child(node, token);
            return;
        }
        let named = self.ends().next();
        if let Some(place) = named {
            self.items.push(self.trie.item(place));
            if let Err(at) = self.taken.binary_search(&place) {
                self.taken.insert(at, place);
            }
        }
        self.at = Some(self.trie.root());
        self.marked = 0;
    }

    fn items(&self) -> &[u32] {
        &self.items
    }
}
