//! Where a model computes, and with which numbers.

use super::candle::Candle;
use super::cpu::Cpu;
use super::gguf::first_line;
use super::gpu::Gpu;
use super::network::{Network, Ops, Source};
use super::spec::Spec;
use super::weights::Stored;
use crate::base::names::unknown;
use crate::device::{Choice, Chosen, Device, choose};
use crate::{Error, Result};
use std::sync::Arc;

/// Numbers to compute with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dtype {
    /// Weights as they are stored, arithmetic in f32.
    #[default]
    Auto,
    /// As `Auto` on the CPU: f32 arithmetic takes f16 and bf16 weights exactly.
    F32,
    /// Half precision; on a GPU only.
    F16,
    /// bf16. On the CPU only weights are rounded to it, and arithmetic is f32: half the memory of f32.
    Bf16,
}

impl Dtype {
    /// Names in settings.
    pub const NAMES: [&str; 4] = ["auto", "f32", "f16", "bf16"];

    /// The dtype called `name`.
    ///
    /// # Errors
    /// [`Error::Usage`] with the nearest name.
    pub fn named(name: &str) -> Result<Dtype> {
        match name {
            "auto" => Ok(Dtype::Auto),
            "f32" => Ok(Dtype::F32),
            "f16" => Ok(Dtype::F16),
            "bf16" => Ok(Dtype::Bf16),
            other => Err(Error::Usage(unknown("dtype", other, Dtype::NAMES))),
        }
    }

    /// What a GPU keeps weights in that are stored as `stored`; quantised ones come as `None`.
    fn on_gpu(self, stored: Option<Stored>) -> Stored {
        match (self, stored) {
            (Dtype::F32, _) => Stored::F32,
            (Dtype::F16, _) => Stored::F16,
            (Dtype::Bf16, _) | (Dtype::Auto, None) => Stored::Bf16,
            (Dtype::Auto, Some(stored)) => stored,
        }
    }
}

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The CPU, or a GPU by our own kernels. Where the choice is free, the first GPU that can be used.
    On(Choice),
    /// The first GPU by candle's tensors (feature `candle-cuda`).
    Candle,
}

impl Default for Place {
    fn default() -> Place {
        Place::On(Choice::Auto)
    }
}

impl Place {
    /// The place called `name`: `auto`, `cpu`, `cuda`, `cuda:N`, `candle`.
    ///
    /// # Errors
    /// [`Error::Usage`] with the nearest name.
    pub fn named(name: &str) -> Result<Place> {
        if name == "candle" { Ok(Place::Candle) } else { name.parse().map(Place::On) }
    }
}

/// A network and what computes it.
pub(super) struct At<O: Ops> {
    pub network: Network<O>,
    pub ops: O,
}

impl<O: Ops> At<O> {
    fn new(ops: O, spec: Spec, source: &Source, max_len: usize) -> Result<Box<At<O>>> {
        Ok(Box::new(At { network: Network::new(&ops, spec, source, max_len)?, ops }))
    }
}

/// A network where it computes.
pub(super) enum Placed {
    Cpu(Box<At<Cpu>>),
    Gpu(Box<At<Gpu>>),
    Candle(Box<At<Candle>>),
}

/// How weights come: `None` where they are quantised.
fn stored(source: &Source) -> Option<Stored> {
    match source {
        Source::Gguf(_) => None,
        Source::Folder(w) => Some(w.stored()),
    }
}

impl Placed {
    /// Puts weights where `place` says, and says in which numbers.
    pub fn new(place: Place, dtype: Dtype, spec: Spec, source: &Source, max_len: usize) -> Result<(Placed, String)> {
        let choice = match place {
            Place::Candle => return Placed::candle(dtype, spec, source, max_len),
            Place::On(choice) => choice,
        };
        match choose(choice)?.0 {
            Chosen::Cpu => Placed::cpu(dtype, spec, source, max_len),
            Chosen::Gpu(_) if choice == Choice::Auto && !Gpu::takes(&spec) => Placed::cpu(dtype, spec, source, max_len),
            Chosen::Gpu(device) => Placed::gpu(device, dtype, spec, source, max_len),
        }
    }

    fn cpu(dtype: Dtype, spec: Spec, source: &Source, max_len: usize) -> Result<(Placed, String)> {
        if dtype == Dtype::F16 {
            return Err(Error::Usage("the CPU computes in f32; choose f32 or bf16 (weights kept in bf16)".into()));
        }
        let round = dtype == Dtype::Bf16;
        let name = match source {
            Source::Gguf(g) if round || g.kind() == "bf16" => "bf16".into(),
            Source::Gguf(_) => "f32".into(),
            Source::Folder(_) if round || stored(source) == Some(Stored::Bf16) => "bf16".into(),
            Source::Folder(_) => "f32".into(),
        };
        Ok((Placed::Cpu(At::new(Cpu::new(round), spec, source, max_len)?), name))
    }

    pub fn gpu(device: Arc<dyn Device>, dtype: Dtype, spec: Spec, source: &Source, max_len: usize) -> Result<(Placed, String)> {
        let number = dtype.on_gpu(stored(source));
        let ops = Gpu::new(device, number, &spec)?;
        Ok((Placed::Gpu(At::new(ops, spec, source, max_len)?), number.name().into()))
    }

    fn candle(dtype: Dtype, spec: Spec, source: &Source, max_len: usize) -> Result<(Placed, String)> {
        if !cfg!(feature = "candle-cuda") {
            let message = "device `candle` needs a build with --features candle-cuda; device `cuda` computes by LUMOS's own kernels";
            return Err(Error::Usage(message.into()));
        }
        let device = candle_core::Device::new_cuda(0);
        let device = device.map_err(|e| Error::Usage(format!("no GPU for the language model: {}", first_line(&e))))?;
        let number = dtype.on_gpu(stored(source));
        let kind = match number {
            Stored::F32 => candle_core::DType::F32,
            Stored::F16 => candle_core::DType::F16,
            Stored::Bf16 => candle_core::DType::BF16,
        };
        let ops = Candle::new(device, kind);
        Ok((Placed::Candle(At::new(ops, spec, source, max_len)?), number.name().into()))
    }
}
