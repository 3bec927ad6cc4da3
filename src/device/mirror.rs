//! Structs that the host and the kernels share: a declaration by `mirrored!` lists the fields once, and
//! what it says of their places is held against the compiled kernels, field by field (`tests/device/kernel_table.rs`).

/// A field of a struct: name, and offset and size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name, the same on both sides.
    pub name: &'static str,
    /// Bytes from the start of the struct.
    pub offset: usize,
    /// Bytes of the field.
    pub size: usize,
}

/// A struct as the host lays it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Name in the kernels' sources.
    pub name: &'static str,
    /// Bytes of the struct.
    pub bytes: usize,
    /// Its fields in order.
    pub fields: &'static [Field],
}

/// Declares a struct that kernels read. It has C's layout, its fields are [`Plain`](super::Plain) and no bytes lie between them, which
/// the compiler checks; so it is plain itself, and may be a parameter of a kernel. `MIRROR` says where its fields lie.
macro_rules! mirrored {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$doc:meta])* $seen:vis $field:ident: $kind:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        $vis struct $name {
            $($(#[$doc])* $seen $field: $kind,)*
        }

        const _: () = {
            const fn plain<T: $crate::device::Plain>() -> usize {
                size_of::<T>()
            }
            assert!(size_of::<$name>() == 0 $(+ plain::<$kind>())*, "bytes between the fields");
        };

        // SAFETY: the layout is C's; every field is plain and no bytes lie between them, by the assertion above.
        unsafe impl $crate::device::Plain for $name {}

        impl $crate::device::launch::Parameter for $name {
            const KIND: $crate::device::launch::Kind = $crate::device::launch::Kind::Struct(size_of::<$name>());
            fn arg(&self) -> $crate::device::interface::Arg<'_> {
                $crate::device::interface::Arg::value(self)
            }
        }

        impl $name {
            /// Where the fields lie.
            pub(crate) const MIRROR: $crate::device::mirror::Mirror = $crate::device::mirror::Mirror {
                name: stringify!($name),
                bytes: size_of::<$name>(),
                fields: &[$($crate::device::mirror::Field {
                    name: stringify!($field),
                    offset: std::mem::offset_of!($name, $field),
                    size: size_of::<$kind>(),
                }),*],
            };
        }
    };
}
pub(crate) use mirrored;
