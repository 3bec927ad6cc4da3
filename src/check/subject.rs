//! A kernel with its inputs, and what it should make of them: the form in which kernels are checked and timed.

use super::recording_device::Tap;
use crate::config::Precision;
use crate::device::interface::{Buffer, Device, Plain, bytes_of, bytes_of_mut};
use crate::{Error, Result};
use std::ops::Range;
use std::rc::Rc;

/// Words behind every array, which nothing may touch.
const GUARD: usize = 64;
/// What the guard is filled with.
const GUARD_WORD: u32 = 0x7fc0_5a5a;
/// How many times the error of a plain f32 program the error of a kernel may be.
pub const MOST: f64 = 8.0;

/// Device memory of a subject before its kernel runs, in words of four bytes.
#[derive(Clone, Debug)]
pub struct Array {
    /// Name in messages.
    pub name: &'static str,
    /// Contents.
    pub words: Vec<u32>,
}

impl Array {
    /// Of plain values; bytes that do not fill a word are followed by zeros.
    pub fn of<T: Plain>(name: &'static str, values: &[T]) -> Array {
        let mut words = vec![0u32; std::mem::size_of_val(values).div_ceil(4)];
        bytes_of_mut(&mut words)[..std::mem::size_of_val(values)].copy_from_slice(bytes_of(values));
        Array { name, words }
    }
}

/// What an output should be.
#[derive(Clone, Debug)]
pub enum Want {
    /// Within a multiple of the error of a plain f32 computation.
    Near {
        /// That computation's results.
        plain: Vec<f32>,
        /// The same in f64.
        exact: Vec<f64>,
    },
    /// These very bits.
    Bits(Vec<u32>),
    /// Doubles within a few units in the last place of the largest.
    Doubles(Vec<f64>),
    /// Anything: scratch, or a result of another kernel of the call.
    Any,
}

/// Words of an array that the kernel writes.
#[derive(Clone, Debug)]
pub struct Output {
    /// Name in messages.
    pub what: &'static str,
    /// Which array.
    pub array: usize,
    /// Which words.
    pub words: Range<usize>,
    /// What they should be.
    pub want: Want,
}

/// Least work of a launch, counted from the shape: each input read and each output written once, operations as the definition has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Bytes from and to memory.
    pub bytes: f64,
    /// Arithmetic operations; a fused multiply-add is two.
    pub operations: f64,
    /// Units that do them.
    pub precision: Precision,
}

/// What launches a subject on buffers that hold its arrays.
pub type Launcher<'a> = Box<dyn Fn(&dyn Device, &[Buffer]) -> Result<()> + 'a>;

/// A kernel, its inputs, and what it should make of them.
pub struct Subject<'a> {
    /// The kernel.
    pub kernel: &'static str,
    /// Kernels of the same call whose results it takes: launched too.
    pub with: Vec<&'static str>,
    /// Shape and variant, for a reader.
    pub case: String,
    /// Inputs.
    pub arrays: Vec<Array>,
    /// The call.
    pub launch: Rc<Launcher<'a>>,
    /// Outputs.
    pub outputs: Vec<Output>,
    /// Least work.
    pub cost: Cost,
}

/// How a kernel fared on one subject.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Worst error as a multiple of what is allowed; 0 where bits agree.
    pub share: f64,
    /// Worst error relative to the largest exact value.
    pub error: f64,
    /// The allowed one.
    pub bound: f64,
    /// Whether the results must have the reference's very bits.
    pub exact: bool,
    /// What is wrong, if anything.
    pub fault: Option<String>,
}

