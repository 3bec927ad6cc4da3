//! One packed mini-batch: plain arrays with offsets, no padding.

use super::TableRow;

/// Packed input of one local step. Offsets of clients come last in each group of fields, so that the same arrays serve
/// one client on a CPU worker and thousands on a GPU.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Row of the owner's item table, per token `[T]`.
    pub row: Vec<TableRow>,
    /// Position inside its sequence, per token `[T]`.
    pub position: Vec<u32>,
    /// First token of its sequence, per token `[T]`.
    pub start: Vec<u32>,
    /// The token itself, `0..T`: what [`Step::out_token`] is to outputs.
    pub token: Vec<u32>,
    /// Token bounds of sequences `[S + 1]`.
    pub bounds: Vec<u32>,
    /// Tokens whose hidden state is used `[Q]`: all of a history that is trained on, the last of a view.
    pub out_token: Vec<u32>,
    /// First token of their sequences `[Q]`.
    pub out_start: Vec<u32>,
    /// Output of each next-item example `[E]`.
    pub example: Vec<u32>,
    /// Candidate rows `[E, width]`, the positive first; for the full softmax only the positive.
    pub cands: Vec<TableRow>,
    /// What the loss of each example is multiplied by `[E]`; empty: 1 / examples of its client. Positive.
    pub share: Vec<f32>,
    /// What is taken off the score of each candidate before the loss `[E, width]`: the log of how much more often than uniformly it is drawn.
    /// Empty: nothing.
    pub offset: Vec<f32>,
    /// Labels of the candidates in `[0, 1]` `[E, width]`; empty: 1 for the positive, 0 for the others. The CPU alone reads them.
    pub labels: Vec<f32>,
    /// Gradients of hidden states from outside the step `[Q, d]`, added to its own; empty: none. The CPU alone reads them.
    pub pull: Vec<f32>,
    /// Candidates of an example.
    pub width: usize,
    /// gBCE's power on the positive's probability (equation 11 of gSASRec); under the sampled softmax the share of the target that is the
    /// positive's alone, the rest being spread over all candidates; 1 otherwise.
    pub positive_weight: f32,
    /// Outputs of contrast groups: anchor, positives, counterfactuals; bounds in [`Step::group_bounds`].
    pub group: Vec<u32>,
    /// Bounds of groups `[G + 1]`.
    pub group_bounds: Vec<u32>,
    /// Positives of each group `[G]`.
    pub positives: Vec<u32>,
    /// Outputs of two copies of one sequence each `[N, 2]`, for the contrast within a mini-batch.
    pub pair: Vec<u32>,
    /// Token bounds of clients `[C + 1]`.
    pub client_tokens: Vec<u32>,
    /// Output bounds of clients `[C + 1]`.
    pub client_outs: Vec<u32>,
    /// Example bounds of clients `[C + 1]`.
    pub client_examples: Vec<u32>,
    /// Bounds of clients `[C + 1]` in examples with a weight of their own (see [`Step::push_weighted`]).
    pub client_weighted: Vec<u32>,
    /// Examples with a weight of their own.
    pub weighted: u32,
    /// Group bounds of clients `[C + 1]`.
    pub client_groups: Vec<u32>,
    /// Pair bounds of clients `[C + 1]`.
    pub client_pairs: Vec<u32>,
    /// Tokens of the longest sequence.
    pub longest: usize,
    /// Positions end here, so that the last item of every sequence has the same one; 0: they start from 0 with the first item.
    pub align: u32,
    /// Special rows at the end of a client's table where that is the whole catalogue: no candidates of a full softmax.
    pub special: usize,
}

