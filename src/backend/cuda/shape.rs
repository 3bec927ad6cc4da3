//! The launch shape of a chunk: how large the grids of a step are, and what its buffers must hold.

/// Rows of a tile, as in `kernels/packed.cuh`.
pub const TILE_ROWS: u32 = 32;

/// The largest counts that launches are sized for. Chunks of like shape share one, and with it captured graphs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape {
    /// Clients `C`.
    pub clients: u32,
    /// Tokens `T`.
    pub tokens: u32,
    /// Sequences `S`.
    pub sequences: u32,
    /// Outputs `Q`.
    pub outputs: u32,
    /// Examples `E`.
    pub examples: u32,
    /// Groups `G`.
    pub groups: u32,
    /// Pairs `N`.
    pub pairs: u32,
    /// Item rows `R`.
    pub rows: u32,
    /// Tiles over tokens.
    pub token_tiles: u32,
    /// Tiles over outputs.
    pub output_tiles: u32,
    /// Longest sequence.
    pub longest: u32,
    /// Candidates of an example.
    pub width: u32,
    /// Members of the largest contrast group.
    pub members: u32,
    /// Item rows and examples of the client that has most.
    pub client_rows: u32,
    /// See `client_rows`.
    pub client_examples: u32,
    /// Tokens, outputs and groups of the client that has most in one step; see [`Shape::of_launches`].
    pub client_tokens: u32,
    /// See `client_tokens`.
    pub client_outputs: u32,
    /// See `client_tokens`.
    pub client_groups: u32,
    /// Pairs of the client that has most in one step.
    pub client_pairs: u32,
    /// First position and the one after the last.
    pub positions: (u32, u32),
}

/// `n` or a little more: at most three significant bits below the first, so that few different sizes occur.
fn round_up(n: u32) -> u32 {
    if n <= 16 {
        return n;
    }
    let unit = 1u32 << (28 - n.leading_zeros());
    n.div_ceil(unit) * unit
}

impl Shape {
    /// A shape that holds both clients of this one and of `other`.
    pub fn plus(&self, other: &Shape) -> Shape {
        Shape {
            clients: self.clients + other.clients,
            tokens: self.tokens + other.tokens,
            sequences: self.sequences + other.sequences,
            outputs: self.outputs + other.outputs,
            examples: self.examples + other.examples,
            groups: self.groups + other.groups,
            pairs: self.pairs + other.pairs,
            rows: self.rows + other.rows,
            token_tiles: self.token_tiles + other.token_tiles,
            output_tiles: self.output_tiles + other.output_tiles,
            longest: self.longest.max(other.longest),
            width: self.width.max(other.width),
            members: self.members.max(other.members),
            client_rows: self.client_rows.max(other.client_rows),
            client_examples: self.client_examples.max(other.client_examples),
            client_tokens: self.client_tokens.max(other.client_tokens),
            client_outputs: self.client_outputs.max(other.client_outputs),
            client_groups: self.client_groups.max(other.client_groups),
            client_pairs: self.client_pairs.max(other.client_pairs),
            positions: (self.positions.0.min(other.positions.0), self.positions.1.max(other.positions.1)),
        }
    }

    /// The least shape that holds what this one holds and what `other` holds, one at a time.
    pub fn larger(&self, other: &Shape) -> Shape {
        Shape {
            clients: self.clients.max(other.clients),
            tokens: self.tokens.max(other.tokens),
            sequences: self.sequences.max(other.sequences),
            outputs: self.outputs.max(other.outputs),
            examples: self.examples.max(other.examples),
            groups: self.groups.max(other.groups),
            pairs: self.pairs.max(other.pairs),
            rows: self.rows.max(other.rows),
            token_tiles: self.token_tiles.max(other.token_tiles),
            output_tiles: self.output_tiles.max(other.output_tiles),
            // The rest is the greater of the two there too.
            ..self.plus(other)
        }
    }

    /// The shape without what no launch of the step-by-step kernels depends on, so that graphs are shared by more chunks.
    pub fn of_launches(self) -> Shape {
        Shape { client_tokens: 0, client_outputs: 0, client_groups: 0, ..self }
    }

    /// A shape at least as large that many chunks share.
    pub fn rounded(self) -> Shape {
        Shape {
            clients: round_up(self.clients),
            tokens: round_up(self.tokens),
            sequences: round_up(self.sequences),
            outputs: round_up(self.outputs),
            examples: round_up(self.examples),
            groups: round_up(self.groups),
            pairs: round_up(self.pairs),
            rows: round_up(self.rows),
            token_tiles: round_up(self.token_tiles),
            output_tiles: round_up(self.output_tiles),
            client_rows: round_up(self.client_rows),
            client_examples: round_up(self.client_examples),
            client_tokens: round_up(self.client_tokens),
            client_outputs: round_up(self.client_outputs),
            client_groups: round_up(self.client_groups),
            client_pairs: round_up(self.client_pairs),
            longest: round_up(self.longest),
            // Kernels go round the positions of the step itself: a wider span only makes their grids larger.
            positions: (self.positions.0 / 8 * 8, round_up(self.positions.1)),
            width: round_up(self.width),
            members: round_up(self.members),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_differ_little_share_one_that_holds_both() {
        let one = Shape { tokens: 1000, width: 102, members: 17, longest: 33, positions: (0, 33), ..Shape::default() };
        let other = Shape { tokens: 1020, width: 104, members: 18, longest: 35, positions: (3, 36), ..Shape::default() };
        let shared = one.rounded();
        assert_eq!(shared, other.rounded());
        for shape in [one, other] {
            assert_eq!(shared.larger(&shape), shared, "nothing of it is smaller");
        }
        assert_ne!(shared, Shape { width: 120, ..one }.rounded());
    }
}
