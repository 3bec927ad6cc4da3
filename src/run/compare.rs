//! Two finished runs, user by user.

use super::folder::RunFolder;
use super::pipeline::clean_fingerprint;
use super::ranks::read_ranks;
use crate::data::Split;
use crate::eval::{Paired, paired_seeds};
use crate::{Error, Result};
use serde::Serialize;
use std::path::PathBuf;

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

/// Compares the ranks that the two runs of each pair gave to the same users' targets. Over several pairs, which are one
/// comparison with several seeds, a user counts once, with the mean over pairs.
pub fn compare(pairs: &[[PathBuf; 2]], split: Split) -> Result<Comparison> {
    let Some([a, b]) = pairs.first() else {
        return Err(Error::mismatch("compare", "needs at least two run folders"));
    };
    let (one, two) = (RunFolder::open(a)?, RunFolder::open(b)?);
    let eval = one.settings()?.into_inner().eval;
    let (first, second) = (one.info()?, two.info()?);
    let (mut ranks, mut sum) = (Vec::with_capacity(pairs.len()), None);
    for pair in pairs {
        for (path, method) in pair.iter().zip([&first.method, &second.method]) {
            let folder = RunFolder::open(path)?;
            let info = folder.info()?;
            if info.method != *method {
                let message = format!(
                    "is a run of `{}`, and its place in the first pair holds `{method}`; pairs differ in the seed only",
                    info.method
                );
                return Err(Error::mismatch(path, message));
            }
            let settings = folder.settings()?;
            let mask = settings.eval.mask;
            if mask != eval.mask {
                let (here, there) = (mask.name(), eval.mask.name());
                let message = format!("was ranked with eval.mask = {here}, the first run with {there}; compare runs with one mask");
                return Err(Error::mismatch(path, message));
            }
            let (found, fingerprint) = ranks_of(&folder, split)?;
            let fingerprint = if fingerprint == info.fingerprint { clean_fingerprint(&info, &settings) } else { fingerprint };
            if *sum.get_or_insert_with(|| fingerprint.clone()) != fingerprint
                || ranks.first().is_some_and(|r: &Vec<u32>| r.len() != found.len())
            {
                let message = format!(
                    "is of data set `{}`, the first run of another one (`{}`); compare runs on one data set",
                    info.data, first.data
                );
                return Err(Error::mismatch(path, message));
            }
            ranks.push(found);
        }
    }
    let ranks: Vec<(&[u32], &[u32])> = ranks.chunks(2).map(|p| (p[0].as_slice(), p[1].as_slice())).collect();
    Ok(Comparison {
        a: first.method,
        b: second.method,
        data: first.data,
        split: super::result::split_name(split).to_string(),
        tests: eval.k.into_iter().map(|k| paired_seeds(&ranks, k)).collect(),
    })
}

/// The ranks that a run keeps of `split`, and the fingerprint of its data set.
pub(super) fn ranks_of(folder: &RunFolder, split: Split) -> Result<(Vec<u32>, String)> {
    let path = folder.ranks(split);
    if !path.exists() {
        let message = format!("is missing: the run is not finished; resume it, or run `lumos eval {}`", folder.root().display());
        return Err(Error::mismatch(path, message));
    }
    read_ranks(&path)
}
