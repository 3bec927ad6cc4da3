//! Packed steps for kernel tests, and a builder of random ones.
#![allow(dead_code)] // Every test file uses a part.

use lumos::testing::Packed;
use lumos_simt::check::Random;
use std::ops::Range;

/// Rows of an activation: every packed token.
pub const TOKENS: i32 = 0;
/// Rows of an activation: the tokens whose hidden state is used.
pub const OUTPUTS: i32 = 1;
/// Rows of a tile.
pub const TILE_ROWS: usize = 32;

/// Which rows of an activation belong to whom.
#[derive(Clone, Copy)]
pub struct RowView<'a> {
    /// Bounds of clients `[C + 1]`.
    pub bounds: &'a [i32],
    /// Owner of each row.
    pub client: &'a [i32],
}

impl RowView<'_> {
    /// Number of rows.
    pub fn count(&self) -> usize {
        self.client.len()
    }

    /// The rows of client `c`.
    pub fn of(&self, c: usize) -> Range<usize> {
        self.bounds[c] as usize..self.bounds[c + 1] as usize
    }
}

/// A packed step that owns its arrays; the fields are named as in packed.cuh. Fields may be changed before
/// [`PackedStep::ptr`] is called.
pub struct PackedStep {
    pub width: usize,
    pub longest: usize,
    pub position_low: i32,
    pub position_high: i32,
    pub number: i32,
    pub positive_weight: f32,
    pub lambda: f32,
    pub special: i32,
    pub client_tokens: Vec<i32>,
    pub client_sequences: Vec<i32>,
    pub client_outs: Vec<i32>,
    pub client_examples: Vec<i32>,
    pub client_groups: Vec<i32>,
    pub client_pairs: Vec<i32>,
    pub client_rows: Vec<i32>,
    pub client_id: Vec<u32>,
    pub row_item: Vec<i32>,
    pub row: Vec<i32>,
    pub position: Vec<i32>,
    pub start: Vec<i32>,
    pub token_client: Vec<i32>,
    pub bounds: Vec<i32>,
    pub out_token: Vec<i32>,
    pub out_start: Vec<i32>,
    pub out_client: Vec<i32>,
    pub example: Vec<i32>,
    pub cands: Vec<i32>,
    pub group: Vec<i32>,
    pub group_bounds: Vec<i32>,
    pub positives: Vec<i32>,
    pub pair: Vec<i32>,
    /// Client and first row of each tile.
    pub tiles_tokens: Vec<[i32; 2]>,
    /// See `tiles_tokens`.
    pub tiles_outputs: Vec<[i32; 2]>,
    header: Option<Box<Packed>>,
}

impl PackedStep {
    /// A random step in which every client has at most one history: `clients[c]` holds the lengths of its sequences, the
    /// history first and then its views; an empty list is a client without tokens. Examples have `width` candidates.
    pub fn random(seed: u64, width: usize, clients: &[&[usize]]) -> PackedStep {
        let mut b = Builder::new(seed, width);
        for lengths in clients {
            b.user(lengths);
            b.end_client();
        }
        b.finish()
    }

    /// What a kernel takes as `const Packed* step`: valid until the step is changed, asked again or dropped.
    pub fn ptr(&mut self) -> *const Packed {
        let header = self.header();
        &**self.header.insert(Box::new(header))
    }

    /// The header by value. Its pointers are valid until the step is changed or dropped.
    pub fn header(&self) -> Packed {
        Packed {
            clients: self.clients() as i32,
            tokens: self.tokens() as i32,
            sequences: self.sequences() as i32,
            outputs: self.outputs() as i32,
            examples: self.example.len() as i32,
            groups: self.positives.len() as i32,
            rows: self.rows() as i32,
            width: self.width as i32,
            longest: self.longest as i32,
            token_tiles: self.tiles_tokens.len() as i32,
            output_tiles: self.tiles_outputs.len() as i32,
            position_low: self.position_low,
            position_high: self.position_high,
            number: self.number,
            positive_weight: self.positive_weight,
            lambda: self.lambda,
            pairs: self.pair.len() as i32 / 2,
            special: self.special,
            client_tokens: self.client_tokens.as_ptr() as u64,
            client_sequences: self.client_sequences.as_ptr() as u64,
            client_outs: self.client_outs.as_ptr() as u64,
            client_examples: self.client_examples.as_ptr() as u64,
            client_groups: self.client_groups.as_ptr() as u64,
            client_pairs: self.client_pairs.as_ptr() as u64,
            client_rows: self.client_rows.as_ptr() as u64,
            client_id: self.client_id.as_ptr() as u64,
            row_item: self.row_item.as_ptr() as u64,
            row: self.row.as_ptr() as u64,
            position: self.position.as_ptr() as u64,
            start: self.start.as_ptr() as u64,
            token_client: self.token_client.as_ptr() as u64,
            bounds: self.bounds.as_ptr() as u64,
            out_token: self.out_token.as_ptr() as u64,
            out_start: self.out_start.as_ptr() as u64,
            out_client: self.out_client.as_ptr() as u64,
            example: self.example.as_ptr() as u64,
            cands: self.cands.as_ptr() as u64,
            group: self.group.as_ptr() as u64,
            group_bounds: self.group_bounds.as_ptr() as u64,
            positives: self.positives.as_ptr() as u64,
            pair: self.pair.as_ptr() as u64,
            tiles_tokens: self.tiles_tokens.as_ptr() as u64,
            tiles_outputs: self.tiles_outputs.as_ptr() as u64,
            share: 0,
            offset: 0,
        }
    }