impl Step {
    /// Empties the step; capacity and alignment stay.
    pub fn clear(&mut self) {
        for v in [
            &mut self.position,
            &mut self.start,
            &mut self.token,
            &mut self.out_token,
            &mut self.out_start,
            &mut self.example,
            &mut self.group,
            &mut self.positives,
            &mut self.pair,
        ] {
            v.clear();
        }
        for v in [
            &mut self.bounds,
            &mut self.group_bounds,
            &mut self.client_tokens,
            &mut self.client_outs,
            &mut self.client_examples,
            &mut self.client_weighted,
            &mut self.client_groups,
            &mut self.client_pairs,
        ] {
            v.clear();
            v.push(0);
        }
        self.row.clear();
        self.cands.clear();
        self.share.clear();
        self.offset.clear();
        self.weighted = 0;
        self.labels.clear();
        self.pull.clear();
        self.longest = 0;
    }

    /// Appends a sequence given as item-table rows; returns its first token.
    pub fn push_sequence(&mut self, rows: impl IntoIterator<Item = TableRow>) -> u32 {
        let first = self.row.len() as u32;
        for (i, row) in rows.into_iter().enumerate() {
            self.row.push(row);
            self.position.push(i as u32);
            self.start.push(first);
            self.token.push(first + i as u32);
        }
        let end = self.row.len() as u32;
        self.bounds.push(end);
        self.longest = self.longest.max((end - first) as usize);
        if self.align > 0 {
            assert!(end - first <= self.align, "a sequence of {} items is aligned to {}", end - first, self.align);
            for p in &mut self.position[first as usize..] {
                *p += self.align - (end - first);
            }
        }
        first
    }

    /// First position that a sequence of the step may have and the one after the last.
    pub fn positions(&self) -> (usize, usize) {
        match self.align as usize {
            0 => (0, self.longest),
            end => (end - self.longest, end),
        }
    }

    /// Marks `token` as one whose hidden state is used; returns its output.
    pub fn push_output(&mut self, token: u32) -> u32 {
        self.out_token.push(token);
        self.out_start.push(self.start[token as usize]);
        self.out_token.len() as u32 - 1
    }

    /// Appends a contrast group.
    pub fn push_group(&mut self, anchor: u32, positives: &[u32], negatives: &[u32]) {
        self.group.push(anchor);
        self.group.extend_from_slice(positives);
        self.group.extend_from_slice(negatives);
        self.group_bounds.push(self.group.len() as u32);
        self.positives.push(positives.len() as u32);
    }

    /// Appends an example at `output`, its candidates without. Its loss counts as one of the client's training positions.
    pub fn push_example(&mut self, output: u32) {
        self.example.push(output);
        if !self.share.is_empty() {
            self.share.push(1.0);
        }
    }

    /// The same for an example that is no training position: its loss counts as `weight` of them, beside those that there are.
    pub fn push_weighted(&mut self, output: u32, weight: f32) {
        self.write_shares();
        // Those of the current client are weights until it ends.
        self.share.resize(self.example.len(), 1.0);
        self.example.push(output);
        self.share.push(weight);
        self.weighted += 1;
    }

    /// Turns the weights of the current client's examples, from example `first` on, into shares.
    fn end_shares(&mut self, first: usize) {
        if self.share.is_empty() {
            return;
        }
        let before = self.client_weighted.last().map_or(0, |&end| end);
        let positions = self.example.len() - first - (self.weighted - before) as usize;
        self.share[first..].iter_mut().for_each(|weight| *weight /= positions.max(1) as f32);
    }

    /// Ends the current client: its examples are sorted by their outputs, which kernels rely on.
    pub fn end_client(&mut self) {
        let first = self.client_examples.last().map_or(0, |&end| end as usize);
        self.end_shares(first);
        if !self.example[first..].is_sorted() {
            let mut order: Vec<usize> = (first..self.example.len()).collect();
            order.sort_by_key(|&e| self.example[e]);
            let cands: Vec<TableRow> = order.iter().flat_map(|&e| &self.cands[e * self.width..(e + 1) * self.width]).copied().collect();
            self.cands[first * self.width..].copy_from_slice(&cands);
            if !self.offset.is_empty() {
                let offset: Vec<f32> = order.iter().flat_map(|&e| &self.offset[e * self.width..(e + 1) * self.width]).copied().collect();
                self.offset[first * self.width..].copy_from_slice(&offset);
            }
            if !self.share.is_empty() {
                let share: Vec<f32> = order.iter().map(|&e| self.share[e]).collect();
                self.share[first..].copy_from_slice(&share);
            }
            // Equal outputs keep the order in which they were packed.
            self.example[first..].sort_unstable();
        }
        self.client_tokens.push(self.row.len() as u32);
        self.client_outs.push(self.out_token.len() as u32);
        self.client_examples.push(self.example.len() as u32);
        self.client_weighted.push(self.weighted);
        self.client_groups.push(self.positives.len() as u32);
        self.client_pairs.push(self.pair.len() as u32 / 2);
    }

