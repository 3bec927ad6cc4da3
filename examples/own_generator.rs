//! A generator of views of one's own: what is popular, another order, and what hardly anyone takes.
//!
//!     cargo run --release --example own_generator

use lumos::base::rng::{Purpose, Stream};
use lumos::views::{self, GeneratorEntry, PublicCatalogue, Reads};
use lumos::{Generator, Result, Silent, Trainer, UserViews, load_settings, prepare};
use std::path::Path;

struct Fashion<'a> {
    public: &'a PublicCatalogue<'a>,
    seed: u64,
    counterfactuals: u32,
    ahead: usize,
}

impl Generator for Fashion<'_> {
    fn name(&self) -> &str {
        "fashion"
    }

    // All that a generator learns of a user: the training items. So no view can have seen a held-out item.
    fn generate(&self, user: u32, history: &[u32]) -> Result<UserViews> {
        let popularity = &self.public.popularity;
        let mut order: Vec<u32> = (0..self.public.item_count() as u32).filter(|item| !history.contains(item)).collect();
        order.sort_by_key(|&item| (popularity.count(item), item));
        let popular = order.iter().rev().take(self.ahead);
        // Draws by seed and user, never from a state: views do not depend on threads.
        let mut stream = Stream::new(self.seed, Purpose::Views, 1, u64::from(user));
        let mut paraphrase = history.to_vec();
        stream.shuffle(&mut paraphrase);
        let rare = |k: usize| order.iter().cycle().skip(k * history.len()).take(if order.is_empty() { 0 } else { history.len() });
        Ok(UserViews {
            future: history.iter().chain(popular).copied().collect(),
            paraphrase,
            counterfactuals: (0..self.counterfactuals as usize).map(|k| rare(k).copied().collect()).collect(),
        })
    }
}

const FASHION: GeneratorEntry = GeneratorEntry {
    name: "fashion",
    summary: "popular items as the future, another order as the paraphrase, rare items as the counterfactual",
    neighbours: false,
    follows: false,
    version: 1,
    costly: false,
    // Another value of one of these makes the views anew.
    reads: Reads { future: &["future_min"], paraphrase: &[], counterfactual: &[], all: &[] },
    build: |settings, public, _, _| {
        let (seed, counterfactuals, ahead) = (settings.seed, settings.counterfactuals, settings.future_min as usize);
        Ok(Box::new(Fashion { public, seed, counterfactuals, ahead }))
    },
};

/// Contrast of the first and the last of ten rounds, and the views of user 0.
pub fn run(folder: &Path) -> Result<([f64; 2], UserViews)> {
    // Before the settings are read, which name it.
    views::register_generator(FASHION)?;
    let sets = ["data.format=synthetic", "data.synth_users=200", "data.synth_items=80", "views.generator=fashion", "loss.lambda=0.5"];
    let settings = load_settings(None, &sets.map(String::from))?.settings.with(|s| s.data.dir = Some(folder.join("world")))?;
    let prepared = prepare(&settings, &Silent)?;
    let mut trainer = Trainer::new(&settings, prepared.data.clone(), prepared.views.clone())?;
    let contrasts: Vec<f64> = (0..10).map(|_| trainer.round().map(|report| report.contrast_loss)).collect::<Result<_>>()?;
    println!("contrast {:.3}, then {:.3}", contrasts[0], contrasts[9]);
    Ok(([contrasts[0], contrasts[9]], prepared.views.get(0).cloned().unwrap_or_default()))
}

#[allow(dead_code)] // The tests call `run`.
fn main() -> Result<()> {
    run(Path::new("data")).map(drop)
}
