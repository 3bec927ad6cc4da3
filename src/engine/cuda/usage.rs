//! What a device did: calls, memory, time.

use super::round::CudaEngine;
use crate::Result;
use crate::device::DeviceError;

/// What a device did in a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct DeviceRound {
    /// Kernels launched one by one.
    pub launches: u64,
    /// Recorded local steps replayed.
    pub replays: u64,
    /// Kernels in those.
    pub replayed: u64,
    /// Chunks that the cohort was cut into.
    pub chunks: u64,
    /// Bytes copied to the device.
    pub bytes_to: u64,
    /// Bytes copied back.
    pub bytes_from: u64,
    /// Most bytes of device memory foreseen by the plan so far.
    pub predicted_bytes: u64,
    /// Most bytes of device memory held so far.
    pub peak_bytes: u64,
    /// Wall seconds of packing that the device had to wait for.
    pub waited_s: f64,
    /// Seconds of the device between the first and the last call of each chunk and of the server's step, by its own clock.
    pub busy_s: f64,
    /// The same over the wall time of the round. A device that waits for launches inside a chunk counts as busy; the utilisation
    /// that the GPU reports does not.
    pub busy_share: f64,
}

/// What the device did in a run so far.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct DeviceUse {
    /// The device.
    pub device: String,
    /// Kernels launched, graphs replayed and kernels in those.
    pub launches: u64,
    /// See `launches`.
    pub replays: u64,
    /// See `launches`.
    pub replayed: u64,
    /// Peak bytes foreseen by the plan and really held.
    pub predicted_bytes: u64,
    /// See `predicted_bytes`.
    pub peak_bytes: u64,
    /// Whether clients are resident in one block of threads (`gpu.resident`); otherwise they are trained step by step.
    pub resident: bool,
}

impl CudaEngine {
    /// What the device did since this was last asked.
    pub(super) fn take_round(&mut self, chunks: usize, waited_s: f64) -> Result<DeviceRound> {
        let busy_s = self.chunks.take_busy_seconds()?;
        let (before, now) = (self.counters, self.chunks.device().counters());
        self.counters = now;
        Ok(DeviceRound {
            launches: now.launches - before.launches,
            replays: now.replays - before.replays,
            replayed: now.replayed - before.replayed,
            chunks: chunks as u64,
            bytes_to: now.uploaded - before.uploaded,
            bytes_from: now.downloaded - before.downloaded,
            predicted_bytes: self.chunks.predicted_bytes(),
            peak_bytes: self.chunks.device().memory()?.peak,
            waited_s,
            busy_s,
            busy_share: 0.0,
        })
    }

    /// What the device did so far.
    pub fn usage(&self) -> Result<DeviceUse, DeviceError> {
        let device = self.chunks.device();
        let (counters, memory) = (device.counters(), device.memory()?);
        Ok(DeviceUse {
            device: device.name().to_string(),
            launches: counters.launches,
            replays: counters.replays,
            replayed: counters.replayed,
            predicted_bytes: self.chunks.predicted_bytes(),
            peak_bytes: memory.peak,
            resident: self.chunks.is_resident(),
        })
    }
}
