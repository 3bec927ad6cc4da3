//! A door for fuzzing: a file of weights. It may not panic, run for long, or allocate much more than it is given.

use super::archive::Archive;
use super::weights::Weights;
use super::{Asked, Blocks, Foreign, pickle};
use std::path::Path;

/// A file of weights as it is, one behind the checksums of its archive, and a pickle by itself.
pub fn weights(bytes: &[u8]) {
    let path = Path::new("weights");
    let asked = Asked { blocks: Some(Blocks::QueryNorm), ..Asked::default() };
    let _ = Foreign::parse(path, bytes, &asked);
    let _ = Foreign::parse(path, bytes, &Asked::default());
    let _ = pickle::tensors(bytes);
    if let Ok(archive) = Archive::open(bytes)
        && let Ok(weights) = Weights::of_torch(path, archive.trusted())
    {
        let _ = Foreign::of(&weights, &asked);
    }
}
