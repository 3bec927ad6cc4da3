//! A term with a gradient of its own, and the check of that gradient: activation regularisation (Merity et al., arXiv 1708.01009), which keeps hidden states short.
//!
//!     cargo run --release --example own_regulariser

use lumos::backend::cpu::{GradientAt, Worker, WorkerShape};
use lumos::backend::{Act, Backend};
use lumos::base::options::Options;
use lumos::engine::Packer;
use lumos::model::objectives::{self, Out, RowTable, Sequence, Term, TermKind};
use lumos::model::{Model, ModelSpec, Weights};
use lumos::{LossSettings, Prepared, Settings, Silent, Trainer, Validated, load_settings, prepare};
use std::path::Path;

/// `weight` times the mean over all outputs of `|h|^2`.
struct Activation {
    weight: f32,
}

impl Term for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }

    /// The history is encoded once more, whole, as it is when a recommendation is asked for.
    fn touch(&self, sequence: &Sequence, table: &mut RowTable) {
        for &item in sequence.clip(sequence.train).iter().chain(&sequence.asked) {
            table.row(item, true);
        }
    }

    fn pack(&self, sequence: &Sequence, _epoch: u32, out: &mut Out) {
        if !sequence.train.is_empty() {
            out.summary(sequence, sequence.train);
        }
    }

    /// The gradient of the mean is `2 weight / Q h`.
    fn backward(&self, be: &mut dyn Backend, _: &LossSettings, h: Act, dh: Act) {
        be.add_mean(2.0 * self.weight, h, dh);
    }
}

const WEIGHT: f64 = 0.5;

pub const ACTIVATION: TermKind = TermKind {
    name: "activation",
    summary: "the mean squared length of hidden states, times `weight`",
    paper: "Merity et al., arXiv 1708.01009",
    options: &[("weight", 0.01)],
    build: |options: &Options| Ok(Box::new(Activation { weight: options.get("weight", |x| x > 0.0, "above 0")? as f32 })),
};

/// The gradient's largest error against differences of the loss, over some dense weights, as a share of the largest gradient.
fn gradient_error(settings: &Validated<Settings>, prepared: &Prepared) -> lumos::Result<f64> {
    let (data, views) = (&prepared.data, &prepared.views);
    let spec = ModelSpec::of(settings);
    let (model, mut weights) = (Model::for_training(&spec, &settings.loss), Weights::init(&spec, data.item_count(), 7));
    let (mut packer, mut worker) = (Packer::new(settings, data.clone(), views.clone()), Worker::new(WorkerShape::new(&spec)));
    packer.begin_batches(1);
    let mut loss_at = |weights: &Weights, slot: usize| {
        let part = GradientAt { dense: &weights.dense, items: &weights.items, dropout: None, number: 1 };
        let mut lengths = 0.0;
        let losses = worker.gradient(
            &part,
            None,
            |step| packer.pack_batch(&[0, 1], 0, step),
            |worker| {
                model.train(worker, &settings.loss);
                let h = model.encode(worker);
                let squares = worker.values(h).iter().map(|&x| f64::from(x * x)).sum::<f64>();
                lengths = squares * h.width as f64 / worker.values(h).len() as f64;
            },
        );
        (losses[0] + WEIGHT * lengths, f64::from(worker.dense_gradient()[slot]))
    };
    let (mut worst, mut largest) = (0f64, 0f64);
    for slot in (0..weights.dense.len()).step_by(29) {
        let (before, (_, gradient)) = (weights.dense[slot], loss_at(&weights, slot));
        let mut loss = |by: f32| {
            weights.dense[slot] = before + by;
            loss_at(&weights, slot).0
        };
        let slope = (loss(0.01) - loss(-0.01)) / 0.02;
        weights.dense[slot] = before;
        (worst, largest) = (worst.max((slope - gradient).abs()), largest.max(gradient.abs()));
    }
    Ok(worst / largest)
}

/// The error of the gradient, and how far apart a trained model's scores lie without and with the term.
pub fn run(folder: &Path) -> lumos::Result<(f64, [f32; 2])> {
    // Before the settings are read, which name it.
    objectives::register(ACTIVATION)?;
    let mut error = 0.0;
    let mut spread = |terms: &str| -> lumos::Result<f32> {
        let world = ["data.format=synthetic", "data.synth_users=200", "data.synth_items=80", "method=fed-gru4rec", "model.dim=16"];
        let sets = world.into_iter().chain([terms]).map(String::from).collect::<Vec<_>>();
        let settings = load_settings(None, &sets)?.settings.with(|s| s.data.dir = Some(folder.join("world")))?;
        let prepared = prepare(&settings, &Silent)?;
        if !settings.loss.terms.is_empty() {
            error = gradient_error(&settings, &prepared)?;
        }
        let mut trainer = Trainer::new(&settings, prepared.data.clone(), prepared.views.clone())?;
        for _ in 0..4 {
            trainer.round()?;
        }
        let scored = trainer.recommend(None, prepared.data.train(0), usize::MAX)?;
        Ok(scored.iter().map(|(_, score)| score.abs()).sum::<f32>() / scored.len() as f32)
    };
    let spreads = [spread("loss.terms=[]")?, spread(&format!("loss.terms=[\"activation weight={WEIGHT}\"]"))?];
    println!("error of the gradient {error:.5}; scores lie {:.3} from 0 without the term, {:.3} with it", spreads[0], spreads[1]);
    Ok((error, spreads))
}

#[allow(dead_code)] // The tests call `run`.
fn main() -> lumos::Result<()> {
    run(Path::new("data")).map(drop)
}
