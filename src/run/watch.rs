//! GPU telemetry beside the rounds of a run: spans of whole rounds, long enough for the GPU's own meters to say something.

use super::telemetry::{Sampler, Summary};
use crate::backend::cuda::Device;
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

/// Looks at the GPU beside a run; at nothing where there is no GPU or no library.
pub struct Watch {
    sampler: Option<Sampler>,
    /// Where the span began, and its rounds so far.
    begun: Option<f64>,
    rounds: u64,
}

impl Watch {
    /// Begins to look at `device`.
    pub fn over(device: Option<&dyn Device>) -> Watch {
        Watch { sampler: device.and_then(Device::uuid).and_then(Sampler::start), begun: None, rounds: 0 }
    }

    /// A round begins.
    pub fn begin(&mut self) {
        if self.begun.is_none() {
            self.begun = self.sampler.as_ref().map(Sampler::now);
        }
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
