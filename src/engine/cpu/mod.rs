//! Training and ranking on the cores of this machine: one worker a thread. A client with one sequence is trained by one of them from start
//! to end inside its cache; a participant with many has its mini-batches shared by all.

mod batches;
mod ranking;
mod tally;
mod visit;

pub(crate) use ranking::{encode, in_blocks, own_state, pack_input, personal_scores, ranks_of};

use super::mini_batches::MiniBatches;
use super::{
    Engine, Global, Mean, Moments, Packer, Participants, PrivateState, PrivateStore, Progress, Server, Shared, Totals, Trained, Update,
    VisitPlan, Work, fixed,
};
use crate::base::parallel;
use crate::cluster::Reduce;
use crate::config::{Settings, Validated};
use crate::data::{Dataset, Sought};
use crate::model::{Model, ModelSpec, Weights};
use crate::views::Views;
use crate::{Error, Result};
use batches::Batches;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tally::{After, Place, Tally};
use visit::Lane;

/// The engine of the CPU.
pub struct CpuEngine {
    settings: Arc<Validated<Settings>>,
    data: Arc<Dataset>,
    model: Model,
    global: Global,
    /// Round that the global model is of, and the one that was trained last.
    round: u64,
    trained: u64,
    lanes: Vec<Lane>,
    threads: usize,
    participants: Participants,
    /// The participant with many sequences that is at work, or was last.
    batches: Batches,
}

impl CpuEngine {
    /// An engine with initial weights.
    pub fn new(settings: impl Into<Arc<Validated<Settings>>>, data: impl Into<Arc<Dataset>>, views: impl Into<Arc<Views>>) -> CpuEngine {
        let (settings, data, views) = (settings.into(), data.into(), views.into());
        let (spec, items) = (ModelSpec::of(&settings), data.item_count());
        let packer = || Packer::new(settings.clone(), data.clone(), views.clone());
        let threads = parallel::threads(settings.threads as usize);
        CpuEngine {
            model: Model::for_training(&spec, &settings.loss),
            global: Global::new(&settings.federation, Weights::init(&spec, items, settings.seed)),
            round: 0,
            trained: 0,
            lanes: (0..threads).map(|_| Lane::new(packer(), &spec, items)).collect(),
            threads,
            participants: Participants::new(settings.federation.clients, &data),
            batches: Batches::default(),
            settings,
            data,
        }
    }

    /// Trains the clients with one sequence; what they give ends up in the lanes.
    fn visit_small(&mut self, work: &Work, clients: &[u32], progress: &Progress) {
        let keeps = super::private::kept_by_clients(&self.settings.federation);
        let place = Place {
            settings: &self.settings,
            model: &self.model,
            global: &self.global.weights,
            second: &self.global.server.second,
            round: work.round,
            rules: work.rules,
        };
        let (participants, done) = (&self.participants, AtomicU64::new(0));
        parallel::for_each(&mut self.lanes, clients.len(), 8, |lane, i| {
            let client = clients[i];
            let state = match if keeps { work.private.get(client) } else { Ok(None) } {
                Ok(state) => state,
                Err(e) => return lane.tally.fail(client, e.to_string()),
            };
            lane.visit(&place, client, participants.users(client)[0], state.as_ref());
            let n = done.fetch_add(1, Ordering::Relaxed) + 1;
            if n.is_multiple_of(64) || n == clients.len() as u64 {
                progress(n, work.clients.len() as u64);
            }
        });
    }

    /// Trains a participant with many sequences on all threads.
    fn visit_large(&mut self, work: &Work, client: u32, progress: &Progress) -> Result<()> {
        let begun = Instant::now();
        let (settings, global) = (&*self.settings, &self.global.weights);
        let (d, shared) = (global.spec.dim(), Shared::of(&settings.federation));
        let private = if shared.all() { None } else { work.private.get(client)? };
        let start = Start::of(global, shared, private.as_ref(), d);
        let place =
            Place { settings, model: &self.model, global, second: &self.global.server.second, round: work.round, rules: work.rules };
        let users = self.participants.users(client);
        let (visited, fine) = self.batches.train(&place, &mut self.lanes, client, users, &start.dense, &start.items, progress);
        let trained = Instant::now();
        let all: Vec<u32> = (0..self.batches.items().len() as u32 / d as u32).collect();
        let plan = VisitPlan {
            steps: MiniBatches::steps(settings, users.len()),
            rows: all.len() as u32,
            examples: self.lanes[0].packer.examples_of(users) as u32,
        };
        let Lane { tally, seconds, .. } = &mut self.lanes[0];
        if !fine {
            tally.leave_out(client, visited.losses.map(|sum| sum / visited.steps.max(1) as f64));
            return Ok(());
        }
        let after = After { dense: self.batches.dense(), items: &all, rows: self.batches.items(), uploaded: None, kept: None };
        tally.add(&place, client, &plan, &visited, &after, private.as_ref());
        // Seconds are reported as the mean over threads, and all of them worked.
        let threads = self.threads as f64;
        seconds[1] += threads * (trained - begun).as_secs_f64();
        seconds[2] += threads * trained.elapsed().as_secs_f64();
        Ok(())
    }

    /// Leaves the memory of a round's `updates` to the next one, a part for each thread.
    fn reuse(&mut self, mut updates: Vec<Update>) {
        let each = updates.len().div_ceil(self.lanes.len());
        for lane in &mut self.lanes {
            lane.tally.spare = updates.split_off(updates.len().saturating_sub(each));
        }
    }
}

/// The weights that a participant with many sequences starts with.
struct Start<'g> {
    dense: Cow<'g, [f32]>,
    items: Cow<'g, [f32]>,
}

