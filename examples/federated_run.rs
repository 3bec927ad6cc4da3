//! A federated run: settings, a data set with views, rounds, and what the model is worth.
//!
//!     cargo run --release --example federated_run

use lumos::{Settings, Silent, Split, Trainer, Validated, load_settings, metrics, prepare};

/// Settings for a small synthetic world in `folder`.
fn settings(folder: &std::path::Path) -> lumos::Result<Validated<Settings>> {
    let sets = ["data.format=synthetic", "data.synth_users=300", "data.synth_items=120", "model.dim=16", "federation.rounds=5"];
    load_settings(None, &sets.map(String::from))?.settings.with(|s| s.data.dir = Some(folder.join("world")))
}

/// HR@10 of every user's last item after five rounds.
pub fn run(folder: &std::path::Path) -> lumos::Result<f64> {
    let settings = settings(folder)?;
    let prepared = prepare(&settings, &Silent)?;
    let mut trainer = Trainer::new(&settings, prepared.data.clone(), prepared.views.clone())?;
    for _ in 0..settings.federation.rounds {
        let report = trainer.round()?;
        println!("round {}: {} clients, loss {:.4}", report.round, report.clients, report.rec_loss);
    }
    let users: Vec<u32> = (0..prepared.data.users() as u32).collect();
    let ranks = trainer.rank(Split::Test, &users, &|_, _| ())?;
    let hit_rate = metrics(&ranks, &[10]).get("HR@10").unwrap_or(0.0);
    println!("HR@10 {hit_rate:.4}");
    Ok(hit_rate)
}

#[allow(dead_code)] // The tests call `run`.
fn main() -> lumos::Result<()> {
    run(std::path::Path::new("data")).map(drop)
}
