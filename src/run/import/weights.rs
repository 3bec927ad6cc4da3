//! Weights of another program: tensors by name in a file of `torch.save` or of safetensors. Values are read when they are asked for.

use super::archive::Archive;
use super::pickle;
use crate::base::{clean, names};
use crate::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors};
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

/// The tensors of a file.
pub(super) struct Weights<'b> {
    path: &'b Path,
    /// Of a file of `torch.save`: the archive, and the folder in it.
    archive: Option<(Archive<'b>, String)>,
    tensors: BTreeMap<Cow<'b, str>, Tensor<'b>>,
    /// Values that may still be read. Tensors of a hostile file may all lie in one storage.
    left: Cell<usize>,
}

struct Tensor<'b> {
    kind: Kind,
    shape: Vec<usize>,
    place: Place<'b>,
}

enum Kind {
    F32,
    F64,
    Other(String),
}

enum Place<'b> {
    /// Row-major values.
    Here(&'b [u8]),
    /// Values of a storage of the archive.
    Stored { key: &'b str, offset: usize, strides: Vec<usize> },
}

/// Prefix that PyTorch's `DataParallel` puts before each name.
const PARALLEL: &str = "module.";

impl<'b> Weights<'b> {
    /// The tensors in `bytes`, which are the file at `path`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for a file of another kind, and for one that is cut or damaged.
    pub fn parse(path: &'b Path, bytes: &'b [u8]) -> Result<Weights<'b>> {
        if bytes.starts_with(b"PK") {
            let unusable = |why: String| Error::mismatch(path, format!("cannot be read as a file of torch.save: {why}"));
            return Weights::of_torch(path, Archive::open(bytes).map_err(unusable)?).map_err(unusable);
        }
        // A pickle by itself, or a tar: what torch.save wrote before version 1.6.
        if bytes.starts_with(b"\x80\x02\x8a\x0a") || bytes.get(257..262) == Some(b"ustar") {
            let remedy = "read it with torch.load and write it again with a newer torch.save, or with safetensors.torch.save_file";
            return Err(Error::mismatch(path, format!("was written by torch.save before version 1.6, which is not read; {remedy}")));
        }
        let file = SafeTensors::deserialize(bytes).map_err(|why| {
            Error::mismatch(path, format!("is neither a file of torch.save nor one of safetensors ({why}); give one of the two"))
        })?;
        let kind = |dtype| match dtype {
            Dtype::F32 => Kind::F32,
            Dtype::F64 => Kind::F64,
            other => Kind::Other(format!("{other:?}")),
        };
        let tensor = |(name, view): (String, safetensors::tensor::TensorView<'b>)| {
            (Cow::Owned(name), Tensor { kind: kind(view.dtype()), shape: view.shape().to_vec(), place: Place::Here(view.data()) })
        };
        let left = Cell::new(bytes.len());
        Ok(Weights { path, archive: None, tensors: file.tensors().into_iter().map(tensor).collect(), left }.plain())
    }

    /// The tensors of an archive that `torch.save` wrote.
    pub(super) fn of_torch(path: &'b Path, archive: Archive<'b>) -> Result<Weights<'b>, String> {
        let (folder, text) = archive.only("data.pkl")?;
        let folder = folder.to_string();
        if archive.file(&format!("{folder}byteorder")).is_ok_and(|order| order != b"little") {
            return Err("its numbers are big-endian; write it with safetensors.torch.save_file".into());
        }
        let kind = |name: &str| match name {
            "FloatStorage" => Kind::F32,
            "DoubleStorage" => Kind::F64,
            other => Kind::Other(clean::id(other)),
        };
        let tensors = pickle::tensors(text)?.into_iter().map(|(name, t)| {
            let place = Place::Stored { key: t.key, offset: t.offset, strides: t.strides };
            (Cow::Borrowed(name), Tensor { kind: kind(t.kind), shape: t.shape, place })
        });
        let left = Cell::new(archive.size());
        Ok(Weights { path, tensors: tensors.collect(), archive: Some((archive, folder)), left }.plain())
    }

    /// Without the prefix of `DataParallel`, where every name has it.
    fn plain(mut self) -> Weights<'b> {
        if self.tensors.keys().all(|name| name.starts_with(PARALLEL)) {
            let tensors = std::mem::take(&mut self.tensors).into_iter();
            self.tensors = tensors.map(|(name, tensor)| (Cow::Owned(name[PARALLEL.len()..].to_string()), tensor)).collect();
        }
        self
    }

    /// An error of the whole file.
    pub fn wrong(&self, message: impl Into<String>) -> Error {
        Error::mismatch(self.path, message)
    }

    /// Every name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(|name| &**name)
    }

    /// Whether there is a tensor called `name`.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn tensor(&self, name: &str) -> Result<&Tensor<'b>> {
        self.tensors.get(name).ok_or_else(|| {
            let near = names::hint(name, self.names());
            self.wrong(format!("has no tensor `{}`{near}", clean::id(name)))
        })
    }

    /// Axes of the tensor called `name`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where it is missing.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.tensor(name)?.shape)
    }

    /// Axes of the table called `name`: rows and columns, neither of them 0.
    ///
    /// # Errors
    /// As for [`Weights::shape`], and for other axes.
    pub fn table(&self, name: &str) -> Result<[usize; 2]> {
        match *self.shape(name)? {
            [rows, columns] if rows > 0 && columns > 0 => Ok([rows, columns]),
            ref other => Err(self.wrong(format!("tensor `{name}` has shape {other:?}; a table [rows, width] is wanted"))),
        }
    }

    /// The values of the tensor called `name`, row-major, which must have one of the shapes in `wanted`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where it is missing, of another shape or type, cut or damaged, and for values that are not finite.
    pub fn values(&self, name: &str, wanted: &[&[usize]]) -> Result<Vec<f32>> {
        let tensor = self.tensor(name)?;
        if !wanted.contains(&&tensor.shape[..]) {
            let wanted: Vec<String> = wanted.iter().map(|shape| format!("{shape:?}")).collect();
            return Err(self.wrong(format!("tensor `{name}` has shape {:?}, expected {}", tensor.shape, wanted.join(" or "))));
        }
        let size = match &tensor.kind {
            Kind::F32 => 4,
            Kind::F64 => 8,
            Kind::Other(kind) => {
                let remedy = "write 32-bit floats, as by model.float()";
                return Err(self.wrong(format!("tensor `{name}` has values of type {kind}; {remedy}")));
            }
        };
        let values = self.read(tensor, size).map_err(|why| self.wrong(format!("tensor `{name}` cannot be read: {why}")))?;
        if let Some(at) = values.iter().position(|x| !x.is_finite()) {
            return Err(self.wrong(format!("tensor `{name}` has the value {} at place {at}: training has diverged", values[at])));
        }
        Ok(values)
    }

    /// The values of `tensor`, each of `size` bytes.
    fn read(&self, tensor: &Tensor<'b>, size: usize) -> Result<Vec<f32>, String> {
        let wanted = tensor.shape.iter().try_fold(1usize, |n, axis| n.checked_mul(*axis));
        let left = wanted.and_then(|n| self.left.get().checked_sub(n)).ok_or("its tensors hold more values than it has bytes")?;
        self.left.set(left);
        let one = |bytes: &[u8]| match *bytes {
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32,
            _ => f32::NAN,
        };
        let (bytes, offset, strides) = match (&tensor.place, &self.archive) {
            (Place::Here(bytes), _) => return Ok(bytes.chunks_exact(size).map(one).collect()),
            (Place::Stored { key, offset, strides }, Some((archive, folder))) => {
                (archive.file(&format!("{folder}data/{}", clean::id(key)))?, *offset, strides)
            }
            (Place::Stored { .. }, None) => return Err("there is no archive around it".into()),
        };
        let held = bytes.len() / size;
        let short = || format!("its storage holds {held} values, and the shape {:?} needs others", tensor.shape);
        let count = wanted.filter(|n| *n <= held).ok_or_else(short)?;
        let reach = tensor
            .shape
            .iter()
            .zip(strides)
            .try_fold(offset, |at, (axis, stride)| at.checked_add(axis.saturating_sub(1).checked_mul(*stride)?));
        if strides.len() != tensor.shape.len() || count > 0 && reach.is_none_or(|last| last >= held) {
            return Err(short());
        }
        let at = |index: usize| {
            let axes = tensor.shape.iter().zip(strides).rev();
            axes.fold((offset, index), |(at, rest), (axis, stride)| (at + rest % axis * stride, rest / axis)).0
        };
        Ok((0..count).map(|index| one(&bytes[at(index) * size..][..size])).collect())
    }
}
