//! What there is of CUDA on this machine and in this build, in words, for `lumos doctor`.

use super::size;
use serde::Serialize;
use std::path::PathBuf;

/// A GPU in words.
#[derive(Clone, Debug, Serialize)]
pub struct GpuLine {
    /// Number, as in `--device cuda:N`.
    pub ordinal: usize,
    /// Product name.
    pub name: String,
    /// Compute capability, such as `9.0`.
    pub capability: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Why it cannot be used; nothing where it can.
    pub unusable: Option<String>,
}

impl GpuLine {
    /// One line.
    pub fn line(&self) -> String {
        let verdict = self.unusable.as_deref().map_or_else(|| "usable".to_string(), |why| format!("not usable: {why}"));
        format!("{} {}, compute capability {}, {}, {verdict}", self.ordinal, self.name, self.capability, size(self.memory_bytes))
    }
}

/// What there is.
#[derive(Clone, Debug, Serialize)]
pub struct Survey {
    /// Whether the GPU backend is built in.
    pub built: bool,
    /// The driver, or why there is none.
    pub driver: String,
    /// GPUs that the driver sees.
    pub gpus: Vec<GpuLine>,
    /// How the kernels are embedded.
    pub kernels: String,
    /// The run-time compiler.
    pub nvrtc: String,
    /// The library for several GPUs.
    pub nccl: String,
}

impl Survey {
    /// Looks, without taking a GPU.
    pub fn take() -> Survey {
        #[cfg(feature = "cuda")]
        return with_cuda();
        #[cfg(not(feature = "cuda"))]
        return without_cuda();
    }

    /// Whether some GPU can be used as far as one sees without taking it.
    pub fn usable(&self) -> bool {
        self.gpus.iter().any(|gpu| gpu.unusable.is_none())
    }
}

#[cfg(not(feature = "cuda"))]
fn without_cuda() -> Survey {
    let text = "not used: this build has no GPU backend";
    Survey {
        built: false,
        driver: text.into(),
        gpus: Vec::new(),
        kernels: "none: this build has no GPU backend".into(),
        nvrtc: text.into(),
        nccl: nccl(&folders()),
    }
}

#[cfg(feature = "cuda")]
fn with_cuda() -> Survey {
    use super::modules::{self, Form};
    use super::version;
    use super::{nvrtc, probe};
    let driver = match probe::driver() {
        Ok(cuda) => format!("supports CUDA {} ({} is needed)", version(cuda), version(probe::LEAST_DRIVER)),
        Err(error) => error.to_string(),
    };
    let usable = probe::kernels().err().map(|e| e.to_string());
    let gpus = probe::gpus().unwrap_or_default().into_iter().map(|gpu| GpuLine {
        ordinal: gpu.ordinal,
        name: gpu.name,
        capability: format!("{}.{}", gpu.capability.0, gpu.capability.1),
        memory_bytes: gpu.total_bytes,
        unusable: gpu.unusable.map(|e| e.to_string()).or_else(|| usable.clone()),
    });
    let (files, kernels) = (modules::families().len(), modules::families().iter().map(|f| f.kernels.len()).sum::<usize>());
    let needed = matches!(modules::form(), Form::Sources);
    let cache = nvrtc::cache_folder().map_or_else(|| "nowhere, for HOME is not set".to_string(), |f| format!("in {}", f.display()));
    Survey {
        built: true,
        driver,
        gpus: gpus.collect(),
        kernels: match modules::form() {
            Form::Compiled(nvcc) => format!("{kernels} in {files} files, compiled by nvcc {nvcc} (fatbin)"),
            Form::Sources => format!("{kernels} in {files} files, as sources: NVRTC compiles them at first use and keeps the code {cache}"),
            Form::None => "none: this build was made with LUMOS_CUDA=off".into(),
        },
        nvrtc: match (nvrtc::version(), needed) {
            (Some((major, minor)), true) => format!("{major}.{minor}"),
            (Some((major, minor)), false) => format!("{major}.{minor} (not needed: the kernels are compiled)"),
            (None, true) => "not found: put the folder of libnvrtc.so.13 on LD_LIBRARY_PATH, or build where nvcc is on the PATH".into(),
            (None, false) => "not found (not needed: the kernels are compiled)".into(),
        },
        nccl: nccl(&folders()),
    }
}

/// Where the loader looks, as far as a file system tells.
fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("LD_LIBRARY_PATH").iter().flat_map(std::env::split_paths).collect();
    let triple = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    folders.extend([triple.as_str(), "/usr/lib64", "/usr/lib", "/usr/local/lib", "/usr/local/cuda/lib64"].map(PathBuf::from));
    folders
}

/// The library by which GPUs of several processes add up, under the names that it is looked for by.
fn nccl(folders: &[PathBuf]) -> String {
    let paths = ["libnccl.so.2", "libnccl.so"].into_iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let found = paths.into_iter().find(|path| path.is_file());
    found.map_or("not found (needed for several GPUs only)".into(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nccl_is_found_under_either_name() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_path_buf()];
        assert!(nccl(&folders).starts_with("not found"));
        for name in ["libnccl.so", "libnccl.so.2"] {
            std::fs::write(folder.path().join(name), "").unwrap();
            assert_eq!(nccl(&folders), folder.path().join(name).display().to_string());
        }
    }

    #[test]
    fn every_line_says_something() {
        let survey = Survey::take();
        for line in [&survey.driver, &survey.kernels, &survey.nvrtc, &survey.nccl] {
            assert!(!line.is_empty() && !line.contains('\n'), "{line}");
        }
        assert_eq!(survey.built, cfg!(feature = "cuda"));
    }
}