impl<'g> Start<'g> {
    fn of(global: &'g Weights, shared: Shared, private: Option<&PrivateState>, d: usize) -> Start<'g> {
        let mut start = Start { dense: Cow::Borrowed(&global.dense), items: Cow::Borrowed(&global.items) };
        if let Some(dense) = private.filter(|_| !shared.dense).and_then(|p| p.dense.as_ref()) {
            start.dense = Cow::Owned(dense.clone());
        }
        for (&item, row) in private.filter(|_| !shared.items).iter().flat_map(|p| &p.rows) {
            start.items.to_mut()[item as usize * d..][..d].copy_from_slice(row);
        }
        start
    }
}

impl Engine for CpuEngine {
    fn train(&mut self, work: &Work, progress: &Progress) -> Result<Trained> {
        work.rules.begin();
        for lane in &mut self.lanes {
            lane.clear();
        }
        if self.participants.len() == 1 {
            // Who trains alone goes on with its moments from round to round.
            self.batches.go_on(self.round, MiniBatches::steps(&self.settings, self.participants.users(0).len()));
        }
        let (large, small): (Vec<u32>, Vec<u32>) = work.clients.iter().partition(|&&client| self.participants.users(client).len() > 1);
        self.visit_small(work, &small, progress);
        let (done, total) = (small.len() as u64, work.clients.len() as u64);
        for (i, &client) in large.iter().enumerate() {
            // The only participant reports its steps, several report how many of them are through.
            let steps = |at: u64, of: u64| {
                if total == 1 {
                    progress(at, of)
                }
            };
            self.visit_large(work, client, &steps)?;
            if total > 1 {
                progress(done + i as u64 + 1, total);
            }
        }
        // The lowest failing client is named, whichever thread met it first.
        if let Some((client, message)) = self.lanes.iter().filter_map(|l| l.tally.failure.clone()).min() {
            return Err(Error::Training { round: work.round, client: u64::from(client), message });
        }
        let mut totals = Totals::default();
        self.lanes.iter().for_each(|lane| totals.add(&lane.tally.totals));
        let seconds = [0, 1, 2].map(|i| self.lanes.iter().map(|l| l.seconds[i]).sum::<f64>() / self.lanes.len() as f64);
        let private = self.lanes.iter_mut().flat_map(|l| l.tally.private.drain(..)).collect();
        let diverged = self.lanes.iter().filter_map(|lane| lane.tally.diverged.clone()).min();
        let (first, rest) = self.lanes.split_first_mut().expect("an engine has a lane");
        for lane in rest {
            first.tally.sums.merge(&lane.tally.sums);
            first.tally.updates.append(&mut lane.tally.updates);
        }
        if totals.counts[6] > 0 {
            first.tally.sums.drop_empty();
        }
        self.trained = work.round;
        Ok(Trained { totals, private, diverged, seconds })
    }

    fn reduce(&mut self, reduce: &dyn Reduce, updates: bool) -> Result<()> {
        let tally = &mut self.lanes[0].tally;
        tally.sums.reduce(reduce)?;
        if updates { super::update::gather(&mut tally.updates, reduce) } else { Ok(()) }
    }

    fn touched_rows(&self) -> u64 {
        self.lanes[0].tally.sums.items.iter().filter(|&&item| (item as usize) < self.data.item_count()).count() as u64
    }

    fn mean(&mut self) -> Result<Option<Mean>> {
        let Tally { sums, updates, .. } = &mut self.lanes[0].tally;
        fixed::check_weight(sums.weight)?;
        let d = self.global.weights.spec.dim();
        Ok((sums.weight > 0).then(|| Server::mean(&self.settings.federation, sums, d, std::mem::take(updates))))
    }

    fn serve(&mut self, mean: Option<Mean>) -> Result<()> {
        let (sums, fed, round) = (&self.lanes[0].tally.sums, &self.settings.federation, self.trained);
        fixed::check_weight(sums.weight)?;
        let Global { weights, server } = &mut self.global;
        match mean {
            Some(mean) => {
                server.apply_mean(fed, round, &mean, weights);
                self.reuse(mean.updates);
            }
            None => server.apply(fed, round, sums, weights),
        }
        self.round = self.trained;
        self.batches.commit();
        Ok(())
    }

    fn global(&self) -> Result<Cow<'_, Global>> {
        Ok(Cow::Borrowed(&self.global))
    }

    fn set_global(&mut self, global: Global, round: u64) {
        (self.global, self.round) = (global, round);
    }

    fn snapshot(&mut self) -> Result<()> {
        Ok(())
    }

    fn last_snapshot(&self) -> (&Global, u64) {
        (&self.global, self.round)
    }

    fn rank(&mut self, sought: Sought, users: &[u32], private: &PrivateStore, progress: &Progress) -> Result<Vec<u32>> {
        ranking::rank(self, sought, users, private, progress)
    }

    fn moments(&self) -> Result<Option<Moments>> {
        Ok(self.last_moments())
    }

    fn last_moments(&self) -> Option<Moments> {
        (self.participants.len() == 1 && self.round > 0 && self.participants.share_batches()).then(|| self.batches.moments())
    }

    fn set_moments(&mut self, moments: Option<Moments>) {
        self.batches = Batches::default();
        if let Some(moments) = moments {
            self.batches.set_moments(moments);
        }
    }

    fn bytes(&self) -> usize {
        self.global.bytes() + self.lanes.iter().map(|l| l.worker.bytes() + l.tally.sums.bytes() + 4 * self.data.item_count()).sum::<usize>()
    }
}
