//! Several servers of one model: each has its share of the questions, and one that fails is left out.

use std::collections::BTreeSet;
use std::sync::Mutex;

use lumos::Error;
use lumos::config::{ServedSettings, ViewSettings};
use lumos::views::{self, Built, Options};

use super::{bodies, dataset, sane, settings, titles};
use crate::endpoint::{Endpoint, Reply, model};

/// An address at which no server listens.
const NOBODY: &str = "http://127.0.0.1:9/v1";

fn of(urls: &[&str], retries: u32) -> ViewSettings {
    let all = urls.join(", ");
    ViewSettings { served: ServedSettings { retries, ..settings(&all).served }, ..settings(&all) }
}

/// The views, and what was said on the way.
fn built(settings: &ViewSettings) -> (lumos::Result<Built>, Vec<String>) {
    let notes = Mutex::new(Vec::new());
    let note = |text: &str| notes.lock().unwrap().push(text.to_string());
    let built = views::build_with(&dataset(40), settings, &Options { note: &note, ..Options::default() });
    (built, notes.into_inner().unwrap())
}

fn alone() -> Built {
    built(&settings(&sane().url)).0.unwrap()
}

#[test]
fn each_server_has_the_same_share_of_the_questions_every_time() {
    let wanted = alone();
    let mut shares = Vec::new();
    for concurrency in [1, 6] {
        let servers = [sane(), sane(), sane()];
        let mut all = of(&servers.each_ref().map(|s| s.url.as_str()), 20);
        all.served.concurrency = concurrency;
        let (made, notes) = built(&all);
        assert_eq!((made.unwrap().views, notes), (wanted.views.clone(), vec![]));
        let asked: Vec<BTreeSet<String>> = servers.iter().map(|server| bodies(&server.asked())).collect();
        let total: usize = asked.iter().map(BTreeSet::len).sum();
        assert!(asked.iter().all(|share| share.len() > total / 6), "{:?}", asked.iter().map(BTreeSet::len).collect::<Vec<_>>());
        assert_eq!(asked.iter().flatten().collect::<BTreeSet<_>>().len(), total, "no question twice");
        shares.push(asked);
    }
    assert_eq!(shares[0], shares[1], "a share does not depend on how many are under way");
}

#[test]
fn a_server_that_fails_is_left_out_and_its_work_goes_to_the_others() {
    let wanted = alone();
    let refusing = || Endpoint::new(|_| Reply::Status(404, "", "no such model".into()));
    let broken = || Endpoint::new(|_| Reply::Status(503, "", "out of memory".into()));
    let dropping = || Endpoint::new(|_| Reply::Drop);
    for (name, bad) in [("404", refusing()), ("503", broken()), ("no answer", dropping())] {
        let good = [sane(), sane()];
        let (made, notes) = built(&of(&[&good[0].url, &bad.url, &good[1].url], 1));
        let made = made.unwrap();
        assert_eq!((made.views, made.failures.len()), (wanted.views.clone(), 0), "{name}");
        assert!(notes.len() == 1 && notes[0].contains(&bad.url) && notes[0].contains("left out") && notes[0].contains(name), "{notes:?}");
        assert!(good.iter().all(|server| !server.answered().is_empty()), "{name}");
        assert!(bad.asked().len() <= 30, "it was asked {} times", bad.asked().len());
    }
    // Of a server that ends in the middle, what it answered stays.
    let answer = model(titles());
    let ending = Endpoint::new(move |asked| if asked.number < 9 { Reply::Says(answer(asked)) } else { Reply::Drop });
    let good = sane();
    let (made, notes) = built(&of(&[&ending.url, &good.url], 2));
    assert_eq!((made.unwrap().views, ending.answered().len()), (wanted.views, 9));
    assert!(notes.len() == 1 && notes[0].contains(&ending.url) && notes[0].contains("one address goes on"), "{notes:?}");
}

#[test]
fn a_question_that_no_server_answers_costs_none_of_them_its_place() {
    // Only futures of one user cannot be answered.
    let sick = dataset(40).catalogue[dataset(40).train(7)[0] as usize].title.clone();
    let fragile =
        || {
            let (answer, sick) = (model(titles()), format!("{sick} "));
            Endpoint::new(move |asked| {
                if asked.user_text().contains(&sick) { Reply::Status(503, "", "cannot".into()) } else { Reply::Says(answer(asked)) }
            })
        };
    let servers = [fragile(), fragile()];
    let (made, notes) = built(&ViewSettings { max_failed: 1.0, ..of(&[&servers[0].url, &servers[1].url], 1) });
    let failures = made.unwrap().failures;
    assert!(!failures.is_empty() && failures.iter().all(|f| f.reason.contains("503")), "{failures:?}");
    assert!(notes.is_empty() && servers.iter().all(|server| server.answered().len() > 20), "{notes:?}");
}

#[test]
fn without_any_server_the_build_ends_with_the_last_ones_reason() {
    let refusing = Endpoint::new(|_| Reply::Status(404, "", "no such model".into()));
    match built(&ViewSettings { max_failed: 1.0, ..of(&[&refusing.url, NOBODY], 1) }) {
        (Err(Error::Setting { key, message }), notes) => {
            assert!(key == "views.served.url" && message.contains("not one answer"), "{message}");
            assert!(notes.len() == 1 && notes[0].contains("404"), "{notes:?}");
        }
        (other, _) => panic!("{other:?}"),
    }
    let both = [(); 2].map(|()| Endpoint::new(|_| Reply::Status(401, "", "who are you".into())));
    let (made, notes) = built(&of(&[&both[0].url, &both[1].url], 1));
    assert!(made.unwrap_err().to_string().contains("401") && notes.len() == 1, "{notes:?}");
}
