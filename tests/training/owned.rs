//! A trainer owns its parts: it can be returned, kept in a struct and sent to a thread, and it copies neither data set nor views.

use crate::ring::world;
use lumos::config::Settings;
use lumos::data::Dataset;
use lumos::engine::NamedTensor;
use lumos::engine::cpu::CpuEngine;
use lumos::engine::cuda::CudaEngine;
use lumos::federation::Trainer;
use lumos::federation::protocol::{Parts, Protocol};
use lumos::testing::valid;
use lumos::views::Views;
use std::sync::Arc;

fn can_be_sent<T: Send + 'static>() {}

/// What a program of one's own may look like: the trainer in a struct, made by a function that keeps nothing else.
struct Study {
    trainer: Trainer,
}

fn study(protocol: &str, data: &Arc<Dataset>, views: &Arc<Views>) -> Study {
    let mut settings = Settings { seed: 5, threads: 2, ..Default::default() };
    (settings.model.dim, settings.model.heads) = (8, 2);
    settings.federation.protocol = protocol.into();
    if protocol != "averaging" {
        settings.loss.contrast = lumos::config::Contrast::None;
    }
    Study { trainer: Trainer::new(valid(&settings), data.clone(), views.clone()).unwrap() }
}

fn trained(mut study: Study) -> Vec<NamedTensor> {
    study.trainer.round().unwrap();
    study.trainer.tensors().unwrap()
}

#[test]
fn parts_engines_and_protocols_can_be_sent() {
    can_be_sent::<Trainer>();
    can_be_sent::<Parts>();
    can_be_sent::<CpuEngine>();
    can_be_sent::<CudaEngine>();
    can_be_sent::<Box<dyn Protocol>>();
}

#[test]
fn a_trainer_in_a_struct_trains_the_same_on_another_thread() {
    let (data, views) = world(30, 40, 2);
    let (data, views) = (Arc::new(data), Arc::new(views));
    for protocol in ["averaging", "ptf-fsr client-dim=4 server-dim=8"] {
        let sent = study(protocol, &data, &views);
        let there = std::thread::spawn(move || trained(sent)).join().unwrap();
        assert_eq!(there, trained(study(protocol, &data, &views)), "{protocol}");
    }
}

#[test]
fn a_trainer_shares_data_set_and_views_until_it_is_dropped() {
    let (data, views) = world(30, 40, 2);
    let (data, views) = (Arc::new(data), Arc::new(views));
    let study = study("averaging", &data, &views);
    assert!(Arc::strong_count(&data) > 1 && Arc::strong_count(&views) > 1);
    drop(study);
    // Whoever drops the trainer has both for itself again.
    assert!(Arc::try_unwrap(data).is_ok() && Arc::try_unwrap(views).is_ok());
}
