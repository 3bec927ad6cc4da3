//! What may be written: lines that each name one catalogue item.

use super::trie::{Node, Place, TitleTrie};
use std::sync::Arc;

/// Decides, token by token, what may come next.
pub trait Constraint: Send + Sync {
    /// Puts the tokens that may come next into `out`, sorted; none where the text is complete.
    fn allowed(&self, out: &mut Vec<u32>);
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
    /// Places in the trie's order of items that may not be named, sorted.
    taken: Vec<Place>,
    items: Vec<u32>,
    at: Option<Node>,
}

impl ItemLines {
    /// `lines` lines, each ended by the token `separator`; items in `forbidden` are never named.
    pub fn new(trie: Arc<TitleTrie>, lines: usize, separator: u32, forbidden: &[u32]) -> ItemLines {
        let mut taken: Vec<Place> = forbidden.iter().filter_map(|item| trie.place(*item)).collect();
        taken.sort_unstable();
        taken.dedup();
        let at = Some(trie.root());
        ItemLines { trie, lines, separator, taken, items: Vec::new(), at }
    }

    /// Items that may still be named under `node`.
    fn left(&self, node: &Node) -> usize {
        let range = node.places();
        let below = |place: Place| self.taken.partition_point(|t| *t < place);
        node.count() - (below(range.end) - below(range.start))
    }

    /// The first item that ends at the present node and may be named.
    fn ends(&self) -> Option<Place> {
        let node = self.at.as_ref()?;
        self.trie.ends(node).find(|place| self.taken.binary_search(place).is_err())
    }
}

impl Constraint for ItemLines {
    fn allowed(&self, out: &mut Vec<u32>) {
        out.clear();
        let Some(node) = &self.at else { return };
        if self.items.len() == self.lines {
            return;
        }
        self.trie.children(node, |token, child| {
            if self.left(&child) > 0 {
                out.push(token);
            }
        });
        if self.ends().is_some()
            && let Err(at) = out.binary_search(&self.separator)
        {
            out.insert(at, self.separator);
        }
    }

    fn accept(&mut self, token: u32) {
        let Some(node) = &self.at else { return };
        if token != self.separator {
            self.at = self.trie.child(node, token);
            return;
        }
        if let Some(place) = self.ends() {
            self.items.push(self.trie.item(place));
            if let Err(at) = self.taken.binary_search(&place) {
                self.taken.insert(at, place);
            }
        }
        self.at = Some(self.trie.root());
    }

    fn items(&self) -> &[u32] {
        &self.items
    }
}
