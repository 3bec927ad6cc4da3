//! The packed steps of a chunk in device memory: the host's side of `kernels/packed.cuh`.

use crate::backend::Step;
use crate::backend::cuda::shape::{Shape, TILE_ROWS};
use crate::device::interface::{Buffer, Device, Result, bytes_of};
use crate::device::mirror::mirrored;
use crate::engine::Chunk;

mirrored! {
    /// `struct Packed` of `kernels/packed.cuh`, field by field.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Packed {
        /// Clients `C`.
        pub clients: i32,
        /// Packed tokens `T`.
        pub tokens: i32,
        /// Sequences `S`.
        pub sequences: i32,
        /// Outputs `Q`.
        pub outputs: i32,
        /// Examples `E`.
        pub examples: i32,
        /// Groups of views `G`.
        pub groups: i32,
        /// Item rows `R`.
        pub rows: i32,
        /// Candidates of an example, the positive first.
        pub width: i32,
        /// Tokens of the longest sequence.
        pub longest: i32,
        /// Tiles over tokens.
        pub token_tiles: i32,
        /// Tiles over outputs.
        pub output_tiles: i32,
        /// First position that a sequence of the step may have.
        pub position_low: i32,
        /// The position after the last one.
        pub position_high: i32,
        /// Number of the step within the visit, from 1.
        pub number: i32,
        /// gBCE's power on the positive's probability; 1 otherwise.
        pub positive_weight: f32,
        /// Weight of the contrast groups in this round.
        pub lambda: f32,
        /// Pairs `N`.
        pub pairs: i32,
        /// Rows at the end of a client's table that are no items, where the table is the whole catalogue.
        pub special: i32,
        /// Bounds of clients in tokens `[C + 1]`.
        pub client_tokens: u64,
        /// Bounds of clients in sequences `[C + 1]`.
        pub client_sequences: u64,
        /// Bounds of clients in outputs `[C + 1]`.
        pub client_outs: u64,
        /// Bounds of clients in examples `[C + 1]`.
        pub client_examples: u64,
        /// Bounds of clients in groups `[C + 1]`.
        pub client_groups: u64,
        /// Bounds of clients in pairs `[C + 1]`.
        pub client_pairs: u64,
        /// Bounds of clients in item rows `[C + 1]`.
        pub client_rows: u64,
        /// The clients' numbers in the population `[C]`, which key their random streams.
        pub client_id: u64,
        /// Items of the item rows `[R]`.
        pub row_item: u64,
        /// Item row of each token `[T]`.
        pub row: u64,
        /// Position of each token in its sequence `[T]`.
        pub position: u64,
        /// First token of each token's sequence `[T]`.
        pub start: u64,
        /// Owner of each token `[T]`.
        pub token_client: u64,
        /// Bounds of sequences in tokens `[S + 1]`.
        pub bounds: u64,
        /// Token of each output `[Q]`.
        pub out_token: u64,
        /// First token of each output's sequence `[Q]`.
        pub out_start: u64,
        /// Owner of each output `[Q]`.
        pub out_client: u64,
        /// Output of each example `[E]`.
        pub example: u64,
        /// Candidate rows `[E, width]`.
        pub cands: u64,
        /// Outputs of the groups' members: anchor, positives, counterfactuals.
        pub group: u64,
        /// Bounds of groups in members `[G + 1]`.
        pub group_bounds: u64,
        /// Positives of each group `[G]`.
        pub positives: u64,
        /// Outputs of two copies of one sequence `[N, 2]`.
        pub pair: u64,
        /// Client and first row of each tile over tokens.
        pub tiles_tokens: u64,
        /// Client and first row of each tile over outputs.
        pub tiles_outputs: u64,
        /// Share of each example in its client's loss `[E]`; null where all have the same.
        pub share: u64,
        /// What is taken off each candidate's score `[E, width]`; null: nothing.
        pub offset: u64,
    }
}

/// Bytes of a [`Packed`].
pub const PACKED_BYTES: usize = size_of::<Packed>();

