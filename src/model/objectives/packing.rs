//! What terms work on: a user's sequence, the item rows that a client has, and where sequences and examples are packed.

use super::places::{Output, Token};
use super::popularity::Popularity;
use super::same_target::SameTarget;
use crate::backend::cpu::{DRAWS, draws};
use crate::backend::{Step, TableRow};
use crate::base::rng::{Purpose, Stream};
use crate::config::{LossSettings, RecLoss, Resample, Settings};
use crate::views::UserViews;
use smallvec::SmallVec;

/// One user's sequence and everything that is drawn for it. Borrowed data: a term copies before it edits.
pub struct Sequence<'a> {
    /// The run's settings.
    pub settings: &'a Settings,
    /// User, and the round, which key every draw.
    pub user: u32,
    /// See `user`.
    pub round: u64,
    /// Training items, oldest first.
    pub train: &'a [u32],
    /// Whether the history is contrasted with its views in this round.
    pub contrast: bool,
    /// The user's views, where there are any.
    pub views: Option<&'a UserViews>,
    /// Where each item is a target, for the contrast of sequences with the same one.
    pub same_target: Option<&'a SameTarget>,
    /// What negatives are drawn by, where not uniformly.
    pub popularity: Option<&'a Popularity>,
    /// Items of the catalogue `I`.
    pub items: usize,
    /// The special row at which hidden states are asked for, if any.
    pub asked: Option<u32>,
    /// The special row that stands for an item left out, if any.
    pub mask: Option<u32>,
    /// Whether a term wants the last training item encoded as well.
    pub whole: bool,
    /// Stream of negatives.
    pub negatives: Stream,
}

impl<'a> Sequence<'a> {
    /// The last items of `sequence` that fit an input, beside the special row that is asked with.
    pub fn clip<'s>(&self, sequence: &'s [u32]) -> &'s [u32] {
        let max = self.settings.model.max_len as usize - usize::from(self.asked.is_some());
        &sequence[sequence.len().saturating_sub(max)..]
    }

    /// Training items that a backbone which reads forwards is shown, and the target of the last of them; no target where a term wants that
    /// encoded as well.
    pub fn inputs(&self) -> (&'a [u32], Option<u32>) {
        let max = self.settings.model.max_len as usize;
        let last = |items: &'a [u32]| &items[items.len().saturating_sub(max)..];
        if self.whole {
            return (last(self.train), None);
        }
        match self.train.split_last() {
            Some((&target, inputs)) => (last(inputs), Some(target)),
            None => (&[], None),
        }
    }

    /// Training positions of a backbone that reads forwards: shown items with a target.
    pub fn positions(&self) -> usize {
        let (inputs, target) = self.inputs();
        inputs.len().saturating_sub(usize::from(target.is_none()))
    }

    /// Sampled negatives of an example.
    pub fn negatives_per_example(&self) -> usize {
        self.settings.loss.sampled() as usize
    }

    /// Local epochs with negatives of their own.
    pub fn draws(&self) -> u32 {
        if self.settings.loss.resample == Resample::Epoch { self.settings.local.epochs } else { 1 }
    }

    /// Where in the stream of negatives number `k` of the example at `position` in `epoch` has its 2^[`PLACE`] blocks.
    pub(super) fn place(&self, epoch: u32, position: usize, k: usize) -> u64 {
        let (epoch, position) = match self.settings.loss.resample {
            Resample::Epoch => (epoch, position),
            Resample::Visit => (0, position),
            Resample::Shared => (0, 0),
        };
        let k_total = self.settings.loss.negatives as u64;
        (u64::from(epoch) << 44) | (((position as u64) * k_total + k as u64) << PLACE)
    }

    /// Gives `each` the negatives of the example at `position` in `epoch`, and whether their rows count as trained (an item of a view does not):
    /// the first `loss.counterfactual_negatives` from the counterfactuals, where the user has any, the others uniform over the catalogue, or by
    /// `loss.popularity`, without the user's training items (after 32 tries, or 16, whatever came last, so that a user of every item does not
    /// stall).
    pub fn each_negative(&self, (epoch, position): (u32, usize), mut each: impl FnMut(u32, bool)) {
        let count = self.negatives_per_example();
        for first in (0..count).step_by(DRAWS) {
            let now = (count - first).min(DRAWS);
            let words = (now > 2).then(|| draws(&self.negatives, self.place(epoch, position, first), 1 << PLACE));
            for i in 0..now {
                let at = self.place(epoch, position, first + i);
                match self.hard_negative(epoch, position, first + i) {
                    Some(item) => each(item, false),
                    None => {
                        let words = words.map_or_else(|| self.negatives.block_at(at), |w| w.map(|w| w[i]));
                        let item = match self.popularity {
                            Some(popularity) => self.negative_of(words, at, |[place, level]: [u32; 2]| popularity.item(place, level)),
                            None => self.negative_of(words, at, |[word]: [u32; 1]| ((u64::from(word) * self.items as u64) >> 32) as u32),
                        };
                        each(item, true)
                    }
                }
            }
        }
    }

    /// What `item` draws by `N` of the `words` of block `at` at a time and, where those give nothing but training items, of the blocks behind it.
    fn negative_of<const N: usize>(&self, words: [u32; 4], at: u64, item: impl Fn([u32; N]) -> u32) -> u32 {
        let mut last = 0;
        for block in 0..8 {
            let words = if block == 0 { words } else { self.negatives.block_at(at + block) };
            for few in words.as_chunks::<N>().0 {
                last = item(*few);
                if !self.train.contains(&last) {
                    return last;
                }
            }
        }
        last
    }

    /// Takes the rows of the negatives of the example at `position` in `epoch`.
    pub fn touch_negatives(&self, table: &mut RowTable, at: (u32, usize)) {
        let shared = self.settings.loss.resample == Resample::Shared;
        if shared && std::mem::replace(&mut table.shared, true) {
            return;
        }
        self.each_negative(at, |item, trained| {
            table.row(item, trained);
        });
    }

    /// A stream of draws of this user in this round for `purpose`.
    pub fn stream(&self, purpose: Purpose) -> Stream {
        Stream::new(self.settings.seed, purpose, self.round, u64::from(self.user))
    }
}

