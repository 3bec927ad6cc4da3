//! What the exchanges of several processes cost: measured on the processes that are there, and by a model for clusters that are not.

use super::{RoundBench, median, settings, world};
use crate::base::parallel;
use crate::config::Validated;
use crate::model::ModelSpec;
use crate::run::Devices;
use crate::{Error, Result};
use serde::Serialize;

/// The figures. Times are in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterFigures {
    /// Processes.
    pub processes: u64,
    /// Threads of rank 0.
    pub threads: u32,
    /// Clients of a round.
    pub clients: u32,
    /// Items of the catalogue.
    pub items: u32,
    /// Width.
    pub dim: u32,
    /// Dense weights of the model.
    pub dense: u64,
    /// Item rows that a round touches (median).
    pub rows: u64,
    /// Seconds of a round (median).
    pub round_s: f64,
    /// Client-epochs per second of all processes (median).
    pub client_epochs_per_s: f64,
    /// What each process spent, by rank; none for a process alone.
    pub ranks: Vec<RankFigures>,
    /// What the model assumes.
    pub assumed: Assumed,
    /// The model's figures.
    pub model: Vec<ModelFigures>,
}

/// A process's exchanges in a round, as the mean over rounds.
#[derive(Clone, Debug, Serialize)]
pub struct RankFigures {
    /// Number of the process.
    pub rank: u64,
    /// Exchanges of a round.
    pub exchanges_per_round: f64,
    /// Bytes of its own that it puts in.
    pub bytes_per_round: f64,
    /// Seconds in exchanges; those in which it waits for a slower process are among them.
    pub seconds_per_round: f64,
    /// Those seconds over the seconds of a round.
    pub share: f64,
}

/// What the model assumes. None of it was measured here.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Assumed {
    /// Clients that a GPU trains in a round: a cohort grows with the cluster.
    pub clients_per_gpu: u64,
    /// Local epochs of a client.
    pub epochs: u64,
    /// Client-epochs per second of a GPU.
    pub client_epochs_per_s: f64,
    /// Item rows that a client touches.
    pub rows_per_client: u64,
    /// Bytes per second that a process sends and receives.
    pub bandwidth: f64,
    /// Seconds of one message.
    pub latency_s: f64,
    /// Exchanges of a round that are as short as a message.
    pub short_exchanges: u64,
}

impl Assumed {
    /// A GPU with a network of 200 Gb/s of its own, sums that pass through the host.
    pub const DEFAULT: Assumed = Assumed {
        clients_per_gpu: 4096,
        epochs: 5,
        client_epochs_per_s: 500_000.0,
        rows_per_client: 40,
        bandwidth: 20e9,
        latency_s: 5e-6,
        short_exchanges: 14,
    };

    /// Seconds of adding `bytes` up over `n` processes in a ring: each sends them nearly twice, in `2 (n - 1)` messages.
    fn ring(&self, n: u64, bytes: f64) -> f64 {
        let steps = 2.0 * (n as f64 - 1.0);
        steps * self.latency_s + steps / n as f64 * bytes / self.bandwidth
    }

    /// Figures for `gpus` GPUs and a catalogue of `items`, a model of `dense` weights and rows of width `d`.
    fn of(&self, gpus: u64, items: u64, dense: u64, d: u64) -> ModelFigures {
        let draws = (gpus * self.clients_per_gpu * self.rows_per_client) as f64;
        let own_draws = (self.clients_per_gpu * self.rows_per_client) as f64;
        // Distinct ones of draws with equal chances; real catalogues have fewer, for their draws are uneven.
        let distinct = |draws: f64| items as f64 * -(draws * (-1.0 / items as f64).ln_1p()).exp_m1();
        let rows = distinct(draws);
        // Which rows: lists of all processes, or a bit an item.
        let bits = (items / 8) as f64;
        let lists = 4.0 * distinct(own_draws);
        let (which, which_s) = match lists * (gpus as f64) < bits {
            true => (lists, lists * (gpus as f64 - 1.0) / self.bandwidth),
            false => (bits, self.ring(gpus, bits)),
        };
        let bytes = 8.0 * (dense as f64 + rows * (d as f64 + 1.0));
        let short = self.short_exchanges as f64 * self.latency_s * (gpus as f64).log2().ceil();
        let exchange_s = self.ring(gpus, bytes) + which_s + short;
        let train_s = (self.clients_per_gpu * self.epochs) as f64 / self.client_epochs_per_s;
        ModelFigures {
            gpus,
            items,
            rows: rows as u64,
            bytes: (bytes + which) as u64,
            exchange_s,
            train_s,
            share: exchange_s / (exchange_s + train_s),
        }
    }
}

