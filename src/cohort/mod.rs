//! Drawing the clients of a round and packing what they train on.

mod draw;
mod pack;

pub use draw::*;
pub use pack::*;
