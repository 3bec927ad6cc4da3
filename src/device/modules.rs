//! The kernels inside this program, and how they become code for one GPU.

use super::DeviceError;
use super::interface::Result;
use super::nvrtc;

/// How the kernels are embedded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Compiled by nvcc of this version when the program was built.
    Compiled(&'static str),
    /// As sources, compiled by NVRTC at first use.
    Sources,
    /// Not at all.
    None,
}

/// The kernels of one `kernels/NAME.cu`.
pub struct Family {
    /// NAME.
    pub name: &'static str,
    /// Its exported kernels.
    pub kernels: &'static [&'static str],
    image: &'static [u8],
    source: &'static str,
}

mod embedded {
    use super::{Family, Form};
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

/// How the kernels are embedded.
pub fn form() -> Form {
    embedded::FORM
}

/// What is embedded.
pub fn families() -> &'static [Family] {
    embedded::FAMILIES
}

/// The family that exports `name`.
pub fn family_of(name: &str) -> Result<&'static Family> {
    if form() == Form::None {
        return Err(DeviceError::NoKernels);
    }
    let unknown = || {
        let nearest = crate::base::names::nearest(name, families().iter().flat_map(|f| f.kernels.iter().copied()));
        DeviceError::UnknownKernel { name: name.into(), nearest: nearest.map(str::to_string) }
    };
    families().iter().find(|f| f.kernels.contains(&name)).ok_or_else(unknown)
}

/// Code of each family by its name. What NVRTC has to compile is compiled on several threads, after a line about it where a person watches.
pub fn codes(families: &[&'static Family], capability: (u32, u32)) -> Result<Vec<(&'static str, Vec<u64>)>> {
    if form() == Form::Sources {
        let sources: Vec<(&str, &str)> = families.iter().map(|f| (f.name, f.source)).collect();
        let compiled = nvrtc::compile_all(&sources, embedded::HEADERS, capability)?;
        return Ok(families.iter().zip(compiled).map(|(f, code)| (f.name, words(&code))).collect());
    }
    families.iter().map(|f| Ok((f.name, f.code(capability)?))).collect()
}

impl Family {
    /// Code that the driver loads on a GPU of this compute capability: a fatbin of several architectures, or what NVRTC makes for it.
    /// In whole words, for the driver reads it in place.
    pub fn code(&self, capability: (u32, u32)) -> Result<Vec<u64>> {
        match form() {
            Form::Compiled(_) => Ok(words(self.image)),
            Form::Sources => nvrtc::compile(self.name, self.source, embedded::HEADERS, capability).map(|code| words(&code)),
            Form::None => Err(DeviceError::NoKernels),
        }
    }
}

/// Bytes in whole words, ended by a zero byte at least: PTX is text that the driver reads up to a zero.
fn words(bytes: &[u8]) -> Vec<u64> {
    let mut words = vec![0u64; bytes.len() / 8 + 1];
    super::interface::bytes_of_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_file_is_embedded() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        let files = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        let mut there: Vec<String> = files
            .filter(|p| p.extension().is_some_and(|e| e == "cu"))
            .map(|p| p.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        there.sort();
        if form() != Form::None {
            let here: Vec<&str> = families().iter().map(|f| f.name).collect();
            assert_eq!(here, there, "`touch build.rs`: cargo does not see new files");
        }
        for family in families() {
            assert!(!family.kernels.is_empty(), "kernels/{}.cu exports nothing", family.name);
            assert!(family.image.is_empty() != family.source.is_empty(), "{}", family.name);
        }
    }

    #[test]
    fn names_are_unique_and_found() {
        let mut names: Vec<&str> = families().iter().flat_map(|f| f.kernels.iter().copied()).collect();
        for name in &names {
            assert!(family_of(name).unwrap().kernels.contains(name));
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "two kernels share a name");
        assert!(matches!(family_of("no such kernel"), Err(DeviceError::UnknownKernel { .. } | DeviceError::NoKernels)));
    }

    #[test]
    fn words_hold_the_bytes_and_end_in_zero() {
        for n in [0usize, 1, 7, 8, 9] {
            let bytes: Vec<u8> = (1..=n as u8).collect();
            let words = words(&bytes);
            let back = crate::device::interface::bytes_of(&words);
            assert_eq!(&back[..n], bytes);
            assert_eq!(back[n], 0);
        }
    }
}
