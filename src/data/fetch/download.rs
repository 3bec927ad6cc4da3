//! One file over HTTP: goes on after a cut, believes no length, follows few redirects.

use super::known::KnownFile;
use super::received::Received;
use crate::base::clean;
use crate::data::prepare::Progress;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::Agent;
use ureq::http::{HeaderMap, Uri};

/// Most redirects in a row.
const REDIRECTS: u32 = 5;
/// A file of unknown length may have this many bytes: what never ends is no data set.
const MOST_BYTES: u64 = 1 << 38;

/// How long a server is waited for.
#[derive(Clone, Debug)]
pub struct Patience {
    /// Tries in a row that bring nothing.
    pub tries: u32,
    /// Pause before a further try; doubles with each that brings nothing.
    pub pause: Duration,
    /// Longest wait for the next bytes.
    pub read: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { tries: 5, pause: Duration::from_secs(2), read: Duration::from_secs(60) }
    }
}

/// Which version of a file a part is of, as the server calls it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Version {
    url: String,
    /// A strong `ETag`, else `Last-Modified`: what `If-Range` takes.
    validator: String,
    /// Length of the whole file as the server says.
    bytes: Option<u64>,
}

/// Why a try has ended without the whole file.
enum Ended {
    /// May go better the next time.
    Again(String),
    Never(Error),
}

fn never(url: &str, message: impl Into<String>) -> Ended {
    Ended::Never(Error::mismatch(url, message))
}

fn version_file(part: &Path) -> PathBuf {
    let mut name = part.as_os_str().to_owned();
    name.push(".json");
    PathBuf::from(name)
}

/// Drops what is kept about a part.
pub(super) fn forget(part: &Path) {
    // Where it stays, the next download finds that it is of another version.
    let _ = std::fs::remove_file(version_file(part));
}

/// Downloads `file` from `url` into `part`, from where an earlier download has come to; gives what it is once length and checksum are right.
///
/// # Errors
/// See [`super::fetch`].
pub(super) fn whole(file: &KnownFile, url: &str, part: &Path, patience: &Patience, progress: &Progress) -> Result<Received> {
    let agent = agent(url, patience)?;
    let length = || std::fs::metadata(part).map_or(0, |about| about.len());
    let mut idle = 0;
    loop {
        let before = length();
        match once(&agent, file, url, part, progress) {
            Ok(()) => break,
            Err(Ended::Never(error)) => return Err(error),
            Err(Ended::Again(why)) => {
                idle = if length() > before { 0 } else { idle + 1 };
                if idle >= patience.tries {
                    let why = format!("{why}; {} tries in a row brought nothing. The same command goes on where it was", patience.tries);
                    return Err(Error::io(url, "fetch")(std::io::Error::other(why)));
                }
                std::thread::sleep(patience.pause * 2u32.pow(idle.min(6)));
            }
        }
    }
    let received = Received::of(part, url)?;
    match received.differs(file) {
        None => Ok(received),
        Some(why) => {
            std::fs::remove_file(part).map_err(Error::io(part, "remove"))?;
            forget(part);
            Err(Error::mismatch(url, format!("what came {why}; it was thrown away. The owner may have changed the set")))
        }
    }
}

fn agent(url: &str, patience: &Patience) -> Result<Agent> {
    let wrong = |why: &str| Error::Usage(format!("`{}` {why}, wanted an address such as https://example.org/data", clean::id(url)));
    let uri: Uri = url.parse().map_err(|_| wrong("is no address"))?;
    let host = uri.host().ok_or_else(|| wrong("has no host"))?;
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(wrong("has no http or https")),
    };
    if secure && !cfg!(feature = "https") {
        let remedy = "this build speaks no TLS; build with `--features https`, or fetch the file yourself and put it in the folder";
        return Err(Error::Usage(format!("{}: {remedy}", clean::id(url))));
    }
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(REDIRECTS)
        // What began under TLS does not leave it.
        .https_only(secure)
        .timeout_connect(Some(patience.read))
        .timeout_recv_response(Some(patience.read))
        .timeout_per_read(Some(patience.read))
        .user_agent(concat!("lumos/", env!("CARGO_PKG_VERSION")));
    if matches!(host, "localhost" | "127.0.0.1" | "[::1]" | "::1") {
        // A proxy cannot reach this machine's own addresses.
        config = config.proxy(None);
    }
    Ok(config.build().new_agent())
}

