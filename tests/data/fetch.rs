//! Known sets from a server on this machine that cuts, lies about lengths and redirects.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::quiet;
use lumos::Result;
use lumos::data::{Fetched, KnownFile, KnownSet, Patience, fetch};

/// A request: its path, and where the client wants to go on, with the version that it has begun.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    path: String,
    from: Option<usize>,
    version: Option<String>,
}

/// A server whose answer, as bytes after which the line is cut, `answer` gives by the request and its number; gives its address and what it was asked.
fn server(answer: impl Fn(&Asked, usize) -> Vec<u8> + Send + 'static) -> (String, Arc<Mutex<Vec<Asked>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, all) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let asked = all.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Asked { path: String::new(), from: None, version: None };
            for line in BufReader::new(stream.try_clone().unwrap()).lines().map_while(|line| line.ok().filter(|line| !line.is_empty())) {
                let lower = line.to_lowercase();
                if let Some(rest) = line.strip_prefix("GET ") {
                    request.path = rest.split(' ').next().unwrap().to_string();
                } else if let Some(range) = lower.strip_prefix("range: bytes=") {
                    request.from = Some(range.trim_end_matches('-').parse().unwrap());
                } else if lower.starts_with("if-range: ") {
                    request.version = Some(line[10..].to_string());
                }
            }
            let number = asked.lock().unwrap().len();
            asked.lock().unwrap().push(request.clone());
            let _ = stream.write_all(&answer(&request, number));
        }
    });
    (format!("http://{address}"), all)
}

fn content() -> Vec<u8> {
    (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// MD5 of [`content`], by another program.
const MD5: &str = "7340da468b423f050180eed803596380";

fn head(status: &str, headers: &[(&str, String)]) -> Vec<u8> {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("HTTP/1.1 {status}\r\n{lines}Connection: close\r\n\r\n").into_bytes()
}

/// The rest of `content` behind `from`, of which `most` bytes are sent; the whole file where nothing was begun.
fn rest(content: &[u8], asked: &Asked, tag: &str, most: usize) -> Vec<u8> {
    let from = asked.from.filter(|_| asked.version.as_deref() == Some(tag));
    let (at, n) = (from.unwrap_or(0), content.len());
    let mut headers = vec![("ETag", tag.to_string()), ("Content-Length", (n - at).to_string())];
    if from.is_some() {
        headers.push(("Content-Range", format!("bytes {at}-{}/{n}", n - 1)));
    }
    [head(if from.is_some() { "206 Partial Content" } else { "200 OK" }, &headers), content[at..(at + most).min(n)].to_vec()].concat()
}

fn set(bytes: Option<u64>, md5: Option<&str>) -> KnownSet {
    let file = KnownFile { name: "set.zip".into(), url: "http://127.0.0.1:1/set.zip".into(), bytes, md5: md5.map(str::to_string) };
    let text = |text: &str| text.to_string();
    KnownSet {
        name: text("set"),
        about: text("a set"),
        owner: text("an owner"),
        page: text("http://127.0.0.1:1/"),
        terms: text("none"),
        prepare: text(""),
        files: vec![file],
    }
}

fn get(set: &KnownSet, dir: &Path, url: &str) -> Result<Fetched> {
    let patience = Patience { tries: 3, pause: Duration::from_millis(1), read: Duration::from_secs(10) };
    fetch(set, dir, Some(url), &patience, &quiet).map(|mut all| all.remove(0))
}

#[track_caller]
fn refused(outcome: Result<Fetched>, parts: &[&str], dir: &Path) {
    let message = outcome.unwrap_err().to_string();
    assert!(parts.iter().all(|part| message.contains(part)), "{parts:?}: {message}");
    assert!(!dir.join("set.zip").exists(), "a file that is not whole is not in its place");
}

#[test]
fn a_download_that_is_cut_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (url, asked) = server(|asked, _| rest(&content(), asked, "\"v1\"", 70_000));
    let fetched = get(&set(Some(200_000), Some(MD5)), dir.path(), &url).unwrap();
    assert!(fetched.verified && !fetched.reused && fetched.received.bytes == 200_000);
    assert_eq!(std::fs::read(dir.path().join("set.zip")).unwrap(), content());
    let asked = asked.lock().unwrap();
    assert!(asked.len() >= 3 && asked[0].from.is_none() && asked[1].from == Some(70_000), "{asked:?}");
    assert!(asked.windows(2).all(|pair| pair[1].from > pair[0].from), "{asked:?}");
    drop(asked);
    // What is there is not asked for again.
    assert!(get(&set(None, Some(MD5)), dir.path(), "http://127.0.0.1:1").unwrap().reused);
    assert!(!dir.path().join("set.zip.part").exists() && !dir.path().join("set.zip.part.json").exists());
}

#[test]
fn a_later_command_goes_on_and_another_version_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    // Enough comes once, then nothing.
    let (url, _) = server(|asked, number| if number == 0 { rest(&content(), asked, "\"v1\"", 50_000) } else { Vec::new() });
    refused(get(&set(None, None), dir.path(), &url), &["cannot fetch", "3 tries in a row"], dir.path());
    assert_eq!(std::fs::metadata(dir.path().join("set.zip.part")).unwrap().len(), 50_000);
    // The address of a server is part of what a part is of.
    let base = url.clone();
    let newer: Vec<u8> = content().into_iter().rev().collect();
    let served = newer.clone();
    let (other, asked) = server(move |asked, _| rest(&served, asked, "\"v2\"", usize::MAX));
    let text = std::fs::read_to_string(dir.path().join("set.zip.part.json")).unwrap().replace(&base, &other);
    std::fs::write(dir.path().join("set.zip.part.json"), text).unwrap();
    let fetched = get(&set(None, None), dir.path(), &other).unwrap();
    assert_eq!(std::fs::read(&fetched.path).unwrap(), newer);
    assert_eq!(asked.lock().unwrap()[0], Asked { path: "/set.zip".into(), from: Some(50_000), version: Some("\"v1\"".into()) });
    assert!(!fetched.verified);
}

