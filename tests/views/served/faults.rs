//! An endpoint that stalls, drops lines, writes garbage, refuses and puts off.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use lumos::Error;
use lumos::config::{AnswerFormat, Fallback, ServedSettings, ViewSettings};
use lumos::views::{self, Options};

use super::{dataset, ensure, sane, settings, titles};
use crate::endpoint::{Endpoint, Reply, model};

/// By how much two clocks of one machine may differ.
const SLACK: Duration = Duration::from_millis(100);

#[test]
fn faults_are_waited_out() {
    let (plain, data) = (sane(), dataset(12));
    let wanted = views::build(&data, &settings(&plain.url), 1, &|_, _| ()).unwrap();
    let model = model(titles());
    let faulty = Endpoint::new(move |asked| match asked.number % 8 {
        0 => Reply::Status(429, "Retry-After: 0\r\n", "{\"error\": \"slow down\"}".into()),
        1 => Reply::Status(500, "", "oops".into()),
        2 => Reply::Drop,
        3 => Reply::Garbage,
        4 => Reply::Half,
        5 => Reply::Status(503, "Retry-After: soon\r\n", String::new()),
        _ => Reply::Says(model(asked)),
    });
    let patient = ViewSettings { served: ServedSettings { retries: 200, ..settings(&faulty.url).served }, ..settings(&faulty.url) };
    let built = views::build_with(&data, &patient, &Options::default()).unwrap();
    assert_eq!((built.views, built.failures.len()), (wanted, 0));
    assert!(faulty.asked().len() > faulty.answered().len());
}

#[test]
fn a_stalled_request_is_sent_again() {
    let model = model(titles());
    let server = Endpoint::new(move |asked| if asked.number < 2 { Reply::Stall } else { Reply::Says(model(asked)) });
    let data = dataset(6);
    let hasty =
        ViewSettings { served: ServedSettings { timeout_s: 0.5, retries: 100, ..settings(&server.url).served }, ..settings(&server.url) };
    let made = views::build_with(&data, &hasty, &Options::default()).unwrap();
    assert!(made.failures.is_empty() && server.stalled() == 2);
}

#[test]
fn an_endpoint_that_is_not_there_ends_the_build() {
    let data = dataset(40);
    // Whether five users or eight requests fail first depends on the order of threads.
    let dead = ViewSettings {
        max_failed: 1.0,
        served: ServedSettings { retries: 1, ..settings("http://127.0.0.1:9/v1").served },
        ..settings("http://127.0.0.1:9/v1")
    };
    let message = views::build(&data, &dead, 1, &|_, _| ()).unwrap_err().to_string();
    assert!(message.contains("views.served.url") && message.contains("not one answer"), "{message}");
    for (status, key) in [(401, "views.served.key_env"), (404, "views.served.url"), (302, "views.served.url")] {
        let server = Endpoint::new(move |_| Reply::Status(status, "Location: /else\r\n", "no".into()));
        match views::build(&data, &settings(&server.url), 1, &|_, _| ()) {
            Err(Error::Setting { key: found, message }) => assert!(found == key && message.contains(&status.to_string()), "{message}"),
            other => panic!("{status}: {other:?}"),
        }
        assert!(server.asked().len() <= 6, "one refusal of each connection is enough");
    }
}

#[test]
fn a_user_whose_question_fails_is_on_record_and_falls_back() {
    let data = dataset(40);
    // Users 0 and 14 have item 0 (and 20 no others), whose title the endpoint cannot bear.
    let sick: Vec<usize> = (0..40).filter(|u| data.train(*u).contains(&0)).collect();
    assert!(!sick.is_empty() && sick.len() < 4, "{sick:?}");
    let fragile = || {
        let model = model(titles());
        Endpoint::new(move |asked| {
            let hit = asked.user_text().contains("makeup thing number0 ");
            if hit { Reply::Status(400, "", "cannot".into()) } else { Reply::Says(model(asked)) }
        })
    };
    let server = fragile();
    let root = tempfile::tempdir().unwrap();
    let (made, manifest) = ensure(&data, &settings(&server.url), root.path()).unwrap();
    let named: Vec<&str> = manifest.failures.iter().map(|f| f.user.as_str()).collect();
    let tokens: Vec<String> = sick.iter().map(|u| format!("u{u}")).collect();
    assert_eq!(named, tokens);
    assert!(manifest.failures.iter().all(|f| f.reason.contains("400") && f.asked) && manifest.fallback == "catalogue");
    let catalogue = views::build(&data, &ViewSettings::default(), 1, &|_, _| ()).unwrap();
    assert!(sick.iter().all(|u| made.users[*u] == catalogue.users[*u]));
    let none = ViewSettings { fallback: Fallback::None, ..settings(&server.url) };
    let (without, manifest) = ensure(&data, &none, root.path()).unwrap();
    assert!(sick.iter().all(|u| without.users[*u].future.is_empty()) && manifest.statistics.without_views == sick.len() as u64);
    // Too many are an error, and nothing is put in place.
    let strict = ViewSettings { max_failed: 0.0, seed: 2, ..settings(&server.url) };
    let message = ensure(&data, &strict, root.path()).unwrap_err().to_string();
    assert!(message.contains("views.max_failed") && message.contains("400"), "{message}");
    assert!(!views::store_dir(root.path(), &data, &strict).exists());
}

