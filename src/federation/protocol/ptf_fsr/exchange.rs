//! What several processes tell each other of a round: uploads and counts, never a weight.

use super::Diverged;
use super::client::Outcome;
use super::upload::Upload;
use crate::backend::cpu::Visited;
use crate::base::parcel::{Parcel, Pieces};
use crate::cluster::Reduce;
use crate::{Error, Result};

/// What came of the clients of all processes, ascending, and those that diverged, ascending. The models of others stay where they are.
pub(super) fn joined(
    reduce: &dyn Reduce,
    (mut outcomes, mut diverged): (Vec<Outcome>, Vec<Diverged>),
) -> Result<(Vec<Outcome>, Vec<Diverged>)> {
    if reduce.size() == 1 {
        return Ok((outcomes, diverged));
    }
    let mut parcel = Parcel::new().longs(&[outcomes.len() as u64, diverged.len() as u64]);
    for Outcome { client, upload, visited, examples, .. } in &outcomes {
        let losses = visited.losses.map(f64::to_bits);
        let numbers = [u64::from(*client), *examples, visited.steps, visited.tokens, losses[0], losses[1], u64::from(upload.last)];
        parcel = parcel.longs(&numbers).words(&upload.items).words(&upload.negatives);
    }
    for (client, message) in &diverged {
        parcel = parcel.words(&[*client]).bytes(message.as_bytes());
    }
    for (rank, bytes) in reduce.gather(&parcel.into_bytes())?.iter().enumerate().filter(|(rank, _)| *rank != reduce.rank()) {
        let damaged = || Error::Cluster(format!("what {} uploaded came damaged", reduce.name(rank)));
        let (theirs, failed) = read(&mut Pieces::of(bytes)).ok_or_else(damaged)?;
        outcomes.extend(theirs);
        diverged.extend(failed);
    }
    outcomes.sort_unstable_by_key(|o| o.client);
    diverged.sort_unstable();
    Ok((outcomes, diverged))
}

fn read(pieces: &mut Pieces) -> Option<(Vec<Outcome>, Vec<Diverged>)> {
    let [outcomes, diverged]: [u64; 2] = pieces.longs()?.try_into().ok()?;
    let outcome = |pieces: &mut Pieces| {
        let [client, examples, steps, tokens, next_item, contrast, last]: [u64; 7] = pieces.longs()?.try_into().ok()?;
        let upload = Upload { items: pieces.words()?, negatives: pieces.words()?, last: last as u32 };
        let visited = Visited { steps, tokens, losses: [next_item, contrast].map(f64::from_bits), ..Visited::default() };
        Some(Outcome { client: client as u32, state: None, upload, visited, examples })
    };
    let failed = |pieces: &mut Pieces| Some((*pieces.words()?.first()?, pieces.text()?.to_string()));
    Some(((0..outcomes).map(|_| outcome(pieces)).collect::<Option<_>>()?, (0..diverged).map(|_| failed(pieces)).collect::<Option<_>>()?))
}
