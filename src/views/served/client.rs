//! Requests to an endpoint, sent again while there is hope.

use std::io::Read;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use ureq::Agent;
use ureq::http::Uri;

use super::rate_limit::{RateLimit, backoff, sleep_until};
use super::reply::{Answer, Trouble, parse, retry_after};
use super::{format, tls};
use crate::base::clean;
use crate::config::ServedSettings;
use crate::{Error, Result};

/// More than this is no answer to our questions.
const MOST_BYTES: u64 = 1 << 20;
/// Columns of an endpoint's complaint that are kept.
const COMPLAINT: usize = 300;

/// What came of one question.
pub(super) enum Outcome {
    Answer(Answer),
    /// The endpoint will not answer this question, for this reason.
    Refused(String),
    /// The model behind the endpoint takes no system turn.
    NoSystem,
    /// No answer came while there was patience.
    Silent(String),
}

/// A key that cannot be printed.
struct Secret(String);

/// One endpoint.
pub(super) struct Client {
    agent: Agent,
    url: String,
    key: Option<Secret>,
    rate: RateLimit,
    settings: ServedSettings,
}

/// What came of one try.
enum Try {
    Answer(Answer),
    /// May go better the next time, after so long at least.
    Again(String, Option<Duration>),
    /// Will go no better for this question.
    Never(String),
    /// See [`Outcome::NoSystem`].
    NoSystem,
    /// Will go no better for any question.
    Fatal(Error),
}

impl Client {
    /// A client of the endpoint at `base`, for the rest as `settings` say; sends nothing yet.
    ///
    /// # Errors
    /// Where the address is none, or the variable of the key is not set.
    pub(super) fn new(settings: &ServedSettings, base: &str) -> Result<Client> {
        let wrong = |why: &str| {
            Err(Error::setting("views.served.url", format!("`{base}` {why}, wanted an address such as http://localhost:8000/v1")))
        };
        if base.contains('@') {
            return Err(Error::setting("views.served.url", "has a name or key in it; name a variable in views.served.key_env instead"));
        }
        let Ok(uri) = base.parse::<Uri>() else { return wrong("is no address") };
        let Some(host) = uri.host() else { return wrong("has no host") };
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return wrong("has no http or https"),
        };
        let key = match settings.key_env.as_deref().filter(|name| !name.is_empty()) {
            None => None,
            Some(name) => match std::env::var(name) {
                Ok(key) if !key.trim().is_empty() && key.trim().chars().all(|c| c.is_ascii_graphic()) => {
                    Some(Secret(key.trim().to_owned()))
                }
                Ok(_) => return Err(Error::setting("views.served.key_env", format!("the environment variable `{name}` holds no key"))),
                Err(_) => return Err(Error::setting("views.served.key_env", format!("the environment variable `{name}` is not set"))),
            },
        };
        let concurrency = settings.concurrency as usize;
        let mut config = Agent::config_builder()
            .timeout_global(Some(Duration::from_secs_f32(settings.timeout_s)))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(concurrency)
            .max_idle_connections_per_host(concurrency)
            .user_agent(concat!("lumos/", env!("CARGO_PKG_VERSION")));
        if matches!(host, "localhost" | "127.0.0.1" | "[::1]" | "::1") {
            // A proxy cannot reach this machine's own addresses.
            config = config.proxy(None);
        }
        let agent = tls::with(config, secure, settings.ca_file.as_deref())?.build().new_agent();
        Ok(Client {
            agent,
            url: format!("{base}/chat/completions"),
            key,
            rate: RateLimit::new(settings.per_minute),
            settings: settings.clone(),
        })
    }

    /// The address, for a message.
    pub(super) fn address(&self) -> &str {
        self.url.trim_end_matches("/chat/completions")
    }

    /// Answers so far.
    pub(super) fn answers(&self) -> u64 {
        self.rate.answers()
    }

    /// Sends `body` until there is an answer, patience ends or `stopped` becomes true. `salt` spreads the waits.
    ///
    /// # Errors
    /// What will not go better for any other question.
    pub(super) fn ask(&self, body: &Value, salt: u32, stopped: &dyn Fn() -> bool) -> Result<Outcome> {
        let bytes = body.to_string().into_bytes();
        let has_system = body["messages"][0]["role"] == "system";
        let mut attempt = 0;
        loop {
            if !sleep_until(self.rate.slot(Instant::now()), stopped) {
                return Ok(Outcome::Silent("the build was stopped".into()));
            }
            let (reason, wanted) = match self.once(&bytes, has_system) {
                Try::Answer(answer) => {
                    self.rate.answered(Instant::now());
                    return Ok(Outcome::Answer(answer));
                }
                Try::Never(reason) => return Ok(Outcome::Refused(reason)),
                Try::NoSystem => return Ok(Outcome::NoSystem),
                Try::Fatal(error) => return Err(error),
                Try::Again(reason, wanted) => (reason, wanted),
            };
            if let Some(wanted) = wanted {
                self.patient(wanted, &reason)?;
            }
            if attempt >= self.settings.retries {
                return Ok(Outcome::Silent(reason));
            }
            let chance = (crate::views::mix(salt, attempt) >> 8) as f32 / (1 << 24) as f32;
            let wait = backoff(self.settings.backoff_s, attempt, chance);
            if let Some(wanted) = wanted {
                // The endpoint speaks to all of us.
                self.rate.pause(Instant::now() + wanted);
            }
            if !sleep_until(Instant::now() + wait.max(wanted.unwrap_or_default()), stopped) {
                return Ok(Outcome::Silent("the build was stopped".into()));
            }
            attempt += 1;
        }
    }

    /// Whether a wait of `wanted` is worth it.
    ///
    /// # Errors
    /// Where no request would have been answered for longer than the settings allow.
    fn patient(&self, wanted: Duration, reason: &str) -> Result<()> {
        let longest = Duration::from_secs_f32(self.settings.longest_wait_s);
        let silence = self.rate.silence(Instant::now());
        if silence.saturating_add(wanted) <= longest {
            return Ok(());
        }
        let before = if !silence.is_zero() { format!(" after {} without an answer", seconds(silence)) } else { String::new() };
        let message = format!(
            "the endpoint asks to wait {}{before}, longer than the {} allowed here; what is finished is kept, so give the command again \
             later, or raise this setting ({reason})",
            seconds(wanted),
            seconds(longest)
        );
        Err(Error::setting("views.served.longest_wait_s", message))
    }

    fn once(&self, bytes: &[u8], has_system: bool) -> Try {
        let mut request = self.agent.post(&self.url).content_type("application/json");
        if let Some(Secret(key)) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = match request.send(bytes) {
            Ok(response) => response,
            Err(e) => {
                return match tls::distrust(&e) {
                    Some(why) => Try::Fatal(Error::setting("views.served.ca_file", why)),
                    None => Try::Again(short(&format!("no answer: {e}")), None),
                };
            }
        };
        let status = response.status().as_u16();
        let mut read = Vec::new();
        let whole = response.body_mut().as_reader().take(MOST_BYTES + 1).read_to_end(&mut read);
        let text = String::from_utf8_lossy(&read);
        // Hidden before it is cut, or half a key would be shown.
        let complaint = || short(&self.hide(&format!("status {status}: {}", text.split_whitespace().collect::<Vec<_>>().join(" "))));
        let again = || {
            let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
            Try::Again(complaint(), header("retry-after").and_then(|text| retry_after(text, header("date"), SystemTime::now())))
        };
        match status {
            200 if whole.is_err() => Try::Again("the answer broke off".into(), None),
            200 if read.len() as u64 > MOST_BYTES => Try::Again("the answer does not end".into(), None),
            200 => match parse(&read) {
                Ok(answer) => Try::Answer(answer),
                Err(Trouble::Again(why)) => Try::Again(short(&self.hide(&why)), None),
                Err(Trouble::Never(why)) => Try::Never(short(&self.hide(&why))),
            },
            408 | 409 | 425 | 429 | 501..=599 => again(),
            401 | 403 => Try::Fatal(Error::setting("views.served.key_env", format!("the endpoint refused the key, {}", complaint()))),
            300..=399 | 404 | 405 => {
                Try::Fatal(Error::setting("views.served.url", format!("no chat completions at {}, {}", self.url, complaint())))
            }
            400..=500 if has_system && refuses_system(&text) => Try::NoSystem,
            _ if format::is_meant(self.settings.format, status, &text) => {
                let known = complaint();
                Try::Fatal(Error::setting(
                    "views.served.format",
                    format!(
                        "the endpoint does not take `{}`, {known}; try another format, `lines` works anywhere",
                        self.settings.format.name()
                    ),
                ))
            }
            500 => again(),
            _ => Try::Never(complaint()),
        }
    }

    /// `text` without the key, which some endpoints repeat in their complaints.
    fn hide(&self, text: &str) -> String {
        match &self.key {
            Some(Secret(key)) => text.replace(key.as_str(), "(key)"),
            None => text.to_owned(),
        }
    }
}

