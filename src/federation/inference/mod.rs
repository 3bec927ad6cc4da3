//! What a curious server learns of a client from the rows that it uploads: which of them are items of its history.

mod guesses;
mod imia;

use crate::base::parallel;
use crate::config::{Settings, Validated};
use crate::data::Dataset;
use crate::engine::cpu::CpuEngine;
use crate::engine::{Engine, Global, Needs, Occasion, Participants, PrivateStore, Rule, Update, Work};
use crate::federation::{privacy_of, rules};
use crate::model::Weights;
use crate::views::Views;
use crate::{Error, Result};
use parking_lot::Mutex;
use serde::Serialize;
use std::sync::Arc;

/// How well a guess does, the mean over clients.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guess {
    /// Its name.
    pub name: &'static str,
    /// Share of the rows guessed that are items of the history.
    pub precision: f64,
    /// Share of the history that is guessed.
    pub recall: f64,
    /// Area under the curve over the uploaded rows: the chance that an item of the history is placed before another row. One half for no knowledge.
    pub auc: f64,
}

/// What was found out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inference {
    /// Clients whose uploads were looked at.
    pub clients: u64,
    /// Rows that a client uploads, the mean.
    pub rows: f64,
    /// Items of a history, the mean.
    pub history: f64,
    /// Each guess.
    pub guesses: Vec<Guess>,
}

/// Keeps what clients upload.
struct Watch(Arc<Mutex<Vec<Update>>>);

impl Rule for Watch {
    fn needs(&self) -> Needs {
        Needs::Each
    }

    fn client(&self, _: &Occasion, update: &mut Update) {
        self.0.lock().push(update.clone());
    }
}

/// What `clients` would upload in `round` under `weights`, ascending by client, after the rules and the clip that `settings` let clients apply.
///
/// # Errors
/// As [`Engine::train`] and [`rules::of`].
pub fn uploads(
    settings: &Arc<Validated<Settings>>,
    data: &Arc<Dataset>,
    views: &Arc<Views>,
    weights: Weights,
    round: u64,
    clients: &[u32],
) -> Result<Vec<Update>> {
    let rows = weights.spec.rows(data.item_count());
    let mut engine = CpuEngine::new(settings.clone(), data.clone(), views.clone());
    engine.set_global(Global::new(&settings.federation, weights), round - 1);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let privacy = privacy_of(settings, data.users())?;
    let mut rules = rules::of_clients(settings, privacy, rows)?.then(Box::new(Watch(kept.clone())));
    rules.meet(&Participants::new(settings.federation.clients, data), data);
    let private = PrivateStore::new(settings.federation.private_memory_mb);
    engine.train(&Work { round, clients, next: None, rules: &rules, private: &private }, &|_, _| ())?;
    let mut updates = std::mem::take(&mut *kept.lock());
    updates.sort_unstable_by_key(|update| update.client);
    Ok(updates)
}

/// Rows that a client uploads, items of its history, and how each guess does on it.
type Client = (f64, f64, [Guess; 5]);

/// Guesses of the histories of the clients that uploaded `updates` from `weights`; a client is a user.
///
/// # Errors
/// [`Error::Usage`] where no item row is uploaded.
pub fn infer(settings: &Settings, data: &Dataset, weights: &Weights, updates: &[Update]) -> Result<Inference> {
    let d = weights.spec.dim();
    let items = data.item_count();
    let mut seen = vec![0u32; items];
    updates.iter().flat_map(|u| &u.items).filter(|item| (**item as usize) < items).for_each(|&item| seen[item as usize] += 1);
    let threads = parallel::threads(settings.threads as usize);
    let each = parallel::map(threads, updates.len(), 1, |i| {
        let update = &updates[i];
        let history: std::collections::BTreeSet<u32> = data.train(update.client as usize).iter().copied().collect();
        let rows = || update.items.iter().zip(update.rows.chunks_exact(d)).filter(|(item, _)| (**item as usize) < items);
        let candidates: Vec<(u32, &[f32])> = rows().map(|(&item, row)| (item, row)).collect();
        let truth: Vec<bool> = candidates.iter().map(|(item, _)| history.contains(item)).collect();
        let often: Vec<f64> = candidates.iter().map(|(item, _)| f64::from(seen[*item as usize])).collect();
        let scores = [
            ("touched rows", vec![0.0; candidates.len()]),
            ("often uploaded", often.clone()),
            ("size of change", guesses::sizes(&candidates)),
            ("direction of change", guesses::directions(&candidates, &often)),
            ("IMIA", imia::labels(settings, weights, update.client, &candidates)),
        ];
        let judged = scores.map(|(name, scores)| guesses::judge(name, &scores, &truth, history.len(), name == "touched rows"));
        (candidates.len() as f64, history.len() as f64, judged)
    });
    let known: Vec<_> = each.into_iter().filter(|(rows, history, _)| *rows > 0.0 && *history > 0.0).collect();
    if known.is_empty() {
        return Err(Error::Usage("no item row is uploaded: there is nothing to infer from".into()));
    }
    let n = known.len() as f64;
    let mean = |of: &dyn Fn(&Client) -> f64| known.iter().map(of).sum::<f64>() / n;
    let guesses = (0..5).map(|g| Guess {
        name: known[0].2[g].name,
        precision: mean(&|k| k.2[g].precision),
        recall: mean(&|k| k.2[g].recall),
        auc: mean(&|k| k.2[g].auc),
    });
    Ok(Inference { clients: known.len() as u64, rows: mean(&|k| k.0), history: mean(&|k| k.1), guesses: guesses.collect() })
}
