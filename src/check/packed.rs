//! Calls of the backend on packed cases, as subjects.

use super::calls::{Call, Compare, Phase, Place, Result as CallResult};
use super::case::{Case, Normals};
use super::cost;
use super::reference::{FIELDS, Field, Real, Reference, field_floats};
use super::subject::{Array, Launcher, Output, Subject, Want};
use crate::Result;
use crate::backend::cuda::meter::Meter;
use crate::backend::cuda::ops::{DeviceBackend, Places};
use crate::backend::cuda::optimiser::DropoutClock;
use crate::base::rng::{Purpose, Stream};
use crate::device::interface::{Buffer, Device};
use crate::device::launch::KernelSet;
use crate::engine::cuda::packed::{DeviceChunk, HostChunk};
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

/// Deviations of the random values of each field, in the order of [`FIELDS`].
const DEVIATIONS: [f32; FIELDS.len()] = [1.0, 0.3, 1.0, 0.4, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];

fn narrow(fields: &[Vec<f64>]) -> Vec<Vec<f32>> {
    fields.iter().map(|f| f.iter().map(|&x| x as f32).collect()).collect()
}

/// A case on a device.
pub struct Placed<'a> {
    /// The case.
    pub case: &'a Case,
    /// Its packed arrays.
    pub chunk: DeviceChunk,
    kernels: &'a KernelSet,
    clock: DropoutClock,
    clock_buffer: Buffer,
    normals: &'a Normals,
}

impl<'a> Placed<'a> {
    /// Uploads the packed arrays of `case`.
    pub fn new(device: &dyn Device, kernels: &'a KernelSet, normals: &'a Normals, case: &'a Case) -> Result<Placed<'a>> {
        let chunk = DeviceChunk::upload(device, &HostChunk::new(&case.chunk, case.lambda, case.number), None)?;
        let clock = DropoutClock::new(Stream::new(11, Purpose::Dropout, 0, 0).key(), 5);
        Ok(Placed { case, chunk, kernels, clock, clock_buffer: device.upload_new(&[clock])?, normals })
    }

    /// Random numbers.
    pub fn normals(&self) -> &'a Normals {
        self.normals
    }

    /// The subjects of `call`, one a kernel. With `judged` they know what is right; without it they can only be timed.
    pub fn subjects<'s>(&'s self, call: &'s Call, judged: bool) -> Vec<Subject<'s>> {
        let arena_of = |i: usize| DEVIATIONS[0] * self.normals.at(0, i);
        let mut start = Vec::new();
        for (i, floats) in field_floats(self.case, call.dense).into_iter().enumerate() {
            start.push(self.normals.take(i, floats, DEVIATIONS[i]));
        }
        let mut meter = Meter::new(&self.case.shape);
        let results = (call.script)(&mut meter, Phase::Run);
        start[Field::Arena as usize] = (0..meter.floats()).map(arena_of).collect();
        // What must be there before the call, such as statistics; where the call itself writes, the random values stay.
        let prepared = match judged {
            true => narrow(&self.after::<f64>(call, Phase::Prepare, &start, &arena_of)),
            false => self.after::<f32>(call, Phase::Prepare, &start, &arena_of),
        };
        let ranges: Vec<(usize, Range<usize>)> = results.iter().map(|r| self.range(r, &start)).collect();
        let mut base = prepared.clone();
        for (field, range) in &ranges {
            base[*field][range.clone()].copy_from_slice(&start[*field][range.clone()]);
        }
        let (exact, plain) = match judged {
            true => (self.after::<f64>(call, Phase::Run, &base, &arena_of), self.after::<f32>(call, Phase::Run, &base, &arena_of)),
            false => Default::default(),
        };
        let launch = Rc::new(self.launch(call, meter.floats()));
        let kernels: BTreeSet<&'static str> = results.iter().map(|r| r.kernel).collect();
        let mut subjects = Vec::new();
        for kernel in kernels {
            let with: Vec<&'static str> = call.needs.iter().filter(|n| n.0 == kernel).map(|n| n.1).collect();
            let launched = |r: &CallResult| r.kernel == kernel || with.contains(&r.kernel);
            let mut fields = base.clone();
            let mut outputs = Vec::new();
            for (result, (field, range)) in results.iter().zip(&ranges) {
                if !launched(result) {
                    // Results of the call's other kernels are given, so that each kernel is judged by itself.
                    fields[*field][range.clone()].copy_from_slice(&prepared[*field][range.clone()]);
                    continue;
                }
                let want = match result.compare {
                    Compare::Near if judged && result.kernel == kernel => {
                        Want::Near { plain: plain[*field][range.clone()].to_vec(), exact: exact[*field][range.clone()].to_vec() }
                    }
                    Compare::Bits if judged && result.kernel == kernel => {
                        Want::Bits(plain[*field][range.clone()].iter().map(|x| x.to_bits()).collect())
                    }
                    _ => Want::Any,
                };
                outputs.push(Output { what: result.what, array: *field, words: range.clone(), want });
            }
            let variant = if call.variant.is_empty() { String::new() } else { format!(", {}", call.variant) };
            let arrays = FIELDS.iter().zip(&fields).map(|((_, name), values)| Array::of(name, values)).collect();
            subjects.push(Subject {
                kernel,
                with,
                case: format!("{}, d {}{variant}", self.case.name, self.case.d),
                arrays,
                launch: launch.clone(),
                outputs,
                cost: cost::of(kernel, call, self.case),
            });
        }
        subjects
    }

    /// The fields after a phase of the call.
    fn after<R: Real>(&self, call: &Call, phase: Phase, fields: &[Vec<f32>], arena_of: &dyn Fn(usize) -> f32) -> Vec<Vec<R>> {
        let mut reference = Reference::<R>::new(self.case, call.dense, call.precision, self.clock, fields, arena_of);
        (call.script)(&mut reference, phase);
        reference.fields
    }

    /// Field and span of a result.
    fn range(&self, result: &CallResult, fields: &[Vec<f32>]) -> (usize, Range<usize>) {
        match result.place {
            Place::Field(f) => (f as usize, 0..fields[f as usize].len()),
            Place::Act(act) => {
                let rows = match act.rows {
                    crate::backend::RowKind::Tokens => self.case.step().tokens(),
                    crate::backend::RowKind::Outputs => self.case.step().outputs(),
                };
                (Field::Arena as usize, act.at..act.at + rows * act.width)
            }
        }
    }

    fn launch<'s>(&'s self, call: &'s Call, floats: usize) -> Launcher<'s> {
        Box::new(move |device: &dyn Device, buffers: &[Buffer]| {
            let at = |f: Field| buffers[f as usize].address();
            let places = Places {
                step: self.chunk.table().address(),
                dense: at(Field::Dense),
                dense_grad: at(Field::DenseGrad),
                rows: at(Field::Rows),
                row_grad: at(Field::RowGrad),
                dropped: at(Field::Dropped),
                arena: at(Field::Arena),
                coef: at(Field::Coef),
                loss: at(Field::Loss),
                contrast: at(Field::Contrast),
                paired: at(Field::Paired),
                lse: at(Field::Lse),
                clock: self.clock_buffer.address(),
            };
            let dims = (self.case.d, call.dense);
            let mut be = DeviceBackend::new(device, self.kernels, self.case.shape, dims, places, floats, call.precision);
            (call.script)(&mut be, Phase::Run);
            Ok(be.finish()?)
        })
    }
}