#[test]
fn lengths_and_checksums_are_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (url, _) = server(|asked, _| rest(&content(), asked, "\"v1\"", usize::MAX));
    refused(get(&set(Some(199_999), None), dir.path(), &url), &["200000 bytes where 199999"], dir.path());
    let wrong = "0123456789abcdef0123456789abcdef";
    refused(get(&set(Some(200_000), Some(wrong)), dir.path(), &url), &[MD5, wrong, "thrown away"], dir.path());
    assert!(!dir.path().join("set.zip.part").exists());
    // The server states no length, and more comes than is known.
    let (url, _) = server(|_, _| [head("200 OK", &[]), content()].concat());
    refused(get(&set(Some(150_000), None), dir.path(), &url), &["goes on behind the 150000 bytes"], dir.path());
    // Less comes than the stated length, and the server cannot go on: tries end.
    let short = |_: &Asked, _: usize| [head("200 OK", &[("Content-Length", "300000".into())]), content()].concat();
    refused(get(&set(None, None), dir.path(), &server(short).0), &["cannot fetch", "tries in a row"], dir.path());
    // The rest of something else.
    let other = |asked: &Asked, number: usize| match number {
        0 => rest(&content(), asked, "\"v1\"", 10_000),
        _ => {
            [head("206 Partial Content", &[("ETag", "\"v1\"".into()), ("Content-Range", "bytes 0-9/200000".into())]), vec![0; 10]].concat()
        }
    };
    std::fs::remove_file(dir.path().join("set.zip.part")).unwrap();
    refused(get(&set(None, None), dir.path(), &server(other).0), &["behind byte 10000", "bytes 0-9/200000"], dir.path());
}

#[test]
fn redirects_are_followed_a_few_times_and_other_answers_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let moved = |to: &str| head("302 Found", &[("Location", to.to_string()), ("Content-Length", "0".into())]);
    let (url, asked) = server(move |asked, number| match number {
        0 => moved("/elsewhere/set.zip"),
        1 => head("503 Service Unavailable", &[("Content-Length", "0".into())]),
        2 => moved("/elsewhere/set.zip"),
        _ => rest(&content(), asked, "\"v1\"", usize::MAX),
    });
    assert_eq!(get(&set(None, Some(MD5)), dir.path(), &url).unwrap().received.url, format!("{url}/set.zip"));
    assert_eq!(asked.lock().unwrap()[1].path, "/elsewhere/set.zip");
    let dir = tempfile::tempdir().unwrap();
    let (url, asked) = server(move |_, _| moved("/set.zip"));
    refused(get(&set(None, None), dir.path(), &url), &["redirects more than"], dir.path());
    assert!(asked.lock().unwrap().len() < 10);
    let (url, _) = server(|_, _| head("404 Not Found", &[("Content-Length", "0".into())]));
    refused(get(&set(None, None), dir.path(), &url), &["404", "owner's page"], dir.path());
    let (url, _) = server(|_, _| [head("200 OK", &[("Content-Type", "text/html; charset=utf-8".into())]), b"<html>".to_vec()].concat());
    refused(get(&set(None, None), dir.path(), &url), &["a web page"], dir.path());
    for (url, part) in [("ftp://127.0.0.1/x", "http or https"), ("nonsense", "no")] {
        refused(get(&set(None, None), dir.path(), url), &[part], dir.path());
    }
}

#[test]
fn a_file_without_a_checksum_is_compared_with_what_was_received() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.zip");
    std::fs::write(&path, "another program's").unwrap();
    let message = get(&set(None, None), dir.path(), "http://127.0.0.1:1").unwrap_err().to_string();
    assert!(message.contains("nothing says where it is from"), "{message}");
    std::fs::remove_file(&path).unwrap();
    let (url, _) = server(|asked, _| rest(&content(), asked, "\"v1\"", usize::MAX));
    let first = get(&set(None, None), dir.path(), &url).unwrap();
    let again = get(&set(None, None), dir.path(), &url).unwrap();
    assert!(again.reused && again.received == first.received);
    std::fs::write(&path, "changed").unwrap();
    let message = get(&set(None, None), dir.path(), &url).unwrap_err().to_string();
    assert!(message.contains(&first.received.sha256) && message.contains("move it away"), "{message}");
}
