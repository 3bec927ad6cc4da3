//! Subjects that launch one kernel of a table, and what they are made of.

use super::subject::{Array, Cost, Launcher, Output, Subject, Want};
use crate::config::Precision;
use crate::device::interface::{Buffer, Device, Plain, bytes_of};
use crate::device::launch::{Launch, Pointer, launch_once};
use std::rc::Rc;

/// A size as kernels take it.
pub(super) fn int(n: usize) -> i32 {
    i32::try_from(n).expect("the check has no shape of this size")
}

/// Least work of a launch in single precision that moves `floats` floats.
pub(super) fn cost(floats: usize, operations: f64) -> Cost {
    Cost { bytes: 4.0 * floats as f64, operations, precision: Precision::Fp32 }
}

/// The words of values.
pub(super) fn words<T: Plain>(values: &[T]) -> Vec<u32> {
    Array::of("", values).words
}

/// The bytes of a value as an array of its own.
pub(super) fn value<T: Plain>(name: &'static str, value: &T) -> Array {
    Array::of(name, bytes_of(std::slice::from_ref(value)))
}

/// An output that is the whole of an array.
pub(super) fn whole(what: &'static str, arrays: &[Array], array: usize, want: Option<Want>) -> Output {
    Output { what, array, words: 0..arrays[array].words.len(), want: want.unwrap_or(Want::Any) }
}

/// A kernel's inputs and what should come of them.
pub(super) struct Given {
    pub case: String,
    pub arrays: Vec<Array>,
    pub outputs: Vec<Output>,
    pub cost: Cost,
}

impl Given {
    /// The subject that launches what `make` makes of the arrays' addresses, with `blocks` blocks.
    pub fn to<'a, L: Launch>(self, blocks: [usize; 2], make: impl Fn(&[Pointer]) -> L + 'a) -> Subject<'a> {
        self.under(0, blocks, make)
    }

    /// The same, under the kernel's name at `place`.
    pub fn under<'a, L: Launch>(self, place: usize, blocks: [usize; 2], make: impl Fn(&[Pointer]) -> L + 'a) -> Subject<'a> {
        let blocks = blocks.map(|n| n as u32);
        let launch: Launcher = Box::new(move |device: &dyn Device, buffers: &[Buffer]| {
            let at: Vec<Pointer> = buffers.iter().map(Pointer::from).collect();
            // SAFETY: the arrays of a subject are as long as its kernel asks for, and its buffers outlive the queue's use of them.
            Ok(unsafe { launch_once(device, place, blocks, &make(&at)) }?)
        });
        let Given { case, arrays, outputs, cost } = self;
        Subject { kernel: L::SIGNATURE.name(place), with: Vec::new(), case, arrays, launch: Rc::new(launch), outputs, cost }
    }
}
