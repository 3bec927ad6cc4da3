//! Kernels as types: a table made by `kernels!` declares the parameters of each kernel once. From the table follow the list of kernels,
//! a struct for each whose fields are the arguments by name and type, and the size of its blocks.
//!
//! A kernel may stand under several names that differ in the kind of number or the size of a tile; a launch says by its place which is
//! meant.

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
    /// Names in the source: one, or one for each kind of number or size, in the order of the table.
    pub names: &'static [&'static str],
    /// Names and kinds of the parameters.
    pub parameters: &'static [(&'static str, Kind)],
}

impl Signature {
    /// The name at a place in the table's order; a kernel of one name has it at every place.
    pub fn name(&self, place: usize) -> &'static str {
        self.names[if self.names.len() == 1 { 0 } else { place }]
    }
}

/// A number for a kernel, or a list with one for each of its names.
pub trait PerName {
    /// The number for the name at `place`.
    fn at(self, place: usize) -> usize;
}

impl PerName for usize {
    fn at(self, _: usize) -> usize {
        self
    }
}

impl<const N: usize> PerName for [usize; N] {
    fn at(self, place: usize) -> usize {
        self[place]
    }
}

/// The blocks of a launch along three axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks(pub [u32; 3]);

impl From<[u32; 2]> for Blocks {
    fn from([x, y]: [u32; 2]) -> Blocks {
        Blocks([x, y, 1])
    }
}

impl From<[u32; 3]> for Blocks {
    fn from(sides: [u32; 3]) -> Blocks {
        Blocks(sides)
    }
}

/// A kernel with its arguments.
pub trait Launch {
    /// What the table says.
    const SIGNATURE: Signature;
    /// Threads of a block, and its bytes of shared memory, under the name at `place`.
    fn block(&self, place: usize) -> (u32, usize);
    /// The arguments in the order of the parameters.
    fn args(&self) -> SmallVec<[Arg<'_>; 16]>;
}

/// Declares kernels: `Name = source_name ... (parameter: type, ...) threads, shared bytes;`. Threads and bytes are a number, or a list with
/// one for each name, and may be computed from the parameters. Behind a semicolon stand sizes that each launch chooses and that are no
/// parameters. Makes a struct for each kernel, and `KERNELS`, the list of all.
macro_rules! kernels {
    ($($name:ident = $($source:ident)+ ($($field:ident: $kind:ty),* $(,)? $(; $($size:ident: $size_kind:ty),*)?)
        $threads:expr, $shared:expr;)*) => {
        /// What this table declares.
        pub(crate) const KERNELS: &[$crate::device::launch::Signature] = &[$(<$name as $crate::device::launch::Launch>::SIGNATURE),*];
        $(
            #[derive(Clone, Copy)]
            pub(crate) struct $name {
                $(pub $field: $kind,)*
                $($(pub $size: $size_kind,)*)?
            }

            impl $crate::device::launch::Launch for $name {
                const SIGNATURE: $crate::device::launch::Signature = $crate::device::launch::Signature {
                    names: &[$(stringify!($source)),+],
                    parameters: &[$((stringify!($field), <$kind as $crate::device::launch::Parameter>::KIND)),*],
                };
                #[allow(unused_variables)] // few sizes depend on an argument
                fn block(&self, place: usize) -> (u32, usize) {
                    use $crate::device::launch::PerName;
                    let $name { $($field,)* $($($size,)*)? } = *self;
                    (PerName::at($threads, place) as u32, PerName::at($shared, place))
                }
                fn args(&self) -> smallvec::SmallVec<[$crate::device::interface::Arg<'_>; 16]> {
                    [$($crate::device::launch::Parameter::arg(&self.$field)),*].into_iter().collect()
                }
            }
        )*
    };
}
pub(crate) use kernels;

/// Puts `found`, which is `kernel` under the name at `place`, into the queue.
///
/// # Safety
/// As [`KernelSet::launch`].
unsafe fn launch_found<L: Launch>(device: &dyn Device, found: Kernel, place: usize, blocks: Blocks, kernel: &L) -> Result<()> {
    let (threads, shared) = kernel.block(place);
    let geometry = Geometry { grid: blocks.0, block: [threads, 1, 1], shared };
    // SAFETY: pointers are the caller's promise; number and types of the arguments are the table's, which a test holds against the
    // kernels' sources.
    unsafe { device.launch(found, geometry, &kernel.args()) }
}

/// Looks a kernel up and puts it into the queue; not for the first time while recording.
///
/// # Safety
/// As [`KernelSet::launch`].
pub unsafe fn launch_once<L: Launch>(device: &dyn Device, place: usize, blocks: impl Into<Blocks>, kernel: &L) -> Result<()> {
    let found = device.kernel(L::SIGNATURE.name(place))?;
    // SAFETY: the caller's promise.
    unsafe { launch_found(device, found, place, blocks.into(), kernel) }
}

/// The kernels of tables on one device, looked up before anything is recorded.
pub struct KernelSet(HashMap<&'static str, Kernel>);

impl KernelSet {
    /// Looks up what `tables` declare, which loads or compiles it.
    pub fn load(device: &dyn Device, tables: &[&[Signature]]) -> Result<KernelSet> {
        let names: Vec<&'static str> = tables.iter().copied().flatten().flat_map(|kernel| kernel.names).copied().collect();
        device.prepare(&names)?;
        names.iter().map(|&name| Ok((name, device.kernel(name)?))).collect::<Result<_>>().map(KernelSet)
    }

    /// The kernel that `L` stands for under the name at `place`.
    ///
    /// # Errors
    /// Where it was not looked up when the set was made.
    pub fn find<L: Launch>(&self, place: usize) -> Result<Kernel> {
        let name = L::SIGNATURE.name(place);
        let missing = || DeviceError::Misuse(format!("kernel {name} was not looked up before its launch"));
        self.0.get(name).copied().ok_or_else(missing)
    }

    /// Puts a kernel into the queue of `device`; nothing where the grid has no blocks. `place` is that of the kernel's name in the table.
    ///
    /// # Safety
    /// Every pointer among the arguments, and in what they point to, is valid on `device` for what the kernel reads and writes until it
    /// has run.
    pub unsafe fn launch<L: Launch>(&self, device: &dyn Device, place: usize, blocks: impl Into<Blocks>, kernel: &L) -> Result<()> {
        let blocks = blocks.into();
        if blocks.0.contains(&0) {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { launch_found(device, self.find::<L>(place)?, place, blocks, kernel) }
    }
}
