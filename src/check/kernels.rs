//! Every kernel against plain loops in f64, forward and backward, on odd and on large shapes.

use super::case::{self, Case, Normals};
use super::packed::Placed;
use super::recording_device::Tap;
use super::report::CheckLine;
use super::subject::Subject;
use super::{Progress, batch, batches, calls, direct, fused, local, yardstick};
use crate::backend::cuda::kernels::KERNELS;
use crate::device::interface::Device;
use crate::device::launch::KernelSet;
use crate::{Error, Result};
use std::collections::BTreeSet;

/// Checks of kernels on one device.
struct Judge<'a> {
    device: &'a dyn Device,
    tap: Tap<'a>,
    lines: &'a mut Vec<CheckLine>,
}

impl Judge<'_> {
    fn judge(&mut self, subject: &Subject) -> Result<()> {
        let verdict = match subject.check(self.device, &self.tap) {
            Ok(verdict) => verdict,
            // A launch that is refused, or memory that is short, is this kernel's failure; after a fault nothing else can run.
            Err(Error::Device(e)) if !e.is_sticky() => {
                self.line(subject, f64::INFINITY, 0.0, Some(e.to_string()));
                return Ok(());
            }
            Err(e) => {
                self.line(subject, f64::INFINITY, 0.0, Some(e.to_string()));
                return Err(e);
            }
        };
        let bound = if verdict.exact { 0.0 } else { verdict.bound };
        self.line(subject, verdict.error, bound, verdict.fault);
        Ok(())
    }

    fn line(&mut self, subject: &Subject, error: f64, bound: f64, fault: Option<String>) {
        let (name, case) = (subject.kernel.to_string(), subject.case.clone());
        self.lines.push(CheckLine { part: "kernels", name, case, error, bound, ok: fault.is_none(), fault });
    }
}

/// The packed cases: odd shapes, the reference shape, and tables of many rows.
fn cases(quick: bool) -> Vec<Case> {
    let mut cases = case::odd();
    if quick {
        cases.push(case::reference(9, 2, 2, 64));
        cases.push(case::wide_table(2, 150, 20));
        cases.extend([case::pairs(1, 33), case::pairs(66, 20)]);
    } else {
        cases.push(case::reference(512, 2, 1, 64));
        cases.push(case::reference(128, 17, 2, 128));
        cases.push(case::wide_table(16, 1500, 64));
        cases.extend([case::pairs(1, 33), case::pairs(150, 64), case::pairs(40, 130)]);
    }
    cases
}

/// Checks that need no packed step.
fn direct_subjects(n: &Normals, multiprocessors: u32, quick: bool) -> Vec<Subject<'static>> {
    let mut all = vec![
        direct::broadcast(n, 5, 131, 137, true),
        direct::gather(n, 61, 43, 4, true),
        direct::gather(n, 19, 7, 65, true),
        direct::average_dense(n, 1, 5, true),
        direct::average_dense(n, 133, 131, true),
        direct::average_rows(n, 21, 3, 17, 9, true),
        direct::average_rows(n, 3, 40, 50, 64, true),
        direct::update_norms(n, 1, 5, 1, 3, true),
        direct::update_norms(n, 23, 131, 9, 33, true),
    ];
    all.extend(direct::server(n, 131, 17, 23, 5, true));
    for (users, items, d) in [(1, 1, 1), (37, 131, 33), (129, 257, 8), (13, 129, 68)] {
        all.extend(batch::rank(n, [users, items, d], multiprocessors, true));
    }
    for (parts, length, each, items, d) in [(1, 5, 1, 3, 1), (9, 131, 11, 17, 33)] {
        all.push(batches::add_gradients(n, parts, length, true));
        all.push(batches::add_row_gradients(n, parts, each, items, d, true));
    }
    for count in [1, 9, 1037, 2100] {
        all.extend([batches::take_gradients(n, count, true), batches::drop_table(n, count, true)]);
        all.extend(batches::clip(n, count, 512, true));
        all.extend(batches::step_span(n, count, true));
    }
    if !quick {
        all.push(batches::add_gradients(n, 8, 54_001, true));
        all.push(batches::add_row_gradients(n, 8, 1_500, 10_429, 64, true));
        all.extend(batches::step_span(n, 10_429 * 64, true));
        all.push(direct::broadcast(n, 700, 54_000, 54_004, true));
        all.push(direct::gather(n, 30_000, 10_429, 64, true));
        all.push(direct::average_dense(n, 700, 54_001, true));
        all.push(direct::average_rows(n, 700, 25, 10_429, 64, true));
        all.push(direct::update_norms(n, 700, 54_001, 25, 64, true));
        all.extend(direct::server(n, 54_001, 9_000, 10_429, 64, true));
        all.extend(batch::rank(n, [300, 10_429, 64], multiprocessors, true));
    }
    all
}

/// Checks every kernel; gives the names of those that were launched.
pub fn run(device: &dyn Device, quick: bool, lines: &mut Vec<CheckLine>, progress: Progress) -> Result<BTreeSet<&'static str>> {
    let kernels = KernelSet::load(device, &[KERNELS])?;
    let normals = Normals::new(1);
    let mut judge = Judge { device, tap: Tap::new(device), lines };
    for case in cases(quick) {
        progress(&format!("kernels on {}, d {}", case.name, case.d));
        let placed = Placed::new(device, &kernels, &normals, &case)?;
        for call in calls::all(&case) {
            for subject in placed.subjects(&call, true) {
                judge.judge(&subject)?;
            }
        }
        for subject in local::subjects(&placed).into_iter().chain(fused::subjects(&placed)) {
            judge.judge(&subject)?;
        }
    }
    progress("kernels of averaging, the server and ranking");
    for subject in direct_subjects(&normals, device.limits().multiprocessors, quick) {
        judge.judge(&subject)?;
    }
    for subject in yardstick::subjects() {
        judge.judge(&subject)?;
    }
    Ok(judge.tap.seen())
}
