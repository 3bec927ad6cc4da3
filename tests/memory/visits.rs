//! Once a worker has met its largest client, training allocates nothing: not per step, not per visit.

use lumos::backend::cpu::{Worker, WorkerShape};
use lumos::bench::{RoundBench, settings, world};
use lumos::config::Backbone;
use lumos::engine::Packer;
use lumos::model::{Model, ModelSpec, Weights};
use lumos::testing::valid;

use crate::{COUNT, alone};
use std::cell::Cell;

#[test]
fn a_visit_allocates_nothing_once_warm() {
    let _alone = alone();
    for backbone in [Backbone::SASREC, Backbone::GRU4REC, Backbone::BERT4REC] {
        let bench = RoundBench { clients: 12, items: 500, dim: 20, lengths: vec![3, 17, 1, 8], ..Default::default() };
        let (data, views) = world(&bench);
        let mut s = settings(&bench);
        s.model.backbone = backbone;
        s.model.dropout = 0.1;
        let spec = ModelSpec::new(&s.model);
        let (weights, model) = (Weights::init(&spec, data.item_count(), 1), Model::new(&spec));
        let (mut packer, mut worker) = (Packer::new(valid(&s), data.clone(), views.clone()), Worker::new(WorkerShape::new(&spec)));
        let mut visit = |client: u32| {
            let plan = packer.begin(&[client], 1);
            worker.begin_visit(&weights.dense, plan.rows as usize);
            for (row, &item) in packer.items().iter().enumerate() {
                worker.row_mut(row).copy_from_slice(weights.item(item as usize));
            }
            for number in 0..plan.steps {
                packer.pack(number, &mut worker.step);
                worker.begin_step(&s.local, number + 1, plan.steps, true, None);
                model.train(&mut worker, &s.loss);
                worker.end_step(&s.local, number + 1, plan.steps);
            }
        };
        (0..12).for_each(&mut visit);
        let before = COUNT.with(Cell::get);
        (0..12).for_each(&mut visit);
        assert_eq!(COUNT.with(Cell::get) - before, 0, "{backbone:?}");
    }
}
