//! The state of a training, and its steps.

use super::constants::Constants;
use super::loss::{Example, Loss, all_items, with_contrast};
use super::ranker::Ranker;
use super::text::Lines;
use crate::base::rng::{Purpose, Stream};
use crate::cluster::agree;
use crate::config::Settings;
use crate::data::Sought;
use crate::engine::{NamedTensor, Participants, Progress, TensorData, Tensors, Totals, fixed};
use crate::eval::rank_of;
use crate::federation::protocol::{Parts, Protocol, central};
use crate::federation::{Cohort, RoundReport, Shares};
use crate::llm::tune::{Adapt, Optimiser, Tuned, failed};
use crate::llm::{Dtype, Model, Options, Place};
use crate::{Error, Result};
use std::time::Instant;

/// Positions of the longest history with what follows it.
const LONGEST: usize = 2048;

/// Draws for users that have no number: of `recommend` for a history.
const NOBODY: u64 = u64::MAX;

/// A language model, what is trained of it, and the catalogue as its texts.
pub struct CalRec {
    parts: Parts,
    constants: Constants,
    participants: Participants,
    shares: Shares,
    options: Options,
    /// Writes texts, with the weights of `tuned` as they were when `stale` was last false.
    model: Model,
    /// Digest of the weights that the training began with.
    hash: String,
    tuned: Tuned,
    optimiser: Optimiser,
    lines: Lines,
    /// Whether `tuned` has been trained since the model took its weights.
    stale: bool,
    last: u64,
}

/// How the model is loaded.
fn options(settings: &Settings) -> Result<Options> {
    let llm = &settings.views.llm;
    let named = |e: Error| Error::setting("views.llm.device", e.to_string());
    let dtype = Dtype::named(llm.dtype.name())?;
    Ok(Options { place: Place::named(&llm.device).map_err(named)?, dtype, threads: settings.threads as usize, max_len: LONGEST })
}

impl CalRec {
    /// A training of `parts`, whatever device they name: the model has its own.
    ///
    /// # Errors
    /// [`Error::Setting`] for a model that cannot be trained and a catalogue without texts; what loading the model says.
    pub fn new(constants: Constants, parts: Parts) -> Result<CalRec> {
        let settings = &parts.settings;
        let options = options(settings)?;
        let path = settings.views.llm.model.as_deref().filter(|path| !path.as_os_str().is_empty());
        let model = match path {
            Some(path) => Model::load(path, &options)?,
            None => Model::small(settings.seed, &options)?,
        };
        let adapt = match (path, constants.rank) {
            (None, _) | (_, 0) => Adapt::Full,
            (_, rank) => Adapt::LowRank { rank, scale: constants.scale, seed: settings.seed },
        };
        let device = match options.place {
            Place::Candle => candle_core::Device::new_cuda(0).map_err(failed)?,
            Place::On(_) => candle_core::Device::Cpu,
        };
        let named = |e: Error| Error::setting("views.llm.model", e.to_string());
        let lines = Lines::new(&parts.data.catalogue, &settings.views.text, &model.tokenizer, model.max_len)?;
        let tuned = Tuned::new(&model, adapt, device).map_err(named)?;
        let participants = Participants::new(settings.federation.clients, &parts.data);
        Ok(CalRec {
            shares: Shares::new(&*parts.reduce, &parts.data, &participants, usize::MAX, false),
            hash: model.hash()?,
            optimiser: Optimiser::new(tuned.trained())?,
            stale: false,
            last: 0,
            constants,
            participants,
            options,
            model,
            tuned,
            lines,
            parts,
        })
    }

    /// Users with a target that has a text.
    fn users(&self) -> Vec<u32> {
        let data = &self.parts.data;
        let has = |user: &u32| data.train(*user as usize).iter().skip(1).any(|item| !self.lines.item(*item).is_empty());
        (0..data.users() as u32).filter(has).collect()
    }

    /// The target of `user` in an epoch, drawn from the training items that have a text and something before them.
    fn example(&self, user: u32, stream: &mut Stream) -> Example<'_> {
        let items = self.parts.data.train(user as usize);
        let open: Vec<usize> = (1..items.len()).filter(|at| !self.lines.item(items[*at]).is_empty()).collect();
        let at = open[stream.below(open.len() as u64) as usize];
        Example { history: &items[..at], target: items[at] }
    }

    /// The whole history of `user` up to its last training item with a text.
    fn whole(&self, user: u32) -> Example<'_> {
        let items = self.parts.data.train(user as usize);
        let at = (1..items.len()).rev().find(|at| !self.lines.item(items[*at]).is_empty()).unwrap_or(0);
        Example { history: &items[..at], target: items[at] }
    }

    /// One step on the users of a mini-batch.
    fn step(&mut self, round: u64, users: &[u32], stream: &mut Stream) -> Result<Loss> {
        let examples: Vec<Example> = if round <= self.constants.first {
            users.iter().map(|user| self.whole(*user)).collect()
        } else {
            users.iter().map(|user| self.example(*user, stream)).collect()
        };
        let loss = if round <= self.constants.first {
            all_items(&self.tuned, &self.lines, &examples)?
        } else {
            with_contrast(&self.tuned, &self.lines, &examples, &self.constants)?
        };
        if !(loss.next_item + loss.contrast).is_finite() {
            let message = "the language model's loss is not finite; lower local.lr, or set local.clip".to_owned();
            return Err(Error::Training { round, client: 0, message });
        }
        let gradients = loss.whole.backward().map_err(failed)?;
        self.optimiser.step(&gradients, &central::rates(&self.parts.settings.local, 1.0))?;
        Ok(loss)
    }

    /// Gives the model the weights as they are now.
    fn refresh(&mut self) -> Result<()> {
        if self.stale {
            self.model.retrained(self.tuned.weights()?, &self.options)?;
            self.stale = false;
        }
        Ok(())
    }

    fn ranker(&self) -> Ranker<'_> {
        Ranker { model: &self.model, lines: &self.lines, constants: &self.constants, seed: self.parts.settings.seed }
    }

    fn ranks(&self, sought: Sought, users: &[u32], progress: &Progress) -> Result<Vec<u32>> {
        let (data, mask) = (&self.parts.data, self.parts.settings.eval.mask);
        let asked: Vec<_> = users.iter().map(|&user| data.sought(user as usize, sought)).collect();
        let known: Vec<usize> = (0..users.len()).filter(|i| asked[*i].is_some()).collect();
        let histories: Vec<(u64, &[u32])> = known.iter().filter_map(|&i| asked[i].map(|(input, _)| (users[i].into(), input))).collect();
        let mut ranks = vec![0; users.len()];
        self.ranker().each(&histories, data.item_count(), &mut |i, scores| {
            if let Some((input, target)) = asked[known[i]] {
                ranks[known[i]] = rank_of(&scores, target, mask.masked(input));
            }
            progress(known[i] as u64 + 1, users.len() as u64);
            Ok(())
        })?;
        Ok(ranks)
    }
}