impl Subject<'_> {
    /// Fresh device memory that holds the arrays and a guard behind each.
    pub fn place(&self, device: &dyn Device) -> Result<Vec<Buffer>> {
        let mut buffers = Vec::with_capacity(self.arrays.len());
        for array in self.arrays.iter() {
            buffers.push(device.alloc(4 * (array.words.len() + GUARD))?);
        }
        self.fill(device, &buffers)?;
        Ok(buffers)
    }

    /// Puts the arrays back as they were.
    pub fn fill(&self, device: &dyn Device, buffers: &[Buffer]) -> Result<()> {
        for (array, buffer) in self.arrays.iter().zip(buffers) {
            device.upload(buffer, 0, bytes_of(&array.words))?;
            device.upload(buffer, 4 * array.words.len(), bytes_of(&[GUARD_WORD; GUARD]))?;
        }
        Ok(())
    }

    /// Launches the kernel, and those whose results it takes, through `tap`.
    pub fn run(&self, tap: &Tap, buffers: &[Buffer]) -> Result<()> {
        let mut kernels = self.with.clone();
        kernels.push(self.kernel);
        tap.only(&kernels);
        (self.launch)(tap, buffers)
    }

    fn read(&self, device: &dyn Device, buffers: &[Buffer]) -> Result<Vec<Vec<u32>>> {
        let read = |(array, buffer): (&Array, &Buffer)| device.download_vec::<u32>(buffer, 0, array.words.len() + GUARD);
        Ok(self.arrays.iter().zip(buffers).map(read).collect::<Result<_, _>>()?)
    }

    /// Runs the kernel twice from the same inputs: results must fit the reference, nothing else may change, and both runs must give
    /// the same bits. An error is one of the device; what a kernel does wrong is in the verdict.
    pub fn check(&self, device: &dyn Device, tap: &Tap) -> Result<Verdict> {
        device.set_scope(&format!("check of {}, {}", self.kernel, self.case));
        let buffers = self.place(device)?;
        self.run(tap, &buffers)?;
        let first = self.read(device, &buffers)?;
        self.fill(device, &buffers)?;
        self.run(tap, &buffers)?;
        let second = self.read(device, &buffers)?;
        let mut verdict = Verdict { share: 0.0, error: 0.0, bound: 0.0, exact: true, fault: None };
        for output in &self.outputs {
            self.compare(output, &first[output.array][output.words.clone()], &mut verdict)?;
        }
        let faults = [self.stray(&first), self.unlike(&first, &second)];
        for fault in faults.into_iter().flatten() {
            verdict.fault.get_or_insert(fault);
        }
        Ok(verdict)
    }

    fn compare(&self, output: &Output, got: &[u32], verdict: &mut Verdict) -> Result<()> {
        let floats: Vec<f64> = got.iter().map(|&w| f64::from(f32::from_bits(w))).collect();
        let doubles = || got.chunks_exact(2).map(|w| f64::from_bits(u64::from(w[0]) | u64::from(w[1]) << 32)).collect::<Vec<f64>>();
        let (values, exact, allowed) = match &output.want {
            Want::Any => return Ok(()),
            Want::Bits(want) => {
                if want.len() != got.len() {
                    return Err(uneven(self, output));
                }
                if let Some(i) = want.iter().zip(got).position(|(w, g)| w != g) {
                    let (w, g) = (want[i], got[i]);
                    let fault = format!(
                        "{}: word {i} of {} is {g:#010x} ({:e} as a float) and should be {w:#010x} ({:e})",
                        output.what,
                        got.len(),
                        f32::from_bits(g),
                        f32::from_bits(w)
                    );
                    verdict.fault.get_or_insert(fault);
                    verdict.share = f64::INFINITY;
                }
                return Ok(());
            }
            Want::Near { plain, exact } => {
                if plain.len() != got.len() || exact.len() != got.len() {
                    return Err(uneven(self, output));
                }
                let plain: Vec<f64> = plain.iter().map(|&x| f64::from(x)).collect();
                let floor = 4.0 * f64::from(f32::EPSILON) * largest(exact);
                (floats, exact, MOST * worst(&plain, exact).1.max(floor))
            }
            Want::Doubles(exact) => {
                if 2 * exact.len() != got.len() {
                    return Err(uneven(self, output));
                }
                (doubles(), exact, 1e-12 * largest(exact))
            }
        };
        verdict.exact = false;
        let (place, error) = worst(&values, exact);
        let scale = largest(exact).max(f64::MIN_POSITIVE);
        let share = if error == 0.0 { 0.0 } else { error / allowed.max(f64::MIN_POSITIVE) };
        if verdict.bound == 0.0 || share > verdict.share {
            (verdict.share, verdict.error, verdict.bound) = (share, error / scale, allowed / scale);
        }
        if share > 1.0 {
            let fault = format!(
                "{}: element {place} of {} is {:e} and should be {:e}; the error is {share:.1} times what is allowed",
                output.what,
                values.len(),
                values[place],
                exact[place]
            );
            verdict.fault.get_or_insert(fault);
        }
        Ok(())
    }

    /// What was written outside the outputs.
    fn stray(&self, got: &[Vec<u32>]) -> Option<String> {
        for (a, (array, got)) in self.arrays.iter().zip(got).enumerate() {
            let inside = |i: usize| self.outputs.iter().any(|o| o.array == a && o.words.contains(&i));
            let before = array.words.iter().copied().chain([GUARD_WORD; GUARD]);
            if let Some((i, _)) = before.zip(got).enumerate().find(|&(i, (b, &g))| b != g && !inside(i)) {
                let place = if i < array.words.len() { "which is no output" } else { "behind its end" };
                return Some(format!("{}: word {i} of {} was written, {place}", array.name, array.words.len()));
            }
        }
        None
    }

    /// Where two runs differ.
    fn unlike(&self, first: &[Vec<u32>], second: &[Vec<u32>]) -> Option<String> {
        for (array, (a, b)) in self.arrays.iter().zip(first.iter().zip(second)) {
            if let Some(i) = a.iter().zip(b).position(|(x, y)| x != y) {
                return Some(format!("{}: word {i} has other bits when the kernel runs again", array.name));
            }
        }
        None
    }
}

fn uneven(subject: &Subject, output: &Output) -> Error {
    Error::Usage(format!("the check of {} ({}) expects another length of `{}`", subject.kernel, subject.case, output.what))
}

fn largest(exact: &[f64]) -> f64 {
    exact.iter().fold(0.0, |m, e| m.max(e.abs()))
}

/// Place and size of the largest difference; one that is not a number counts as infinite.
fn worst(values: &[f64], exact: &[f64]) -> (usize, f64) {
    let mut found = (0, 0.0);
    for (i, (v, e)) in values.iter().zip(exact).enumerate() {
        let error = (v - e).abs();
        let error = if error.is_nan() { f64::INFINITY } else { error };
        if error > found.1 {
            found = (i, error);
        }
    }
    found
}