fn tiles(bounds: &[u32]) -> u32 {
    bounds.windows(2).map(|b| (b[1] - b[0]).div_ceil(TILE_ROWS)).sum()
}

impl Shape {
    /// The shape that holds every step of `chunk`.
    pub fn of(chunk: &Chunk) -> Shape {
        let mut s = Shape { clients: chunk.clients.len() as u32, rows: chunk.rows() as u32, positions: (u32::MAX, 0), ..Shape::default() };
        let most = |bounds: &[u32]| bounds.windows(2).map(|b| b[1] - b[0]).max().unwrap_or(0);
        s.client_rows = most(&chunk.client_rows);
        for step in &chunk.steps {
            s.members = s.members.max(most(&step.group_bounds));
            s.client_examples = s.client_examples.max(most(&step.client_examples));
            s.client_tokens = s.client_tokens.max(most(&step.client_tokens));
            s.client_outputs = s.client_outputs.max(most(&step.client_outs));
            s.client_groups = s.client_groups.max(most(&step.client_groups));
            s.client_pairs = s.client_pairs.max(most(&step.client_pairs));
            s.pairs = s.pairs.max(step.pair.len() as u32 / 2);
            s.tokens = s.tokens.max(step.tokens() as u32);
            s.sequences = s.sequences.max(step.bounds.len() as u32 - 1);
            s.outputs = s.outputs.max(step.outputs() as u32);
            s.examples = s.examples.max(step.example.len() as u32);
            s.groups = s.groups.max(step.positives.len() as u32);
            s.token_tiles = s.token_tiles.max(tiles(&step.client_tokens));
            s.output_tiles = s.output_tiles.max(tiles(&step.client_outs));
            s.longest = s.longest.max(step.longest as u32);
            s.width = s.width.max(step.width as u32);
            let (low, high) = step.positions();
            s.positions = (s.positions.0.min(low as u32), s.positions.1.max(high as u32));
        }
        s.positions.0 = s.positions.0.min(s.positions.1);
        s
    }
}

/// Words being laid out for one upload; every array begins at a multiple of 64 words.
#[derive(Default)]
struct Words {
    words: Vec<u32>,
}

impl Words {
    /// Appends an array and gives its place in bytes.
    fn put(&mut self, values: impl IntoIterator<Item = u32>) -> u64 {
        self.words.resize(self.words.len().next_multiple_of(64), 0);
        let at = 4 * self.words.len() as u64;
        self.words.extend(values);
        at
    }
}

/// Owner of each of the rows that `bounds [C + 1]` cuts up.
fn owners(bounds: &[u32]) -> impl Iterator<Item = u32> + '_ {
    bounds.windows(2).enumerate().flat_map(|(c, b)| std::iter::repeat_n(c as u32, (b[1] - b[0]) as usize))
}

/// Client and first row of each tile.
fn tile_list(bounds: &[u32]) -> impl Iterator<Item = u32> + '_ {
    bounds.windows(2).enumerate().flat_map(|(c, b)| (b[0]..b[1]).step_by(TILE_ROWS as usize).flat_map(move |first| [c as u32, first]))
}

/// Bounds of clients `[C + 1]` in sequences.
fn client_sequences(step: &Step) -> impl Iterator<Item = u32> + '_ {
    let mut s = 0usize;
    step.client_tokens.iter().map(move |&end| {
        while s + 1 < step.bounds.len() && step.bounds[s + 1] <= end {
            s += 1;
        }
        s as u32
    })
}

/// Clients by falling number of tokens over all steps, those of like number in their order.
fn longest_first(chunk: &Chunk) -> Vec<u32> {
    let tokens = |c: usize| chunk.steps.iter().map(|s| s.client_tokens[c + 1] - s.client_tokens[c]).sum::<u32>();
    let counts: Vec<u32> = (0..chunk.clients.len()).map(tokens).collect();
    let mut order: Vec<u32> = (0..counts.len() as u32).collect();
    order.sort_by_key(|&c| std::cmp::Reverse(counts[c as usize]));
    order
}