/// `wait` in words.
fn seconds(wait: Duration) -> String {
    const MOST: u64 = 365 * 86_400;
    if wait.as_secs() > MOST { "more than a year".into() } else { format!("{} s", wait.as_secs_f32().ceil()) }
}

/// Whether a complaint is about a system turn, as servers pass it on from a chat template.
fn refuses_system(complaint: &str) -> bool {
    const WORDS: [&str; 9] = [
        "system role",
        "role system",
        "role 'system'",
        "role \"system\"",
        "role \\\"system\\\"",
        "system message",
        "system prompt",
        "roles must alternate",
        "user and assistant roles",
    ];
    let complaint = complaint.to_lowercase();
    WORDS.iter().any(|words| complaint.contains(words))
}

/// An endpoint's words for a terminal.
fn short(text: &str) -> String {
    clean::line(text, COMPLAINT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(settings: ServedSettings) -> String {
        Client::new(&settings, settings.url.as_deref().unwrap()).err().unwrap().to_string()
    }

    #[test]
    fn addresses_and_keys_that_cannot_be_used_are_refused() {
        let with = |url: &str| ServedSettings { url: Some(url.into()), ..Default::default() };
        for (url, part) in
            [("localhost:8000/v1", "http"), ("ftp://x/v1", "http"), ("http://", "address"), ("http://me:key@host/v1", "key_env")]
        {
            let message = refusal(with(url));
            assert!(message.contains("views.served.url") && message.contains(part) && !message.contains("me:key"), "{message}");
        }
        let message = refusal(ServedSettings { key_env: Some("LUMOS_NO_SUCH_VARIABLE".into()), ..with("http://localhost:1/v1") });
        assert!(message.contains("LUMOS_NO_SUCH_VARIABLE") && message.contains("not set"), "{message}");
    }
}
