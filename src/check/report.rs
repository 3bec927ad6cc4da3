//! What a check of a GPU found: serialised into one dated file, and shown as short tables.

use serde::Serialize;
use std::collections::BTreeMap;

/// One thing that was checked.
#[derive(Clone, Debug, Serialize)]
pub struct CheckLine {
    /// Part of the check: `kernels`, `bits`, `rounds`, `text`, `smoke`.
    pub part: &'static str,
    /// The kernel, or what was trained.
    pub name: String,
    /// Shape and variant.
    pub case: String,
    /// Worst error, relative to the largest exact value (kernels) or to the largest change of a weight (rounds). Infinite, which JSON
    /// holds as null, where there is nothing to compare.
    pub error: f64,
    /// The largest error that is accepted; 0 where bits must agree.
    pub bound: f64,
    /// Whether it passed.
    pub ok: bool,
    /// What is wrong, where it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// A rate of the device, measured by a kernel that does nothing else.
#[derive(Clone, Debug, Serialize)]
pub struct Yardstick {
    /// `copy`, `fma`, `tf32`, `bf16`.
    pub name: &'static str,
    /// Bytes or operations a second, best median over the shapes tried.
    pub rate: f64,
    /// `bytes/s` or `operations/s`.
    pub unit: &'static str,
    /// How it was measured.
    pub how: String,
}

/// One kernel's time.
#[derive(Clone, Debug, Serialize)]
pub struct BenchLine {
    /// The kernel.
    pub kernel: &'static str,
    /// Shape and variant.
    pub case: String,
    /// Median time of a launch, in microseconds.
    pub us: f64,
    /// Fastest and slowest sample.
    pub us_range: [f64; 2],
    /// Samples, and launches timed together in each.
    pub samples: usize,
    /// See `samples`.
    pub launches: usize,
    /// Sets of inputs that the launches went round.
    pub sets: usize,
    /// Whether the sets together are several times the level 2 cache.
    pub cold: bool,
    /// Least bytes of a launch, counted from the shape.
    pub bytes: f64,
    /// Operations of a launch.
    pub operations: f64,
    /// Units that the operations are measured against: `fp32`, `tf32`, `bf16`.
    pub units: &'static str,
    /// Share of the measured copy bandwidth.
    pub of_copy: Option<f64>,
    /// Share of the measured arithmetic peak of the units.
    pub of_peak: Option<f64>,
    /// Registers of a thread and bytes of local memory, where the device tells.
    pub registers: Option<u32>,
    /// See `registers`.
    pub local_bytes: Option<usize>,
}

/// A round benchmark on the device.
#[derive(Clone, Debug, Serialize)]
pub struct RoundLine {
    /// What was trained.
    pub name: String,
    /// Clients of the round.
    pub clients: u32,
    /// Local epochs.
    pub epochs: u32,
    /// Width.
    pub dim: u32,
    /// Blocks.
    pub blocks: u32,
    /// Client-epochs a second, median over the timed rounds.
    pub client_epochs_per_s: f64,
    /// Slowest and fastest round in the same unit.
    pub client_epochs_per_s_range: [f64; 2],
    /// Seconds of a round, and those of its stages: waiting for packing, training, adding and the server's step.
    pub round_s: f64,
    /// See `round_s`.
    pub pack_s: f64,
    /// See `round_s`.
    pub train_s: f64,
    /// See `round_s`.
    pub add_s: f64,
    /// Timed rounds.
    pub rounds: u32,
    /// Mean useful tokens of a client.
    pub tokens_per_client: f64,
    /// Calls by which the host drives the device, a round: kernels launched one by one and graphs replayed.
    pub host_calls: f64,
    /// Kernels of a round, those of graphs included.
    pub kernels: f64,
    /// Whether clients were resident in one block of threads.
    pub resident: bool,
    /// Bytes that the memory plan foresaw, and that were held at most.
    pub predicted_bytes: u64,
    /// See `predicted_bytes`.
    pub peak_bytes: u64,
    /// The GPU beside the timed rounds, where its management library answers.
    pub telemetry: Option<crate::device::telemetry::Summary>,
}

/// What became of a part.
#[derive(Clone, Debug, Serialize)]
pub struct PartLine {
    /// Name.
    pub name: &'static str,
    /// `passed`, `failed` or `not run`.
    pub state: &'static str,
    /// Seconds.
    pub seconds: f64,
    /// Why it failed or was not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The device and the build.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DeviceLine {
    /// Name.
    pub name: String,
    /// Compute capability, such as `9.0`.
    pub capability: String,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Memory, and free memory at the start, in bytes.
    pub memory_bytes: u64,
    /// See `memory_bytes`.
    pub free_bytes: u64,
    /// Level 2 cache in bytes.
    pub l2_bytes: usize,
    /// Shared memory of a block at most, in bytes.
    pub shared_bytes: usize,
    /// The driver, in words.
    pub driver: String,
    /// How the kernels are embedded.
    pub kernels: String,
    /// Clocks and the like at the start, where the management library answers.
    pub telemetry: Option<crate::device::telemetry::Sample>,
}

/// What a check of a GPU found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Date and time in UTC.
    pub date: String,
    /// Version of this program.
    pub version: String,
    /// Commit it was built from, where the build knew it.
    pub commit: Option<String>,
    /// Whether only small shapes were used.
    pub quick: bool,
    /// The device.
    pub device: DeviceLine,
    /// Parts in the order they ran.
    pub parts: Vec<PartLine>,
    /// Everything that was checked.
    pub checks: Vec<CheckLine>,
    /// Kernels of this build that no check of a single kernel launches.
    pub unchecked: Vec<String>,
    /// What shares are measured against.
    pub yardsticks: Vec<Yardstick>,
    /// Times of kernels.
    pub benches: Vec<BenchLine>,
    /// Times of rounds.
    pub rounds: Vec<RoundLine>,
    /// Rates of a language model with made-up weights.
    #[cfg(feature = "llm")]
    pub texts: Vec<crate::llm::bench::GenerateFigures>,
    /// Seconds of all of it.
    pub seconds: f64,
}

impl Report {
    /// Whether every part ran and passed.
    pub fn passed(&self) -> bool {
        self.parts.iter().all(|p| p.state == "passed") && self.checks.iter().all(|c| c.ok)
    }

    /// Checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = &CheckLine> {
        self.checks.iter().filter(|c| !c.ok)
    }

    /// The checks of each part and kernel: how many, how many failed, and the worst error as a share of what is allowed.
    pub fn by_name(&self) -> BTreeMap<(&str, &str), Tally> {
        let mut tallies: BTreeMap<(&str, &str), Tally> = BTreeMap::new();
        for check in &self.checks {
            let tally = tallies.entry((check.part, check.name.as_str())).or_default();
            tally.count += 1;
            tally.failed += usize::from(!check.ok);
            tally.exact |= check.bound == 0.0;
            if check.bound > 0.0 {
                tally.worst = tally.worst.max(check.error / check.bound);
            }
        }
        tallies
    }
}

/// Checks of one name together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// How many.
    pub count: usize,
    /// How many failed.
    pub failed: usize,
    /// Whether some of them compare bits.
    pub exact: bool,
    /// Worst error as a share of what is allowed, among those with a bound.
    pub worst: f64,
}
