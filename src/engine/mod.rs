//! "Train these clients, rank these users" on whatever there is: the cores of this machine ([`cpu`]) or a GPU ([`cuda`]).
//!
//! An [`Engine`] holds the global model, trains the clients of a round from it, adds their updates up in fixed point ([`fixed`]), takes
//! the server's step and ranks users. What happens to updates on the way is the business of [`Rule`]s, what happens to sums that of a
//! [`Reduce`]; which clients, and what for, that of the federation above.

mod check;
mod chunk;
mod correction;
pub mod cpu;
pub mod cuda;
pub mod fixed;
mod global;
mod mini_batches;
mod pack;
mod participants;
mod personal;
mod private;
pub mod quantised;
mod rule;
mod server;
mod sums;
mod tensor;
mod totals;
mod update;
pub mod wire;

pub use check::check;
pub use chunk::Chunk;
pub use correction::{Scales, ServerSteps};
pub use global::{Global, Tensors, restored_weights, weight_tensors};
pub use pack::{Packer, VisitPlan};
pub use participants::Participants;
pub use private::{PrivateShape, PrivateState, PrivateStore, Shared, kept_by_clients};
pub use rule::{Needs, Occasion, Rule, Rules};
pub use server::Server;
pub use sums::Sums;
pub use tensor::{NamedTensor, TensorData};
pub use totals::Totals;
pub use update::{Mean, Update};

use crate::Result;
use crate::cluster::Reduce;
use crate::data::Sought;
use cuda::{DeviceRound, DeviceUse};
use std::borrow::Cow;

/// Called with how many of how many clients (or, with one participant, local steps) are done. From any thread.
pub type Progress<'p> = dyn Fn(u64, u64) + Sync + 'p;

/// What an engine is to train.
pub struct Work<'w> {
    /// Round, counted from 1.
    pub round: u64,
    /// The clients, ascending.
    pub clients: &'w [u32],
    /// Those of the round after it, for an engine that packs while a device is at work.
    pub next: Option<&'w [u32]>,
    /// What happens to updates before they are added up.
    pub rules: &'w Rules,
    /// What clients keep to themselves.
    pub private: &'w PrivateStore,
}

/// What came of training the clients of a round. The sums of their updates stay in the engine.
pub struct Trained {
    /// Counts, losses and bytes over the clients.
    pub totals: Totals,
    /// Private state that visits have changed. It holds once the round has succeeded.
    pub private: Vec<(u32, PrivateState)>,
    /// The lowest client that was left out because its change is not finite or too large, and what happened. How many there are is in the totals.
    pub diverged: Option<(u32, String)>,
    /// Seconds of packing, of training and of adding updates; the mean over threads, or on a device what it waited and worked.
    pub seconds: [f64; 3],
}

/// Moments of the optimiser of a participant that trains alone: dense first and second `[P]`, rows first and second `[I, d]`.
pub type Moments = [Vec<f32>; 4];

/// Trains clients and ranks users on one kind of hardware.
pub trait Engine: Send {
    /// Trains clients from the global model and adds their updates to the round's sums. The global model stays as it is. A client whose
    /// change is not finite or too large is left out and counted.
    ///
    /// # Errors
    /// [`crate::Error::Training`] for a client whose private state cannot be read, [`crate::Error::Device`] for a device that fails. The
    /// engine can be used on.
    fn train(&mut self, work: &Work, progress: &Progress) -> Result<Trained>;

    /// Adds the sums of the other processes to those of this one. With `updates` the updates themselves are gathered as well, for rules that
    /// need all of them.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] where the clients weigh too much together; where the transport or a device fails.
    fn reduce(&mut self, reduce: &dyn Reduce, updates: bool) -> Result<()>;

    /// Rows of items that the sums of the round hold, special rows aside.
    fn touched_rows(&self) -> u64;

    /// The averaged change of the round as a value, with the uploads where a rule needed all of them; nothing where no client trained.
    ///
    /// # Errors
    /// Where a device fails.
    fn mean(&mut self) -> Result<Option<Mean>>;

    /// The server's step: from the sums of the round, or from `mean` in their place.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] where the clients weigh too much together, [`crate::Error::Device`] for a device that fails.
    fn serve(&mut self, mean: Option<Mean>) -> Result<()>;

    /// The global model as it is now. Copied where a device holds it.
    ///
    /// # Errors
    /// Where a device fails.
    fn global(&self) -> Result<Cow<'_, Global>>;

    /// Puts `global` in the place of the global model, as it was after `round`.
    fn set_global(&mut self, global: Global, round: u64);

    /// Brings the host's copy of the global model up to date.
    ///
    /// # Errors
    /// Where a device fails; the copy is then what it was.
    fn snapshot(&mut self) -> Result<()>;

    /// The host's copy of the global model, and the round that it is of: what is left when a device has failed.
    fn last_snapshot(&self) -> (&Global, u64);

    /// Rank of the item that is sought of each user among all items that `eval.mask` leaves, 1 the best; [`crate::eval::MISS`] where it hides the target, 0
    /// for a user without one. Ties count against the model.
    ///
    /// # Errors
    /// Where private state cannot be read or a device fails.
    fn rank(&mut self, sought: Sought, users: &[u32], private: &PrivateStore, progress: &Progress) -> Result<Vec<u32>>;

    /// Moments that a participant keeps from round to round, where there is one that does: those after the last round that succeeded.
    ///
    /// # Errors
    /// Where a device fails.
    fn moments(&self) -> Result<Option<Moments>> {
        Ok(None)
    }

    /// The same as of [`Engine::last_snapshot`].
    fn last_moments(&self) -> Option<Moments> {
        None
    }

    /// Puts `moments` in the place of those, or starts from none.
    fn set_moments(&mut self, _moments: Option<Moments>) {}

    /// Whether [`Work::next`] is of use.
    fn looks_ahead(&self) -> bool {
        false
    }

    /// Bytes of weights, server state and workers on the host.
    fn bytes(&self) -> usize;

    /// Ends the round: what a device did in it, where there is one. A snapshot may be taken.
    ///
    /// # Errors
    /// Where the device fails.
    fn end_round(&mut self) -> Result<Option<DeviceRound>> {
        Ok(None)
    }

    /// What a device did so far, where there is one.
    ///
    /// # Errors
    /// Where the device fails.
    fn device_use(&self) -> Result<Option<DeviceUse>> {
        Ok(None)
    }

    /// At most this many bytes for a chunk of clients on a device. Changes no result.
    fn limit_chunks(&mut self, _bytes: u64) {}
}
