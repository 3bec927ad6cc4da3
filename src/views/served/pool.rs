//! The addresses of a model: each question has one of them by its number, and another one where the first does not answer.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde_json::Value;

use super::client::{Client, Outcome};
use crate::config::ServedSettings;
use crate::views::mix;
use crate::{Error, Result};

/// All addresses of `views.served.url`.
pub(super) struct Pool {
    servers: Vec<Server>,
    /// Held while a server is left out, so that one always stays.
    leaving: Mutex<()>,
}

struct Server {
    client: Client,
    left_out: AtomicBool,
}

impl Server {
    fn is_left_out(&self) -> bool {
        self.left_out.load(Ordering::Relaxed)
    }
}

impl Pool {
    /// A client of every address in `settings`; sends nothing yet.
    ///
    /// # Errors
    /// As for [`Client::new`]; where an address stands there twice.
    pub(super) fn new(settings: &ServedSettings) -> Result<Pool> {
        let all = settings.url.as_deref().unwrap_or_default();
        let urls: Vec<&str> = all.split(',').map(|url| url.trim().trim_end_matches('/')).collect();
        let mut servers = Vec::with_capacity(urls.len());
        for (i, url) in urls.iter().enumerate() {
            if url.is_empty() && urls.len() > 1 {
                return Err(Error::setting("views.served.url", "has a comma without an address beside it; take the comma out"));
            }
            // A name or key in it is refused by the client, and not repeated here.
            let client = Client::new(settings, url)?;
            if urls[..i].contains(url) {
                return Err(Error::setting("views.served.url", format!("has `{url}` twice; name each address once")));
            }
            servers.push(Server { client, left_out: AtomicBool::new(false) });
        }
        Ok(Pool { servers, leaving: Mutex::new(()) })
    }

    /// Sends `body` to a server that `salt` chooses, and to the others in turn while none answers. A server that left a question without an answer,
    /// and everybody else with it until another server answered that question, gets no more; `note` says so.
    ///
    /// # Errors
    /// What will not go better for any other question, at the last server that is left.
    pub(super) fn ask(&self, body: &Value, salt: u32, stopped: &dyn Fn() -> bool, note: &dyn Fn(&str)) -> Result<Outcome> {
        // Servers that gave no answer to this question: which, how many answers they had given before it, and why.
        let mut silent: Vec<(usize, u64, String)> = Vec::new();
        let mut tried = vec![false; self.servers.len()];
        while let Some(k) = self.choose(salt, &tried) {
            let server = &self.servers[k];
            tried[k] = true;
            let answers = server.client.answers();
            match server.client.ask(body, salt, &|| stopped() || server.is_left_out()) {
                Ok(Outcome::Silent(reason)) => {
                    if stopped() {
                        return Ok(Outcome::Silent(reason));
                    }
                    silent.push((k, answers, reason));
                }
                Ok(outcome) => {
                    for (k, answers, reason) in silent {
                        if self.servers[k].client.answers() == answers {
                            self.leave_out(k, &reason, note);
                        }
                    }
                    return Ok(outcome);
                }
                Err(error) if self.leave_out(k, &error.to_string(), note) => {}
                Err(error) => return Err(error),
            }
        }
        let reasons = silent.into_iter().filter(|(k, ..)| !self.servers[*k].is_left_out()).map(|(_, _, reason)| reason);
        Ok(Outcome::Silent(reasons.last().unwrap_or_else(|| "no address is left".into())))
    }

    /// A server that is not left out and not `tried`; one and the same for a `salt` while all are there.
    fn choose(&self, salt: u32, tried: &[bool]) -> Option<usize> {
        let free: Vec<usize> = (0..self.servers.len()).filter(|k| !tried[*k] && !self.servers[*k].is_left_out()).collect();
        // Salts of neighbours differ in few bits.
        free.get(mix(salt, 0x5EED) as usize % free.len().max(1)).copied()
    }

    /// Sends server `k` no more; false where it is the last one.
    fn leave_out(&self, k: usize, why: &str, note: &dyn Fn(&str)) -> bool {
        let _one = self.leaving.lock();
        let left = self.servers.iter().filter(|server| !server.is_left_out()).count();
        if self.servers[k].is_left_out() {
            return true;
        }
        if left < 2 {
            return false;
        }
        self.servers[k].left_out.store(true, Ordering::Relaxed);
        let rest = if left == 2 { "one address goes".to_string() } else { format!("{} addresses go", left - 1) };
        note(&format!("{} is left out from here on: {why}; {rest} on without it", self.servers[k].client.address()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(url: &str) -> Result<Pool> {
        Pool::new(&ServedSettings { url: Some(url.into()), ..Default::default() })
    }

    #[test]
    fn addresses_are_told_apart_by_commas_and_each_is_checked() {
        assert_eq!(pool(" http://a/v1/ ,http://b:8000/v1").unwrap().servers.len(), 2);
        for (url, part) in [
            ("http://a/v1,", "comma"),
            (",http://a/v1", "comma"),
            ("http://a/v1, http://a/v1/", "twice"),
            ("http://a/v1,localhost:8000", "http"),
            ("http://a/v1,http://me:key@b/v1", "key_env"),
        ] {
            let message = pool(url).err().unwrap().to_string();
            assert!(message.contains("views.served.url") && message.contains(part) && !message.contains("me:key"), "{url}: {message}");
        }
    }

    #[test]
    fn questions_are_spread_and_the_last_server_stays() {
        let pool = pool("http://a,http://b,http://c").unwrap();
        let free = [false; 3];
        let of = |salt| pool.choose(salt, &free).unwrap();
        let mut counts = [0; 3];
        (0..3000).for_each(|salt| counts[of(salt)] += 1);
        assert!(counts.iter().all(|n| (800..1200).contains(n)), "{counts:?}");
        assert_eq!((0..99).map(of).collect::<Vec<_>>(), (0..99).map(of).collect::<Vec<_>>());
        let notes = Mutex::new(Vec::new());
        let note = |text: &str| notes.lock().push(text.to_string());
        assert!(pool.leave_out(1, "status 404", &note) && pool.leave_out(1, "again", &note));
        assert!((0..99).all(|salt| of(salt) != 1));
        assert!(pool.leave_out(0, "gone", &note) && !pool.leave_out(2, "gone", &note));
        let notes = notes.into_inner();
        assert!(notes.len() == 2 && notes[0].contains("http://b") && notes[0].contains("status 404"), "{notes:?}");
        assert_eq!(pool.choose(5, &[false, false, true]), None);
    }
}
