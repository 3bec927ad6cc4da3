//! How much room the activations of a step take: the model run on a backend that only counts.

use super::shape::Shape;
use crate::backend::{Act, Backend, Mask, RowKind, attention_scratch, gru_scratch, operations};
use crate::config::{InBatchSettings, LossSettings};

/// Activations begin at multiples of this number of floats: 128 bytes, a line of the cache.
pub const ACT_ALIGN: usize = 32;

/// Where the next activation of `shape` goes; moves `top` behind it.
pub(crate) fn place(shape: &Shape, top: &mut usize, rows: RowKind, width: usize) -> Act {
    let count = match rows {
        RowKind::Tokens => shape.tokens,
        RowKind::Outputs => shape.outputs,
    } as usize;
    let act = Act { at: *top, rows, width };
    *top += (count * width).next_multiple_of(ACT_ALIGN);
    act
}

/// Counts activations and does nothing.
pub struct Meter {
    shape: Shape,
    top: usize,
}

impl Meter {
    /// A counter for steps of `shape`.
    pub fn new(shape: &Shape) -> Meter {
        Meter { shape: *shape, top: 0 }
    }

    /// Floats of the activations so far.
    pub fn floats(&self) -> usize {
        self.top
    }
}

macro_rules! meter_operations {
    ($($(#[$doc:meta])* fn $op:ident($($arg:ident: $kind:ty),* $(,)?) $(scratch $scratch:expr)?;)*) => {
        #[allow(unused_variables)] // few operations take a scratch
        impl Backend for Meter {
            fn act(&mut self, rows: RowKind, width: usize) -> Act {
                place(&self.shape, &mut self.top, rows, width)
            }
            $(fn $op(&mut self, $($arg: $kind),*) {
                $(
                    let (rows, width) = $scratch;
                    self.act(rows, width);
                )?
            })*
        }
    };
}
operations!(meter_operations);
