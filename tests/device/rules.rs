//! Rules on a device: factors by its own kernels, values fetched for the rest; and several processes whose sums are reduced.

use crate::ring::world;
use crate::simt::device;
use lumos::cluster::Reduce;
use lumos::config::{Resident, Settings};
use lumos::data::Dataset;
use lumos::device::Device;
use lumos::engine::{NamedTensor, TensorData};
use lumos::federation::Trainer;
use lumos::federation::protocol::Parts;
use lumos::testing::valid;
use lumos::views::Views;
use std::sync::{Arc, Barrier, Mutex};

const MEMORY: u64 = 1 << 30;

fn settings(rules: &[&str]) -> Settings {
    let mut s = Settings { seed: 3, threads: 2, ..Default::default() };
    s.model.dim = 12;
    s.model.max_len = 8;
    s.local.epochs = 2;
    s.federation.fraction = 0.4;
    s.gpu.resident = Resident::Off;
    s.federation.rules = rules.iter().map(|r| r.to_string()).collect();
    s
}

fn state(mut trainer: Trainer, rounds: u64) -> Vec<NamedTensor> {
    for _ in 0..rounds {
        trainer.round().unwrap();
    }
    trainer.tensors().unwrap()
}

fn on_device(settings: &Settings, data: &Dataset, views: &Views, rounds: u64, chunk_bytes: Option<u64>) -> Vec<NamedTensor> {
    let mut trainer = Trainer::on_device(valid(settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
    if let Some(bytes) = chunk_bytes {
        trainer.limit_chunks(bytes);
    }
    state(trainer, rounds)
}

fn floats(tensors: &[NamedTensor]) -> impl Iterator<Item = f32> + '_ {
    tensors.iter().flat_map(|t| match &t.data {
        TensorData::F32(values) => values.clone(),
        other => panic!("{other:?}"),
    })
}

/// Largest difference of two states over the largest change that training made.
fn distance(start: &[NamedTensor], a: &[NamedTensor], b: &[NamedTensor]) -> f64 {
    let most = |x: &[NamedTensor], y: &[NamedTensor]| floats(x).zip(floats(y)).map(|(x, y)| f64::from((x - y).abs())).fold(0.0, f64::max);
    most(a, b) / most(start, a)
}

#[test]
fn rules_do_on_a_device_what_they_do_on_the_cpu() {
    let (data, views) = world(40, 30, 5);
    let plain = settings(&[]);
    let start = state(Trainer::new(valid(&plain), data.clone(), views.clone()).unwrap(), 0);
    let without = on_device(&plain, &data, &views, 2, None);
    for rules in [
        &["norm-bound bound=1e9"][..],
        &["sign-flip share=0.3 scale=2"],
        &["norm-bound bound=0.1"],
        &["sign-flip share=0.5", "norm-bound bound=0.2"],
        &["median"],
        &["sign-flip share=0.2 scale=5", "norm-bound bound=0.4", "median"],
    ] {
        let s = settings(rules);
        // A mean smooths what one client's optimiser makes of a gradient near 0; a median hands it on as it is. One round, because a
        // second one would build on it.
        let bound = if rules.contains(&"median") { 5e-3 } else { 5e-4 };
        let cpu = state(Trainer::new(valid(&s), data.clone(), views.clone()).unwrap(), 1);
        let far = distance(&start, &cpu, &on_device(&s, &data, &views, 1, None));
        println!("{rules:?}: {far:.1e}");
        assert!(far < bound, "{rules:?}: {far}");
        let gpu = on_device(&s, &data, &views, 2, None);
        assert!(gpu == on_device(&s, &data, &views, 2, Some(1)), "{rules:?}: the same bits however a cohort is cut up");
        assert_eq!(gpu == without, rules == ["norm-bound bound=1e9"], "{rules:?}");
    }
}

#[test]
fn a_client_that_diverges_under_rules_is_named() {
    let (data, views) = world(30, 20, 2);
    for rules in [&["sign-flip share=1"][..], &["median"]] {
        let mut s = settings(rules);
        s.local.lr = 1e6;
        let name = |trainer: lumos::Result<Trainer>| trainer.unwrap().round().unwrap_err().to_string();
        let (cpu, gpu) = (
            name(Trainer::new(valid(&s), data.clone(), views.clone())),
            name(Trainer::on_device(valid(&s), data.clone(), views.clone(), device(MEMORY))),
        );
        let client = |message: &str| message.split(':').next().unwrap().to_string();
        assert!(cpu.contains("local.lr") && client(&cpu) == client(&gpu), "{cpu} / {gpu}");
    }
}

/// Processes as threads of one: a table that all of them add to.
struct Shared {
    rank: usize,
    size: usize,
    meet: Arc<Barrier>,
    table: Arc<Mutex<(Vec<i64>, Vec<u32>)>>,
}

impl Shared {
    fn all(size: usize) -> Vec<Shared> {
        let (meet, table) = (Arc::new(Barrier::new(size)), Arc::default());
        (0..size).map(|rank| Shared { rank, size, meet: meet.clone(), table: Arc::clone(&table) }).collect()
    }

    /// Puts this process's part in with `add` and takes the whole with `take`, once every process has put its own in.
    fn exchange<T>(&self, add: impl FnOnce(&mut (Vec<i64>, Vec<u32>)), take: impl FnOnce(&(Vec<i64>, Vec<u32>)) -> T) -> T {
        add(&mut self.table.lock().unwrap());
        self.meet.wait();
        let whole = take(&self.table.lock().unwrap());
        if self.meet.wait().is_leader() {
            *self.table.lock().unwrap() = Default::default();
        }
        self.meet.wait();
        whole
    }
}

impl Reduce for Shared {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum(&self, values: &mut [i64]) -> lumos::Result<()> {
        let whole = self.exchange(
            |(sums, _)| {
                sums.resize(values.len(), 0);
                sums.iter_mut().zip(&*values).for_each(|(sum, value)| *sum += value);
            },
            |(sums, _)| sums.clone(),
        );
        values.copy_from_slice(&whole);
        Ok(())
    }

    fn union(&self, values: &[u32]) -> lumos::Result<Vec<u32>> {
        Ok(self.exchange(
            |(_, all)| {
                all.extend_from_slice(values);
                all.sort_unstable();
                all.dedup();
            },
            |(_, all)| all.clone(),
        ))
    }
}

#[test]
fn any_number_of_processes_train_the_same_bits() {
    let (data, views) = world(50, 30, 7);
    for rules in [&[][..], &["sign-flip share=0.3", "norm-bound bound=0.3"]] {
        for gpu in [false, true] {
            let s = settings(rules);
            let trainer = |reduce: Option<Shared>| {
                let mut parts = Parts::new(valid(&s), data.clone(), views.clone());
                if let Some(shared) = reduce {
                    parts.reduce = Box::new(shared);
                }
                parts.device = gpu.then(|| device(MEMORY) as Arc<dyn Device>);
                Trainer::of(parts).unwrap()
            };
            let alone = |rounds| {
                let mut trainer = trainer(None);
                let reports: Vec<_> = (0..rounds).map(|_| trainer.round().unwrap()).collect();
                let counts: Vec<_> = reports.iter().map(|r| (r.clients, r.tokens, r.item_rows, r.bytes_up, r.rec_loss)).collect();
                (counts, trainer.tensors().unwrap())
            };
            let whole = alone(3);
            for size in [2, 3] {
                let shares = Shared::all(size);
                let ranks: Vec<_> = std::thread::scope(|scope| {
                    let one = |shared: Shared| {
                        let mut trainer = trainer(Some(shared));
                        let reports: Vec<_> = (0..3).map(|_| trainer.round().unwrap()).collect();
                        let counts: Vec<_> = reports.iter().map(|r| (r.clients, r.tokens, r.item_rows, r.bytes_up, r.rec_loss)).collect();
                        (counts, trainer.tensors().unwrap())
                    };
                    let running: Vec<_> = shares.into_iter().map(|shared| scope.spawn(move || one(shared))).collect();
                    running.into_iter().map(|thread| thread.join().unwrap()).collect()
                });
                for (rank, state) in ranks.into_iter().enumerate() {
                    assert!(state == whole, "rank {rank} of {size}, gpu {gpu}, {rules:?}");
                }
            }
        }
    }
}

#[test]
fn what_lies_with_one_process_is_refused_to_several() {
    let (data, views) = world(20, 20, 1);
    let refusal = |change: &dyn Fn(&mut Settings)| {
        let mut s = settings(&[]);
        change(&mut s);
        let shares = Shared::all(2);
        let reduce = Box::new(shares.into_iter().next().unwrap());
        Trainer::of(Parts { reduce, ..Parts::new(valid(&s), data.clone(), views.clone()) }).map(|_| ()).unwrap_err().to_string()
    };
    assert!(refusal(&|s| s.federation.rules = vec!["median".into()]).contains("federation.rules"));
    assert!(refusal(&|s| s.federation.shared = vec![lumos::config::Group::Items]).contains("federation.shared"));
    assert!(refusal(&|s| s.federation.clients = lumos::config::Clients::One).contains("federation.clients"));
}
