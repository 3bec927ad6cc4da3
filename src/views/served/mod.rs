//! Views written by a language model behind an OpenAI-compatible endpoint: vLLM, SGLang, llama.cpp, Ollama, `transformers serve`.

pub mod batch;
mod client;
mod format;
mod pool;
mod rate_limit;
pub(super) mod reply;
mod tls;

use parking_lot::Mutex;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::account::Provenance;
use super::generator::{Counts, Failed, Generator, Job, Made, PublicCatalogue, Request, Sink, ViewKind, generate_one, work};
use super::ground::Ground;
use super::text::{Plan, Question, Role, Scratch, Writer, answer_lines};
use super::{UserViews, mix};
use crate::config::{Grounding, ServedSettings, ViewSettings, tidy};
use crate::{Error, Result};
use client::Outcome;
use pool::Pool;
use reply::Answer;

/// This many requests without any answer, and never one, mean that the endpoint is not there at all.
const HOPELESS: usize = 8;
/// Tokens that an answer may have besides its lines: braces, quotes, a fence.
const SPARE_TOKENS: u32 = 64;

/// Why an answer that was cut off is not used.
const DOUBTFUL: &str = "the answer was cut off and may be nothing but thoughts; raise views.text.line_tokens, take a format that asks for JSON, or an \
    endpoint that does not think";

/// Asks an endpoint for views.
pub struct ServedGenerator<'a> {
    writer: Writer<'a>,
    ground: Ground,
    settings: ViewSettings,
    /// Nothing where requests and answers pass through files.
    servers: Option<Pool>,
    /// The endpoint's model takes no system turn: its text leads the user turn.
    folded: AtomicBool,
}

impl<'a> ServedGenerator<'a> {
    /// A generator over `public`. No request is sent yet. `threads` and `cache` are for an encoder of titles.
    ///
    /// # Errors
    /// Where the address, the key's variable or a prompt file cannot be used, or the catalogue has no names.
    pub fn new(
        public: &'a PublicCatalogue<'a>,
        settings: &ViewSettings,
        threads: usize,
        cache: Option<&Path>,
    ) -> Result<ServedGenerator<'a>> {
        ServedGenerator::over(public, settings, threads, cache, || Pool::new(&settings.served).map(Some))
    }

    /// The same without an endpoint.
    fn offline(
        public: &'a PublicCatalogue<'a>,
        settings: &ViewSettings,
        threads: usize,
        cache: Option<&Path>,
    ) -> Result<ServedGenerator<'a>> {
        ServedGenerator::over(public, settings, threads, cache, || Ok(None))
    }

    fn over(
        public: &'a PublicCatalogue<'a>,
        settings: &ViewSettings,
        threads: usize,
        cache: Option<&Path>,
        servers: impl FnOnce() -> Result<Option<Pool>>,
    ) -> Result<ServedGenerator<'a>> {
        let writer = Writer::new(public, settings, Grounding::Retrieval)?;
        // Before an encoder is loaded: a wrong address is refused at once.
        let servers = servers()?;
        let ground = Ground::new(writer.names.lines(), &settings.text, threads, cache)?;
        Ok(ServedGenerator { writer, ground, settings: settings.clone(), servers, folded: AtomicBool::new(false) })
    }

    /// The body of a request.
    fn body(&self, ask: &Question<'_>) -> Value {
        let s: &ServedSettings = &self.settings.served;
        let turn = |role: Role, content: String| json!({"role": role.name(), "content": content});
        let messages: Vec<Value> = match &ask.messages[..] {
            [system, user] if self.folded.load(Ordering::Relaxed) => {
                vec![turn(Role::User, format!("{}\n\n{}", system.text(), user.text()))]
            }
            all => all.iter().map(|m| turn(m.role, m.text())).collect(),
        };
        let seed = mix(mix(self.settings.seed as u32, (self.settings.seed >> 32) as u32), mix(ask.user, ask.part.index() as u32)) >> 1;
        let mut body = json!({
            "model": s.model,
            "messages": messages,
            "temperature": tidy(s.temperature.into()),
            "top_p": tidy(s.top_p.into()),
            "seed": seed,
            "max_tokens": self.settings.text.line_tokens * ask.count as u32 + SPARE_TOKENS,
            "stream": false,
        });
        if let Some((name, value)) = format::field(s.format, ask.count) {
            body[name] = value;
        }
        body
    }

    /// One view: asked for until there is an answer or no patience left.
    fn write(
        &self,
        request: Request<'_>,
        part: ViewKind,
        scratch: &mut Scratch,
        stopped: &dyn Fn() -> bool,
        sink: &dyn Sink,
    ) -> Result<Written> {
        let ask = match self.writer.plan(request.user, request.history, part, self.writer.limits())? {
            Plan::Ready(made) => return Ok(Written { made: Ok(made), reached: None }),
            Plan::Cannot(failed) => return Ok(Written { made: Err(failed), reached: None }),
            Plan::Question(ask) => ask,
        };
        let failed = |reason| Failed { reason, asked: true, counts: Counts::default() };
        let Some(servers) = &self.servers else { return Err(Error::Usage("there is no endpoint to ask".into())) };
        let note = |text: &str| sink.note(text);
        let question = || servers.ask(&self.body(&ask), mix(request.user, part.index() as u32), stopped, &note);
        let mut outcome = question()?;
        if let Outcome::NoSystem = outcome {
            self.folded.store(true, Ordering::Relaxed);
            outcome = question()?;
        }
        let answer = match outcome {
            Outcome::Answer(answer) => answer,
            Outcome::NoSystem => return Ok(Written { made: Err(failed("the endpoint takes no system turn".into())), reached: Some(true) }),
            Outcome::Refused(reason) => return Ok(Written { made: Err(failed(reason)), reached: Some(true) }),
            Outcome::Silent(reason) => return Ok(Written { made: Err(failed(reason)), reached: Some(false) }),
        };
        Ok(Written { made: self.settle(*ask, answer, scratch), reached: Some(true) })
    }

    /// The view that follows from an answer.
    fn settle(&self, ask: Question<'_>, answer: Answer, scratch: &mut Scratch) -> Result<Made, Failed> {
        let tokens = Counts { prompt_tokens: answer.prompt_tokens, output_tokens: answer.output_tokens, ..Default::default() };
        let refused = |reason: String| Failed { reason, asked: true, counts: tokens };
        if answer.doubtful {
            return Err(refused(DOUBTFUL.into()));
        }
        let named = answer_lines(&answer.text, 2 * ask.count);
        let lines = self.ground.lines(&named, scratch).map_err(|e| refused(e.to_string()))?;
        self.writer.finish(ask, &lines, tokens)
    }
}

