//! Views written by a language model in a local folder, all users in one continuous batch.

use parking_lot::Mutex;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use super::UserViews;
use super::account::Provenance;
use super::generator::{Counts, Failed, Generator, Job, Made, PublicCatalogue, Request, Sink, ViewKind, generate_one, work};
use super::ground::Ground;
use super::text::{Limits, Message, Piece, Plan, Question, Role, Scratch, Writer, answer_lines, answer_of, opens_thoughts, unfinished};
use super::titles::Titles;
use crate::base::parallel;
use crate::config::{Grounding, LlmSettings, ViewSettings, WeightType};
use crate::llm::{self, EngineOptions, Key, Model, Options, Sampling};
use crate::{Error, Result};

/// Longest sequence that is asked of a model, prompt and answer together.
const LONGEST: usize = 8192;
/// Positions that a prompt and its answer usually need.
const USUAL: usize = 1024;
/// Prompts made at a time.
const CHUNK: usize = 512;
/// A common start of prompts shorter than this is not worth sharing.
const SHARED: usize = 16;
/// Prompts by which the common start of a kind of view is found.
const PROBES: usize = 4;

/// Has a local model write views.
pub struct LlmGenerator<'a> {
    writer: Writer<'a>,
    settings: ViewSettings,
    model: Model,
    model_hash: String,
    way: Decoding,
    threads: usize,
    shortened: AtomicU64,
    /// The template begins the model's thoughts.
    opened: bool,
}

/// How lines become items.
enum Decoding {
    /// The model can write only these.
    Constrained(Box<Titles>),
    /// Free text, matched.
    Retrieval(Ground),
}

/// A question in the model's tokens.
struct Prompt<'h> {
    job: usize,
    part: ViewKind,
    ask: Box<Question<'h>>,
    tokens: Vec<u32>,
    max_new: usize,
}

