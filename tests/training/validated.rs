//! Settings filled in by hand: what cannot be meant is refused, and what is not refused trains.

use crate::ring::world;
use lumos::config::*;
use lumos::settings::validate;
use lumos::{Error, Settings, Trainer, Validated};
use proptest::prelude::*;

/// A small model on few threads.
fn small() -> Settings {
    let mut s = Settings { threads: 1, ..Settings::default() };
    (s.model.dim, s.model.heads, s.model.blocks, s.model.max_len) = (8, 2, 1, 6);
    s.local.epochs = 1;
    s
}

type Damage = fn(&mut Settings);

#[test]
fn absurd_settings_are_refused_by_their_key() {
    let cases: &[(&str, Damage)] = &[
        ("model.dim", |s| s.model.dim = 0),
        ("model.heads", |s| s.model.heads = 0),
        ("model.heads", |s| s.model.heads = 3),
        ("model.blocks", |s| s.model.blocks = 0),
        ("model.max_len", |s| s.model.max_len = 0),
        ("model.init_std", |s| s.model.init_std = f32::NAN),
        ("model.dropout", |s| s.model.dropout = 1.0),
        ("local.batch", |s| s.local.batch = 0),
        ("local.epochs", |s| s.local.epochs = 0),
        ("local.lr", |s| s.local.lr = f32::INFINITY),
        ("loss.tau", |s| s.loss.tau = 0.0),
        ("loss.negatives", |s| s.loss.negatives = 0),
        ("loss.masked.rho", |s| s.loss.masked.rho = f32::NAN),
        ("loss.in_batch.tau", |s| s.loss.in_batch.tau = 0.0),
        ("federation.fraction", |s| s.federation.fraction = f32::NAN),
        ("federation.clients", |s| s.federation.clients = Clients::Groups(0)),
        ("federation.shared", |s| s.federation.shared.clear()),
        ("federation.protocol", |s| s.federation.protocol.clear()),
        ("federation.rules", |s| s.federation.rules = vec!["mediam".into()]),
        ("eval.k", |s| s.eval.k.clear()),
        ("eval.every", |s| s.eval.every = 0),
        ("views.future_min", |s| s.views.future_min = 0),
        ("data.synth_users", |s| s.data.synth_users = 0),
        ("method", |s| s.method = "lumoss".into()),
        ("threads", |s| s.threads = 1 << 20),
        ("device", |s| s.device = "gpu".into()),
    ];
    for (key, damage) in cases {
        let mut settings = small();
        damage(&mut settings);
        match Validated::new(settings) {
            Err(Error::Setting { key: named, .. }) => assert_eq!(named, *key),
            other => panic!("{key}: {other:?}"),
        }
    }
}

#[test]
fn settings_are_taken_apart_changed_and_validated_again() {
    let valid = Validated::new(small()).unwrap();
    assert_eq!(valid.model.dim, 8, "read like the settings themselves");
    let wider = valid.clone().with(|s| s.model.dim = 16).unwrap();
    assert_eq!((wider.model.dim, valid.model.dim), (16, 8));
    assert!(wider.clone().with(|s| s.model.heads = 0).unwrap_err().to_string().contains("model.heads"));
    assert_eq!(Validated::new(wider.clone().into_inner()).unwrap(), wider);
    let masked = valid.with(|s| s.eval.mask = Mask::None).unwrap();
    assert_eq!(masked.views.mask, Mask::None, "one mask for views and evaluation");
}

#[test]
fn a_trainer_refuses_more_than_its_data_set_has() {
    let (data, views) = world(7, 12, 1);
    let cases: [(&str, Damage); 3] = [
        ("federation.cohort", |s| s.federation.cohort = 8),
        ("loss.negatives", |s| s.loss.negatives = 12),
        ("federation.clients", |s| s.federation.clients = Clients::Groups(8)),
    ];
    for (key, damage) in cases {
        let mut settings = small();
        damage(&mut settings);
        let settings = Validated::new(settings).unwrap();
        assert!(Trainer::new(&settings, data.clone(), views.clone()).err().unwrap().to_string().contains(key), "{key}");
    }
}

/// Numbers at and beyond the ends of ranges. Those in between are small: a round has to end.
const WHOLE: [u32; 8] = [0, 1, 2, 3, 5, 8, 70_000, u32::MAX];
const REAL: [f32; 12] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0, -0.0, 1e-38, 0.3, 0.5, 0.999, 1.0, 1.5, f32::MAX];
const NAMES: [&str; 8] = ["averaging", "ptf-fsr", "median", "norm-bound bound=0.5", "sign-flip share=1", "median x=1", "", "averagin"];

