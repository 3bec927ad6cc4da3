//! Ranking of users after a few local epochs of their own (`eval.local_epochs`): each user's client trains the global model for itself, as in a
//! visit whose result is not uploaded, and the user is ranked by what it has then. Every group of parameters is private to a second engine, so
//! that the clients' weights stay with them and the model that is trained on is not touched.

use crate::Result;
use crate::config::{ClientWeighting, OnDivergence, Resident, ServerOptimizer, Settings, Validated};
use crate::data::{Dataset, Sought};
use crate::device::Device;
use crate::engine::cpu::{CpuEngine, own_state};
use crate::engine::cuda::CudaEngine;
use crate::engine::{Engine, Global, Participants, PrivateState, PrivateStore, Progress, Rules, Work};
use crate::model::Weights;
use crate::views::Views;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Fewest and most clients whose weights are in memory at a time; between them `federation.private_memory_mb` decides. Changes no result.
const BLOCK: [usize; 2] = [64, 2048];

/// Round of the steps. It is behind all rounds of a training, however many more it is given: a user draws the same in every ranking, and nothing that it
/// draws in a visit.
const ROUND: u64 = u32::MAX as u64;

/// An engine on `device`, or on the CPU where there is none.
///
/// # Errors
/// [`crate::Error::Device`] where the device fails.
pub(super) fn engine_on(
    device: Option<Arc<dyn Device>>,
    settings: Arc<Validated<Settings>>,
    data: Arc<Dataset>,
    views: Arc<Views>,
) -> Result<Box<dyn Engine>> {
    Ok(match device {
        Some(device) => Box::new(CudaEngine::new(settings, data, views, device)?),
        None => Box::new(CpuEngine::new(settings, data, views)),
    })
}

/// Clients that train for themselves before their users are ranked.
pub(super) struct LocalSteps {
    /// Those of the run with `eval.local_epochs` local epochs and no group shared.
    settings: Arc<Validated<Settings>>,
    data: Arc<Dataset>,
    views: Arc<Views>,
    device: Option<Arc<dyn Device>>,
    /// Made for the first ranking: until then it would take memory from training.
    engine: Option<Box<dyn Engine>>,
    /// Nothing changes what is not uploaded.
    rules: Rules,
    /// Most bytes of a chunk of clients, where there is a limit.
    chunk_bytes: Option<u64>,
}

impl LocalSteps {
    /// Local steps as `settings` ask for them, if they do, on the same data set, views and device as the training.
    pub fn of(
        settings: &Settings,
        data: &Arc<Dataset>,
        views: &Arc<Views>,
        device: Option<&Arc<dyn Device>>,
    ) -> Result<Option<LocalSteps>> {
        if settings.eval.local_epochs == 0 {
            return Ok(None);
        }
        let mut own = settings.clone();
        own.local.epochs = own.eval.local_epochs;
        // What is not uploaded needs no server, weighs alike, and ends no run.
        own.federation.shared.clear();
        (own.federation.server, own.federation.server_momentum, own.federation.server_correction) = (ServerOptimizer::Sgd, 0.0, false);
        (own.federation.weights, own.federation.on_divergence) = (ClientWeighting::Equal, OnDivergence::Drop);
        // Resident clients share all that they train.
        own.gpu.resident = Resident::Off;
        Ok(Some(LocalSteps {
            // Settings of a run may not share nothing; here no client shares.
            settings: Arc::new(Validated::by(own, |_| Ok(()))?),
            data: data.clone(),
            views: views.clone(),
            device: device.cloned(),
            engine: None,
            rules: Rules::new(Vec::new()),
            chunk_bytes: None,
        }))
    }

    /// The settings under which a client's own weights are read: every group is private.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// See [`Engine::limit_chunks`].
    pub fn limit_chunks(&mut self, bytes: u64) {
        self.chunk_bytes = Some(bytes);
        if let Some(engine) = &mut self.engine {
            engine.limit_chunks(bytes);
        }
    }