impl<'a> LlmGenerator<'a> {
    /// Loads the model and looks at the catalogue. `cache` is a folder for the tokens of its lines.
    ///
    /// # Errors
    /// Where the folder, a prompt file or the catalogue cannot be used.
    pub fn new(public: &'a PublicCatalogue<'a>, settings: &ViewSettings, threads: usize, cache: Option<&Path>) -> Result<LlmGenerator<'a>> {
        let s = &settings.llm;
        let writer = Writer::new(public, settings, s.grounding)?;
        let path = s.model.as_deref().unwrap_or(Path::new(""));
        let dtype = match s.dtype {
            WeightType::Auto => llm::Dtype::Auto,
            WeightType::F32 => llm::Dtype::F32,
            WeightType::F16 => llm::Dtype::F16,
            WeightType::Bf16 => llm::Dtype::Bf16,
        };
        let place = llm::Place::named(&s.device)?;
        let model = Model::load(path, &Options { place, dtype, threads, max_len: LONGEST })?;
        let model_hash = super::recipe::model_hash(path)?.unwrap_or_default();
        let way = match s.grounding {
            Grounding::Retrieval => Decoding::Retrieval(Ground::new(writer.names.lines(), &settings.text, threads, cache)?),
            Grounding::Constrained | Grounding::Calibrated => {
                let lines: Vec<&str> = writer.names.lines().iter().map(String::as_str).collect();
                let how = (s.list_mark, s.grounding == Grounding::Calibrated);
                Decoding::Constrained(Box::new(Titles::new(&lines, &model, path, how, cache)?))
            }
        };
        let shortened = AtomicU64::new(0);
        let opened = opens_thoughts(&model.chat.sample(&model.tokenizer)?);
        Ok(LlmGenerator { writer, settings: settings.clone(), model, model_hash, way, threads, shortened, opened })
    }

    fn sampling(&self) -> Sampling {
        let LlmSettings { temperature, top_k, top_p, repetition_penalty, .. } = self.settings.llm;
        Sampling { temperature, top_k, top_p, repetition_penalty }
    }

    /// The question for one view, shortened until it fits the model.
    fn prompt<'h>(&self, job: usize, request: Request<'h>, part: ViewKind) -> Result<Result<Prompt<'h>, Result<Made, Failed>>> {
        let text = &self.settings.text;
        let mut limits: Limits = self.writer.limits();
        let mut shorter = false;
        loop {
            let ask = match self.writer.plan(request.user, request.history, part, limits)? {
                Plan::Question(ask) => ask,
                Plan::Ready(made) => return Ok(Err(Ok(made))),
                Plan::Cannot(failed) => return Ok(Err(Err(failed))),
            };
            let tokens = match self.tokens(&ask.messages) {
                Ok(tokens) => tokens,
                Err(error) => return Ok(Err(Err(Failed { reason: error.to_string(), asked: true, counts: Counts::default() }))),
            };
            let max_new = match &self.way {
                Decoding::Constrained(titles) => titles.most(ask.count),
                Decoding::Retrieval(_) => text.line_tokens as usize * ask.count,
            };
            if tokens.len() + max_new <= self.model.max_len {
                self.shortened.fetch_add(u64::from(shorter), Ordering::Relaxed);
                return Ok(Ok(Prompt { job, part, ask, tokens, max_new }));
            }
            shorter = true;
            // Whichever takes more room gives way: what is shown, or what is named.
            match (tokens.len() > max_new && limits.shown > 1, ask.count > 1) {
                (true, _) => limits.shown /= 2,
                (false, true) => limits.named = ask.count / 2,
                (false, false) if limits.shown > 1 => limits.shown /= 2,
                _ => {
                    let reason = format!(
                        "{}: a prompt of {} tokens and an answer of {max_new} exceed the model's {}",
                        part.name(),
                        tokens.len(),
                        self.model.max_len
                    );
                    return Ok(Err(Err(Failed { reason, asked: true, counts: Counts::default() })));
                }
            }
        }
    }

    fn tokens(&self, messages: &[Message]) -> Result<Vec<u32>> {
        fn piece(piece: &Piece) -> llm::Piece<'_> {
            match piece {
                Piece::Ours(text) => llm::Piece::Ours(text),
                Piece::Theirs(text) => llm::Piece::Theirs(text),
            }
        }
        // A model without a template writes on where the question ends, so the answer must begin a line.
        let end = |m: &Message| (!self.model.chat.has_template() && m.role == Role::User).then_some(llm::Piece::Ours("\n"));
        let turns: Vec<llm::Message<'_>> = messages
            .iter()
            .map(|m| llm::Message { role: m.role.name(), content: m.content.iter().map(piece).chain(end(m)).collect() })
            .collect();
        self.model.chat.prompt(&turns, &self.model.tokenizer)
    }

    fn request(&self, prompt: &Prompt<'_>) -> llm::Request {
        let constraint: Option<Box<dyn llm::Constraint>> = match &self.way {
            Decoding::Constrained(titles) => {
                let temperature = self.settings.llm.temperature;
                Some(Box::new(titles.constraint(prompt.part, prompt.ask.count, &prompt.ask.closed, temperature)))
            }
            Decoding::Retrieval(_) => None,
        };
        llm::Request {
            prompt: prompt.tokens.clone(),
            max_new: prompt.max_new,
            sampling: self.sampling(),
            key: Key { seed: self.settings.seed, user: u64::from(prompt.ask.user), view: prompt.part.index() },
            stop: self.model.defaults.eos.clone(),
            constraint,
        }
    }

    /// The view that follows from a text.
    fn finish(&self, prompt: Prompt<'_>, text: Result<llm::Text>, scratch: &mut Scratch) -> Result<Made, Failed> {
        let tokens = Counts { prompt_tokens: prompt.tokens.len() as u32, ..Default::default() };
        let text = match text {
            Ok(text) => text,
            Err(error) => return Err(Failed { reason: error.to_string(), asked: true, counts: tokens }),
        };
        let tokens = Counts { output_tokens: text.tokens.len() as u32, ..tokens };
        let lines: Vec<Option<u32>> = match &self.way {
            Decoding::Constrained(_) => text.items.iter().map(|line| Some(*line)).collect(),
            Decoding::Retrieval(ground) => {
                let failed = |e: Error| Failed { reason: e.to_string(), asked: true, counts: tokens };
                let whole = self.model.tokenizer.decode_whole(&text.tokens).map_err(failed)?;
                let answer = answer_of(&whole, self.opened);
                let answer = answer.ok_or_else(|| Failed { reason: unfinished(), asked: true, counts: tokens })?;
                let written = if answer.len() < whole.len() {
                    answer.to_owned()
                } else {
                    // Without control tokens.
                    self.model.tokenizer.decode(&text.tokens).map_err(failed)?
                };
                ground.lines(&answer_lines(&written, 2 * prompt.ask.count), scratch).map_err(failed)?
            }
        };
        self.writer.finish(*prompt.ask, &lines, tokens)
    }

    /// How likely lines are without a user, where they are calibrated.
    fn compute_priors(&self) -> Result<()> {
        let Decoding::Constrained(titles) = &self.way else { return Ok(()) };
        if !titles.wants_priors() {
            return Ok(());
        }
        for part in [ViewKind::Future, ViewKind::Paraphrase, ViewKind::Counterfactual(0)] {
            let prompt = self.tokens(&self.writer.without_user(part))?;
            titles.compute_prior(part, &self.model, &self.model_hash, prompt)?;
        }
        Ok(())
    }

    /// Tokens with which all prompts of a kind of view begin.
    fn common_start(&self, jobs: &[Job<'_>], part: ViewKind) -> Result<Vec<u32>> {
        let mut common: Option<Vec<u32>> = None;
        let asked = jobs.iter().filter(|job| job.parts.contains(&part)).take(PROBES);
        for (index, job) in asked.enumerate() {
            if let Ok(prompt) = self.prompt(index, job.request, part)? {
                common = Some(match common {
                    None => prompt.tokens,
                    Some(c) => c.iter().zip(&prompt.tokens).take_while(|(a, b)| a == b).map(|(a, _)| *a).collect(),
                });
            }
        }
        self.shortened.store(0, Ordering::Relaxed);
        Ok(common.unwrap_or_default())
    }
}