/// A view, and whether the endpoint answered; `None` where it was not asked.
struct Written {
    made: Result<Made, Failed>,
    reached: Option<bool>,
}

impl Generator for ServedGenerator<'_> {
    fn name(&self) -> &str {
        "served"
    }

    fn generate(&self, user: u32, history: &[u32]) -> Result<UserViews> {
        generate_one(self, &self.settings, user, history)
    }

    /// `threads` is not heeded: these wait, and `views.served.concurrency` says how many.
    fn run(&self, jobs: &[Job<'_>], _threads: usize, sink: &dyn Sink) -> Result<()> {
        let work = work(jobs);
        let (next, failures, answers) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let over = AtomicBool::new(false);
        let fatal: Mutex<Option<Error>> = Mutex::new(None);
        let end_with = |error: Error| {
            fatal.lock().get_or_insert(error);
            over.store(true, Ordering::Relaxed);
        };
        let stopped = || over.load(Ordering::Relaxed) || sink.stopped();
        let worker = || {
            let mut scratch = Scratch::default();
            while !stopped() {
                let Some(&(job, part)) = work.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                match self.write(jobs[job].request, part, &mut scratch, &stopped, sink) {
                    // What was broken off by the end of the build has not failed; it is asked again by the next one.
                    Ok(Written { reached: Some(false), .. }) if stopped() => break,
                    Ok(written) => {
                        let failed = if written.reached == Some(false) { failures.fetch_add(1, Ordering::Relaxed) + 1 } else { 0 };
                        answers.fetch_add(usize::from(written.reached == Some(true)), Ordering::Relaxed);
                        if failed >= HOPELESS.min(work.len())
                            && answers.load(Ordering::Relaxed) == 0
                            && let Err(why) = &written.made
                        {
                            let message = format!("{failed} requests and not one answer; the last: {}", why.reason);
                            end_with(Error::setting("views.served.url", message));
                        }
                        sink.done(job, part, written.made);
                    }
                    Err(error) => end_with(error),
                }
            }
        };
        std::thread::scope(|scope| {
            // This thread asks too; where the system gives no more threads, those that run do the work.
            for _ in 1..(self.settings.served.concurrency as usize).min(work.len()) {
                if std::thread::Builder::new().spawn_scoped(scope, worker).is_err() {
                    break;
                }
            }
            worker();
        });
        fatal.into_inner().map_or(Ok(()), Err)
    }

    fn account(&self) -> Option<Provenance> {
        let s = &self.settings.served;
        Some(Provenance {
            model: s.model.clone().unwrap_or_default(),
            sampling: json!({"temperature": tidy(s.temperature.into()), "top_p": tidy(s.top_p.into()), "format": s.format.name()}),
            grounding: self.ground.describe(),
            device: "endpoint".into(),
            dtype: "unknown".into(),
            ..Provenance::of(&self.writer)
        })
    }

    fn notes(&self) -> Vec<String> {
        self.writer.notes()
    }
}
