//! What the GPU does beside a run: utilisation, clocks, memory, power, temperature and energy, from NVIDIA's management library.
//!
//! The library comes with the driver and is looked for at run time. Without it there is no telemetry and nothing else changes.

use serde::{Deserialize, Serialize};

/// The GPU at one moment. A field is missing where the GPU does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since sampling began.
    pub seconds: f64,
    /// Share of the last interval in which a kernel ran, in percent.
    pub utilisation: Option<f64>,
    /// Clock of the multiprocessors in MHz.
    pub sm_mhz: Option<f64>,
    /// Clock of the memory in MHz.
    pub memory_mhz: Option<f64>,
    /// Memory in use by all processes, in bytes.
    pub memory_bytes: Option<f64>,
    /// Power in watts.
    pub watts: Option<f64>,
    /// Temperature in degrees Celsius.
    pub celsius: Option<f64>,
    /// Energy since the driver was loaded, in joules.
    pub joules: Option<f64>,
}

/// Mean and greatest of a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean over the samples.
    pub mean: f64,
    /// Greatest sample.
    pub most: f64,
}

/// The GPU over a span. A field is missing where the GPU does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Length in seconds.
    pub seconds: f64,
    /// Samples in it.
    pub samples: u64,
    /// Share of time in which a kernel ran, in percent.
    pub utilisation: Option<Spread>,
    /// Clock of the multiprocessors in MHz.
    pub sm_mhz: Option<Spread>,
    /// Clock of the memory in MHz.
    pub memory_mhz: Option<Spread>,
    /// Memory in use by all processes, in bytes.
    pub memory_bytes: Option<Spread>,
    /// Power in watts.
    pub watts: Option<Spread>,
    /// Temperature in degrees Celsius.
    pub celsius: Option<Spread>,
    /// Energy of the span in joules.
    pub joules: Option<f64>,
    /// Whether the energy is the GPU's own count; the sum of power over time otherwise.
    pub joules_counted: bool,
}

impl Summary {
    /// Of samples in the order of time; nothing for fewer than two, which span no time.
    pub fn of(samples: &[Sample]) -> Option<Summary> {
        let (first, last) = (samples.first()?, samples.last()?);
        if samples.len() < 2 {
            return None;
        }
        let spread = |field: fn(&Sample) -> Option<f64>| {
            let values: Vec<f64> = samples.iter().filter_map(field).collect();
            let most = values.iter().copied().reduce(f64::max)?;
            Some(Spread { mean: values.iter().sum::<f64>() / values.len() as f64, most })
        };
        // The counter starts again with the driver; a fall means nothing.
        let counted = first.joules.zip(last.joules).map(|(from, to)| to - from).filter(|&joules| joules >= 0.0);
        Some(Summary {
            seconds: last.seconds - first.seconds,
            samples: samples.len() as u64,
            utilisation: spread(|s| s.utilisation),
            sm_mhz: spread(|s| s.sm_mhz),
            memory_mhz: spread(|s| s.memory_mhz),
            memory_bytes: spread(|s| s.memory_bytes),
            watts: spread(|s| s.watts),
            celsius: spread(|s| s.celsius),
            joules: counted.or_else(|| integrated(samples)),
            joules_counted: counted.is_some(),
        })
    }
}

/// Power over time by trapezoids; nothing where a sample has no power.
fn integrated(samples: &[Sample]) -> Option<f64> {
    samples.windows(2).map(|pair| Some((pair[0].watts? + pair[1].watts?) / 2.0 * (pair[1].seconds - pair[0].seconds))).sum()
}

#[cfg(feature = "cuda")]
pub use nvml::{Sampler, describe};

#[cfg(not(feature = "cuda"))]
mod absent {
    use super::{Sample, Summary};

    /// No telemetry: this build has no GPU backend. There is no value of this type.
    pub enum Sampler {}

    impl Sampler {
        /// Nothing.
        pub fn start(_gpu: &str) -> Option<Sampler> {
            None
        }

        /// Cannot be called.
        pub fn elapsed(&self) -> f64 {
            match *self {}
        }

        /// Cannot be called.
        pub fn now(&self) -> f64 {
            match *self {}
        }

        /// Cannot be called.
        pub fn summary(&self, _from: f64) -> Option<Summary> {
            match *self {}
        }

