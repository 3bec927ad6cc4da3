//! Requests and answers as JSON lines, in the form of batch runs: `vllm run-batch`, OpenAI's batches and others of their kind.
//!
//! A request is `{"custom_id", "method", "url", "body"}`, an answer `{"custom_id", "response": {"status_code", "body"}, "error"}`; answers may come in
//! any order and in several files.

use super::super::batch::Batch;
use super::super::generator::{Failed, Generator, Job, Sink, ViewKind, generate_one, work};
use super::super::text::{Plan, Question, Scratch};
use super::super::{PublicCatalogue, UserViews};
use super::ServedGenerator;
use super::reply::{Trouble, parse};
use crate::base::files::Growing;
use crate::base::{clean, parallel};
use crate::config::ViewSettings;
use crate::views::account::Provenance;
use crate::views::generator::Counts;
use crate::{Error, Result};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Columns of an engine's complaint that are shown.
const COMPLAINT: usize = 300;

/// The name of a question in the files.
fn name(study: &str, user: u32, part: ViewKind) -> String {
    format!("lumos-{study}-{user}-{}", part.index())
}

/// Writes a request for every view that is missing into a file.
pub struct Requests {
    file: Mutex<Growing>,
    written: AtomicU64,
}

impl Requests {
    /// Into the file `path`, which is there once [`Requests::finish`] has put it there.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be made.
    pub fn begin(path: &Path) -> Result<Requests> {
        Ok(Requests { file: Mutex::new(Growing::begin(path)?), written: AtomicU64::new(0) })
    }

    /// Puts the file in its place, where there is a request in it; gives how many there are.
    ///
    /// # Errors
    /// [`Error::Io`] where that fails.
    pub fn finish(self) -> Result<u64> {
        let written = self.written.into_inner();
        if written > 0 {
            self.file.into_inner().finish()?;
        }
        Ok(written)
    }
}

/// What an engine has answered.
pub struct Answers {
    /// Replies by the name of their question; a reply that is no answer holds what the engine complains about.
    replies: HashMap<String, Result<Vec<u8>, String>>,
    /// Whether a question without an answer has failed for good.
    give_up: bool,
}

impl Answers {
    /// Of the files `paths`. With `give_up` a question without an answer has failed, and its user is counted under `views.max_failed`.
    ///
    /// # Errors
    /// [`Error::Io`] where a file cannot be read, [`Error::Data`] with the line that is no answer.
    pub fn read(paths: &[impl AsRef<Path>], give_up: bool) -> Result<Answers> {
        let mut replies = HashMap::new();
        for path in paths.iter().map(AsRef::as_ref) {
            let file = std::fs::File::open(path).map_err(Error::io(path, "open"))?;
            for (number, line) in BufReader::new(file).lines().enumerate() {
                let line = line.map_err(Error::io(path, "read"))?;
                if line.trim().is_empty() {
                    continue;
                }
                let wrong = |message: &str| {
                    let message = format!("{message}; give the file that a batch run has written, one JSON object a line");
                    Error::Data { path: path.to_path_buf(), line: number as u64 + 1, message }
                };
                let value: Value = serde_json::from_str(&line).map_err(|e| wrong(&format!("is no JSON ({e})")))?;
                let id = value["custom_id"].as_str().ok_or_else(|| wrong("has no `custom_id`"))?.to_owned();
                if value.get("response").is_none() && value.get("error").is_none() {
                    return Err(wrong(if value.get("body").is_some() { "is a request, not an answer" } else { "has no `response`" }));
                }
                let reply = reply(&value);
                // Of several replies to one question the first that answers counts.
                if reply.is_ok() || !replies.contains_key(&id) {
                    replies
                        .entry(id)
                        .and_modify(|known: &mut Result<_, _>| {
                            if known.is_err() {
                                *known = reply.clone();
                            }
                        })
                        .or_insert(reply);
                }
            }
        }
        Ok(Answers { replies, give_up })
    }
}

/// The completion in a line, or what the engine complains about.
fn reply(line: &Value) -> Result<Vec<u8>, String> {
    let error = &line["error"];
    if !error.is_null() {
        return Err(error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned));
    }
    let body = &line["response"]["body"];
    match line["response"]["status_code"].as_u64() {
        Some(status) if status != 200 => Err(format!("status {status}: {body}")),
        _ => Ok(body.to_string().into_bytes()),
    }
}

impl Batch for Requests {
    fn generator<'g>(
        &'g self,
        study: &str,
        public: &'g PublicCatalogue<'g>,
        settings: &ViewSettings,
        threads: usize,
        cache: Option<&Path>,
    ) -> Result<Box<dyn Generator + 'g>> {
        let served = ServedGenerator::offline(public, settings, threads, cache)?;
        Ok(Box::new(Asking { served, study: study.to_owned(), requests: self }))
    }

    fn only_asks(&self) -> bool {
        true
    }
}

