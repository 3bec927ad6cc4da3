//! A rule of one's own: every client uploads a share of its change only.
//!
//!     cargo run --release --example own_rule

use lumos::base::options::Options;
use lumos::federation::rules::{self, Kind, Occasion, Role, Rule};
use lumos::{Silent, Trainer, load_settings, prepare};
use std::path::Path;

struct Timid {
    share: f32,
}

impl Rule for Timid {
    fn factor(&self, _: &Occasion, _client: u32, _norm: f64) -> f32 {
        self.share
    }
}

const TIMID: Kind = Kind {
    name: "timid",
    role: Role::Other,
    summary: "multiplies every update by `share`",
    paper: "none",
    options: &[("share", 0.5)],
    build: |options: &Options| {
        let share = options.get("share", |x| x > 0.0 && x <= 1.0, "a share above 0, at most 1")?;
        Ok(Box::new(Timid { share: share as f32 }))
    },
};

/// Loss of the second round with the rule.
pub fn run(folder: &Path) -> lumos::Result<f64> {
    // Before the settings are read, which name it.
    rules::register(TIMID)?;
    let sets = ["data.format=synthetic", "data.synth_users=200", "data.synth_items=80", "federation.rules=[\"timid share=0.25\"]"];
    let settings = load_settings(None, &sets.map(String::from))?.settings.with(|s| s.data.dir = Some(folder.join("world")))?;
    let prepared = prepare(&settings, &Silent)?;
    let mut trainer = Trainer::new(&settings, prepared.data.clone(), prepared.views.clone())?;
    trainer.round()?;
    let loss = trainer.round()?.rec_loss;
    println!("loss {loss:.4}");
    Ok(loss)
}

#[allow(dead_code)] // The tests call `run`.
fn main() -> lumos::Result<()> {
    run(Path::new("data")).map(drop)
}
