//! Training clients and ranking users on whatever there is.

mod chunk;
pub mod cpu;
pub mod cuda;
pub mod fixed;
mod pack;
mod private;
mod rule;
mod server;
mod sums;
mod tensor;
mod totals;
mod update;
pub mod wire;

pub use chunk::Chunk;
pub use pack::{Packer, VisitPlan};
pub use private::{PrivateShape, PrivateState, PrivateStore};
pub use rule::{Needs, Occasion, Rule};
pub use server::Server;
pub use sums::Sums;
pub use tensor::{NamedTensor, TensorData};
pub use totals::Totals;
pub use update::{Mean, Update};
