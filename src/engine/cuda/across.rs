//! Sums of several processes: on their GPUs where these can, through the host where they cannot. Either way the same integers.

use super::added::RoundSums;
use super::chunks::ChunkTrainer;
use super::round::CudaEngine;
use crate::backend::cuda::kernels::GatherRows;
use crate::base::parcel::{Parcel, Pieces};
use crate::cluster::{Reduce, agree};
use crate::device::interface::{Buffer, Device, Exchange, Result as DeviceResult, bytes_of};
use crate::device::launch::Pointer;
use crate::engine::fixed;
use crate::{Error, Result};

/// Environment variable by which a user says where sums of GPUs are added up: `auto`, `nccl` or `host`.
const SWITCH: &str = "LUMOS_CLUSTER_SUMS";

/// Where the sums of the processes are added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Across {
    /// No round has asked yet.
    Untried,
    Devices,
    Host,
}

/// Memory for the rows of all processes, in the order of items.
pub(super) struct CommonRows {
    places: Buffer,
    rows: Buffer,
    row_weight: Buffer,
}

impl CommonRows {
    pub fn bytes(&self) -> usize {
        self.places.bytes() + self.rows.bytes() + self.row_weight.bytes()
    }
}

impl ChunkTrainer {
    /// Gives row `i` of the round's sums to place `i` of a table: that of slot `places[i]`. Slot `slots` is a row of zeros, for items that only
    /// other processes have.
    fn lay_out(&mut self, places: &[u32]) -> DeviceResult<()> {
        let (device, d, n) = (self.device.clone(), self.sizes.dim, places.len());
        if self.common.as_ref().is_none_or(|c| c.places.bytes() < 4 * n || c.rows.bytes() < 8 * (n + 1) * d) {
            let before = self.common.take().map_or(0, |c| c.bytes()) as u64;
            let alloc = |bytes: usize| device.alloc(bytes + bytes / 8);
            self.common = Some(CommonRows { places: alloc(4 * n)?, rows: alloc(8 * (n + 1) * d)?, row_weight: alloc(8 * (n + 1))? });
            self.predicted += (self.common.as_ref().map_or(0, CommonRows::bytes) as u64).saturating_sub(before);
        }
        let (Some(common), Some(sums)) = (&mut self.common, &mut self.sums) else { return Ok(()) };
        device.upload(&common.places, 0, bytes_of(places))?;
        // Numbers of 64 bits are moved as two of 32 each.
        for (from, to, d) in [(&sums.rows, &common.rows, 2 * d), (&sums.row_weight, &common.row_weight, 2)] {
            let items = Pointer::from(&common.places);
            let kernel = GatherRows { items, table: from.into(), rows: to.into(), count: n as i32, d: d as i32 };
            // SAFETY: the buffers are the engine's own and hold `n` places, and rows for each of them.
            unsafe { self.kernels.launch(&*device, self.settings.precision as usize, [(n.div_ceil(8) as u32).max(1), 1], &kernel) }?;
        }
        std::mem::swap(&mut sums.rows, &mut common.rows);
        std::mem::swap(&mut sums.row_weight, &mut common.row_weight);
        Ok(())
    }

    /// Adds up the sums of all processes, `slots` rows; gives the rows' weights.
    fn sum_across(&self, group: &dyn Exchange, slots: usize) -> DeviceResult<Vec<i64>> {
        let Some(sums) = &self.sums else { return Ok(Vec::new()) };
        group.sum(&sums.dense, self.sizes.dense)?;
        group.sum(&sums.rows, slots * self.sizes.dim)?;
        group.sum(&sums.row_weight, slots)?;
        self.device.download_vec(&sums.row_weight, 0, slots)
    }
}

