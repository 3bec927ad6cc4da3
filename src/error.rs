//! The one error type of the crate: what went wrong, where, and what to do about it.

use std::path::{Path, PathBuf};

/// Everything that can go wrong. Each message says what, where and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be opened, read or written.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file or folder concerned.
        path: PathBuf,
        /// What was being done to it, as a verb: `open`, `read`, `write`.
        action: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A data file breaks its format.
    #[error("{path}:{line}: {message}")]
    Data {
        /// The file concerned.
        path: PathBuf,
        /// Line number, counted from 1; 0 where the whole file is meant.
        line: u64,
        /// What is wrong and what to do.
        message: String,
    },
    /// A setting is unknown, mistyped or out of range.
    #[error("setting `{key}`: {message}")]
    Setting {
        /// Dotted key, such as `model.dim`.
        key: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// A checkpoint, prepared data set or view file does not fit what it is used with.
    #[error("{path}: {message}")]
    Mismatch {
        /// The file or folder concerned.
        path: PathBuf,
        /// What does not fit and what to do.
        message: String,
    },
    /// Training left the range of numbers.
    #[error("round {round}, client {client}: {message}")]
    Training {
        /// Round, counted from 1.
        round: u64,
        /// Client index in the data set.
        client: u64,
        /// What is wrong and what to do.
        message: String,
    },
    /// The user stopped the run; what was finished is on disk.
    #[error("interrupted: {0}")]
    Interrupted(String),
    /// The GPU, its driver or its kernels.
    #[error(transparent)]
    Device(#[from] crate::backend::cuda::DeviceError),
    /// A request that cannot be met as it was made.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// An [`Error::Io`] for `path`; to be used as `.map_err(Error::io(path, "read"))`.
    pub fn io(path: impl AsRef<Path>, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, action, source }
    }

    /// An [`Error::Setting`].
    pub fn setting(key: impl Into<String>, message: impl Into<String>) -> Error {
        Error::Setting { key: key.into(), message: message.into() }
    }

    /// An [`Error::Mismatch`].
    pub fn mismatch(path: impl AsRef<Path>, message: impl Into<String>) -> Error {
        Error::Mismatch { path: path.as_ref().to_path_buf(), message: message.into() }
    }
}

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