        /// Cannot be called.
        pub fn samples(&self, _from: f64) -> Vec<Sample> {
            match *self {}
        }
    }

    /// One line for `lumos doctor`.
    pub fn describe() -> String {
        "not used: this build has no GPU backend".into()
    }
}

#[cfg(not(feature = "cuda"))]
pub use absent::{Sampler, describe};

#[cfg(feature = "cuda")]
mod nvml {
    use super::{Sample, Summary};
    use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
    use nvml_wrapper::{Device, Nvml};
    use parking_lot::{Mutex, MutexGuard};
    use std::sync::Arc;
    use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
    use std::thread::JoinHandle;
    use std::time::{Duration, Instant};

    /// Time between samples. The GPU renews power and utilisation hardly more often.
    const INTERVAL: Duration = Duration::from_millis(50);
    /// Samples kept before every second one is dropped: half an hour.
    const KEPT: usize = 36_000;

    /// The library, loaded and started.
    fn library() -> Result<Nvml, String> {
        Nvml::init().map_err(|e| e.to_string())
    }

    /// One line for `lumos doctor`.
    pub fn describe() -> String {
        match library() {
            Ok(nvml) => match (nvml.device_count(), nvml.sys_driver_version()) {
                (Ok(count), Ok(driver)) => format!("ready (driver {driver}, {count} GPU{})", if count == 1 { "" } else { "s" }),
                (Err(error), _) | (_, Err(error)) => format!("found and of no use: {error}; runs have no GPU telemetry"),
            },
            Err(error) => format!("not available, so runs have no GPU telemetry ({})", error.replace('\n', " ")),
        }
    }

    /// A thread that looks at one GPU until it is dropped.
    pub struct Sampler {
        samples: Arc<Mutex<Vec<Sample>>>,
        start: Instant,
        look: Arc<dyn Fn(f64) -> Sample + Send + Sync>,
        stop: Option<Sender<()>>,
        thread: Option<JoinHandle<()>>,
    }

    impl Sampler {
        /// Begins to look at the GPU of this identity (`GPU-...`, as [`crate::device::probe::Gpu`] has it). Nothing where the
        /// library or the GPU does not answer.
        pub fn start(uuid: &str) -> Option<Sampler> {
            let nvml = library().ok()?;
            nvml.device_by_uuid(uuid).ok()?;
            let uuid = uuid.to_string();
            Sampler::over(INTERVAL, move |seconds| match nvml.device_by_uuid(uuid.as_str()) {
                Ok(device) => look(&device, seconds),
                Err(_) => Sample { seconds, ..Sample::default() },
            })
        }

        /// Looks through `look` every `interval`; nothing where no thread can be had.
        pub(crate) fn over(interval: Duration, look: impl Fn(f64) -> Sample + Send + Sync + 'static) -> Option<Sampler> {
            let start = Instant::now();
            let look: Arc<dyn Fn(f64) -> Sample + Send + Sync> = Arc::new(look);
            let samples = Arc::new(Mutex::new(vec![look(0.0)]));
            let (stop, stopped) = channel();
            let (kept, inside) = (samples.clone(), look.clone());
            let work = move || {
                while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                    add(&kept, inside(start.elapsed().as_secs_f64()));
                }
            };
            let thread = std::thread::Builder::new().name("lumos-telemetry".into()).spawn(work).ok()?;
            Some(Sampler { samples, start, look, stop: Some(stop), thread: Some(thread) })
        }

        /// Seconds since sampling began: the mark of a span's start, for [`Sampler::summary`]. Takes a sample, so that the span has one
        /// at its start however short it is.
        pub fn now(&self) -> f64 {
            let sample = (self.look)(self.start.elapsed().as_secs_f64());
            add(&self.samples, sample);
            sample.seconds
        }

        /// Seconds since sampling began, without a look at the GPU.
        pub fn elapsed(&self) -> f64 {
            self.start.elapsed().as_secs_f64()
        }

        /// The span from a mark until now.
        pub fn summary(&self, from: f64) -> Option<Summary> {
            self.now();
            Summary::of(&self.samples(from))
        }