impl LossSettings {
    /// Sampled negatives of an example; none under a softmax over the catalogue.
    pub fn sampled(&self) -> u32 {
        if self.rec == RecLoss::Softmax { 0 } else { self.negatives }
    }
}

/// Bits of the number of blocks that a negative has in the stream.
const PLACE: u32 = 4;

/// Marks an item without a row.
const NONE: TableRow = TableRow(u32::MAX);

/// The item rows of a client: which item each local row is, and whether it is trained.
#[derive(Default)]
pub struct RowTable {
    /// Local row of each item and special row `[I + S]`, [`NONE`] where it has none.
    local: Vec<TableRow>,
    /// Item of each local row.
    items: Vec<u32>,
    /// Whether a local row is trained by other terms than views (uploaded under `upload_rows = "trained"`).
    trained: Vec<bool>,
    /// Whether the negatives that the positions of a visit share have their rows.
    shared: bool,
    /// Every item has a row, and the row is the item: clients with many sequences, or a softmax over the catalogue.
    whole: bool,
    /// The client has its rows; no more can be taken.
    sealed: bool,
}

impl RowTable {
    /// An empty table over `rows` items and special rows.
    pub fn new(rows: usize) -> RowTable {
        RowTable { local: vec![NONE; rows], ..RowTable::default() }
    }

    /// Empties the table. With `whole` every item then has its row.
    pub fn begin(&mut self, whole: bool) {
        for &item in &self.items {
            self.local[item as usize] = NONE;
        }
        self.items.clear();
        self.trained.clear();
        (self.whole, self.sealed, self.shared) = (whole, false, false);
        if whole {
            self.items.extend(0..self.local.len() as u32);
            self.trained.resize(self.items.len(), true);
        }
    }

    /// Ends the taking of rows: the client's table is made of those that there are.
    pub fn seal(&mut self) {
        self.sealed = true;
    }

    /// Item of each row.
    pub fn items(&self) -> &[u32] {
        &self.items
    }

    /// Which rows are trained `[R]`.
    pub fn trained(&self) -> &[bool] {
        &self.trained
    }

    /// Whether every item has a row.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// The row of `item`, which gets one if it has none. `trained` marks it as trained.
    ///
    /// # Panics
    /// Where a term packs an item that it did not touch, or one that is not in the catalogue: the client has no such row.
    pub fn row(&mut self, item: u32, trained: bool) -> TableRow {
        if self.whole {
            assert!((item as usize) < self.local.len(), "a term packs item {item}, and the table has {} rows", self.local.len());
            return TableRow::of_item(item);
        }
        let slot = &mut self.local[item as usize];
        if *slot == NONE {
            assert!(!self.sealed, "a term packs item {item}, which no term has touched: `touch` must take every row that `pack` uses");
            *slot = TableRow(self.items.len() as u32);
            self.items.push(item);
            self.trained.push(false);
        }
        let row = *slot;
        self.trained[row.index()] |= trained;
        row
    }

    /// Takes the rows of an example that [`Out::example`] packs at `position` in any local epoch: the positive `item` and its negatives.
    pub fn example(&mut self, sequence: &Sequence, item: u32, position: usize) {
        self.row(item, true);
        for epoch in 0..sequence.draws() {
            sequence.touch_negatives(self, (epoch, position));
        }
    }
}

