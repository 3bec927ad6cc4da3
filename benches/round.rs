//! One federated round at the reference shape, as criterion sees it; `lumos bench round` prints the stage times.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lumos::bench::{RoundBench, default_lengths, settings, world};
use lumos::data::Split;
use lumos::federation::Trainer;
use lumos::testing::valid;

fn round(c: &mut Criterion) {
    let bench = RoundBench { clients: 512, lengths: default_lengths(7, 50), ..Default::default() };
    let (data, views) = world(&bench);
    let settings = settings(&bench);
    let mut trainer = Trainer::new(valid(&settings), data.clone(), views.clone()).expect("a world to train on");
    let mut group = c.benchmark_group("round");
    group.sample_size(10);
    group.throughput(Throughput::Elements(u64::from(bench.clients * bench.epochs)));
    group.bench_function("512 clients, client-epochs", |b| b.iter(|| trainer.round().expect("a round")));
    let users: Vec<u32> = (0..bench.clients).collect();
    group.throughput(Throughput::Elements(u64::from(bench.clients)));
    group.bench_function("rank, users", |b| b.iter(|| trainer.rank(Split::Test, &users, &|_, _| {}).expect("ranks")));
}

criterion_group!(benches, round);
criterion_main!(benches);
