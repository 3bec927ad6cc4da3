//! Users who train for themselves before they are ranked (`eval.local_epochs`), on a device: their own encoders and rows together.

use crate::ranks::Thread;
use crate::ring::{come_back, world};
use crate::rounds::{MEMORY, settings};
use crate::simt::device;
use lumos::config::{Backbone, Group, Mask, Settings};
use lumos::data::{Dataset, Split};
use lumos::engine::NamedTensor;
use lumos::federation::Trainer;
use lumos::federation::protocol::Parts;
use lumos::testing::valid;
use lumos::views::Views;

fn with_steps(epochs: u32) -> Settings {
    let mut s = settings();
    // See `rounds::one_round_agrees_with_the_cpu`.
    (s.eval.local_epochs, s.local.lr, s.local.eps) = (epochs, 0.02, 1e-3);
    s
}

fn gpu(s: &Settings, (data, views): &(Dataset, Views), bytes: u64) -> Trainer {
    Trainer::on_device(valid(s), data.clone(), views.clone(), device(bytes)).unwrap()
}

fn ranks(trainer: &mut Trainer, users: usize) -> Vec<u32> {
    trainer.rank(Split::Test, &(0..users as u32).collect::<Vec<_>>(), &|_, _| {}).unwrap()
}

fn equal(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a == b).count()
}

#[test]
fn users_are_ranked_as_on_the_cpu() {
    let mut world = world(90, 140, 6);
    come_back(&mut world.0);
    let users = world.0.users();
    for (backbone, mask, shared) in [
        (Backbone::SASREC, Mask::History, vec![Group::Items, Group::Encoder]),
        (Backbone::BERT4REC, Mask::None, vec![Group::Items, Group::Encoder]),
        (Backbone::GRU4REC, Mask::History, vec![Group::Items]),
        (Backbone::SASREC, Mask::History, vec![Group::Encoder]),
    ] {
        let mut s = with_steps(3);
        (s.model.backbone, s.eval.mask, s.federation.shared) = (backbone, mask, shared);
        let mut there = gpu(&s, &world, MEMORY);
        there.round().unwrap();
        there.round().unwrap();
        let (state, found) = (there.tensors().unwrap(), ranks(&mut there, users));
        let on_cpu = |s: &Settings| {
            let mut here = Trainer::new(valid(s), world.0.clone(), world.1.clone()).unwrap();
            here.restore(&state, 2).unwrap();
            ranks(&mut here, users)
        };
        let same = equal(&found, &on_cpu(&s));
        assert!(same * 10 >= 9 * users, "{backbone:?}: the CPU ranks {same} of {users} alike");
        let mut without = s.clone();
        without.eval.local_epochs = 0;
        let same = equal(&found, &on_cpu(&without));
        assert!(same * 10 < 9 * users, "{backbone:?}: {same} of {users} are ranked as without local steps");
    }
}

#[test]
fn blocks_chunks_memory_and_processes_leave_no_trace() {
    let world = world(100, 40, 8);
    let users = world.0.users();
    let s = with_steps(1);
    let end = |mut trainer: Trainer| -> (Vec<u32>, Vec<u32>, Vec<NamedTensor>, u64) {
        trainer.round().unwrap();
        let first = ranks(&mut trainer, users);
        trainer.round().unwrap();
        let second = ranks(&mut trainer, users);
        (first, second, trainer.tensors().unwrap(), trainer.device_use().unwrap().unwrap().peak_bytes)
    };
    let whole = end(gpu(&s, &world, MEMORY));
    // A training without a ranking has the same bits.
    let mut undisturbed = gpu(&s, &world, MEMORY);
    undisturbed.round().unwrap();
    undisturbed.round().unwrap();
    assert!(undisturbed.tensors().unwrap() == whole.2);
    let same = |name: &str, other: (Vec<u32>, Vec<u32>, Vec<NamedTensor>, u64)| {
        assert!(other.0 == whole.0 && other.1 == whole.1 && other.2 == whole.2, "{name}");
    };
    let mut blocks = Settings { threads: 3, ..s.clone() };
    blocks.federation.private_memory_mb = 0;
    same("blocks and threads", end(gpu(&blocks, &world, MEMORY)));
    let mut cut = gpu(&s, &world, MEMORY);
    cut.limit_chunks(1);
    same("chunks", end(cut));
    // The plan counts on more memory than there is.
    let mut tight = gpu(&s, &world, whole.3 * 2 / 3);
    tight.limit_chunks(u64::MAX);
    same("memory", end(tight));
    let parts = || Parts { device: Some(device(MEMORY)), ..Parts::new(valid(&s), world.0.clone(), world.1.clone()) };
    for found in Thread::run(2, |reduce| end(Trainer::of(Parts { reduce, ..parts() }).unwrap())) {
        same("processes", found);
    }
}