    /// Appends the clients of `other`, whose row 0 is row `first_row` of the joint item table. Both steps have the same number
    /// of candidates an example, gBCE power, alignment and special rows (an empty step takes them over).
    pub fn append(&mut self, other: &Step, first_row: u32) {
        (self.width, self.positive_weight, self.align, self.special) = (other.width, other.positive_weight, other.align, other.special);
        self.longest = self.longest.max(other.longest);
        let (tokens, outs, examples) = (self.tokens() as u32, self.outputs() as u32, self.example.len() as u32);
        let (members, groups, pairs) = (self.group.len() as u32, self.positives.len() as u32, self.pair.len() as u32 / 2);
        if !(self.share.is_empty() && other.share.is_empty()) {
            self.write_shares();
            self.share.extend(other.shares());
        }
        let shifted = |to: &mut Vec<u32>, from: &[u32], by: u32| to.extend(from.iter().map(|x| x + by));
        self.row.extend(other.row.iter().map(|row| row.behind(first_row)));
        self.position.extend_from_slice(&other.position);
        shifted(&mut self.start, &other.start, tokens);
        shifted(&mut self.token, &other.token, tokens);
        shifted(&mut self.bounds, &other.bounds[1..], tokens);
        shifted(&mut self.out_token, &other.out_token, tokens);
        shifted(&mut self.out_start, &other.out_start, tokens);
        shifted(&mut self.example, &other.example, outs);
        self.cands.extend(other.cands.iter().map(|row| row.behind(first_row)));
        self.offset.extend_from_slice(&other.offset);
        shifted(&mut self.group, &other.group, outs);
        shifted(&mut self.group_bounds, &other.group_bounds[1..], members);
        self.positives.extend_from_slice(&other.positives);
        shifted(&mut self.client_tokens, &other.client_tokens[1..], tokens);
        shifted(&mut self.client_outs, &other.client_outs[1..], outs);
        shifted(&mut self.client_examples, &other.client_examples[1..], examples);
        shifted(&mut self.client_weighted, &other.client_weighted[1..], self.weighted);
        self.weighted += other.weighted;
        shifted(&mut self.client_groups, &other.client_groups[1..], groups);
        shifted(&mut self.pair, &other.pair, outs);
        shifted(&mut self.client_pairs, &other.client_pairs[1..], pairs);
    }

    /// What the loss of each example is multiplied by `[E]`, of clients that have ended.
    pub fn shares(&self) -> impl Iterator<Item = f32> + '_ {
        let equal = self.client_examples.windows(2).flat_map(|b| std::iter::repeat_n(1.0 / (b[1] - b[0]) as f32, (b[1] - b[0]) as usize));
        let (own, equal) = if self.share.is_empty() { (&[][..], Some(equal)) } else { (&self.share[..], None) };
        own.iter().copied().chain(equal.into_iter().flatten())
    }

    fn write_shares(&mut self) {
        if self.share.is_empty() {
            self.share = self.shares().collect();
        }
    }

    /// Examples that are training positions: all but those with a weight of their own.
    pub fn training_positions(&self) -> usize {
        self.example.len() - self.weighted as usize
    }

    /// Packed tokens `T`.
    pub fn tokens(&self) -> usize {
        self.row.len()
    }

    /// Outputs `Q`.
    pub fn outputs(&self) -> usize {
        self.out_token.len()
    }

    /// Clients `C`.
    pub fn clients(&self) -> usize {
        self.client_tokens.len().saturating_sub(1)
    }
}