/// A chunk laid out for the device, before its upload: done on host threads while the device is at work.
#[derive(Default)]
pub struct HostChunk {
    words: Words,
    steps: Vec<Packed>,
    items: u64,
    uploads: u64,
    client_rows: u64,
    order: u64,
    chunk_rows: usize,
    clients: usize,
}

impl HostChunk {
    /// Lays `chunk` out; `lambda` is the round's weight of the contrast, `first_number` the number (from 1) of the first step in
    /// the visit.
    pub fn new(chunk: &Chunk, lambda: f32, first_number: u32) -> HostChunk {
        let mut w = Words::default();
        let client_rows = w.put(chunk.client_rows.iter().copied());
        let client_id = w.put(chunk.clients.iter().copied());
        let items = w.put(chunk.items.iter().copied());
        let order = w.put(longest_first(chunk));
        let uploads = w.put(chunk.uploads.chunks(4).map(|c| c.iter().rev().fold(0, |word, &u| (word << 8) | u32::from(u))));
        let mut steps: Vec<Packed> = Vec::with_capacity(chunk.steps.len());
        for (i, step) in chunk.steps.iter().enumerate() {
            let same = chunk.same_layout && i > 0;
            let mut p = if same { steps[0] } else { Packed::default() };
            p.number = (first_number as usize + i) as i32;
            p.cands = w.put(step.cands.iter().map(|row| row.0));
            p.offset = if step.offset.is_empty() { 0 } else { w.put(step.offset.iter().map(|offset| offset.to_bits())) };
            if !same {
                let (low, high) = step.positions();
                p = Packed {
                    clients: chunk.clients.len() as i32,
                    tokens: step.tokens() as i32,
                    sequences: step.bounds.len() as i32 - 1,
                    outputs: step.outputs() as i32,
                    examples: step.example.len() as i32,
                    groups: step.positives.len() as i32,
                    rows: chunk.rows() as i32,
                    width: step.width as i32,
                    longest: step.longest as i32,
                    token_tiles: tiles(&step.client_tokens) as i32,
                    output_tiles: tiles(&step.client_outs) as i32,
                    position_low: low as i32,
                    position_high: high as i32,
                    positive_weight: step.positive_weight,
                    lambda,
                    pairs: step.pair.len() as i32 / 2,
                    special: step.special as i32,
                    client_tokens: w.put(step.client_tokens.iter().copied()),
                    client_sequences: w.put(client_sequences(step)),
                    client_outs: w.put(step.client_outs.iter().copied()),
                    client_examples: w.put(step.client_examples.iter().copied()),
                    client_groups: w.put(step.client_groups.iter().copied()),
                    client_pairs: w.put(step.client_pairs.iter().copied()),
                    client_rows,
                    client_id,
                    row_item: items,
                    row: w.put(step.row.iter().map(|row| row.0)),
                    position: w.put(step.position.iter().copied()),
                    start: w.put(step.start.iter().copied()),
                    token_client: w.put(owners(&step.client_tokens)),
                    bounds: w.put(step.bounds.iter().copied()),
                    out_token: w.put(step.out_token.iter().copied()),
                    out_start: w.put(step.out_start.iter().copied()),
                    out_client: w.put(owners(&step.client_outs)),
                    example: w.put(step.example.iter().copied()),
                    group: w.put(step.group.iter().copied()),
                    group_bounds: w.put(step.group_bounds.iter().copied()),
                    positives: w.put(step.positives.iter().copied()),
                    pair: w.put(step.pair.iter().copied()),
                    tiles_tokens: w.put(tile_list(&step.client_tokens)),
                    tiles_outputs: w.put(tile_list(&step.client_outs)),
                    // 0 is the place of the first array: no shares; and so for offsets.
                    share: if step.share.is_empty() { 0 } else { w.put(step.share.iter().map(|share| share.to_bits())) },
                    ..p
                };
            }
            steps.push(p);
        }
        // ChunkMemory behind the last array, so that an empty one has an address inside the buffer.
        w.put([]);
        HostChunk { words: w, steps, items, uploads, client_rows, order, chunk_rows: chunk.rows(), clients: chunk.clients.len() }
    }

