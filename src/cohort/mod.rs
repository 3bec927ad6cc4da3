//! Drawing the clients of a round and packing what they train on.

mod chunk;
mod draw;
mod pack;

pub use chunk::*;
pub use draw::*;
pub use pack::*;
