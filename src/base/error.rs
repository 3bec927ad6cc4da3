//! The one error type of the crate: what went wrong, where, and what to do about it.

use crate::base::clean;
use std::path::{Path, PathBuf};

/// Everything that can go wrong. Each message says what, where and what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, read or written.
    #[error("{}: cannot {action}: {source}{}", clean::path(path), remedy(source))]
    Io {
        /// The file or folder concerned.
        path: PathBuf,
        /// What was being done to it, as a verb: `open`, `read`, `write`.
        action: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A data file breaks its format.
    #[error("{}: {message}", place(path, *line))]
    Data {
        /// The file concerned.
        path: PathBuf,
        /// Line number, counted from 1; 0 for the whole file.
        line: u64,
        /// What is wrong and what to do.
        message: String,
    },
    /// A setting is unknown, mistyped or out of range.
    #[error("setting `{}`: {message}", clean::id(key))]
    Setting {
        /// Dotted key, such as `model.dim`.
        key: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// A checkpoint, prepared data set or view file does not fit what it is used with.
    #[error("{}: {message}", clean::path(path))]
    Mismatch {
        /// The file or folder concerned.
        path: PathBuf,
        /// What does not fit and what to do.
        message: String,
    },
    /// Another process works on what this one wants to write.
    #[error("{what} is in use by {owner}; wait until it has ended, or choose another folder")]
    InUse {
        /// What is in use, such as `run folder runs/first`.
        what: String,
        /// Who has it: process, host, since when.
        owner: String,
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
    /// A device failed in the middle of a run; what was good is on disk.
    #[error("{source}; {saved}")]
    Stopped {
        /// What failed.
        source: Box<Error>,
        /// What is saved, where.
        saved: String,
    },
    /// The GPU, its driver or its kernels.
    #[error(transparent)]
    Device(#[from] super::device_error::DeviceError),
    /// Another process of the same training, or what connects them.
    #[error("{0}")]
    Cluster(String),
    /// A request that cannot be met as it was made.
    #[error("{0}")]
    Usage(String),
}

/// What to do about an error of the operating system, as the end of a message; nothing where the reason says it all.
fn remedy(source: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::*;
    match source.kind() {
        NotFound => "; check the path, and the folder that it starts from",
        PermissionDenied => "; check who may use it",
        StorageFull | QuotaExceeded | FileTooLarge => "; make room or choose another disk",
        ReadOnlyFilesystem => "; choose another folder",
        _ => "",
    }
}

/// `FILE:LINE`, or the file alone for line 0.
fn place(path: &Path, line: u64) -> String {
    if line == 0 { clean::path(path) } else { format!("{}:{line}", clean::path(path)) }
}

/// What an error is about, for a program that acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file or folder cannot be opened, read or written.
    Io,
    /// A data file breaks its format.
    Data,
    /// A setting is unknown, mistyped or out of range.
    Setting,
    /// A stored file does not fit what it is used with.
    Mismatch,
    /// Another process is at work on it; later it may succeed.
    InUse,
    /// Training left the range of numbers.
    Training,
    /// The user stopped it; it can be resumed.
    Interrupted,
    /// The GPU, its driver or its kernels.
    Device,
    /// Another process of the same training, or what connects them.
    Cluster,
    /// A request that cannot be met as it was made.
    Usage,
}

impl Error {
    /// What it is about; of a run that was stopped, what stopped it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Io { .. } => ErrorKind::Io,
            Error::Data { .. } => ErrorKind::Data,
            Error::Setting { .. } => ErrorKind::Setting,
            Error::Mismatch { .. } => ErrorKind::Mismatch,
            Error::InUse { .. } => ErrorKind::InUse,
            Error::Training { .. } => ErrorKind::Training,
            Error::Interrupted(_) => ErrorKind::Interrupted,
            Error::Stopped { source, .. } => source.kind(),
            Error::Device(_) => ErrorKind::Device,
            Error::Cluster(_) => ErrorKind::Cluster,
            Error::Usage(_) => ErrorKind::Usage,
        }
    }

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
