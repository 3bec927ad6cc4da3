//! Which device a run takes, and what is said of it.

use crate::Result;
use crate::config::methods::{self, Family};
use crate::config::{Settings, Validated};
use crate::data::Dataset;
use crate::device::{Choice, Chosen, Device, DeviceError, choose};
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
    /// One line for the user: which device, and why.
    pub line: String,
}

impl RunDevice {
    fn cpu(why: &str) -> RunDevice {
        RunDevice { device: None, auto: false, line: format!("device: CPU ({why})") }
    }

    /// The device; nothing for the CPU.
    pub fn device(&self) -> Option<&Arc<dyn Device>> {
        self.device.as_ref()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.device.as_ref().map_or("CPU", |d| d.name())
    }

    /// A trainer there. Where any device would do and this one cannot be used after all, `self` becomes the CPU, with the reason.
    pub fn trainer(&mut self, settings: &Validated<Settings>, data: &Arc<Dataset>, views: &Arc<Views>) -> Result<Trainer> {
        let Some(device) = &self.device else { return Trainer::new(settings, data.clone(), views.clone()) };
        match Trainer::on_device(settings, data.clone(), views.clone(), device.clone()) {
            // What was asked of the device itself stays an error.
            Err(Error::Device(e)) if self.auto && !matches!(e, DeviceError::Resident { .. }) => {
                *self = RunDevice::cpu(&e.brief());
                Trainer::new(settings, data.clone(), views.clone())
            }
            trainer => trainer,
        }
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
}

impl Devices {
    /// The device to train on with `settings`. `auto` falls back to the CPU, also where a device does not do what the settings ask.
    ///
    /// # Errors
    /// A GPU that was asked for and cannot be had, or does not do what the settings ask.
    pub fn to_train(&mut self, settings: &Settings) -> Result<RunDevice> {
        if methods::find(&settings.method)?.family == Family::Baseline {
            return Ok(RunDevice::cpu("nothing is trained"));
        }
        self.take(&settings.device, (protocol::chosen(settings)?.0.on_device)(settings))
    }

    /// The device to rank users on under a model trained with `settings`: `choice` in place of what they say.
    ///
    /// # Errors
    /// As for [`Devices::to_train`].
    pub fn to_rank(&mut self, settings: &Settings, choice: &str) -> Result<RunDevice> {
        if methods::find(&settings.method)?.family == Family::Baseline {
            return Ok(RunDevice::cpu("nothing is encoded"));
        }
        self.take(choice, (protocol::chosen(settings)?.0.ranks_on_device)(settings))
    }

    fn take(&mut self, choice: &str, unsupported: Option<&'static str>) -> Result<RunDevice> {
        let choice: Choice = choice.parse().map_err(|e: Error| Error::setting("device", e.to_string()))?;
        let auto = choice == Choice::Auto;
        match unsupported {
            Some(why) if auto => return Ok(RunDevice::cpu(why)),
            Some(why) if choice != Choice::Cpu => {
                return Err(Error::setting("device", format!("is {choice}, and {why}; use `auto` or `cpu`")));
            }
            _ => {}
        }
        if let Some((_, device, line)) = self.open.as_ref().filter(|(c, ..)| *c == choice) {
            return Ok(RunDevice { device: Some(device.clone()), auto, line: line.clone() });
        }
        let (chosen, line) = choose(choice)?;
        let device = match chosen {
            Chosen::Cpu => None,
            Chosen::Gpu(device) => Some(device),
        };
        if let Some(device) = &device {
            self.open = Some((choice, device.clone(), line.clone()));
        }
        Ok(RunDevice { device, auto, line })
    }
}
