//! Two finished runs, user by user.

use super::folder::RunFolder;
use super::ranks::read_ranks;
use crate::data::Split;
use crate::eval::{self, Paired};
use crate::{Error, Result};
use serde::Serialize;
use std::path::Path;

/// The paired tests of two runs at every cut-off.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// Method of the first run.
    pub a: String,
    /// Method of the second run.
    pub b: String,
    /// Data set of both.
    pub data: String,
    /// Split.
    pub split: String,
    /// One test for each K.
    pub tests: Vec<Paired>,
}

/// Compares the ranks that two runs on one data set gave to the same users' targets.
pub fn compare(a: &Path, b: &Path, split: Split) -> Result<Comparison> {
    let (one, two) = (RunFolder::open(a)?, RunFolder::open(b)?);
    let (first, second) = (one.info()?, two.info()?);
    let read = |folder: &RunFolder| {
        let path = folder.ranks(split);
        if !path.exists() {
            let message = format!("is missing: the run is not finished; resume it, or run `lumos eval {}`", folder.root().display());
            return Err(Error::mismatch(path, message));
        }
        read_ranks(&path)
    };
    let ((x, sum), (y, other)) = (read(&one)?, read(&two)?);
    if sum != other || x.len() != y.len() {
        let message =
            format!("is of data set `{}`, the first run of another one (`{}`); compare runs on one data set", second.data, first.data);
        return Err(Error::mismatch(b, message));
    }
    let ks = one.settings()?.eval.k;
    Ok(Comparison {
        a: first.method,
        b: second.method,
        data: first.data,
        split: super::result::split_name(split).to_string(),
        tests: ks.into_iter().map(|k| eval::paired(&x, &y, k)).collect(),
    })
}
