//! Views that several processes write together: rank 0 hands out users, a batch at a time, and keeps what comes back. So one process writes the
//! journal and the store, whatever happens to the others.

use super::UserViews;
use super::account::Provenance;
use super::generator::{Counts, Failed, Generator, Job, Made, PublicCatalogue, Request, Sink, ViewKind};
use super::generators::{find, generator};
use crate::base::parcel::{Parcel, Pieces};
use crate::cluster::{Reduce, agree, divide, worked};
use crate::config::{GeneratorKind, ViewSettings};
use crate::data::Dataset;
use crate::{Error, Result};
use parking_lot::Mutex;

/// The processes that help with views.
pub trait Helpers: Sync {
    /// Asks them to; each then calls [`help`] with the same data set and settings.
    ///
    /// # Errors
    /// Where the transport fails.
    fn begin(&self, data: &Dataset, settings: &ViewSettings) -> Result<&dyn Reduce>;
}

/// A generator whose work is shared by several processes.
pub(super) struct Together<'a> {
    pub own: Box<dyn Generator + 'a>,
    pub helpers: &'a dyn Helpers,
    pub data: &'a Dataset,
    pub settings: &'a ViewSettings,
}

/// Users of a batch for each process: enough to be worth the words, few enough that little is lost where a process dies.
fn at_once(settings: &ViewSettings) -> usize {
    match settings.generator {
        GeneratorKind::SERVED => 8 * settings.served.concurrency as usize,
        kind if find(kind).is_some_and(|entry| entry.costly) => 32,
        _ => 4096,
    }
}

/// Takes the views of some of the jobs of a batch, whose places in it are `places`.
struct Part<'s> {
    places: Vec<usize>,
    /// Passes on what is finished under the job's place in the batch.
    to: &'s (dyn Fn(usize, ViewKind, Result<Made, Failed>) + Sync),
    stopped: &'s (dyn Fn() -> bool + Sync),
    note: &'s (dyn Fn(&str) + Sync),
}

impl Sink for Part<'_> {
    fn done(&self, job: usize, part: ViewKind, made: Result<Made, Failed>) {
        worked();
        (self.to)(self.places[job], part, made);
    }

    fn stopped(&self) -> bool {
        (self.stopped)()
    }

    fn note(&self, text: &str) {
        (self.note)(text);
    }
}

/// The jobs of `batch` that `rank` of `size` does, and their places in the batch.
fn share<'j>(batch: &[Job<'j>], rank: usize, size: usize) -> (Vec<Job<'j>>, Vec<usize>) {
    let costs: Vec<u64> = batch.iter().map(|job| ((1 + job.request.history.len()) * job.parts.len()) as u64).collect();
    let of = divide(&costs, size);
    batch.iter().enumerate().filter(|(i, _)| of[*i] as usize == rank).map(|(i, job)| (job.clone(), i)).unzip()
}

fn encode(jobs: &[Job]) -> Vec<u8> {
    let one = |parcel: Parcel, job: &Job| {
        let parts: Vec<u32> = job.parts.iter().map(|part| part.index() as u32).collect();
        parcel.words(&[job.request.user]).words(&parts)
    };
    jobs.iter().fold(Parcel::new(), one).into_bytes()
}

fn decode<'d>(bytes: &[u8], data: &'d Dataset) -> Option<Vec<Job<'d>>> {
    let mut pieces = Pieces::of(bytes);
    let mut jobs = Vec::new();
    while !pieces.is_empty() {
        let user = *pieces.words()?.first()?;
        let parts = pieces.words()?.into_iter().map(|index| part(index.into())).collect();
        let history = (user as usize) < data.users();
        jobs.push(Job { request: Request { user, history: history.then(|| data.train(user as usize))? }, parts });
    }
    Some(jobs)
}

/// Back from [`ViewKind::index`].
fn part(index: u64) -> ViewKind {
    match index {
        0 => ViewKind::Future,
        1 => ViewKind::Paraphrase,
        n => ViewKind::Counterfactual((n - 2) as u32),
    }
}

/// A finished view or a failure, as two pieces.
fn push(parcel: Parcel, place: usize, part: ViewKind, made: &Result<Made, Failed>) -> Parcel {
    let (counts, asked) = match made {
        Ok(made) => (&made.counts, 2),
        Err(failed) => (&failed.counts, u32::from(failed.asked)),
    };
    let Counts { lines, grounded, own, prompt_tokens, output_tokens } = *counts;
    let head = [place as u32, part.index() as u32, asked, lines, grounded, own, prompt_tokens, output_tokens];
    match made {
        Ok(made) => parcel.words(&head).words(&made.sequence),
        Err(failed) => parcel.words(&head).bytes(failed.reason.as_bytes()),
    }
}

type Finished = (usize, ViewKind, Result<Made, Failed>);

fn pull(pieces: &mut Pieces) -> Option<Finished> {
    let [place, index, asked, lines, grounded, own, prompt_tokens, output_tokens]: [u32; 8] = pieces.words()?.try_into().ok()?;
    let counts = Counts { lines, grounded, own, prompt_tokens, output_tokens };
    let made = match asked {
        2 => Ok(Made { sequence: pieces.words()?, counts }),
        asked => Err(Failed { reason: pieces.text()?.to_string(), asked: asked == 1, counts }),
    };
    Some((place as usize, part(index.into()), made))
}