    /// Bytes of its arrays.
    pub fn bytes(&self) -> usize {
        4 * self.words.words.len() + self.steps.len() * PACKED_BYTES
    }

    /// Bytes that the device sets aside for it, with some to grow.
    pub fn room(&self) -> usize {
        self.array_room() + self.steps.len() * PACKED_BYTES
    }

    fn array_room(&self) -> usize {
        4 * self.words.words.len() / 8 * 9
    }
}

/// A chunk's arrays on the device.
pub struct DeviceChunk {
    arrays: Buffer,
    table: Buffer,
    /// Local steps.
    pub steps: usize,
    /// Rows of the item table.
    pub rows: usize,
    /// Clients.
    pub clients: usize,
    items: u64,
    uploads: u64,
    client_rows: u64,
    order: u64,
}

impl DeviceChunk {
    /// Whether a laid-out chunk fits in the memory of this one.
    pub fn holds(&self, host: &HostChunk) -> bool {
        self.arrays.bytes() >= 4 * host.words.words.len() && self.table.bytes() >= host.steps.len() * PACKED_BYTES
    }

    /// Copies a laid-out chunk to the device, into `room` where that is large enough.
    pub fn upload(device: &dyn Device, host: &HostChunk, room: Option<DeviceChunk>) -> Result<DeviceChunk> {
        let (need, table_need) = (4 * host.words.words.len(), host.steps.len() * PACKED_BYTES);
        let (arrays, table) = match room {
            Some(r) if r.holds(host) => (r.arrays, r.table),
            room => {
                drop(room);
                (device.alloc(host.array_room().max(need))?, device.alloc(table_need)?)
            }
        };
        let base = arrays.address();
        let steps: Vec<Packed> = host.steps.iter().map(|p| p.based(base)).collect();
        device.upload(&arrays, 0, bytes_of(&host.words.words))?;
        device.upload(&table, 0, bytes_of(&steps))?;
        Ok(DeviceChunk {
            items: base + host.items,
            uploads: base + host.uploads,
            client_rows: base + host.client_rows,
            order: base + host.order,
            steps: steps.len(),
            rows: host.chunk_rows,
            clients: host.clients,
            arrays,
            table,
        })
    }

    /// The table of [`Packed`], one a step.
    pub fn table(&self) -> &Buffer {
        &self.table
    }

    /// Address of the items of the rows `[R]`.
    pub fn items(&self) -> u64 {
        self.items
    }

    /// Bytes of the arrays and the table.
    pub fn bytes(&self) -> usize {
        self.arrays.bytes() + self.table.bytes()
    }

    /// Address of the bounds of clients in the row table `[C + 1]`.
    pub fn client_rows(&self) -> u64 {
        self.client_rows
    }

    /// Address of the clients by falling number of tokens `[C]`.
    pub fn order(&self) -> u64 {
        self.order
    }

    /// Address of the flags of rows that are uploaded, a byte each `[R]`.
    pub fn uploads(&self) -> u64 {
        self.uploads
    }
}

impl Packed {
    /// Places as addresses.
    fn based(&self, base: u64) -> Packed {
        let mut p = *self;
        for at in [
            &mut p.client_tokens,
            &mut p.client_sequences,
            &mut p.client_outs,
            &mut p.client_examples,
            &mut p.client_groups,
            &mut p.client_pairs,
            &mut p.client_rows,
            &mut p.client_id,
            &mut p.row_item,
            &mut p.row,
            &mut p.position,
            &mut p.start,
            &mut p.token_client,
            &mut p.bounds,
            &mut p.out_token,
            &mut p.out_start,
            &mut p.out_client,
            &mut p.example,
            &mut p.cands,
            &mut p.group,
            &mut p.group_bounds,
            &mut p.positives,
            &mut p.pair,
            &mut p.tiles_tokens,
            &mut p.tiles_outputs,
        ] {
            *at += base;
        }
        for at in [&mut p.share, &mut p.offset] {
            if *at != 0 {
                *at += base;
            }
        }
        p
    }
}
