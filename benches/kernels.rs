//! Every kernel at the reference shape on a GPU, as criterion sees it: launches over inputs that are rotated past the level 2 cache,
//! timed by events. `lumos gpu-check --only benches` times the same and states shares of bandwidth and peak.
//!
//! Where there is no GPU it says so in one line and measures nothing. With `--test` only small shapes run, once each.

use criterion::Criterion;
use lumos::check::benches;
use lumos::check::timing::Bench;
use lumos::device::{Choice, Chosen, choose};
use std::time::Duration;

fn main() {
    let device = match choose(Choice::Cuda) {
        Ok((Chosen::Gpu(device), line)) => {
            println!("{line}");
            device
        }
        Ok((Chosen::Cpu, line)) => return println!("kernels: skipped: {line}"),
        Err(error) => return println!("kernels: skipped: {}", error.to_string().replace('\n', " ")),
    };
    // As criterion has it: without `--bench` cargo is testing.
    let given = |word: &str| std::env::args().any(|a| a == word);
    let test = given("--test") || !given("--bench");
    let mut c =
        Criterion::default().configure_from_args().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let outcome = benches::for_each(&*device, test, &mut |subject| {
        let bench = Bench::new(&*device, subject, test)?;
        c.bench_function(&format!("{}/{}", subject.kernel, subject.case), |b| {
            b.iter_custom(|launches| {
                let seconds = bench.seconds(launches).expect("a kernel that runs");
                // Criterion takes no time of zero.
                Duration::from_secs_f64(seconds).max(Duration::from_nanos(1))
            });
        });
        Ok(())
    });
    if let Err(error) = outcome {
        eprintln!("kernels: {error}");
        std::process::exit(1);
    }
    c.final_summary();
}
