//! What meters say beside the rounds of a run: of the processors for each round, of the GPU for spans of whole rounds, long enough for its own
//! meters to say something.

use crate::base::energy::Counters;
use crate::device::Device;
use crate::device::telemetry::{Sampler, Summary};
use serde::Serialize;

/// Least seconds of a span. The GPU renews its meters every few tens of milliseconds, and a round may be shorter than that.
const SPAN: f64 = 1.0;

/// What the GPU's meters said of some rounds, evaluation left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GpuSpan {
    /// Rounds of the span; the line that it stands in is the last of them.
    pub rounds: u64,
    /// Energy of a round in joules, as the mean over the span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joules_per_round: Option<f64>,
    /// The meters.
    #[serde(flatten)]
    pub summary: Summary,
}

/// Looks at the processors and the GPU beside a run; at nothing where they have no meters that may be read.
pub struct Watch {
    processors: Option<Counters>,
    sampler: Option<Sampler>,
    /// Where the span began, and its rounds so far.
    begun: Option<f64>,
    rounds: u64,
}

impl Watch {
    /// Begins to look at `device`.
    pub fn over(device: Option<&dyn Device>) -> Watch {
        Watch { processors: Counters::open(), sampler: device.and_then(Device::uuid).and_then(Sampler::start), begun: None, rounds: 0 }
    }

    /// A round begins.
    pub fn begin(&mut self) {
        self.processors.as_mut().and_then(Counters::joules);
        if self.begun.is_none() {
            self.begun = self.sampler.as_ref().map(Sampler::now);
        }
    }

    /// Joules of the machine's processors since the round began.
    pub fn processors(&mut self) -> Option<f64> {
        self.processors.as_mut()?.joules()
    }

    /// A round has ended. Gives the span that it completes: where that is long enough, or `last` before something else is done.
    pub fn end(&mut self, last: bool) -> Option<GpuSpan> {
        let (sampler, begun) = (self.sampler.as_ref()?, self.begun?);
        self.rounds += 1;
        let summary = if last || sampler.elapsed() - begun >= SPAN { sampler.summary(begun)? } else { return None };
        let rounds = std::mem::take(&mut self.rounds);
        self.begun = None;
        Some(GpuSpan { rounds, joules_per_round: summary.joules.map(|j| j / rounds as f64), summary })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(feature = "cuda")]
    use crate::device::telemetry::Sample;

    /// A GPU whose counter stands at 7 joules a look.
    #[cfg(feature = "cuda")]
    fn watch() -> Watch {
        let looks = std::sync::atomic::AtomicU64::new(0);
        let look = move |seconds| {
            let looks = looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Sample { seconds, watts: Some(50.0), joules: Some(7.0 * looks as f64), ..Sample::default() }
        };
        // An hour between samples: only those that are asked for.
        Watch { processors: None, sampler: Sampler::over(std::time::Duration::from_secs(3600), look), begun: None, rounds: 0 }
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn spans_are_of_whole_rounds() {
        let mut watch = watch();
        watch.begin();
        assert_eq!(watch.end(false), None, "too short for the meters");
        watch.begin();
        let span = watch.end(true).unwrap();
        assert_eq!((span.rounds, span.summary.samples, span.joules_per_round), (2, 2, Some(3.5)));
        // What happens between spans is not counted.
        watch.begin();
        let next = watch.end(true).unwrap();
        assert_eq!((next.rounds, next.summary.joules), (1, Some(7.0)));
        let json = serde_json::to_value(&next).unwrap();
        assert!(json["rounds"] == 1 && json["watts"]["mean"] == 50.0 && json["utilisation"].is_null(), "{json}");
    }

    #[test]
    fn without_a_gpu_there_is_nothing_to_see() {
        let mut watch = Watch::over(None);
        watch.begin();
        assert_eq!(watch.end(true), None);
    }
}