/// Changes one setting: `at` says which, `to` to what.
fn damage(s: &mut Settings, at: usize, to: usize) {
    let (n, x, name) = (WHOLE[to % 8], REAL[to % 12], NAMES[to % 8]);
    match at {
        0 => s.model.dim = n,
        1 => s.model.heads = n,
        2 => s.model.blocks = n,
        3 => s.model.ffn = n,
        4 => s.model.max_len = n,
        5 => s.model.dropout = x,
        6 => s.model.item_dropout = x,
        7 => s.model.init_std = x,
        8 => s.model.backbone = [Backbone::SASREC, Backbone::GRU4REC, Backbone::BERT4REC][to % 3],
        9 => s.model.positions = [Positions::First, Positions::Last][to % 2],
        10 => s.loss.rec = [RecLoss::Bce, RecLoss::SampledSoftmax, RecLoss::Gbce, RecLoss::Softmax][to % 4],
        11 => s.loss.negatives = n,
        12 => s.loss.gbce_t = x,
        13 => s.loss.contrast = [Contrast::None, Contrast::Joint, Contrast::Decoupled][to % 3],
        14 => s.loss.lambda = x,
        15 => s.loss.lambda_rounds = n,
        16 => s.loss.tau = x,
        17 => (s.loss.future, s.loss.paraphrase, s.loss.counterfactual) = (to & 1 > 0, to & 2 > 0, to & 4 > 0),
        18 => s.loss.masked.rho = x,
        19 => s.loss.masked.last = x,
        20 => s.loss.in_batch.weight = x,
        21 => s.loss.in_batch.tau = x,
        22 => s.loss.in_batch.crop = x,
        23 => s.loss.in_batch.mask = x,
        24 => s.loss.in_batch.reorder = x,
        // Accepted however many there are, and a round would not end.
        25 => s.local.epochs = n.min(3),
        26 => {
            s.local.optimizer = {
                use LocalOptimizer::*;
                [Adam, Adamw, Sgd, Momentum, Adagrad, Preconditioned][to % 6]
            }
        }
        27 => s.local.lr = x,
        28 => s.local.weight_decay = x,
        29 => s.local.clip = x,
        30 => s.local.beta1 = x,
        31 => s.local.beta2 = x,
        32 => s.local.eps = x,
        33 => s.local.batch = n,
        34 => s.federation.clients = [Clients::User, Clients::One, Clients::Groups(n)][to % 3],
        35 => s.federation.fraction = x,
        36 => s.federation.cohort = n,
        37 => s.federation.rounds = n,
        38 => s.federation.shared = [vec![], vec![Group::Items], vec![Group::Encoder], vec![Group::Items; 2]][to % 4].clone(),
        39 => s.federation.dropout_rate = x,
        40 => s.federation.max_diverged = x,
        41 => {
            s.federation.server =
                [ServerOptimizer::Sgd, ServerOptimizer::Fedadam, ServerOptimizer::Fedadagrad, ServerOptimizer::Fedyogi][to % 4]
        }
        42 => s.federation.server_lr = x,
        43 => s.federation.server_momentum = x,
        44 => s.federation.server_beta2 = x,
        45 => s.federation.server_eps = x,
        46 => s.federation.protocol = name.into(),
        47 => s.federation.rules = vec![name.into()],
        48 => s.federation.private_memory_mb = n,
        49 => s.federation.weights = [ClientWeighting::Equal, ClientWeighting::Examples][to % 2],
        50 => s.eval.k = vec![n],
        51 => s.federation.server_decay = x,
        52 => s.federation.server_warmup = x,
        53 => s.local.decay = x,
        54 => s.loss.smoothing = x,
        55 => s.local.proximal = x,
        56 => s.federation.server_correction = [true, false][to % 2],
        _ => s.seed = u64::from(n),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// A client that diverges is an error or is left out; nothing panics.
    #[test]
    fn what_validation_accepts_trains_a_round_without_panic(changes in prop::collection::vec((0usize..57, 0usize..24), 1..4)) {
        let mut settings = small();
        changes.iter().for_each(|&(at, to)| damage(&mut settings, at, to));
        let Ok(settings) = Validated::new(settings) else { return Ok(()) };
        let (data, views) = world(7, 12, 1);
        let Ok(mut trainer) = Trainer::new(&settings, data.clone(), views.clone()) else { return Ok(()) };
        if trainer.round().is_ok() {
            let ranks = trainer.rank(lumos::Split::Test, &[0, 6], &|_, _| ()).unwrap();
            prop_assert!(ranks.iter().all(|&rank| rank >= 1));
        }
    }
}

/// Moments that do not decay have nothing to correct.
#[test]
fn corrections_of_moments_that_do_not_decay_are_refused() {
    use ServerOptimizer::*;
    for (server, momentum, fine) in
        [(Sgd, 0.9, false), (Fedadagrad, 0.0, false), (Fedadagrad, 0.5, true), (Fedadam, 0.0, true), (Fedyogi, 0.0, true)]
    {
        let mut s = Settings::default();
        (s.federation.server, s.federation.server_momentum, s.federation.server_correction) = (server, momentum, true);
        match validate(&s) {
            Ok(_) => assert!(fine, "{server:?} with momentum {momentum}"),
            Err(e) => assert!(!fine && e.to_string().contains("federation.server_correction"), "{server:?}: {e}"),
        }
    }
}

/// What trains a model of its own refuses what it would not look at.
#[test]
fn settings_that_a_protocol_would_ignore_are_refused() {
    let of = |method: &str| lumos::load_settings(None, &[format!("method={method}")]).unwrap().settings.into_inner();
    let damages: [(&str, Damage); 9] = [
        ("loss.in_batch.weight", |s| (s.loss.in_batch.weight, s.local.batch) = (0.1, 8)),
        ("loss.smoothing", |s| s.loss.smoothing = 0.1),
        ("loss.popularity", |s| s.loss.popularity = 0.5),
        ("model.item_dropout", |s| s.model.item_dropout = 0.1),
        ("loss.terms", |s| s.loss.terms = vec!["x".into()]),
        ("federation.rules", |s| s.federation.rules = vec!["median".into()]),
        ("federation.clients", |s| s.federation.clients = Clients::Groups(3)),
        ("loss.contrast", |s| s.loss.contrast = Contrast::Joint),
        ("local.optimizer", |s| s.local.optimizer = LocalOptimizer::Sgd),
    ];
    for method in ["calrec", "gcl4sr"] {
        for (key, damage) in damages {
            let mut s = of(method);
            damage(&mut s);
            let message = validate(&s).unwrap_err().to_string();
            assert!(message.contains(key), "{method}, {key}: {message}");
        }
    }
    let mut s = of("gcl4sr");
    s.model.backbone = Backbone::GRU4REC;
    assert!(validate(&s).unwrap_err().to_string().contains("model.backbone"));
    (s.model.backbone, s.local.batch, s.model.max_len) = (Backbone::SASREC, u32::MAX, 50);
    assert!(validate(&s).unwrap_err().to_string().contains("local.batch"));
}

/// Optimisers of the client that need what the server or the client does not keep.
#[test]
fn optimisers_that_lack_what_they_need_are_refused() {
    let mut base = Settings::default();
    (base.local.optimizer, base.local.lr, base.local.eps) = (LocalOptimizer::Preconditioned, 0.01, 0.01);
    (base.federation.server, base.federation.server_lr) = (ServerOptimizer::Fedadam, 0.01);
    validate(&base).unwrap();
    let refused = |key: &str, word: &str, change: &dyn Fn(&mut Settings)| {
        let mut s = base.clone();
        change(&mut s);
        let message = validate(&s).unwrap_err().to_string();
        assert!(message.contains(key) && message.contains(word), "{key}: {message}");
    };
    refused("local.optimizer", "fedyogi", &|s| s.federation.server = ServerOptimizer::Sgd);
    refused("local.optimizer", "server_correction", &|s| s.federation.server_correction = true);
    refused("local.optimizer", "shared", &|s| s.federation.shared = vec![Group::Items]);
    refused("local.optimizer", "\"one\"", &|s| s.federation.clients = Clients::One);
    refused("local.lr", "local.eps", &|s| s.local.eps = 1e-8);
    refused("eval.local_epochs", "local.optimizer", &|s| s.eval.local_epochs = 1);
    refused("local.proximal", "share", &|s| {
        (s.local.optimizer, s.local.proximal) = (LocalOptimizer::Sgd, 1.0);
        s.federation.shared = vec![Group::Encoder];
    });
    refused("local.proximal", "0 or more", &|s| s.local.proximal = f32::NAN);
}