#[test]
fn a_wait_is_asked_for_in_seconds_or_as_a_date() {
    let data = dataset(3);
    for dated in [false, true] {
        // The moment before which nobody should come, and how many did.
        let (open, early) = (Mutex::new(None), Arc::new(AtomicUsize::new(0)));
        let (answers, counted) = (model(titles()), Arc::clone(&early));
        let server = Endpoint::new(move |asked| {
            let now = SystemTime::now();
            let mut open = open.lock().unwrap();
            let Some(moment) = *open else {
                // A date has whole seconds.
                let date = httpdate::fmt_http_date(now + Duration::from_secs(2));
                *open = Some(if dated { httpdate::parse_http_date(&date).unwrap() } else { now + Duration::from_secs(1) });
                return Reply::Later(if dated { date } else { "1".into() });
            };
            counted.fetch_add(usize::from(now + SLACK < moment), Ordering::Relaxed);
            Reply::Says(answers(asked))
        });
        let one = ServedSettings { concurrency: 1, ..settings(&server.url).served };
        let built = views::build_with(&data, &ViewSettings { served: one, ..settings(&server.url) }, &Options::default()).unwrap();
        assert!(built.failures.is_empty() && server.asked().len() > 1, "{:?}", built.failures);
        assert_eq!(early.load(Ordering::Relaxed), 0, "dated: {dated}");
    }
}

#[test]
fn an_endpoint_cannot_hold_a_build_for_hours() {
    let data = dataset(40);
    let tomorrow = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(86_400));
    for after in ["7200".to_owned(), tomorrow, "1e300".to_owned()] {
        let server = {
            let after = after.clone();
            Endpoint::new(move |_| Reply::Later(after.clone()))
        };
        match views::build(&data, &settings(&server.url), 1, &|_, _| ()) {
            Err(Error::Setting { key, message }) => {
                assert_eq!(key, "views.served.longest_wait_s");
                assert!(message.contains("600 s") && message.contains("429") && message.contains("again later"), "{message}");
            }
            other => panic!("{after}: {other:?}"),
        }
        assert!(server.asked().len() <= 6, "one for each connection");
    }
    // Short waits that never end in an answer come to the same.
    let server = Endpoint::new(|_| Reply::Later("1".into()));
    let short = ServedSettings { longest_wait_s: 1.5, ..settings(&server.url).served };
    let message = views::build(&data, &ViewSettings { served: short, ..settings(&server.url) }, 1, &|_, _| ()).unwrap_err().to_string();
    assert!(message.contains("views.served.longest_wait_s") && message.contains("without an answer"), "{message}");
}

#[test]
fn another_format_is_named_where_the_endpoint_does_not_know_one() {
    // llama-cpp-python calls a format that it does not know its own failure.
    for (format, name, status) in [(AnswerFormat::JsonSchema, "response_format", 500), (AnswerFormat::GuidedJson, "guided_json", 422)] {
        let server = Endpoint::new(move |asked| match asked.body.get(name) {
            Some(_) => Reply::Status(status, "", format!("{name}: extra inputs are not permitted")),
            None => Reply::Says(String::new()),
        });
        let served = ServedSettings { format, ..settings(&server.url).served };
        let message = views::build(&dataset(9), &ViewSettings { served, ..settings(&server.url) }, 1, &|_, _| ()).unwrap_err().to_string();
        assert!(message.contains("views.served.format") && message.contains(format.name()) && message.contains("`lines`"), "{message}");
    }
}
