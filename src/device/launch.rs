//! Kernels as types: a table made by `kernels!` declares the parameters of each kernel once. From
//! the table follow the list of kernels, a struct for each whose fields are the arguments by name and type, and the size of its blocks.

use super::interface::{Arg, Buffer, Device, Kernel, Result};
use super::{DeviceError, Geometry};
use smallvec::SmallVec;
use std::collections::HashMap;

/// An address on a device, as an argument of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pointer(pub u64);

impl Pointer {
    /// What stands for an array that there is not.
    pub const NULL: Pointer = Pointer(0);
}

impl From<&Buffer> for Pointer {
    fn from(buffer: &Buffer) -> Pointer {
        Pointer(buffer.address())
    }
}

/// What a kernel's parameter is in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any pointer.
    Pointer,
    /// `int`.
    Int,
    /// `unsigned`.
    Uint,
    /// `float`.
    Float,
    /// `long long`.
    Long,
    /// A struct by value, its bytes.
    Struct(usize),
}

/// A type that an argument of a kernel may have.
pub trait Parameter: Copy {
    /// Its kind in C.
    const KIND: Kind;
    /// The value as it is handed to a launch.
    fn arg(&self) -> Arg<'_>;
}

macro_rules! parameters {
    ($($t:ty: $kind:ident, |$v:ident| $value:expr;)*) => {
        $(impl Parameter for $t {
            const KIND: Kind = Kind::$kind;
            fn arg(&self) -> Arg<'_> {
                let $v = *self;
                Arg::$kind($value)
            }
        })*
    };
}
parameters! {
    Pointer: Pointer, |p| p.0;
    i32: Int, |v| v;
    u32: Uint, |v| v;
    f32: Float, |v| v;
    i64: Long, |v| v;
}

/// What a table says of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Signature {
    /// Names in the source: one, or one for each [`Precision`](crate::config::Precision) in its order.
    pub names: &'static [&'static str],
    /// Names and kinds of the parameters.
    pub parameters: &'static [(&'static str, Kind)],
    /// Threads of a block.
    pub block: u32,
}

impl Signature {
    /// The name of the kernel for a precision, which is a place in the order of `Precision`.
    pub fn name(&self, precision: usize) -> &'static str {
        self.names[if self.names.len() == 1 { 0 } else { precision }]
    }
}

/// A kernel with its arguments.
pub trait Launch {
    /// What the table says.
    const SIGNATURE: Signature;
    /// Bytes of shared memory of a block.
    fn shared(&self) -> usize;
    /// The arguments in the order of the parameters.
    fn args(&self) -> SmallVec<[Arg<'_>; 16]>;
}

/// Declares kernels: `Name = source_name [source_name_tf32 source_name_bf16] (parameter: type, ...) threads, shared bytes;`. The bytes
/// may be computed from the parameters. Makes a struct for each, and `KERNELS`, the list of all.
macro_rules! kernels {
    ($($name:ident = $($source:ident)+ ($($field:ident: $kind:ty),* $(,)?) $block:expr, $shared:expr;)*) => {
        /// What this table declares.
        pub(crate) const KERNELS: &[$crate::device::launch::Signature] = &[$(<$name as $crate::device::launch::Launch>::SIGNATURE),*];
        $(
            #[derive(Clone, Copy)]
            pub(crate) struct $name {
                $(pub $field: $kind,)*
            }

            impl $crate::device::launch::Launch for $name {
                const SIGNATURE: $crate::device::launch::Signature = $crate::device::launch::Signature {
                    names: &[$(stringify!($source)),+],
                    parameters: &[$((stringify!($field), <$kind as $crate::device::launch::Parameter>::KIND)),*],
                    block: $block,
                };
                #[allow(unused_variables)] // few sizes depend on an argument
                fn shared(&self) -> usize {
                    let $name { $($field),* } = *self;
                    $shared
                }
                fn args(&self) -> smallvec::SmallVec<[$crate::device::interface::Arg<'_>; 16]> {
                    [$($crate::device::launch::Parameter::arg(&self.$field)),*].into_iter().collect()
                }
            }
        )*
    };
}
pub(crate) use kernels;

/// The kernels of tables on one device, looked up before anything is recorded.
pub struct KernelSet(HashMap<&'static str, Kernel>);

impl KernelSet {
    /// Looks up what `tables` declare, which loads or compiles it.
    pub fn load(device: &dyn Device, tables: &[&[Signature]]) -> Result<KernelSet> {
        let names = tables.iter().copied().flatten().flat_map(|kernel| kernel.names);
        names.map(|&name| Ok((name, device.kernel(name)?))).collect::<Result<_>>().map(KernelSet)
    }

    /// Puts a kernel into the queue of `device`; nothing where the grid has no blocks. `precision` is a place in the order of `Precision`.
    ///
    /// # Safety
    /// Every pointer among the arguments, and in what they point to, is valid on `device` for what the kernel reads and writes until it
    /// has run.
    pub unsafe fn launch<L: Launch>(&self, device: &dyn Device, precision: usize, grid: [u32; 2], kernel: &L) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        let name = L::SIGNATURE.name(precision);
        let found = self.0.get(name).ok_or_else(|| DeviceError::Misuse(format!("kernel {name} was not looked up before its launch")))?;
        let geometry = Geometry { grid: [grid[0], grid[1], 1], block: [L::SIGNATURE.block, 1, 1], shared: kernel.shared() };
        // SAFETY: pointers are the caller's promise; number and types of the arguments are the table's, which a test holds against the
        // kernels' sources.
        unsafe { device.launch(*found, geometry, &kernel.args()) }
    }
}