/// Where terms pack a sequence.
pub struct Out<'a> {
    /// The step.
    pub(crate) step: &'a mut Step,
    /// The client's item rows.
    pub(crate) table: &'a mut RowTable,
    /// The output that stands for the history, once a term has packed it. Where a backbone reads forwards, the outputs of the items before
    /// it lie right before it, in their order.
    pub anchor: Option<Output>,
    /// The output that stands for the paraphrase, once a term has packed all of it.
    pub paraphrase: Option<Output>,
    /// Where the candidates of the sequence's first example lie.
    first: Option<usize>,
}

impl<'a> Out<'a> {
    /// A place at the end of `step`, for a client with the rows of `table`.
    pub fn new(step: &'a mut Step, table: &'a mut RowTable) -> Out<'a> {
        Out { step, table, anchor: None, paraphrase: None, first: None }
    }

    /// Packs `items`, from 1 to `model.max_len` of them, as a sequence of its own and gives its first token; the others follow it. No hidden
    /// state is an output yet. `trained` says whether their rows are uploaded under `federation.upload_rows = "trained"`.
    ///
    /// # Panics
    /// For a sequence that is empty or too long.
    pub fn sequence(&mut self, sequence: &Sequence, items: &[u32], trained: bool) -> Token {
        let most = sequence.settings.model.max_len as usize;
        assert!((1..=most).contains(&items.len()), "a term packs {} items, and an input has 1 to {most}", items.len());
        let table = &mut *self.table;
        Token(self.step.push_sequence(items.iter().map(|&item| table.row(item, trained))))
    }

    /// Makes the hidden state of `token` an output. Tokens become outputs in their order, each at most once.
    ///
    /// # Panics
    /// For a token that was not packed, or that does not come after the last output.
    pub fn output(&mut self, Token(token): Token) -> Output {
        let behind = self.step.out_token.last().is_none_or(|last| *last < token);
        assert!(behind && (token as usize) < self.step.tokens(), "a term makes token {token} an output, out of order or out of range");
        Output(self.step.push_output(token))
    }

    /// Appends a contrast group: the anchor, its positives (at least one), and its counterfactuals.
    ///
    /// # Panics
    /// For a group without positives, and for outputs that the step does not have.
    pub fn group(&mut self, anchor: Output, positives: &[Output], counterfactuals: &[Output]) {
        assert!(!positives.is_empty(), "a term packs a group without positives");
        [anchor].iter().chain(positives).chain(counterfactuals).for_each(|&output| self.check(output));
        let rows = |outputs: &[Output]| outputs.iter().map(|output| output.0).collect::<SmallVec<[u32; 8]>>();
        self.step.push_group(anchor.0, &rows(positives), &rows(counterfactuals));
    }

    /// Appends a pair of outputs: two copies of one sequence, for the contrast within a mini-batch.
    ///
    /// # Panics
    /// For outputs that the step does not have.
    pub fn pair(&mut self, one: Output, other: Output) {
        for output in [one, other] {
            self.check(output);
            self.step.pair.push(output.0);
        }
    }

    fn check(&self, Output(output): Output) {
        assert!((output as usize) < self.step.outputs(), "a term names output {output}, and there are {}", self.step.outputs());
    }

    /// Packs `items` (not empty) as a sequence of its own and gives the output that stands for it: its last item, or the special
    /// row that the backbone is asked with, appended.
    pub fn summary(&mut self, sequence: &Sequence, items: &[u32]) -> Output {
        let (step, table) = (&mut *self.step, &mut *self.table);
        let asked = sequence.asked.map(|row| table.row(row, true));
        let first = step.push_sequence(sequence.clip(items).iter().map(|&item| table.row(item, false)).chain(asked));
        let last = step.row.len() as u32 - 1;
        debug_assert!(first <= last);
        Output(step.push_output(last))
    }

    /// The same with the hidden state of every item an output. `sequence` belongs to a backbone that reads forwards.
    pub fn states(&mut self, sequence: &Sequence, items: &[u32]) -> Output {
        let items = sequence.clip(items);
        let first = self.sequence(sequence, items, false);
        (1..items.len()).fold(self.output(first), |_, n| self.output(first.after(n)))
    }

    /// Appends an example at `output`: the positive `item`, then its negatives, which are drawn for the local epoch and the position `at`.
    ///
    /// # Panics
    /// For an output that the step does not have.
    pub fn example(&mut self, sequence: &Sequence, output: Output, item: u32, at: (u32, usize)) {
        self.check(output);
        self.step.push_example(output.0);
        let row = self.table.row(item, true);
        self.candidates(sequence, item, row, at);
    }

    /// Appends an example that is no training position of the sequence: its loss counts as `weight` of them. The row of `item` does not count
    /// as trained. A negative that is the item itself gives way to another.
    ///
    /// # Panics
    /// For an output that the step does not have.
    pub fn weighted_example(&mut self, sequence: &Sequence, output: Output, item: u32, weight: f32, at: (u32, usize)) {
        self.check(output);
        self.step.push_weighted(output.0, weight);
        let row = self.table.row(item, false);
        let first = self.step.cands.len() + 1;
        self.candidates(sequence, item, row, at);
        let Some(other) = (first..self.step.cands.len()).find(|&c| self.step.cands[c] != row) else { return };
        for c in first..self.step.cands.len() {
            if self.step.cands[c] == row {
                self.step.cands[c] = self.step.cands[other];
                if sequence.popularity.is_some() {
                    self.step.offset[c] = self.step.offset[other];
                }
            }
        }
    }

    /// Appends the candidates of an example: its positive's row, then its negatives.
    fn candidates(&mut self, sequence: &Sequence, item: u32, row: TableRow, at: (u32, usize)) {
        self.step.cands.push(row);
        let offset = |item: u32| sequence.popularity.map(|popularity| popularity.offset(item));
        self.step.offset.extend(offset(item));
        let (first, negatives) = (*self.first.get_or_insert(self.step.cands.len() - 1), sequence.negatives_per_example());
        if first + 1 < self.step.cands.len() && sequence.settings.loss.resample == Resample::Shared {
            self.step.cands.extend_from_within(first + 1..first + 1 + negatives);
            if sequence.popularity.is_some() {
                self.step.offset.extend_from_within(first + 1..first + 1 + negatives);
            }
            return;
        }
        sequence.each_negative(at, |negative, trained| {
            let row = self.table.row(negative, trained);
            self.step.cands.push(row);
            self.step.offset.extend(offset(negative));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence<'a>(settings: &'a Settings, train: &'a [u32]) -> Sequence<'a> {
        Sequence {
            settings,
            user: 0,
            round: 1,
            train,
            contrast: false,
            views: None,
            same_target: None,
            popularity: None,
            items: 9,
            asked: None,
            mask: None,
            whole: false,
            negatives: Stream::new(1, Purpose::Negatives, 1, 0),
        }
    }

    /// Packs with `pack` for a client that has the rows of items 3 and 4 and of an example of item 3 at position 1.
    fn packed(pack: impl Fn(&Sequence, &mut Out)) -> Result<Step, String> {
        let settings = Settings::default();
        let sequence = sequence(&settings, &[3, 4, 5]);
        let (mut table, mut step) = (RowTable::new(9), Step::default());
        table.begin(false);
        table.row(4, true);
        table.example(&sequence, 3, 1);
        table.seal();
        step.clear();
        let run = || pack(&sequence, &mut Out::new(&mut step, &mut table));
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        done.map(|()| step)
            .map_err(|e| e.downcast_ref::<String>().cloned().unwrap_or_else(|| e.downcast_ref::<&str>().unwrap().to_string()))
    }

    #[test]
    fn what_was_touched_can_be_packed() {
        let step = packed(|s, out| {
            let first = out.sequence(s, &[3, 4], true);
            let (a, b) = (out.output(first), out.output(first.after(1)));
            for epoch in 0..s.settings.local.epochs {
                out.example(s, a, 3, (epoch, 1));
            }
            let c = out.summary(s, &[4]);
            out.group(a, &[b], &[c]);
            out.pair(b, c);
        });
        let step = step.unwrap();
        assert_eq!((step.tokens(), step.outputs(), step.example.len()), (3, 3, Settings::default().local.epochs as usize));
        assert_eq!((step.group, step.positives, step.pair), (vec![0, 1, 2], vec![1], vec![1, 2]));
    }

    #[test]
    fn what_a_client_does_not_have_is_refused_by_name() {
        type Pack = dyn Fn(&Sequence, &mut Out);
        let wrong: [(&str, &Pack); 6] = [
            ("item 5, which no term has touched", &|s, out| _ = out.sequence(s, &[3, 5], true)),
            ("packs 0 items", &|s, out| _ = out.sequence(s, &[], true)),
            ("packs 51 items", &|s, out| _ = out.sequence(s, &[3; 51], true)),
            ("token 2 an output", &|s, out| _ = (out.sequence(s, &[3, 4], true), out.output(Token(2)))),
            ("token 0 an output", &|s, out| _ = (out.sequence(s, &[3, 4], true), out.output(Token(1)), out.output(Token(0)))),
            ("names output 1", &|s, out| {
                let output = out.summary(s, &[3]);
                out.example(s, Output(output.0 + 1), 3, (0, 1));
            }),
        ];
        for (part, pack) in wrong {
            let message = packed(pack).unwrap_err();
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}
