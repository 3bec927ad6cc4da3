//! Which device a run takes, and what is said of it.

use super::team::Team;
use crate::Result;
use crate::cluster::Reduce;
use crate::config::methods::{self, Family};
use crate::config::{Settings, Validated};
use crate::data::Dataset;
use crate::device::{Choice, Chosen, Device, DeviceError, choose, choose_in_turn};
use crate::federation::protocol::{Parts, Place};
use crate::federation::{Trainer, protocol};
use crate::views::Views;
use crate::{Error, run::Observer};
use std::sync::Arc;

/// Where a run trains or ranks.
#[derive(Clone)]
pub struct RunDevice {
    device: Option<Arc<dyn Device>>,
    /// Whether the CPU may serve where the device turns out to be of no use.
    auto: bool,
    /// The processes that work together.
    ranks: Option<Arc<dyn Reduce>>,
    /// One line for the user: which device, and why.
    pub line: String,
}

impl RunDevice {
    fn cpu(ranks: Option<Arc<dyn Reduce>>, why: &str) -> RunDevice {
        RunDevice { device: None, auto: false, ranks, line: format!("device: CPU ({why})") }
    }

    /// The processes that work together; nothing for one alone.
    pub fn ranks(&self) -> Option<&Arc<dyn Reduce>> {
        self.ranks.as_ref()
    }

    /// The device; nothing for the CPU.
    pub fn device(&self) -> Option<&Arc<dyn Device>> {
        self.device.as_ref()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.device.as_ref().map_or("CPU", |d| d.name())
    }

    /// A trainer there, with those of the other processes where there are several. Where any device would do and this one cannot be used after
    /// all, `self` becomes the CPU, with the reason.
    pub fn trainer(&mut self, settings: &Validated<Settings>, data: &Arc<Dataset>, views: &Arc<Views>) -> Result<Team> {
        match Team::open(self, settings, data, views) {
            // What was asked of the device itself stays an error.
            Err(Error::Device(e)) if self.device.is_some() && self.auto && !matches!(e, DeviceError::Resident { .. }) => {
                *self = RunDevice::cpu(self.ranks.take(), &e.brief());
                Team::open(self, settings, data, views)
            }
            team => team,
        }
    }

    /// This process's own trainer.
    pub(super) fn own_trainer(&self, settings: &Validated<Settings>, data: &Arc<Dataset>, views: &Arc<Views>) -> Result<Trainer> {
        let parts = Parts { device: self.device.clone(), ..Parts::new(settings, data.clone(), views.clone()) };
        Trainer::of(match &self.ranks {
            Some(ranks) => Parts { reduce: ranks.clone(), ..parts },
            None => parts,
        })
    }

    /// Says which device it is.
    pub fn tell(&self, observer: &dyn Observer) {
        observer.note(&self.line);
    }
}

/// The device that runs of this process share: opened once, however many methods are trained.
#[derive(Default)]
pub struct Devices {
    open: Option<(Choice, Arc<dyn Device>, String)>,
    ranks: Option<Arc<dyn Reduce>>,
    /// Number of this process on its machine.
    local: Option<usize>,
}

impl Devices {
    /// Devices of a process that works together with `ranks`; it is number `local` of its machine, where that is known, and takes the GPU of that
    /// number.
    pub fn of(ranks: Option<Arc<dyn Reduce>>, local: Option<usize>) -> Devices {
        Devices { open: None, ranks, local }
    }

    /// Whether several processes work together.
    pub fn several(&self) -> bool {
        self.ranks.as_ref().is_some_and(|ranks| ranks.size() > 1)
    }

    /// The device of a process that follows rank 0: a GPU, or the CPU.
    ///
    /// # Errors
    /// A GPU that cannot be had.
    pub(super) fn beside(&mut self, on_gpu: bool) -> Result<RunDevice> {
        self.take(if on_gpu { "cuda" } else { "cpu" }, Place::Device)
    }

    /// The device to train on with `settings`. `auto` falls back to the CPU; a protocol whose work is the CPU's has it there whatever was asked
    /// for.
    ///
    /// # Errors
    /// A GPU that was asked for and cannot be had.
    pub fn to_train(&mut self, settings: &Settings) -> Result<RunDevice> {
        if methods::find(&settings.method)?.family == Family::Baseline {
            return Ok(RunDevice::cpu(self.ranks.clone(), "nothing is trained"));
        }
        self.take(&settings.device, (protocol::chosen(settings)?.0.trains)(settings))
    }

    /// The device to rank users on under a model trained with `settings`: `choice` in place of what they say.
    ///
    /// # Errors
    /// As for [`Devices::to_train`].
    pub fn to_rank(&mut self, settings: &Settings, choice: &str) -> Result<RunDevice> {
        if methods::find(&settings.method)?.family == Family::Baseline {
            return Ok(RunDevice::cpu(self.ranks.clone(), "nothing is encoded"));
        }
        self.take(choice, (protocol::chosen(settings)?.0.ranks)(settings))
    }

    fn take(&mut self, choice: &str, place: Place) -> Result<RunDevice> {
        let choice: Choice = choice.parse().map_err(|e: Error| Error::setting("device", e.to_string()))?;
        let auto = choice == Choice::Auto;
        match place {
            Place::Device => {}
            _ if choice == Choice::Cpu => {}
            Place::Cpu(why) if auto => return Ok(RunDevice::cpu(self.ranks.clone(), why)),
            Place::Cpu(why) => return Ok(RunDevice::cpu(self.ranks.clone(), &format!("{choice} was asked for, but {why}"))),
        }
        if let Some((_, device, line)) = self.open.as_ref().filter(|(c, ..)| *c == choice) {
            let (device, line) = (Some(device.clone()), line.clone());
            return Ok(RunDevice { device, auto, ranks: self.ranks.clone(), line });
        }
        let (chosen, line) = match self.local.filter(|_| self.ranks.is_some()) {
            Some(local) => choose_in_turn(choice, local)?,
            None => choose(choice)?,
        };
        let device = match chosen {
            Chosen::Cpu => None,
            Chosen::Gpu(device) => Some(device),
        };
        if let Some(device) = &device {
            self.open = Some((choice, device.clone(), line.clone()));
        }
        Ok(RunDevice { device, auto, ranks: self.ranks.clone(), line })
    }
}
