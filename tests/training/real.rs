//! Popularity on real data.

use crate::common::{quiet, real, recbole};
use lumos::config::Mask;
use lumos::data::{Split, load, prepare};
use lumos::eval::{metrics, popularity_ranks, rank_of};

#[test]
fn popularity_on_amazon_beauty() {
    let Some(folder) = real("amazon-beauty") else { return };
    let mut settings = recbole("amazon-beauty", &folder.join("Amazon_Beauty.inter"), Some(&folder.join("Amazon_Beauty.item")));
    settings.k_core = 5;
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("set");
    prepare(&settings, &dir, false, &quiet).unwrap();
    let data = load(&dir).unwrap();

    let users: Vec<u32> = (0..data.users() as u32).collect();
    let ranks = popularity_ranks(&data, Mask::History, Split::Test, &users);
    let m = metrics(&ranks, &[5, 10, 20]);
    assert_eq!((m.users, m.masked_targets), (22_363, 0));
    let hr = m.get("HR@20").unwrap();
    assert!((hr - 0.0195).abs() < 5e-4, "{hr}");
    // Binomial: sqrt(p (1 - p) / n).
    let error = (hr * (1.0 - hr) / 22_362.0).sqrt();
    assert!((m.standard_error("HR@20").unwrap() - error).abs() < 1e-9);

    let scores: Vec<f32> = data.train_counts().iter().map(|&c| c as f32).collect();
    for u in (0..data.users()).step_by(397) {
        let (input, target) = data.input_and_target(u, Split::Test).unwrap();
        assert_eq!(ranks[u], rank_of(&scores, target, input), "user {u}");
    }
}
