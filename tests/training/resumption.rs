//! State that is saved and restored: the same bits as without the interruption, all of it or nothing.

use crate::kinds::{advance, kinds, settings, train, world};
use lumos::config::Backbone;
use lumos::engine::TensorData;
use lumos::federation::Trainer;
use lumos::testing::valid;

#[test]
fn a_resumed_run_ends_with_the_same_bits() {
    let (data, views) = world(50, 30, 2);
    for (name, s) in kinds() {
        let whole = train(&s, &data, &views, 4);
        let half = train(&s, &data, &views, 2);
        let mut trainer = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        trainer.restore(&half, 2).unwrap();
        for _ in 0..2 {
            trainer.round().unwrap();
        }
        assert_eq!(whole, trainer.tensors().unwrap(), "{name}");
    }
}

#[test]
fn a_checkpoint_of_another_model_is_refused_by_name() {
    let (data, views) = world(30, 20, 1);
    let s = settings();
    let state = train(&s, &data, &views, 1);
    let mut wider = s.clone();
    wider.model.dim = 16;
    let mut gru = s.clone();
    gru.model.backbone = Backbone::GRU4REC;
    let (other_data, other_views) = world(30, 21, 1);
    for (settings, data, views, word) in
        [(&wider, &data, &views, "items"), (&gru, &data, &views, "layer0.x.w"), (&s, &other_data, &other_views, "items")]
    {
        let mut trainer = Trainer::new(valid(settings), data.clone(), views.clone()).unwrap();
        let before = trainer.tensors().unwrap();
        let error = trainer.restore(&state, 1).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert_eq!(before, trainer.tensors().unwrap(), "a refused checkpoint changes nothing");
    }
}

/// What was restored is what a checkpoint holds, whether or not a round has been trained since.
#[test]
fn a_restored_state_is_given_back_as_it_was() {
    let (data, views) = world(40, 30, 5);
    for (name, s) in kinds() {
        let state = train(&s, &data, &views, 2);
        let mut trainer = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        trainer.restore(&state, 2).unwrap();
        assert_eq!(state, trainer.tensors().unwrap(), "{name}");
        // The same over a trainer that has state of its own, and on to the next round.
        let mut used = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        advance(&mut used, 3);
        used.restore(&state, 2).unwrap();
        assert_eq!((&state, used.rounds_done()), (&used.tensors().unwrap(), 2), "{name}");
        assert_eq!(trainer.round().unwrap().round, 3);
        used.round().unwrap();
        assert_eq!(trainer.tensors().unwrap(), used.tensors().unwrap(), "{name}");
        // Back to the start, where there are no moments and no private state.
        let start = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap().tensors().unwrap();
        used.restore(&start, 0).unwrap();
        advance(&mut used, 2);
        assert_eq!(state, used.tensors().unwrap(), "{name}: from the start");
    }
}

/// A checkpoint that turns out wrong at its very end has changed nothing before.
#[test]
fn restoring_is_all_or_nothing() {
    let (data, views) = world(40, 30, 6);
    for (name, s) in kinds() {
        let mut trainer = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        let mut undisturbed = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        for t in [&mut trainer, &mut undisturbed] {
            advance(t, 2);
        }
        let (state, other) = (trainer.tensors().unwrap(), train(&s, &data, &views, 3));
        for spoiled in 0..other.len() {
            let mut wrong = other.clone();
            let tensor = &mut wrong[spoiled];
            let (tensor_name, optional) = (tensor.name.clone(), tensor.name == "private");
            match &mut tensor.data {
                TensorData::U8(bytes) => drop(bytes.pop()),
                TensorData::F32(values) => drop(values.pop()),
                TensorData::U64(counts) => drop(counts.pop()),
                other => panic!("{other:?}"),
            }
            tensor.shape = vec![tensor.shape.iter().product::<usize>() - 1];
            let error = trainer.restore(&wrong, 3).unwrap_err().to_string();
            assert!(error.contains(&tensor_name), "{name}: {error}");
            assert_eq!(state, trainer.tensors().unwrap(), "{name}: {tensor_name} spoiled");
            if !optional {
                wrong.remove(spoiled);
                assert!(trainer.restore(&wrong, 3).unwrap_err().to_string().contains(&tensor_name), "{name}");
            }
        }
        assert_eq!(trainer.round().unwrap().round, 3);
        undisturbed.round().unwrap();
        assert_eq!(undisturbed.tensors().unwrap(), trainer.tensors().unwrap(), "{name}");
    }
}