impl CudaEngine {
    /// Adds the sums of all processes up on their GPUs; false where that was not done, and nothing was changed.
    pub(super) fn reduce_on_devices(&mut self, reduce: &dyn Reduce) -> Result<bool> {
        if self.across == Across::Untried {
            self.across = meet(self.chunks.device(), reduce)?;
        }
        if self.across == Across::Host {
            return Ok(false);
        }
        let (mine, own_weight) = match &self.sums {
            RoundSums::Device { weight, .. } => (1, *weight),
            // Rules, or participants with many sequences, had their part of the sums on the host.
            RoundSums::Host(_) => (0, 0),
        };
        let mut both = [mine, own_weight];
        reduce.sum(&mut both)?;
        if both[0] < reduce.size() as i64 {
            return Ok(false);
        }
        fixed::check_weight(both[1])?;
        let RoundSums::Device { items, row_weight, .. } = &self.sums else { return Ok(false) };
        // Slots by item, those without weight left out.
        let mut own: Vec<(u32, u32)> =
            items.iter().zip(0..).zip(row_weight).filter(|(_, weight)| **weight > 0).map(|((&item, slot), _)| (item, slot)).collect();
        own.sort_unstable();
        let empty = items.len() as u32;
        let union = reduce.union(&own.iter().map(|(item, _)| *item).collect::<Vec<_>>())?;
        let place = |item: &u32| own.binary_search_by_key(item, |(own, _)| *own).map_or(empty, |at| own[at].1);
        let places: Vec<u32> = union.iter().map(place).collect();
        agree(reduce, self.chunks.lay_out(&places).map_err(Error::from))?;
        let device = self.chunks.device.clone();
        let group = device.exchange().ok_or_else(|| Error::Cluster("the GPU has left its group".into()))?;
        let row_weight = agree(reduce, self.chunks.sum_across(group, union.len()).map_err(Error::from))?;
        self.sums = RoundSums::Device { items: union, row_weight, weight: both[1] };
        Ok(true)
    }
}

/// Makes the GPUs of all processes a group, where each has its own and the library.
fn meet(device: &dyn Device, reduce: &dyn Reduce) -> Result<Across> {
    let wish = match std::env::var(SWITCH).as_deref().unwrap_or("auto") {
        "" | "auto" => Ok(0),
        "nccl" => Ok(1),
        "host" => Ok(2),
        other => Err(Error::Usage(format!("{SWITCH} is `{other}`; it may be `auto`, `nccl` or `host`"))),
    };
    let wish: u32 = agree(reduce, wish)?;
    let group = device.exchange();
    let uuid = device.uuid().unwrap_or_default();
    let state = [u32::from(group.is_some()), u32::from(group.is_some_and(|g| g.has_joined())), wish];
    let all = reduce.gather(&Parcel::new().words(&state).bytes(uuid.as_bytes()).into_bytes())?;
    let read = |bytes: &Vec<u8>| {
        let mut pieces = Pieces::of(bytes);
        Some((pieces.words()?, pieces.text()?.to_string()))
    };
    let all: Option<Vec<(Vec<u32>, String)>> = all.iter().map(read).collect();
    let all = all.ok_or_else(|| Error::Cluster("what another process says of its GPU came damaged".into()))?;
    let forced = all.iter().any(|(state, _)| state[2] == 1);
    let mut uuids: Vec<&str> = all.iter().map(|(_, uuid)| uuid.as_str()).collect();
    uuids.sort_unstable();
    uuids.dedup();
    let lacks = all.iter().position(|(state, _)| state[0] == 0);
    let why = match lacks {
        _ if all.iter().any(|(state, _)| state[2] == 2) => Some(format!("{SWITCH} is `host`")),
        Some(rank) => Some(format!("{} has no NCCL (libnccl.so.2)", reduce.name(rank))),
        None if uuids.len() < all.len() => Some("several processes share a GPU".to_string()),
        None => None,
    };
    let Some(group) = group.filter(|_| why.is_none()) else {
        let why = why.unwrap_or_default();
        return if forced { Err(Error::Usage(format!("{SWITCH} is `nccl`, and {why}"))) } else { Ok(Across::Host) };
    };
    if all.iter().all(|(state, _)| state[1] == 1) {
        return Ok(Across::Devices);
    }
    let begun = if reduce.rank() == 0 { group.begin() } else { Ok(Vec::new()) };
    let begun = agree(reduce, begun.map_err(Error::from))?;
    let id = reduce.broadcast(begun)?;
    match agree(reduce, group.join(&id, reduce.rank(), reduce.size()).map_err(Error::from)) {
        Ok(()) => Ok(Across::Devices),
        Err(e) => {
            group.leave();
            if forced { Err(e) } else { Ok(Across::Host) }
        }
    }
}
