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
use std::collections::hash_map::Entry;
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
        let mut answers = Answers { replies: HashMap::new(), give_up };
        for path in paths.iter().map(AsRef::as_ref) {
            let file = std::fs::File::open(path).map_err(Error::io(path, "open"))?;
            answers.add(path, BufReader::new(file))?;
        }
        Ok(answers)
    }

    /// Takes the lines of one file, which messages call `path`.
    fn add(&mut self, path: &Path, file: impl BufRead) -> Result<()> {
        for (number, line) in file.split(b'\n').enumerate() {
            let line = line.map_err(Error::io(path, "read"))?;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let wrong = |message: &str| {
                let message = format!("{message}; give the file that a batch run has written, one JSON object a line");
                Error::Data { path: path.to_path_buf(), line: number as u64 + 1, message }
            };
            let value: Value = serde_json::from_slice(&line).map_err(|e| wrong(&format!("is no JSON ({e})")))?;
            let id = value["custom_id"].as_str().ok_or_else(|| wrong("has no `custom_id`"))?.to_owned();
            if value.get("response").is_none() && value.get("error").is_none() {
                return Err(wrong(if value.get("body").is_some() { "is a request, not an answer" } else { "has no `response`" }));
            }
            // Of several replies to one question the first that answers counts.
            let reply = reply(&value);
            match self.replies.entry(id) {
                Entry::Vacant(place) => {
                    place.insert(reply);
                }
                Entry::Occupied(mut place) if place.get().is_err() && reply.is_ok() => *place.get_mut() = reply,
                Entry::Occupied(_) => {}
            }
        }
        Ok(())
    }
}

/// A file of answers, for fuzzing: what is read of it, as an import would.
pub fn fuzz(bytes: &[u8]) {
    let mut answers = Answers { replies: HashMap::new(), give_up: false };
    let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
    if answers.add(Path::new("answers.jsonl"), bytes).is_ok() {
        assert!(answers.replies.len() <= lines, "a line answers one question");
    }
    for body in answers.replies.into_values().flatten() {
        if let Ok(answer) = parse(&body) {
            let _ = super::super::text::answer_lines(&answer.text, 20);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A line of a batch run: an answer, a status, an engine's error, and now and then a question that is answered again.
    fn line() -> impl Strategy<Value = (u8, Result<String, String>)> {
        (0u8..6, prop_oneof![any::<String>().prop_map(Ok), any::<String>().prop_map(Err)])
    }

    fn written(id: u8, says: &Result<String, String>, by_status: bool) -> String {
        let id = format!("lumos-study-{id}-0");
        match says {
            Ok(text) => {
                let body = json!({"choices": [{"message": {"content": text}}]});
                json!({"custom_id": id, "response": {"status_code": 200, "body": body}, "error": null}).to_string()
            }
            Err(text) if by_status => json!({"custom_id": id, "response": {"status_code": 500, "body": {"message": text}}}).to_string(),
            Err(text) => json!({"custom_id": id, "response": null, "error": {"message": text}}).to_string(),
        }
    }

    proptest! {
        #[test]
        fn the_first_reply_that_answers_counts_in_whatever_files_and_with_whatever_ends_of_lines(
            lines in prop::collection::vec((line(), any::<bool>()), 0..20),
            cut in 0usize..20,
            end in prop_oneof![Just("\n"), Just("\r\n"), Just("\n \n")],
        ) {
            let mut answers = Answers { replies: HashMap::new(), give_up: false };
            let texts: Vec<String> = lines.iter().map(|((id, says), status)| written(*id, says, *status)).collect();
            let (one, two) = texts.split_at(cut.min(texts.len()));
            for part in [one, two] {
                answers.add(Path::new("a.jsonl"), part.join(end).as_bytes()).unwrap();
            }
            for id in 0..6 {
                let of_it = || lines.iter().filter(|((of, _), _)| *of == id).map(|((_, says), _)| says);
                let known = answers.replies.get(&format!("lumos-study-{id}-0"));
                prop_assert_eq!(known.is_some(), of_it().next().is_some());
                if let Some(wanted) = of_it().find_map(|says| says.as_ref().ok()) {
                    let body: Value = serde_json::from_slice(known.unwrap().as_ref().unwrap()).unwrap();
                    prop_assert_eq!(body["choices"][0]["message"]["content"].as_str(), Some(wanted.as_str()));
                } else {
                    prop_assert!(known.is_none_or(Result::is_err));
                }
            }
        }

        #[test]
        fn a_line_that_is_no_answer_is_named(before in 0usize..5, line in "[^\n]{1,40}") {
            prop_assume!(!line.trim_ascii().is_empty());
            let good = written(1, &Ok("x".into()), false);
            let text = format!("{}{line}\n", format!("{good}\n").repeat(before));
            let mut answers = Answers { replies: HashMap::new(), give_up: false };
            let told = answers.add(Path::new("a.jsonl"), text.as_bytes()).unwrap_err().to_string();
            prop_assert!(told.contains(&format!("a.jsonl:{}: ", before + 1)), "{}", told);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_named_by_their_line() {
        let mut answers = Answers { replies: HashMap::new(), give_up: false };
        let told = answers.add(Path::new("a.jsonl"), &b"\n{\"custom_id\": \"\xff\"}\n"[..]).unwrap_err().to_string();
        assert!(told.contains("a.jsonl:2: is no JSON"), "{told}");
    }
}