    /// Clients `C`.
    pub fn clients(&self) -> usize {
        self.client_tokens.len() - 1
    }

    /// Packed tokens `T`.
    pub fn tokens(&self) -> usize {
        self.row.len()
    }

    /// Sequences `S`.
    pub fn sequences(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Output rows `Q`.
    pub fn outputs(&self) -> usize {
        self.out_token.len()
    }

    /// Item rows `R`.
    pub fn rows(&self) -> usize {
        *self.client_rows.last().expect("bounds begin with 0") as usize
    }

    /// Owners of the rows of `kind`.
    pub fn row_view(&self, kind: i32) -> RowView<'_> {
        match kind {
            TOKENS => RowView { bounds: &self.client_tokens, client: &self.token_client },
            OUTPUTS => RowView { bounds: &self.client_outs, client: &self.out_client },
            _ => panic!("no such kind of rows: {kind}"),
        }
    }

    /// Tiles of the rows of `kind`.
    pub fn tiles(&self, kind: i32) -> &[[i32; 2]] {
        if kind == TOKENS { &self.tiles_tokens } else { &self.tiles_outputs }
    }

    /// Tokens of sequence `s`.
    pub fn sequence(&self, s: usize) -> Range<usize> {
        self.bounds[s] as usize..self.bounds[s + 1] as usize
    }

    /// Item rows of client `c`.
    pub fn rows_of(&self, c: usize) -> Range<usize> {
        self.client_rows[c] as usize..self.client_rows[c + 1] as usize
    }
}

/// Builds a random step client by client: [`Builder::user`] for every history with its views, then [`Builder::end_client`].
pub struct Builder {
    /// Random numbers; the caller may draw from it too.
    pub random: Random,
    /// Positions end here, so that the last items of all sequences share one; 0: positions start from 0.
    pub align: usize,
    step: PackedStep,
    // Of the client at hand: first row of its table, rows used so far, and how many it uses at most.
    first_row: usize,
    drawn: usize,
    cap: usize,
}

impl Builder {
    /// An empty step whose examples have `width` candidates.
    pub fn new(seed: u64, width: usize) -> Builder {
        let step = PackedStep {
            width,
            longest: 0,
            position_low: 0,
            position_high: 0,
            number: 1,
            positive_weight: 1.0,
            lambda: 0.25,
            special: 0,
            client_tokens: vec![0],
            client_sequences: vec![0],
            client_outs: vec![0],
            client_examples: vec![0],
            client_groups: vec![0],
            client_pairs: vec![0],
            client_rows: vec![0],
            client_id: vec![],
            row_item: vec![],
            row: vec![],
            position: vec![],
            start: vec![],
            token_client: vec![],
            bounds: vec![0],
            out_token: vec![],
            out_start: vec![],
            out_client: vec![],
            example: vec![],
            cands: vec![],
            group: vec![],
            group_bounds: vec![0],
            positives: vec![],
            pair: vec![],
            tiles_tokens: vec![],
            tiles_outputs: vec![],
            header: None,
        };
        Builder { random: Random::new(seed), align: 0, step, first_row: 0, drawn: 0, cap: 12 }
    }

    /// A row of the client's table: often one that occurred before, so that gradients of a row meet.
    fn draw_row(&mut self) -> i32 {
        let fresh = self.drawn < self.cap && (self.drawn == 0 || self.random.below(3) > 0);
        let local = if fresh {
            self.drawn += 1;
            self.drawn - 1
        } else {
            self.random.below(self.drawn)
        };
        (self.first_row + local) as i32
    }

    fn sequence(&mut self, length: usize) -> usize {
        let (client, first) = (self.step.client_id.len(), self.step.row.len());
        let shift = if self.align > 0 { self.align - length } else { 0 };
        for i in 0..length {
            let row = self.draw_row();
            self.step.row.push(row);
            self.step.position.push((shift + i) as i32);
            self.step.start.push(first as i32);
            self.step.token_client.push(client as i32);
        }
        self.step.bounds.push((first + length) as i32);
        self.step.longest = self.step.longest.max(length);
        first
    }