impl Batch for Answers {
    fn generator<'g>(
        &'g self,
        study: &str,
        public: &'g PublicCatalogue<'g>,
        settings: &ViewSettings,
        threads: usize,
        cache: Option<&Path>,
    ) -> Result<Box<dyn Generator + 'g>> {
        let ours = format!("lumos-{study}-");
        if !self.replies.keys().any(|id| id.starts_with(&ours)) && !self.give_up {
            let other = self.replies.keys().min().map_or("none at all".into(), |id| format!("such as `{}`", clean::id(id)));
            let message = format!(
                "no answer is of this data set and these settings (`{ours}...`; the files have {other}); import with the data set and the settings of \
                 views that the requests were exported with"
            );
            return Err(Error::Usage(message));
        }
        let served = ServedGenerator::offline(public, settings, threads, cache)?;
        Ok(Box::new(Answering { served, study: study.to_owned(), answers: self }))
    }

    fn only_asks(&self) -> bool {
        false
    }
}

/// A generator that writes its questions down.
struct Asking<'g> {
    served: ServedGenerator<'g>,
    study: String,
    requests: &'g Requests,
}

impl Generator for Asking<'_> {
    fn name(&self) -> &str {
        self.served.name()
    }

    fn generate(&self, user: u32, history: &[u32]) -> Result<UserViews> {
        generate_one(self, &self.served.settings, user, history)
    }

    fn run(&self, jobs: &[Job<'_>], _threads: usize, sink: &dyn Sink) -> Result<()> {
        for (job, part) in work(jobs) {
            if sink.stopped() {
                return Err(Error::Interrupted("no file was written".into()));
            }
            let request = jobs[job].request;
            if let Plan::Question(ask) = self.served.writer.plan(request.user, request.history, part, self.served.writer.limits())? {
                let id = name(&self.study, request.user, part);
                let line = json!({"custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": self.served.body(&ask)});
                self.requests.file.lock().append(format!("{line}\n").as_bytes())?;
                self.requests.written.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// A generator whose questions were answered elsewhere.
struct Answering<'g> {
    served: ServedGenerator<'g>,
    study: String,
    answers: &'g Answers,
}

impl Answering<'_> {
    /// The view that follows from the reply to `ask`; the engine's complaint where there is no answer yet.
    fn settle(&self, ask: Question<'_>, scratch: &mut Scratch) -> Result<Result<super::Made, Failed>, String> {
        let failed = |reason: String| Failed { reason, asked: true, counts: Counts::default() };
        let why = match self.answers.replies.get(&name(&self.study, ask.user, ask.part)) {
            None => "there is none in the files".to_owned(),
            Some(Err(complaint)) => complaint.clone(),
            Some(Ok(body)) => match parse(body) {
                Ok(answer) => return Ok(self.served.settle(ask, answer, scratch)),
                Err(Trouble::Never(reason)) => return Ok(Err(failed(clean::line(&reason, COMPLAINT)))),
                Err(Trouble::Again(reason)) => reason,
            },
        };
        let why = clean::line(&why, COMPLAINT);
        if self.answers.give_up { Ok(Err(failed(format!("no answer: {why}")))) } else { Err(why) }
    }
}

impl Generator for Answering<'_> {
    fn name(&self) -> &str {
        self.served.name()
    }

    fn generate(&self, user: u32, history: &[u32]) -> Result<UserViews> {
        generate_one(self, &self.served.settings, user, history)
    }

    fn run(&self, jobs: &[Job<'_>], threads: usize, sink: &dyn Sink) -> Result<()> {
        let work = work(jobs);
        let (missing, fatal) = (Mutex::new((0u64, None::<String>)), Mutex::new(None::<Error>));
        let mut lanes: Vec<Scratch> = (0..threads.max(1)).map(|_| Scratch::default()).collect();
        parallel::for_each(&mut lanes, work.len(), 16, |scratch, i| {
            let (job, part) = work[i];
            let request = jobs[job].request;
            if sink.stopped() || fatal.lock().is_some() {
                return;
            }
            match self.served.writer.plan(request.user, request.history, part, self.served.writer.limits()) {
                Err(e) => drop(fatal.lock().get_or_insert(e)),
                Ok(Plan::Ready(made)) => sink.done(job, part, Ok(made)),
                Ok(Plan::Cannot(failed)) => sink.done(job, part, Err(failed)),
                Ok(Plan::Question(ask)) => match self.settle(*ask, scratch) {
                    Ok(made) => sink.done(job, part, made),
                    Err(why) => {
                        let mut missing = missing.lock();
                        missing.0 += 1;
                        missing.1.get_or_insert(why);
                    }
                },
            }
        });
        if let Some(error) = fatal.into_inner() {
            return Err(error);
        }
        match missing.into_inner() {
            (0, _) => Ok(()),
            (n, why) => Err(Error::Usage(format!(
                "{n} of {} views have no answer (such as: {}); what was answered is kept. `lumos views export-requests` writes the requests for the \
                 rest; `--give-up` counts them as failed",
                work.len(),
                why.unwrap_or_default()
            ))),
        }
    }

    fn account(&self) -> Option<Provenance> {
        self.served.account()
    }

    fn notes(&self) -> Vec<String> {
        self.served.notes()
    }
}
