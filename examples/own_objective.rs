//! A term of one's own: every hidden state is to tell the item after the next one as well.
//!
//!     cargo run --release --example own_objective

use lumos::model::objectives::{self, Out, RowTable, Sequence, Term, TermKind};
use lumos::{Silent, Trainer, load_settings, prepare};
use std::path::Path;

/// Trains on every `every`-th position.
struct TwoAhead {
    every: usize,
}

impl TwoAhead {
    /// Position and item two ahead of it, of each position that is trained on.
    fn targets<'a>(&self, sequence: &Sequence<'a>) -> impl Iterator<Item = (usize, u32)> + use<'a> {
        let (inputs, target) = sequence.inputs();
        let ahead = inputs.iter().copied().chain(target).skip(2);
        ahead.enumerate().step_by(self.every)
    }
}

impl Term for TwoAhead {
    fn name(&self) -> &'static str {
        "two ahead"
    }

    fn touch(&self, sequence: &Sequence, table: &mut RowTable) {
        // The items of the history have rows already; these examples have negatives of their own, behind those of the next item.
        let inputs = sequence.inputs().0.len();
        for (position, item) in self.targets(sequence) {
            table.example(sequence, item, inputs + position);
        }
    }

    fn pack(&self, sequence: &Sequence, epoch: u32, out: &mut Out) {
        // The next item's term has encoded the history before: its outputs end at the anchor.
        let (Some(anchor), inputs) = (out.anchor, sequence.inputs().0.len()) else { return };
        for (position, item) in self.targets(sequence) {
            out.example(sequence, anchor.before(inputs - 1 - position), item, (epoch, inputs + position));
        }
    }
    // Examples are trained on by the next item's term, whoever packed them: `backward` has nothing to add.
}

/// What the settings call it.
pub const TWO_AHEAD: TermKind = TermKind {
    name: "two-ahead",
    summary: "every `every`-th hidden state is to tell the item after the next one as well",
    paper: "none",
    options: &[("every", 1.0)],
    build: |options| Ok(Box::new(TwoAhead { every: options.count("every", 1, 1000)? as usize })),
};

/// Losses of the first and the last of ten rounds.
pub fn run(folder: &Path) -> lumos::Result<[f64; 2]> {
    // Before the settings are read, which name it.
    objectives::register(TWO_AHEAD)?;
    let sets = ["data.format=synthetic", "data.synth_users=200", "data.synth_items=80", "loss.terms=[\"two-ahead every=2\"]"];
    let settings = load_settings(None, &sets.map(String::from))?.settings.with(|s| s.data.dir = Some(folder.join("world")))?;
    let prepared = prepare(&settings, &Silent)?;
    let mut trainer = Trainer::new(&settings, prepared.data.clone(), prepared.views.clone())?;
    let losses: Vec<f64> = (0..10).map(|_| trainer.round().map(|report| report.rec_loss)).collect::<lumos::Result<_>>()?;
    println!("loss {:.3}, then {:.3}", losses[0], losses[9]);
    Ok([losses[0], losses[9]])
}

#[allow(dead_code)] // The tests call `run`.
fn main() -> lumos::Result<()> {
    run(Path::new("data")).map(drop)
}
