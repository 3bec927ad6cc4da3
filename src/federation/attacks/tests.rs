//! What attackers write and upload.

use super::*;
use crate::config::ModelSettings;
use crate::eval::best_items;
use crate::model::{ModelSpec, Weights};

const USERS: u32 = 40;
const ITEMS: u32 = 120;

/// A world in which item `i` is the more popular the lower it is, and no user has met the last one.
fn data() -> Arc<Dataset> {
    let mut data = Dataset { name: "d".into(), offsets: vec![0], ..Default::default() };
    data.item_tokens = (0..ITEMS).map(|i| i.to_string()).collect();
    data.catalogue = vec![Default::default(); ITEMS as usize];
    for user in 0..USERS {
        data.user_tokens.push(user.to_string());
        data.items.extend((0..12).map(|i| (i * (1 + user % 9)) % (ITEMS - 1)));
        data.offsets.push(data.items.len() as u64);
    }
    Arc::new(data)
}

fn settings(name: &str) -> Settings {
    let mut settings = Settings {
        seed: 5,
        model: ModelSettings { dim: 12, blocks: 1, max_len: 10, init_std: 0.5, ..Default::default() },
        ..Default::default()
    };
    (settings.attack.name, settings.attack.share) = (name.into(), 0.1);
    settings.attack.target = vec!["119".into()];
    settings
}

#[test]
fn malicious_clients_stand_behind_the_users_with_histories_of_the_catalogue() {
    let data = data();
    for kind in KINDS {
        let settings = settings(kind.name);
        let plan = plan(&settings, &data).unwrap().unwrap();
        assert_eq!(plan.data.users(), 44, "{}", kind.name);
        assert_eq!(plan.data.items[..data.items.len()], data.items, "{}: users keep their histories", kind.name);
        for user in 40..44 {
            let history = plan.data.train(user);
            assert!(history.len() >= 2 && history.iter().all(|&item| item < ITEMS), "{}: {history:?}", kind.name);
        }
        let again = super::plan(&settings, &data).unwrap().unwrap();
        assert_eq!(again.data.items, plan.data.items, "{}", kind.name);
        assert!(again.rule.is_some() == (kind.build)(&chosen(&settings).unwrap().unwrap().1).unwrap().crafts());
    }
    let of = |name: &str| plan(&settings(name), &data).unwrap().unwrap().data.train(41).to_vec();
    assert_eq!(of("explicit-boosting items=4"), [119; 4]);
    assert_eq!(of("random-items items=9").iter().filter(|&&item| item == 119).count(), 1);
    let bandwagon = of("bandwagon items=20 popular=0.5");
    assert!(bandwagon.len() == 20 && bandwagon.contains(&119), "{bandwagon:?}");
    // The popular tenth has 12 items, of which ten are asked for.
    let scene = Scene::new(&settings("bandwagon"), &data, vec![119]);
    assert!(bandwagon.iter().filter(|item| scene.popular[..12].contains(item)).count() >= 10, "{bandwagon:?}");
    assert!(of("label-flip").iter().all(|&item| item >= 1));
}

/// Every attack that computes rows moves the target so that users are recommended it sooner, and touches no dense weight and no honest client.
#[test]
fn computed_rows_raise_the_target() {
    let data = data();
    let spec = ModelSpec::of(&settings("none"));
    let weights = Weights::init(&spec, ITEMS as usize, 7);
    for kind in KINDS {
        let settings = settings(kind.name);
        let Some(rule) = plan(&settings, &data).unwrap().unwrap().rule else { continue };
        let occasion = Occasion { seed: 5, round: 3, weights: Some(&weights) };
        let honest = |client| Update { client, weight: 1, dense: vec![0.5; 3], items: vec![4, 9], rows: vec![0.01; 24] };
        let mut own = honest(3);
        rule.client(&occasion, &mut own);
        assert_eq!(own, honest(3), "{}", kind.name);
        let mut upload = honest(USERS + 1);
        rule.client(&occasion, &mut upload);
        let mut again = honest(USERS + 1);
        rule.client(&occasion, &mut again);
        assert_eq!(upload, again, "{}", kind.name);
        assert_eq!((upload.dense.len(), upload.rows.len()), (3, 12 * upload.items.len()), "{}", kind.name);
        assert!(upload.items.contains(&119) && upload.rows.iter().all(|x| x.is_finite()), "{}", kind.name);
        let mut after = weights.clone();
        for (&item, row) in upload.items.iter().zip(upload.rows.chunks_exact(12)) {
            after.items[item as usize * 12..][..12].iter_mut().zip(row).for_each(|(w, x)| *w += x);
        }
        let before_and_after = [&weights, &after].map(|weights| {
            let histories: Vec<Vec<u32>> = (0..USERS as usize).map(|user| data.train(user).to_vec()).collect();
            let hidden = encoded::hidden(weights, &histories);
            let scores = encoded::scores(weights, &hidden);
            let place = |scores: &Vec<f32>| best_items(scores, &[], ITEMS as usize).iter().position(|(item, _)| *item == 119).unwrap();
            scores.iter().map(place).sum::<usize>() as f64 / scores.len() as f64
        });
        println!("{}: mean place {:.1} -> {:.1}", kind.name, before_and_after[0], before_and_after[1]);
        // Users drawn at random, and a look at popularity, say nothing of an untrained model's users.
        if ["fed-rec-attack", "psmu", "dv-fsr"].contains(&kind.name) {
            assert!(before_and_after[1] < before_and_after[0] - 5.0, "{}: {before_and_after:?}", kind.name);
        }
    }
}

#[test]
fn attacks_are_refused_where_they_make_no_sense() {
    for (sets, parts) in [
        (&["attack.name=a-hun"][..], &["attack.name", "did you mean `a-hum`"][..]),
        (&["attack.name=psmu topp=3"], &["attack.name", "did you mean `top`"]),
        (&["attack.name=a-hum draws=0"], &["draws is 0", "from 1"]),
        (&["attack.name=a-hum", "attack.share=0"], &["attack.share", "above 0"]),
        (&["attack.name=a-hum", "federation.clients=groups:4"], &["federation.clients", "\"user\""]),
        (&["attack.name=a-hum", "federation.shared=items"], &["federation.shared", "a-hum"]),
        (&["attack.from=0"], &["attack.from", "at least 1"]),
        (&["attack.target=least-popular:x"], &["attack.target", "least-popular:N"]),
        (&["noise.share=0.7"], &["noise.share", "0.5"]),
        (&["noise.titles=1.5"], &["noise.titles", "0 to 1"]),
    ] {
        let sets: Vec<String> = ["method=fed-sasrec"].iter().chain(sets).map(|s| s.to_string()).collect();
        let message = crate::load_settings(None, &sets).map(|_| ()).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{sets:?}: {message}");
    }
}