        /// What was seen since a mark, in the order of time.
        pub fn samples(&self, from: f64) -> Vec<Sample> {
            lock(&self.samples).iter().filter(|s| s.seconds >= from).copied().collect()
        }
    }

    impl Drop for Sampler {
        fn drop(&mut self) {
            drop(self.stop.take());
            if let Some(thread) = self.thread.take() {
                // A thread that panicked has already said so.
                let _ = thread.join();
            }
        }
    }

    fn lock(samples: &Mutex<Vec<Sample>>) -> MutexGuard<'_, Vec<Sample>> {
        samples.lock()
    }

    fn add(samples: &Mutex<Vec<Sample>>, sample: Sample) {
        let mut samples = lock(samples);
        if samples.len() >= KEPT {
            // Half the detail of a long past, so that memory stays bounded.
            let mut index = 0;
            samples.retain(|_| {
                index += 1;
                index % 2 == 1 || index > KEPT / 2
            });
        }
        // Two threads add; a sample taken earlier may come later.
        let at = samples.partition_point(|s| s.seconds <= sample.seconds);
        samples.insert(at, sample);
    }

    fn look(device: &Device, seconds: f64) -> Sample {
        Sample {
            seconds,
            utilisation: device.utilization_rates().ok().map(|u| u.gpu.into()),
            sm_mhz: device.clock_info(Clock::SM).ok().map(f64::from),
            memory_mhz: device.clock_info(Clock::Memory).ok().map(f64::from),
            memory_bytes: device.memory_info().ok().map(|m| m.used as f64),
            watts: device.power_usage().ok().map(|mw| f64::from(mw) / 1e3),
            celsius: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
            joules: device.total_energy_consumption().ok().map(|mj| mj as f64 / 1e3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64, watts: f64, joules: Option<f64>) -> Sample {
        Sample { seconds, watts: Some(watts), joules, ..Sample::default() }
    }

    #[test]
    fn energy_is_counted_where_the_gpu_counts() {
        let samples = [at(1.0, 100.0, Some(5000.0)), at(2.0, 300.0, Some(5170.0)), at(4.0, 200.0, Some(5690.0))];
        let summary = Summary::of(&samples).unwrap();
        assert_eq!((summary.joules, summary.joules_counted, summary.seconds, summary.samples), (Some(690.0), true, 3.0, 3));
        assert_eq!(summary.watts, Some(Spread { mean: 200.0, most: 300.0 }));
        assert_eq!(summary.utilisation, None);
    }

    #[test]
    fn energy_is_power_over_time_elsewhere() {
        let samples = [at(1.0, 100.0, None), at(2.0, 300.0, None), at(4.0, 200.0, None)];
        let summary = Summary::of(&samples).unwrap();
        assert_eq!((summary.joules, summary.joules_counted), (Some(200.0 + 500.0), false));
        // A counter that started again is no energy.
        let reset = [at(0.0, 100.0, Some(900.0)), at(1.0, 100.0, Some(3.0))];
        assert_eq!(Summary::of(&reset).unwrap().joules, Some(100.0));
        let dark = [Sample::default(), Sample { seconds: 1.0, ..Sample::default() }];
        assert_eq!(Summary::of(&dark).unwrap().joules, None);
        assert_eq!(Summary::of(&samples[..1]), None);
    }

    #[test]
    fn without_the_library_there_is_one_line_and_no_sampler() {
        assert!(!describe().is_empty() && !describe().contains('\n'), "{}", describe());
        assert!(Sampler::start("GPU-00000000-0000-0000-0000-000000000000").is_none());
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn a_sampler_sees_spans_of_any_length() {
        use std::time::Duration;
        let sampler = Sampler::over(Duration::from_millis(2), |seconds| at(seconds, 50.0, None)).unwrap();
        let start = sampler.now();
        let short = sampler.summary(start).unwrap();
        assert!(short.samples >= 2 && short.seconds >= 0.0);
        while sampler.samples(start).len() < 8 {
            std::thread::sleep(Duration::from_millis(2));
        }
        let long = sampler.summary(start).unwrap();
        let samples = sampler.samples(start);
        assert!(samples.windows(2).all(|pair| pair[0].seconds <= pair[1].seconds));
        assert!(long.samples >= 8 && (long.joules.unwrap() - 50.0 * long.seconds).abs() < 1e-9);
    }
}