/// One request, and what it brings.
fn once(agent: &Agent, file: &KnownFile, url: &str, part: &Path, progress: &Progress) -> std::result::Result<(), Ended> {
    let kept = std::fs::read(version_file(part)).ok().and_then(|text| serde_json::from_slice::<Version>(&text).ok());
    let kept = kept.filter(|kept| kept.url == url && !kept.validator.is_empty()).unwrap_or_default();
    let have = if kept.validator.is_empty() { 0 } else { std::fs::metadata(part).map_or(0, |about| about.len()) };
    if have > 0 && kept.bytes.or(file.bytes) == Some(have) {
        return Ok(());
    }
    let mut request = agent.get(url).header("Accept-Encoding", "identity");
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-")).header("If-Range", &kept.validator);
    }
    let mut response = match request.call() {
        Ok(response) => response,
        Err(ureq::Error::TooManyRedirects) => return Err(never(url, format!("redirects more than {REDIRECTS} times"))),
        Err(ureq::Error::RequireHttpsOnly(_)) => return Err(never(url, "redirects to an address without TLS, which is not followed")),
        Err(error) => return Err(Ended::Again(error.to_string())),
    };
    let status = response.status().as_u16();
    let begin = match status {
        200 => 0,
        206 if have > 0 => have,
        // The part is of no use: the next try has none.
        416 => {
            forget(part);
            return Err(Ended::Again("the server does not have the rest of the file that was begun".into()));
        }
        408 | 429 | 500..=599 => return Err(Ended::Again(format!("the server answers {status}"))),
        _ => return Err(never(url, format!("the server answers {status}; see the owner's page whether the set has moved"))),
    };
    let headers = response.headers();
    if header(headers, "content-type").is_some_and(|kind| kind.starts_with("text/html")) {
        return Err(never(url, "gives a web page in the place of the file; see the owner's page"));
    }
    let total = whole_length(headers, begin, status).map_err(|why| never(url, why))?;
    if let (Some(said), Some(known)) = (total, file.bytes)
        && said != known
    {
        return Err(never(url, format!("says that the file has {said} bytes where {known} are known; the owner may have changed the set")));
    }
    let version = Version { url: url.into(), validator: validator(headers), bytes: total };
    if begin > 0 && version.bytes != kept.bytes.or(version.bytes) {
        forget(part);
        return Err(Ended::Again("the server gives the rest of another file than was begun".into()));
    }
    let on_disk = |action| move |e| Ended::Never(Error::io(part, action)(e));
    let mut out = OpenOptions::new().create(true).append(true).open(part).map_err(on_disk("open"))?;
    out.set_len(begin).map_err(on_disk("write"))?;
    let about = serde_json::to_vec(&version).map_err(|e| never(url, e.to_string()))?;
    std::fs::write(version_file(part), about).map_err(on_disk("write"))?;
    let limit = total.or(file.bytes);
    let body = response.body_mut().with_config().limit(u64::MAX).reader();
    let length = copy(body, &mut out, begin, limit, progress, &file.name).map_err(|e| match e {
        Copying::Disk(e) => on_disk("write")(e),
        Copying::Line(e) => Ended::Again(e.to_string()),
        Copying::TooLong => never(url, format!("goes on behind the {} bytes that it should have", limit.unwrap_or(MOST_BYTES))),
    })?;
    out.sync_all().map_err(on_disk("write"))?;
    match limit {
        Some(limit) if length < limit => Err(Ended::Again(format!("the connection was cut at {length} of {limit} bytes"))),
        _ => Ok(()),
    }
}

/// Why copying has ended early.
enum Copying {
    Disk(std::io::Error),
    Line(std::io::Error),
    TooLong,
}

/// Copies `body` behind the first `at` bytes of `out`; gives the length. What goes beyond `limit` is not written.
fn copy(
    mut body: impl Read,
    out: &mut File,
    mut at: u64,
    limit: Option<u64>,
    progress: &Progress,
    name: &str,
) -> std::result::Result<u64, Copying> {
    let (stage, mut buffer) = (format!("fetching {name}"), vec![0; 1 << 16]);
    loop {
        let n = match body.read(&mut buffer) {
            Ok(0) => return Ok(at),
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Copying::Line(e)),
        };
        if at + n as u64 > limit.unwrap_or(MOST_BYTES) {
            return Err(Copying::TooLong);
        }
        out.write_all(&buffer[..n]).map_err(Copying::Disk)?;
        at += n as u64;
        progress(&stage, at, limit.unwrap_or(0).max(at));
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// What tells this version of the file from another one; empty where the server gives nothing that could.
fn validator(headers: &HeaderMap) -> String {
    let strong = header(headers, "etag").filter(|tag| !tag.starts_with("W/"));
    strong.or(header(headers, "last-modified")).unwrap_or_default().into()
}

/// Length of the whole file by the headers of an answer whose body begins at `begin`; nothing where they do not say.
fn whole_length(headers: &HeaderMap, begin: u64, status: u16) -> std::result::Result<Option<u64>, String> {
    if status == 200 {
        return Ok(header(headers, "content-length").and_then(|text| text.parse().ok()));
    }
    let range = header(headers, "content-range").unwrap_or_default();
    let parsed = range.strip_prefix("bytes ").and_then(|range| {
        let (span, total) = range.split_once('/')?;
        Some((span.split_once('-')?.0.trim().parse::<u64>().ok()?, total.trim().parse::<u64>().ok()))
    });
    match parsed {
        Some((from, total)) if from == begin => Ok(total),
        _ => Err(format!("was asked for what is behind byte {begin} and gives `{}`", clean::id(range))),
    }
}
