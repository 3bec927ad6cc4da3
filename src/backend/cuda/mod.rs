//! The packed operations as kernel launches: what is launched, over which shape, and how many numbers the activations take.

pub mod kernels;
pub mod meter;
pub mod ops;
pub mod optimiser;
pub mod shape;
