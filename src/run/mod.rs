//! A run: from settings to a folder that holds everything about it, and back.
//!
//! | file | what |
//! |---|---|
//! | `config.toml` | effective settings and the origin of each |
//! | `methods/*.toml` | files of methods that are not LUMOS's own, where the run names any |
//! | `run.json` | seed, versions, machine, data and view fingerprints, start and end |
//! | `metrics.jsonl` | one JSON object a round with a checksum; a validation stands in the line of its round |
//! | `checkpoints/last.safetensors` | state after the last saved round |
//! | `checkpoints/previous.safetensors` | the one before, for when the last one is damaged |
//! | `checkpoints/best.safetensors` | state of the best validated round |
//! | `result.json` | the figures of the best checkpoint on validation and test |
//! | `tensorboard/events.out.tfevents.*` | losses, scores, speed, bytes and telemetry for TensorBoard |
//! | `ranks-validation.safetensors`, `ranks-test.safetensors` | rank of every user's target, for paired tests: 1 the best, 2^32 - 1 for a target that `eval.mask` hides (a miss), 0 for a user without one |
//! | `report.html` | the same for a reader |
//!
//! Nothing here prints: progress goes to an [`Observer`].

mod board;
mod chart;
mod checkpoint;
mod claim;
mod compare;
mod device;
mod export;
mod exposure;
mod folder;
mod hparams;
pub mod import;
mod infer;
mod lanes;
mod list_file;
mod listing;
mod live;
mod machine;
mod metrics;
mod notice;
mod orders;
mod page;
mod picture;
mod pipeline;
mod plot;
mod ranks;
mod recommend_all;
pub mod reproduce;
mod result;
mod resume;
mod score;
mod several;
mod side_by_side;
mod sweep;
mod team;
mod tensorboard;
mod train;
mod watch;

pub use checkpoint::{Checkpoint, CheckpointMeta};
pub use claim::{Claim, Start};
pub use compare::{Comparison, compare};
pub use device::{Devices, RunDevice};
#[cfg(feature = "onnx")]
pub use export::to_onnx;
pub use export::{Exported, to_numpy, to_torch};
#[cfg(feature = "cli")]
pub(crate) use folder::differences;
pub use folder::{RunFolder, RunInfo};
pub use infer::infer;
pub use list_file::ListFile;
pub use listing::{Listed, list_runs, runs_among};
pub use live::{Live, live};
pub use machine::{Machine, memory_bytes, peak_bytes};
pub use metrics::{Line, read_lines};
pub use notice::returning_notice;
pub use page::page;
pub use picture::{PictureFormat, write_picture};
pub use pipeline::{
    Prepared, ask_for_views, load_run_data, needs_views, open_data, prepare, prepare_data, prepare_on, prepare_views, prepare_views_by,
    views_made,
};
pub use plot::{Cost, Plot, plot};
pub use ranks::{parse_ranks, read_ranks, write_ranks};
pub use recommend_all::{Each, List, Wanted, list_figures, recommend_all};
pub use result::{RunResult, Scores, masked_targets};
pub use score::{Scored, open_trained, recommend, score};
pub use side_by_side::{Row, default_folder, popularity_row, side_by_side};
pub use sweep::{Plan, Range, Sweep, Trial, sweep};
pub use team::{Team, dismiss, follow};
pub use train::{Job, train};
pub use watch::{GpuSpan, Watch};

use crate::cluster::Reduce;
use crate::federation::RoundReport;

/// Receives what a run is doing. Every method has a silent default.
pub trait Observer: Sync {
    /// A step of preparation or evaluation: `done` of `total`.
    fn stage(&self, _name: &str, _done: u64, _total: u64) {}
    /// A step has ended.
    fn stage_end(&self, _name: &str) {}
    /// Whether what is being prepared should end early; what is finished is kept.
    fn stopped(&self) -> bool {
        false
    }
    /// The other processes of this command, which may help with what is being prepared.
    fn ranks(&self) -> Option<&dyn Reduce> {
        None
    }
    /// Something worth a line: what was reused, what was made.
    fn note(&self, _text: &str) {}
    /// Something that a user must not miss, such as damage; where nothing else is done, a note.
    fn warn(&self, text: &str) {
        self.note(text);
    }
    /// Training begins after `done` of `rounds` rounds.
    fn training(&self, _method: &str, _done: u64, _rounds: u64) {}
    /// Inside a round: `done` of `total` clients or steps.
    fn in_round(&self, _done: u64, _total: u64) {}
    /// A round has ended.
    fn round(&self, _report: &RoundReport) {}
    /// A validation has ended: the selection metric's name and value, and whether it is the best so far.
    fn evaluated(&self, _metric: &str, _value: f64, _best: bool) {}
    /// Training has ended.
    fn trained(&self) {}
}

/// Reports nothing.
pub struct Silent;

impl Observer for Silent {}
