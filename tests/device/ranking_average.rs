//! An average of the rounds' models that ranks (`federation.ranking_average`), on a device.

use crate::batches::{Breaks, central};
use crate::ring::world;
use crate::rounds::{MEMORY, on_device, settings};
use crate::simt::{Simt, device};
use lumos::config::Settings;
use lumos::data::{Dataset, Split};
use lumos::engine::{NamedTensor, TensorData};
use lumos::federation::{AVERAGE, Trainer};
use lumos::testing::{HostDevice, HostKernels, valid};
use lumos::views::Views;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

const KEEP: f32 = 0.6;

fn averaged(mut s: Settings) -> Settings {
    (s.federation.ranking_average, s.local.lr) = (KEEP, 0.02);
    s
}

fn plain(s: &Settings) -> Settings {
    let mut s = s.clone();
    s.federation.ranking_average = 0.0;
    s
}

fn ranks(trainer: &mut Trainer, data: &Dataset) -> Vec<u32> {
    trainer.rank(Split::Test, &(0..data.users() as u32).collect::<Vec<_>>(), &|_, _| {}).unwrap()
}

fn floats(tensor: &NamedTensor) -> Vec<f32> {
    match &tensor.data {
        TensorData::F32(values) => values.clone(),
        other => panic!("{other:?}"),
    }
}

/// The average of `rounds` rounds of a training without the setting, for the first tensors of its state: the weights.
fn recurrence(s: &Settings, (data, views): &(Dataset, Views), rounds: u64, tensors: usize) -> Vec<Vec<f32>> {
    let weights = |round| -> Vec<Vec<f32>> { on_device(&plain(s), data, views, round, None)[..tensors].iter().map(floats).collect() };
    let mut average = weights(1);
    for round in 2..=rounds {
        for (average, now) in average.iter_mut().zip(weights(round)) {
            average.iter_mut().zip(now).for_each(|(a, w)| *a = KEEP * *a + (1.0 - KEEP) * w);
        }
    }
    average
}

#[test]
fn the_average_is_the_recurrence_and_training_does_not_notice() {
    let world = world(50, 60, 2);
    let (data, views) = &world;
    let mut rules = settings();
    rules.federation.rules = vec!["median".into()];
    for (name, s) in [("users", settings()), ("rules", rules), ("one participant", central())] {
        let s = averaged(s);
        let mut trainer = Trainer::on_device(valid(&s), data.clone(), views.clone(), device(MEMORY)).unwrap();
        for _ in 0..3 {
            trainer.round().unwrap();
            ranks(&mut trainer, data);
        }
        let state = trainer.tensors().unwrap();
        let (average, rest): (Vec<_>, Vec<_>) = state.iter().cloned().partition(|t| t.name.starts_with(AVERAGE));
        assert!(rest == on_device(&plain(&s), data, views, 3, None), "{name}: what is trained on");
        assert!(average.iter().map(floats).eq(recurrence(&s, &world, 3, average.len())), "{name}: the average");
        // Resumed, and ranked by a trainer whose model it is.
        let mut again = Trainer::on_device(valid(&s), data.clone(), views.clone(), device(MEMORY)).unwrap();
        again.restore(&on_device(&s, data, views, 2, None), 2).unwrap();
        again.round().unwrap();
        assert!(again.tensors().unwrap() == state, "{name}: resumed");
        let mut model = rest.clone();
        model.iter_mut().zip(&average).for_each(|(model, average)| model.data = average.data.clone());
        let mut other = Trainer::on_device(valid(&plain(&s)), data.clone(), views.clone(), device(MEMORY)).unwrap();
        other.restore(&model, 3).unwrap();
        let found = ranks(&mut trainer, data);
        assert_eq!(found, ranks(&mut other, data), "{name}");
        assert_eq!(trainer.weights().unwrap(), other.weights().unwrap(), "{name}");
        other.restore(&rest, 3).unwrap();
        assert_ne!(found, ranks(&mut other, data), "{name}: the last round's model ranks otherwise");
    }
}

#[test]
fn after_a_fault_the_average_is_of_the_round_of_the_weights() {
    let (data, views) = world(90, 40, 10);
    let s = averaged(central());
    // Three mini-batches a round, two launches each: the sixteenth is in round 3.
    let breaks = Breaks { kernel: Simt.find("step_span").expect("a kernel"), left: AtomicU64::new(16) };
    let mut trainer = Trainer::on_device(valid(&s), data.clone(), views.clone(), Arc::new(HostDevice::new(breaks, MEMORY))).unwrap();
    trainer.round().unwrap();
    trainer.round().unwrap();
    assert!(trainer.round().is_err());
    assert!(trainer.last_snapshot().unwrap() == (on_device(&s, &data, &views, 2, None), 2));
}