impl Protocol for CalRec {
    fn round(&mut self, round: u64, cohort: &Cohort, _next: Option<&Cohort>, progress: &Progress) -> Result<RoundReport> {
        let start = Instant::now();
        let settings = self.parts.settings.clone();
        let mut users = self.users();
        let batch = settings.local.batch.max(1) as usize;
        let steps = users.len().div_ceil(batch) as u64 * u64::from(settings.local.epochs);
        let (mut done, mut tokens, mut examples, mut losses) = (0, 0, 0, [0.0; 2]);
        for epoch in 0..u64::from(settings.local.epochs) {
            let mut stream = Stream::new(settings.seed, Purpose::Shuffle, round, epoch << 32);
            stream.shuffle(&mut users);
            for users in users.chunks(batch) {
                let loss = self.step(round, users, &mut stream)?;
                losses = [losses[0] + loss.next_item, losses[1] + loss.contrast];
                (done, tokens, examples) = (done + 1, tokens + loss.tokens, examples + users.len() as u64);
                progress(done, steps);
            }
        }
        (self.stale, self.last) = (true, round);
        central::same(&*self.parts.reduce, &self.optimiser)?;
        let losses = losses.map(|sum| fixed::from_f64(sum / done.max(1) as f64));
        let totals = Totals { counts: [1, done, tokens, examples, 0, 0, 0], losses, ..Totals::default() };
        let report = RoundReport::of(round, cohort, &totals, 0, start);
        Ok(RoundReport { train_s: report.seconds, ..report })
    }

    fn rank(&mut self, sought: Sought, users: &[u32], progress: &Progress) -> Result<Vec<u32>> {
        let refreshed = self.refresh();
        agree(&*self.parts.reduce, refreshed)?;
        self.shares.rank(&*self.parts.reduce, &self.participants, users, |users| self.ranks(sought, users, progress))
    }

    fn scores(&mut self, user: Option<u32>, history: &[u32]) -> Result<Vec<f32>> {
        self.refresh()?;
        let mut found = Vec::new();
        let asked = [(user.map_or(NOBODY, u64::from), history)];
        self.ranker().each(&asked, self.parts.data.item_count(), &mut |_, scores| {
            found = scores;
            Ok(())
        })?;
        Ok(found)
    }

    fn tensors(&self) -> Result<Vec<NamedTensor>> {
        let mut out = central::kept(NAME, &self.optimiser)?;
        let hash = self.hash.clone().into_bytes();
        out.push(NamedTensor { name: MODEL.into(), shape: vec![hash.len()], data: TensorData::U8(hash) });
        Ok(out)
    }

    fn restore(&mut self, tensors: &Tensors, rounds_done: u64) -> Result<()> {
        let fail = |name: &str| Error::Usage(format!("checkpoint: tensor `{name}` is missing, damaged or of another method or data set"));
        let of = |name: &'static str| tensors.get(name).map(|t| &t.data).ok_or_else(|| fail(name));
        let TensorData::U8(hash) = of(MODEL)? else { return Err(fail(MODEL)) };
        if hash != self.hash.as_bytes() {
            let message = "checkpoint: was trained from another language model; set views.llm.model to the one it began with";
            return Err(Error::Usage(message.into()));
        }
        central::restored(NAME, &mut self.optimiser, tensors)?;
        (self.stale, self.last) = (true, rounds_done);
        Ok(())
    }

    fn last_snapshot(&self) -> Result<(Vec<NamedTensor>, u64)> {
        Ok((self.tensors()?, self.last))
    }

    fn describe(&self) -> Option<String> {
        let (all, trained) = (self.model.parameters(), self.tuned.trained_count());
        let path = self.parts.settings.views.llm.model.as_deref().filter(|path| !path.as_os_str().is_empty());
        Some(match path {
            Some(path) => format!("language model {}: {all} weights; {trained} are trained", path.display()),
            None => format!("views.llm.model is not set: a small language model of {all} weights is trained from nothing"),
        })
    }

    fn bytes(&self) -> usize {
        self.model.weight_bytes() as usize + self.tuned.bytes() + 8 * self.tuned.trained_count()
    }
}

/// What the names of its tensors in a checkpoint begin with.
const NAME: &str = "calrec";
/// Digest of the model that the training began with.
const MODEL: &str = "calrec.model";
