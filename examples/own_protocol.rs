//! A protocol of one's own: clients upload which items they met, the server counts them and recommends what was met most often.
//!
//!     cargo run --release --example own_protocol

use lumos::engine::{NamedTensor, Progress, TensorData, Tensors, Totals};
use lumos::eval::rank_from_count;
use lumos::federation::protocol::{self, Kind, Parts, Place, Protocol};
use lumos::federation::{Cohort, RoundReport};
use lumos::{Error, Settings, Silent, Sought, Split, Trainer, load_settings, metrics, prepare};
use std::path::Path;
use std::time::Instant;

/// How often each item was uploaded `[I]`. One process, no device.
struct Counts {
    parts: Parts,
    counts: Vec<u64>,
    rounds: u64,
}

impl Protocol for Counts {
    fn round(&mut self, round: u64, cohort: &Cohort, _: Option<&Cohort>, _: &Progress) -> lumos::Result<RoundReport> {
        let start = Instant::now();
        let mut totals = Totals::default();
        for &client in &cohort.clients {
            let upload = self.parts.data.train(client as usize);
            upload.iter().for_each(|&item| self.counts[item as usize] += 1);
            totals.add(&Totals {
                counts: [1, 1, upload.len() as u64, 0, 0, 0, 0],
                bytes: [0, 4 * upload.len() as u64],
                ..Totals::default()
            });
        }
        self.rounds = round;
        Ok(RoundReport::of(round, cohort, &totals, 0, start))
    }

    fn rank(&mut self, sought: Sought, users: &[u32], _: &Progress) -> lumos::Result<Vec<u32>> {
        let (data, settings) = (&self.parts.data, &self.parts.settings);
        let rank = |&user: &u32| {
            let Some((input, target)) = data.sought(user as usize, sought) else { return 0 };
            let not_less = |item: u32| self.counts[item as usize] >= self.counts[target as usize];
            let counted = (0..self.counts.len() as u32).filter(|&item| not_less(item)).count() as u32;
            rank_from_count(counted, target, settings.eval.mask.masked(input), not_less)
        };
        Ok(users.iter().map(rank).collect())
    }

    fn scores(&mut self, _: Option<u32>, _: &[u32]) -> lumos::Result<Vec<f32>> {
        Ok(self.counts.iter().map(|&n| n as f32).collect())
    }

    fn tensors(&self) -> lumos::Result<Vec<NamedTensor>> {
        let data = TensorData::U64(self.counts.clone());
        Ok(vec![NamedTensor { name: "counts".into(), shape: vec![self.counts.len()], data }])
    }

    fn restore(&mut self, tensors: &Tensors, rounds_done: u64) -> lumos::Result<()> {
        match tensors.get("counts").map(|t| &t.data) {
            Some(TensorData::U64(counts)) if counts.len() == self.counts.len() => self.counts.clone_from(counts),
            _ => return Err(Error::Usage("checkpoint: tensor `counts` does not fit; it belongs to another data set".into())),
        }
        self.rounds = rounds_done;
        Ok(())
    }

    fn last_snapshot(&self) -> lumos::Result<(Vec<NamedTensor>, u64)> {
        Ok((self.tensors()?, self.rounds))
    }

    fn bytes(&self) -> usize {
        8 * self.counts.len()
    }
}

const COUNTS: Kind = Kind {
    name: "counts",
    summary: "clients upload the items that they met; the server counts them",
    paper: "none",
    options: &[],
    check: |_, _: &Settings| Ok(()),
    trains: |_| Place::Cpu("protocol `counts` needs no device"),
    ranks: |_| Place::Cpu("protocol `counts` needs no device"),
    build: |_, parts| Ok(Box::new(Counts { counts: vec![0; parts.data.item_count()], parts, rounds: 0 })),
};

/// HR@10 after three rounds.
pub fn run(folder: &Path) -> lumos::Result<f64> {
    // Before the settings are read, which name it.
    protocol::register(COUNTS)?;
    let sets =
        ["data.format=synthetic", "data.synth_users=200", "data.synth_items=80", "federation.protocol=counts", "federation.fraction=0.5"];
    let settings = load_settings(None, &sets.map(String::from))?.settings.with(|s| s.data.dir = Some(folder.join("world")))?;
    let prepared = prepare(&settings, &Silent)?;
    let mut trainer = Trainer::new(&settings, prepared.data.clone(), prepared.views.clone())?;
    for _ in 0..3 {
        println!("{} bytes up", trainer.round()?.bytes_up);
    }
    let users: Vec<u32> = (0..prepared.data.users() as u32).collect();
    let found = metrics(&trainer.rank(Split::Test, &users, &|_, _| ())?, &[10]);
    Ok(found.get("HR@10").unwrap_or_default())
}

#[allow(dead_code)] // The tests call `run`.
fn main() -> lumos::Result<()> {
    println!("HR@10 {:.3}", run(Path::new("data"))?);
    Ok(())
}
