//! Times of launches by events: warm, inputs rotated past the level 2 cache, median and spread.

use super::recording_device::Tap;
use super::subject::Subject;
use crate::device::interface::{Buffer, Device, Graph};
use crate::{Error, Result};

/// A time of one launch, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Median.
    pub us: f64,
    /// Fastest and slowest.
    pub range: [f64; 2],
    /// Samples taken.
    pub samples: usize,
    /// Launches in each.
    pub launches: usize,
    /// Sets of inputs that the launches went round.
    pub sets: usize,
    /// Whether the sets are several times the level 2 cache.
    pub cold: bool,
}

impl Sample {
    /// Seconds of one launch.
    pub fn seconds(&self) -> f64 {
        self.us * 1e-6
    }
}

/// Most sets of inputs.
const MOST_SETS: usize = 12;
/// Microseconds that the launches of a sample should take together, so that the events' own grain does not show.
const LONG: f64 = 2000.0;

/// A subject on a device, ready to be launched again and again.
pub struct Bench<'s> {
    device: &'s dyn Device,
    subject: &'s Subject<'s>,
    sets: Vec<Vec<Buffer>>,
    pristine: Vec<Buffer>,
    cold: bool,
}

impl<'s> Bench<'s> {
    /// As many sets of inputs as are needed for four times the level 2 cache, where a third of the free memory holds them; `quick`: two.
    pub fn new(device: &'s dyn Device, subject: &'s Subject<'s>, quick: bool) -> Result<Bench<'s>> {
        device.set_scope(&format!("bench of {}, {}", subject.kernel, subject.case));
        let bytes = subject.arrays.iter().map(|a| 4 * a.words.len()).sum::<usize>().max(1);
        let touched = (subject.cost.bytes as usize).clamp(1, bytes);
        let wanted = (4 * device.limits().l2_bytes).div_ceil(touched).max(1);
        let fits = (device.memory()?.free as usize / 3 / bytes).saturating_sub(1);
        let count = wanted.min(if quick { 2 } else { MOST_SETS }).min(fits).max(1);
        let pristine = subject.place(device)?;
        let mut sets = Vec::with_capacity(count);
        for _ in 0..count {
            let set = pristine.iter().map(|b| device.alloc(b.bytes())).collect::<Result<Vec<Buffer>, _>>()?;
            sets.push(set);
        }
        let bench = Bench { device, subject, sets, pristine, cold: count * touched >= 2 * device.limits().l2_bytes };
        bench.restore()?;
        Ok(bench)
    }

    /// Puts every set back to its inputs.
    fn restore(&self) -> Result<()> {
        for set in &self.sets {
            for (from, to) in self.pristine.iter().zip(set) {
                self.device.copy(from, 0, to, 0, from.bytes())?;
            }
        }
        Ok(())
    }

    /// Records `launches` launches over the sets in turn.
    fn record(&self, launches: usize) -> Result<Graph> {
        let tap = Tap::new(self.device);
        let mut failed = None;
        let graph = self.device.capture(&format!("{launches} launches of {}", self.subject.kernel), &mut || {
            for i in 0..launches {
                match self.subject.run(&tap, &self.sets[i % self.sets.len()]) {
                    Ok(()) => {}
                    Err(Error::Device(e)) => return Err(e),
                    Err(e) => failed = Some(e),
                }
            }
            Ok(())
        })?;
        failed.map_or(Ok(graph), Err)
    }

    /// Seconds that one replay takes on the device.
    fn replay(&self, graph: &Graph) -> Result<f64> {
        self.restore()?;
        let start = self.device.event()?;
        // SAFETY: the graph holds launches on the sets, which live as long as this.
        unsafe { self.device.replay(graph)? };
        let end = self.device.event()?;
        Ok(f64::from(self.device.elapsed(&start, &end)?) * 1e-3)
    }

    /// Seconds of `launches` launches, for a bench that counts by itself.
    pub fn seconds(&self, launches: u64) -> Result<f64> {
        let tap = Tap::new(self.device);
        let start = self.device.event()?;
        for i in 0..launches as usize {
            self.subject.run(&tap, &self.sets[i % self.sets.len()])?;
        }
        let end = self.device.event()?;
        Ok(f64::from(self.device.elapsed(&start, &end)?) * 1e-3)
    }

    /// The time of a launch.
    pub fn time(&self, quick: bool) -> Result<Sample> {
        // Kernels are looked up, and the clocks raised, before anything is recorded.
        let tap = Tap::new(self.device);
        for set in &self.sets {
            self.subject.run(&tap, set)?;
        }
        let once = self.replay(&self.record(self.sets.len())?)? / self.sets.len() as f64;
        let launches = if quick { self.sets.len() } else { ((LONG * 1e-6 / once.max(1e-7)) as usize).clamp(self.sets.len(), 512) };
        let graph = self.record(launches)?;
        self.replay(&graph)?;
        let samples = if quick { 3 } else { 11 };
        let mut times = Vec::with_capacity(samples);
        for _ in 0..samples {
            times.push(self.replay(&graph)? / launches as f64 * 1e6);
        }
        times.sort_by(f64::total_cmp);
        let range = [times[0], times[samples - 1]];
        Ok(Sample { us: times[samples / 2].max(1e-6), range, samples, launches, sets: self.sets.len(), cold: self.cold })
    }
}

/// The time of a launch of `subject`.
pub fn time(device: &dyn Device, subject: &Subject, quick: bool) -> Result<Sample> {
    Bench::new(device, subject, quick)?.time(quick)
}