    fn output(&mut self, token: usize) -> i32 {
        self.step.out_token.push(token as i32);
        self.step.out_start.push(self.step.start[token]);
        self.step.out_client.push(self.step.client_id.len() as i32);
        self.step.out_token.len() as i32 - 1
    }

    /// Appends a history of `lengths[0]` items and its views to the client at hand; nothing where `lengths` is empty. Every
    /// token of the history and the last of each view is an output. Every output of the history is an example, except the
    /// last where there are views; those form one group, positives first.
    pub fn user(&mut self, lengths: &[usize]) {
        let Some((&history, views)) = lengths.split_first() else { return };
        assert!(lengths.iter().all(|&n| n > 0), "a sequence has at least one token");
        let first = self.sequence(history);
        let mut last = 0;
        for t in first..first + history {
            last = self.output(t);
            if views.is_empty() || t + 1 < first + history {
                self.step.example.push(last);
                for _ in 0..self.step.width {
                    let row = self.draw_row();
                    self.step.cands.push(row);
                }
            }
        }
        if views.is_empty() {
            return;
        }
        self.step.group.push(last);
        for &n in views {
            let first = self.sequence(n);
            let q = self.output(first + n - 1);
            self.step.group.push(q);
        }
        self.step.group_bounds.push(self.step.group.len() as i32);
        self.step.positives.push(views.len().div_ceil(2) as i32);
    }

    /// Appends two copies of a sequence to the client at hand, whose last tokens are a pair.
    pub fn pair(&mut self, lengths: [usize; 2]) {
        for length in lengths {
            let first = self.sequence(length);
            let output = self.output(first + length - 1);
            self.step.pair.push(output);
        }
    }

    /// Ends the client at hand. Its table has up to two rows more than it uses.
    pub fn end_client(&mut self) {
        let spare = self.random.below(3);
        let id = 1 + self.step.client_id.last().copied().unwrap_or(40) + self.random.below(5) as u32;
        let s = &mut self.step;
        s.client_id.push(id);
        s.client_tokens.push(s.row.len() as i32);
        s.client_sequences.push(s.bounds.len() as i32 - 1);
        s.client_outs.push(s.out_token.len() as i32);
        s.client_examples.push(s.example.len() as i32);
        s.client_groups.push(s.positives.len() as i32);
        s.client_pairs.push(s.pair.len() as i32 / 2);
        self.first_row += self.drawn + spare;
        s.client_rows.push(self.first_row as i32);
        self.drawn = 0;
        self.cap = 6 + self.random.below(20);
    }

    /// The finished step, with its tiles and positions.
    pub fn finish(mut self) -> PackedStep {
        let s = &mut self.step;
        assert_eq!(s.row.len() as i32, *s.client_tokens.last().expect("never empty"), "the last client was not ended");
        // Neighbouring rows are those of items far apart.
        s.row_item = (0..s.rows() as i32).map(|row| (row * 7 + 3) % s.rows() as i32).collect();
        (s.tiles_tokens, s.tiles_outputs) = (tiles(&s.client_tokens), tiles(&s.client_outs));
        (s.position_low, s.position_high) = match self.align {
            0 => (0, s.longest as i32),
            end => ((end - s.longest) as i32, end as i32),
        };
        self.step
    }
}

fn tiles(bounds: &[i32]) -> Vec<[i32; 2]> {
    let mut tiles = Vec::new();
    for (c, b) in bounds.windows(2).enumerate() {
        tiles.extend((b[0]..b[1]).step_by(TILE_ROWS).map(|first| [c as i32, first]));
    }
    tiles
}

/// Largest difference between `got` and `want`, as a multiple of the root mean square of `want`; infinite where a number of
/// `got` is none.
pub fn error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square: f64 = want.iter().map(|w| w * w).sum::<f64>() / want.len().max(1) as f64;
    let scale = square.sqrt().max(1e-30);
    let errors = got.iter().zip(want).map(|(&g, &w)| (f64::from(g) - w).abs() / scale);
    errors.fold(0.0, |worst, e| if e.is_nan() { f64::INFINITY } else { worst.max(e) })
}

/// Fails where `got` differs from `want` by more than `limit` times the root mean square of `want`, or is not a number.
pub fn close(name: &str, got: &[f32], want: &[f64], limit: f64) {
    let e = error(got, want);
    assert!(e <= limit, "{name}: error {e:.2e} over {limit:.2e}");
}

/// Whether both hold the same bits.
pub fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}