    /// See [`Engine::bytes`].
    pub fn bytes(&self) -> usize {
        self.engine.as_ref().map_or(0, |engine| engine.bytes())
    }

    /// The engine, from `weights` on.
    fn begin(&mut self, weights: Weights) -> Result<&mut dyn Engine> {
        let engine = match &mut self.engine {
            Some(engine) => engine,
            none => {
                let engine = engine_on(self.device.clone(), self.settings.clone(), self.data.clone(), self.views.clone())?;
                let engine = none.insert(engine);
                self.chunk_bytes.iter().for_each(|&bytes| engine.limit_chunks(bytes));
                engine
            }
        };
        engine.set_global(Global::new(&self.settings.federation, weights), 0);
        Ok(&mut **engine)
    }

    /// Clients whose weights are in memory at a time: each has the dense weights and the rows that it touches.
    fn block(&self, weights: &Weights) -> usize {
        let (settings, items) = (&self.settings, self.data.item_count());
        let drawn = 2 + settings.loss.negatives as usize;
        let rows = match settings.loss.sampled() {
            0 => items,
            _ => (settings.model.max_len as usize * settings.local.epochs as usize * drawn).min(items),
        };
        let bytes = 4 * (weights.dense.len() + rows * weights.spec.dim());
        (settings.federation.private_memory_mb as usize * 1_000_000 / bytes).clamp(BLOCK[0], BLOCK[1])
    }

    /// Rank of the item that is sought of each user, as [`Engine::rank`] gives it, after the local epochs of its client from `weights` and from what the client
    /// keeps in `private`. Where they end in weights that are not finite the user is ranked by what its client had before.
    ///
    /// # Errors
    /// Where private state cannot be read or a device fails.
    pub fn rank(
        &mut self,
        weights: Weights,
        participants: &Participants,
        private: &PrivateStore,
        (sought, users): (Sought, &[u32]),
        progress: &Progress,
    ) -> Result<Vec<u32>> {
        let (block, total, mut ranks) = (self.block(&weights), users.len() as u64, Vec::with_capacity(users.len()));
        self.begin(weights)?;
        for users in users.chunks(block) {
            let done = ranks.len() as u64;
            let known = users.iter().filter(|&&user| self.data.sought(user as usize, sought).is_some());
            let clients: BTreeSet<u32> = known.map(|&user| participants.of(user)).collect();
            let own = self.train(&clients, private, &|_, _| progress(done, total))?;
            let engine = self.engine.as_mut().expect("made above");
            ranks.extend(engine.rank(sought, users, &own, &|at, _| progress(done + at, total))?);
        }
        Ok(ranks)
    }

    /// What the client of `user` has after its local epochs from `weights` and from what it keeps in `private`.
    ///
    /// # Errors
    /// As for [`LocalSteps::rank`].
    pub fn state(&mut self, weights: Weights, participants: &Participants, private: &PrivateStore, user: u32) -> Result<PrivateState> {
        self.begin(weights)?;
        let own = self.train(&BTreeSet::from([participants.of(user)]), private, &|_, _| ())?;
        own_state(participants, Some(user), &own)
    }

    /// Trains `clients`; what each has then, or has kept before where it trained nothing or diverged.
    fn train(&mut self, clients: &BTreeSet<u32>, private: &PrivateStore, progress: &Progress) -> Result<PrivateStore> {
        let list: Vec<u32> = clients.iter().copied().collect();
        // A block is small enough to stay in memory.
        let (mut own, mut left) = (PrivateStore::new(u32::MAX), clients.clone());
        if list.is_empty() {
            return Ok(own);
        }
        let work = Work { round: ROUND, clients: &list, next: None, rules: &self.rules, private };
        let trained = self.engine.as_mut().expect("made before").train(&work, progress)?;
        for (client, state) in trained.private {
            left.remove(&client);
            own.put(client, &state)?;
        }
        for client in left {
            if let Some(state) = private.get(client)? {
                own.put(client, &state)?;
            }
        }
        Ok(own)
    }
}
