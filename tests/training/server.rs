//! The server's step against the formulas of Reddi et al. (ICLR 2021, algorithm 2), worked in 64-bit numbers.

use lumos::config::{EpsUnit, FederationSettings, ServerOptimizer, Settings};
use lumos::engine::{Mean, Server};
use lumos::model::{ModelSpec, Weights};

const CHANGES: [f64; 4] = [0.5, -0.25, 0.0, 0.125];

/// Where a weight that starts at 0 is after the changes of four rounds.
fn by_formula(s: &FederationSettings, rates: [f64; 4]) -> f64 {
    let (b1, b2) = (f64::from(s.server_momentum), f64::from(s.server_beta2));
    let eps = f64::from(s.server_eps) / if s.server_eps_unit == EpsUnit::Client { 6.0 } else { 1.0 };
    let (mut m, mut v, mut w) = (0.0, 0.0, 0.0);
    for (t, (delta, rate)) in (1..).zip(CHANGES.into_iter().zip(rates)) {
        if s.server == ServerOptimizer::Sgd {
            m = b1 * m + delta;
            w += rate * m;
            continue;
        }
        m = b1 * m + (1.0 - b1) * delta;
        let square: f64 = delta * delta;
        v = match s.server {
            ServerOptimizer::Fedadagrad => v + square,
            ServerOptimizer::Fedyogi if v == square => v,
            ServerOptimizer::Fedyogi => v - (1.0 - b2) * square * (v - square).signum(),
            _ => b2 * v + (1.0 - b2) * square,
        };
        let mean = |moment: f64, beta: f64| if s.server_correction { moment / (1.0 - beta.powi(t)) } else { moment };
        let second = if s.server == ServerOptimizer::Fedadagrad { v } else { mean(v, b2) };
        w += rate * mean(m, b1) / (second.sqrt() + eps);
    }
    w
}

#[test]
fn steps_are_those_of_the_formulas() {
    let settings = Settings::default();
    let weights = Weights::init(&ModelSpec::of(&settings), 5, 1);
    let (d, p) = (weights.spec.dim(), weights.dense.len());
    for server in [ServerOptimizer::Sgd, ServerOptimizer::Fedadam, ServerOptimizer::Fedadagrad, ServerOptimizer::Fedyogi] {
        for (momentum, decay, falls, correct) in [
            (0.0, 0.0, [1.0; 4], false),
            (0.9, 0.5, [1.0, 1.0, 1.0, 0.5], false),
            (0.5, 1.0, [1.0, 0.75, 0.5, 0.25], false),
            (0.5, 0.0, [1.0; 4], true),
        ] {
            let server_correction = correct && server != ServerOptimizer::Sgd;
            let s = FederationSettings {
                server,
                server_lr: 0.3,
                server_momentum: momentum,
                server_beta2: 0.9,
                server_decay: decay,
                server_eps: 0.05,
                server_correction,
                server_eps_unit: if decay == 0.5 { EpsUnit::Client } else { EpsUnit::Mean },
                rounds: 4,
                ..settings.federation.clone()
            };
            let mut after = weights.clone();
            (after.dense, after.items) = (vec![0.0; p], vec![0.0; 5 * d]);
            let mut state = Server::new(&s, &after);
            for (round, change) in (1..).zip(CHANGES) {
                // Item 3 moves, and no other.
                let mean =
                    Mean { d, weight: 6, dense: vec![change as f32; p], items: vec![3], rows: vec![change as f32; d], updates: Vec::new() };
                state.apply_mean(&s, round, &mean, &mut after);
            }
            let expected = by_formula(&s, falls.map(|fall| 0.3 * fall));
            let near = |w: &f32| (f64::from(*w) - expected).abs() < 1e-5 * expected.abs();
            let (moved, still): (Vec<(usize, &f32)>, _) = after.items.iter().enumerate().partition(|(i, _)| i / d == 3);
            assert!(after.dense.iter().all(near), "{server:?}, momentum {momentum}: {} for {expected}", after.dense[0]);
            assert!(moved.iter().all(|(_, w)| near(w)) && still.iter().all(|(_, w)| **w == 0.0), "{server:?}");
        }
    }
}

#[test]
fn the_moments_of_a_row_are_corrected_by_the_rounds_that_touched_it() {
    let settings = Settings::default();
    let mut weights = Weights::init(&ModelSpec::of(&settings), 5, 1);
    let d = weights.spec.dim();
    weights.items.fill(0.0);
    let s = FederationSettings { server: ServerOptimizer::Fedadam, server_momentum: 0.5, server_correction: true, ..settings.federation };
    let moved = |late: u64| {
        let (mut after, mut state) = (weights.clone(), Server::new(&s, &weights));
        for round in 1..=CHANGES.len() as u64 + late {
            // Item 3 moves from the first round on, item 1 from round `late + 1` on, each by the same changes.
            let at = |behind: u64| CHANGES.get((round.wrapping_sub(1 + behind)) as usize).map(|&change| vec![change as f32; d]);
            let rows: Vec<(u32, Vec<f32>)> = [(1, at(late)), (3, at(0))].into_iter().filter_map(|(item, row)| Some((item, row?))).collect();
            let (items, rows) = (rows.iter().map(|(item, _)| *item).collect(), rows.iter().flat_map(|(_, row)| row.clone()).collect());
            let mean = Mean { d, weight: 6, dense: vec![0.0; weights.dense.len()], items, rows, updates: Vec::new() };
            state.apply_mean(&s, round, &mean, &mut after);
        }
        assert_eq!((state.steps.dense, &state.steps.rows[..5]), (4 + late as u32, &[0, 4, 0, 4, 0][..]));
        [1, 3].map(|item| after.items[item * d])
    };
    let [late, early] = moved(7);
    assert_eq!(late.to_bits(), early.to_bits());
    assert!(late.abs() > 1e-3);
    assert_eq!(moved(0), [early; 2]);
}

#[test]
fn the_rate_falls_over_its_share_of_the_rounds_and_stays_above_nothing() {
    let mut s = FederationSettings { rounds: 10, server_lr: 2.0, ..Settings::default().federation };
    assert!((1..30).all(|round| s.server_lr_at(round) == 2.0));
    s.server_decay = 0.4;
    let rates: Vec<f32> = (1..=12).map(|round| s.server_lr_at(round)).collect();
    assert_eq!(rates, [2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0, 0.0]);
    s.server_decay = 1.0;
    assert!((1..=10).all(|round| (s.server_lr_at(round) - 0.2 * (11 - round) as f32).abs() < 1e-6));
    (s.server_decay, s.server_warmup) = (0.2, 0.4);
    let rates: Vec<f32> = (1..=11).map(|round| s.server_lr_at(round)).collect();
    assert_eq!(rates, [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 0.0]);
}

#[test]
fn a_clients_rate_falls_over_its_share_of_the_rounds() {
    let mut s = Settings::default();
    (s.federation.rounds, s.local.lr, s.local.decay) = (16, 0.5, 0.25);
    let rates: Vec<f32> = (1..=17).map(|round| s.local_at(round).lr).collect();
    assert_eq!(rates[..13], [0.5; 13]);
    assert_eq!(rates[13..], [0.375, 0.25, 0.125, 0.125], "behind the last round there is a visit still");
    assert_eq!(lumos::config::LocalSettings { lr: 0.5, decay: 0.25, ..s.local_at(15) }, s.local);
}
