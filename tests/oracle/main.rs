//! The packed engine against an independent reference: the formulas written out in candle, differentiated by its
//! autograd in f64. A result is accepted when its error is within a small multiple of the error that candle itself makes
//! in f32. One binary holds all of it, so that candle is linked once.

#[path = "../common/torch.rs"]
mod torch;

mod attention;
mod check;
mod gru;
mod import;
mod levels;
mod losses;
mod model;
mod ops;
mod packing;
mod rank;
mod reference;
mod training;
