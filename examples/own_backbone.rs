//! A backbone of one's own: the next item from the last one alone, by a small network. The same code trains a client in a core's cache and
//! thousands in one launch on a GPU.
//!
//!     cargo run --release --example own_backbone

use lumos::backend::{Act, Backend, RowKind};
use lumos::model::{self, BackboneKind, Encoder, Layout, Linear, Norm, Passed};
use lumos::{ModelSettings, Silent, Split, Trainer, load_settings, metrics, prepare};
use std::path::Path;

/// `h = norm(x + f2(gelu(f1(x))))`, `x` the row of the last item.
struct Markov {
    d: usize,
    f1: Linear,
    f2: Linear,
    norm: Norm,
}

/// Activations that the backward pass needs.
struct Trace {
    x: Act,
    inner: Act,
    bent: Act,
    sum: Act,
    stats: Act,
    hidden: Act,
}

impl Passed for Trace {
    fn hidden(&self) -> Act {
        self.hidden
    }
}

impl Encoder for Markov {
    type Trace = Trace;

    fn new(settings: &ModelSettings, layout: &mut Layout) -> Markov {
        let d = settings.dim as usize;
        Markov { d, f1: layout.linear("f1", d, 2 * d), f2: layout.linear("f2", 2 * d, d), norm: layout.norm("norm", d) }
    }

    fn forward(&self, be: &mut dyn Backend) -> Trace {
        let d = self.d;
        let items = be.act(RowKind::Tokens, d);
        be.embed(1.0, None, items);
        // Only the tokens whose hidden state is used: `[Q, d]` from `[T, d]`.
        let [x, sum, hidden] = [(); 3].map(|()| be.act(RowKind::Outputs, d));
        let [inner, bent] = [(); 2].map(|()| be.act(RowKind::Outputs, 2 * d));
        let stats = be.act(RowKind::Outputs, 2);
        be.select(items, x);
        be.linear(x, self.f1.w, self.f1.b, inner);
        be.gelu(inner, bent);
        be.linear(bent, self.f2.w, self.f2.b, sum);
        be.add(x, sum);
        be.layer_norm(sum, self.norm.g, self.norm.b, hidden, stats);
        Trace { x, inner, bent, sum, stats, hidden }
    }

    fn backward(&self, be: &mut dyn Backend, t: &Trace, dh: Act) {
        let d = self.d;
        let [dsum, dx] = [(); 2].map(|()| be.act(RowKind::Outputs, d));
        let (dinner, ditems) = (be.act(RowKind::Outputs, 2 * d), be.act(RowKind::Tokens, d));
        be.zero(dsum);
        be.layer_norm_backward(t.sum, t.stats, self.norm.g, self.norm.b, dh, dsum);
        be.linear_backward(t.bent, dsum, self.f2.w, self.f2.b, Some(dinner), false);
        be.gelu_backward(t.inner, dinner);
        // The residual connection's share, then that of the network.
        be.copy(dsum, dx);
        be.linear_backward(t.x, dinner, self.f1.w, self.f1.b, Some(dx), true);
        be.zero(ditems);
        be.select_backward(dx, ditems);
        be.embed_backward(1.0, None, ditems);
    }
}

/// What the settings call it.
pub const MARKOV: BackboneKind = BackboneKind::of::<Markov>("markov", "the last item through a small network", "none");

/// HR@10 after twenty rounds.
pub fn run(folder: &Path) -> lumos::Result<f64> {
    // Before the settings are read, which name it.
    model::register_backbone(MARKOV)?;
    let sets = ["method=fed-sasrec", "data.format=synthetic", "data.synth_users=200", "data.synth_items=80", "model.backbone=markov"];
    let settings = load_settings(None, &sets.map(String::from))?.settings.with(|s| s.data.dir = Some(folder.join("world")))?;
    let prepared = prepare(&settings, &Silent)?;
    let mut trainer = Trainer::new(&settings, prepared.data.clone(), prepared.views.clone())?;
    for _ in 0..20 {
        trainer.round()?;
    }
    let users: Vec<u32> = (0..prepared.data.users() as u32).collect();
    let found = metrics(&trainer.rank(Split::Test, &users, &|_, _| ())?, &[10]);
    println!("HR@10 {:.3}", found.get("HR@10").unwrap_or_default());
    Ok(found.get("HR@10").unwrap_or_default())
}

#[allow(dead_code)] // The tests call `run`.
fn main() -> lumos::Result<()> {
    run(Path::new("data")).map(drop)
}