impl Generator for LlmGenerator<'_> {
    fn name(&self) -> &str {
        "llm"
    }

    fn generate(&self, user: u32, history: &[u32]) -> Result<UserViews> {
        generate_one(self, &self.settings, user, history)
    }

    fn run(&self, jobs: &[Job<'_>], threads: usize, sink: &dyn Sink) -> Result<()> {
        self.compute_priors()?;
        let mut starts: Vec<Vec<u32>> = Vec::new();
        if jobs.len() > PROBES {
            for part in [ViewKind::Future, ViewKind::Paraphrase, ViewKind::Counterfactual(0)] {
                starts.push(self.common_start(jobs, part)?);
            }
            starts.retain(|start| start.len() >= SHARED);
        }
        let usual = self.model.max_len.min(USUAL);
        let slots = match self.settings.llm.batch as usize {
            0 => self.model.usual_slots(usual)?,
            slots => slots,
        };
        // Memory for every slot's usual text and for one of the longest, beside what is shared.
        let shared: usize = starts.iter().map(|start| start.len().next_multiple_of(llm::BLOCK)).sum();
        let cache_tokens = (slots * usual).max(self.model.max_len.next_multiple_of(llm::BLOCK)) + shared;
        let mut engine = self.model.engine(EngineOptions { slots, cache_tokens, ..Default::default() })?;
        for start in &starts {
            engine.share(start)?;
        }
        let work = work(jobs);
        let open: Mutex<Vec<Option<Prompt<'_>>>> = Mutex::new(Vec::new());
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        let threads = threads.min(self.threads).max(1);
        let mut next = 0;
        let mut ready: std::collections::VecDeque<Prompt<'_>> = Default::default();
        let mut requests = std::iter::from_fn(|| {
            while ready.is_empty() && next < work.len() && !sink.stopped() {
                let chunk = &work[next..work.len().min(next + CHUNK)];
                next += chunk.len();
                let made = parallel::map(threads, chunk.len(), 8, |i| self.prompt(chunk[i].0, jobs[chunk[i].0].request, chunk[i].1));
                for (&(job, part), made) in chunk.iter().zip(made) {
                    match made {
                        Ok(Ok(prompt)) => ready.push_back(prompt),
                        Ok(Err(known)) => sink.done(job, part, known),
                        Err(error) => {
                            *failed.lock() = Some(error);
                            return None;
                        }
                    }
                }
            }
            let prompt = ready.pop_front().filter(|_| !sink.stopped())?;
            let request = self.request(&prompt);
            open.lock().push(Some(prompt));
            Some(request)
        });
        let mut scratch = Scratch::default();
        let report = engine.generate(&mut requests, &mut |done| {
            let prompt = open.lock().get_mut(done.index).and_then(Option::take);
            if let Some(prompt) = prompt {
                let (job, part) = (prompt.job, prompt.part);
                sink.done(job, part, self.finish(prompt, done.outcome, &mut scratch));
            }
            if sink.stopped() { Err(Error::Interrupted("the rest of the views is not wanted".into())) } else { Ok(()) }
        });
        match report {
            Ok(_) => (),
            // Whoever stopped the work has the reason.
            Err(Error::Interrupted(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
        failed.into_inner().map_or(Ok(()), Err)
    }

    fn account(&self) -> Option<Provenance> {
        let s = &self.settings.llm;
        let grounding = match &self.way {
            Decoding::Constrained(_) => self.settings.llm.grounding.name().to_owned(),
            Decoding::Retrieval(ground) => ground.describe(),
        };
        Some(Provenance {
            model: s.model.as_deref().unwrap_or(Path::new("")).display().to_string(),
            model_hash: self.model_hash.clone(),
            sampling: json!({
                "temperature": crate::config::tidy(s.temperature.into()),
                "top_k": s.top_k,
                "top_p": crate::config::tidy(s.top_p.into()),
                "repetition_penalty": crate::config::tidy(s.repetition_penalty.into()),
                "seed": self.settings.seed,
            }),
            grounding,
            device: self.model.device().into(),
            dtype: self.model.dtype().into(),
            ..Provenance::of(&self.writer)
        })
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.writer.notes();
        let shortened = self.shortened.load(Ordering::Relaxed);
        if shortened > 0 {
            notes.push(format!("{shortened} prompts were shortened to fit the model's {} tokens", self.model.max_len));
        }
        notes
    }
}