/// What a round costs on paper.
#[derive(Clone, Debug, Serialize)]
pub struct ModelFigures {
    /// GPUs, one process each.
    pub gpus: u64,
    /// Items of the catalogue.
    pub items: u64,
    /// Item rows that the round touches.
    pub rows: u64,
    /// Bytes that a process puts in.
    pub bytes: u64,
    /// Seconds of the exchanges.
    pub exchange_s: f64,
    /// Seconds of training.
    pub train_s: f64,
    /// The exchanges' share of both.
    pub share: f64,
}

/// Trains rounds of `bench` and measures what exchanges cost.
///
/// # Errors
/// Where the device or another process fails.
pub fn run(bench: &RoundBench, devices: &mut Devices, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<ClusterFigures> {
    if bench.rounds == 0 {
        return Err(Error::Usage("a benchmark needs a round".into()));
    }
    let (data, views) = world(bench);
    let settings = Validated::new(settings(bench))?;
    let mut device = devices.to_train(&settings)?;
    let mut team = device.trainer(&settings, &data, &views)?;
    team.round()?;
    let before = team.spent()?;
    let mut reports = Vec::new();
    for i in 0..bench.rounds {
        reports.push(team.round()?);
        progress(u64::from(i) + 1, u64::from(bench.rounds));
    }
    let after = team.spent()?;
    let rounds = f64::from(bench.rounds);
    let total: f64 = reports.iter().map(|r| r.seconds).sum();
    let ranks = before.iter().zip(&after).enumerate().map(|(rank, (before, after))| {
        let spent = after.since(*before);
        RankFigures {
            rank: rank as u64,
            exchanges_per_round: spent.exchanges as f64 / rounds,
            bytes_per_round: spent.bytes as f64 / rounds,
            seconds_per_round: spent.seconds / rounds,
            share: spent.seconds / total,
        }
    });
    let (dense, assumed) = (ModelSpec::of(&settings).dense_len as u64, Assumed { epochs: u64::from(bench.epochs), ..Assumed::DEFAULT });
    let sizes = [8, 32, 128, 512];
    let model = [64, 1_000_000].into_iter().flat_map(|items| sizes.map(|gpus| assumed.of(gpus, items, dense, u64::from(bench.dim))));
    Ok(ClusterFigures {
        processes: after.len().max(1) as u64,
        threads: parallel::threads(bench.threads as usize) as u32,
        clients: bench.clients,
        items: bench.items,
        dim: bench.dim,
        dense,
        rows: median(reports.iter().map(|r| r.item_rows as f64).collect()) as u64,
        round_s: median(reports.iter().map(|r| r.seconds).collect()),
        client_epochs_per_s: median(reports.iter().map(|r| r.client_epochs as f64 / r.seconds).collect()),
        ranks: ranks.collect(),
        assumed,
        model: model.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_grows_as_it_should() {
        let of = |gpus, items| Assumed::DEFAULT.of(gpus, items, 50_000, 64);
        let small = of(8, 64);
        assert_eq!(small.rows, 64, "every row of a small catalogue is touched");
        assert!((8 * (50_000 + 64 * 65)..8 * (50_000 + 64 * 65) + 65).contains(&small.bytes), "{small:?}");
        let (few, many) = (of(8, 1_000_000), of(512, 1_000_000));
        assert!(few.rows < many.rows && many.rows <= 1_000_000);
        assert!(few.exchange_s < many.exchange_s && few.train_s == many.train_s);
        // A ring's bytes a process are bounded: twice the table, however many there are.
        let table = 8.0 * (50_000.0 + 1e6 * 65.0);
        assert!(many.exchange_s < 2.2 * (table + 125_000.0) / Assumed::DEFAULT.bandwidth + 0.02, "{many:?}");
    }
}