impl Generator for Together<'_> {
    fn name(&self) -> &str {
        self.own.name()
    }

    fn generate(&self, user: u32, history: &[u32]) -> Result<UserViews> {
        self.own.generate(user, history)
    }

    fn run(&self, jobs: &[Job<'_>], threads: usize, sink: &dyn Sink) -> Result<()> {
        if jobs.is_empty() {
            return Ok(());
        }
        let ranks = self.helpers.begin(self.data, self.settings)?;
        // Whether each of them can.
        agree(ranks, Ok(()))?;
        let batch = at_once(self.settings) * ranks.size();
        for (number, jobs) in jobs.chunks(batch).enumerate() {
            if sink.stopped() {
                break;
            }
            ranks.broadcast(encode(jobs))?;
            let first = number * batch;
            let (own, places) = share(jobs, 0, ranks.size());
            let done = |place, part, made| sink.done(first + place, part, made);
            let part = Part { places, to: &done, stopped: &|| sink.stopped(), note: &|text| sink.note(text) };
            let outcome = self.own.run(&own, threads, &part);
            agree(ranks, outcome)?;
            for bytes in ranks.collect(&[])?.iter().skip(1) {
                let mut pieces = Pieces::of(bytes);
                while !pieces.is_empty() {
                    let damaged = || Error::Cluster("views of another process came damaged".into());
                    let (place, part, made) = pull(&mut pieces).filter(|(place, ..)| *place < jobs.len()).ok_or_else(damaged)?;
                    sink.done(first + place, part, made);
                }
            }
        }
        ranks.broadcast(Vec::new()).map(drop)
    }

    fn account(&self) -> Option<Provenance> {
        self.own.account()
    }

    fn notes(&self) -> Vec<String> {
        self.own.notes()
    }
}

/// Writes views for rank 0, until it has no more to ask. A failure is rank 0's as well, and ends the build.
/// `note` takes what is worth a line at once.
///
/// # Errors
/// Where the transport fails.
pub fn help(data: &Dataset, settings: &ViewSettings, ranks: &dyn Reduce, threads: usize, note: &(dyn Fn(&str) + Sync)) -> Result<()> {
    let public = PublicCatalogue::of(data, settings, threads, &|_| worked());
    let made = public.as_ref().map_err(|e| Error::Usage(e.to_string())).and_then(|public| {
        let none = || Error::setting("views.generator", "is \"none\": there is nothing to help with");
        generator(settings, public, threads, None)?.ok_or_else(none)
    });
    let Ok(own) = agree(ranks, made) else { return Ok(()) };
    loop {
        let bytes = ranks.broadcast(Vec::new())?;
        if bytes.is_empty() {
            return Ok(());
        }
        let damaged = || Error::Cluster("a batch of rank 0 came damaged".into());
        let jobs = decode(&bytes, data).ok_or_else(damaged)?;
        let (jobs, places) = share(&jobs, ranks.rank(), ranks.size());
        let finished = Mutex::new(Parcel::new());
        let keep = |place: usize, part: ViewKind, made: Result<Made, Failed>| {
            let mut all = finished.lock();
            *all = push(std::mem::take(&mut *all), place, part, &made);
        };
        let outcome = own.run(&jobs, threads, &Part { places, to: &keep, stopped: &|| false, note });
        if agree(ranks, outcome).is_err() {
            return Ok(());
        }
        ranks.collect(&finished.into_inner().into_bytes())?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_views_and_failures_come_back() {
        let counts = Counts { lines: 1, grounded: 2, own: 3, prompt_tokens: 4, output_tokens: 5 };
        let all: Vec<Finished> = vec![
            (0, ViewKind::Future, Ok(Made { sequence: vec![7, 1], counts })),
            (3, ViewKind::Counterfactual(1), Err(Failed { reason: "no \"words\"".into(), asked: true, counts })),
            (4, ViewKind::Paraphrase, Err(Failed { reason: String::new(), asked: false, counts: Counts::default() })),
        ];
        let bytes = all.iter().fold(Parcel::new(), |p, (place, part, made)| push(p, *place, *part, made)).into_bytes();
        let mut pieces = Pieces::of(&bytes);
        let back: Vec<Finished> = std::iter::from_fn(|| pull(&mut pieces)).collect();
        assert_eq!(back, all);
    }

    #[test]
    fn a_batch_comes_back_and_a_user_that_is_not_there_is_damage() {
        let data = Dataset { offsets: vec![0, 3, 7], items: vec![0, 1, 2, 2, 1, 0, 1], ..Default::default() };
        let job = |user, parts: &[ViewKind]| Job { request: Request { user, history: data.train(user as usize) }, parts: parts.to_vec() };
        let jobs = [job(1, &[ViewKind::Future, ViewKind::Counterfactual(2)]), job(0, &[ViewKind::Paraphrase])];
        let back = decode(&encode(&jobs), &data).unwrap();
        let plain = |jobs: &[Job]| jobs.iter().map(|j| (j.request.user, j.request.history.to_vec(), j.parts.clone())).collect::<Vec<_>>();
        assert_eq!(plain(&back), plain(&jobs));
        let one = Dataset { offsets: vec![0, 3], ..data.clone() };
        assert!(decode(&encode(&jobs), &one).is_none());
        let all: Vec<usize> = (0..3).flat_map(|rank| share(&jobs, rank, 3).1).collect();
        assert_eq!(all.len(), 2, "each job is one process's");
    }
}
