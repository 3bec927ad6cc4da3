//! Which clients are malicious.

use super::Options;
use crate::Result;
use crate::base::rng::{Purpose, Stream};

/// A share of the clients, the same in every round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Malicious {
    share: f64,
}

impl Malicious {
    /// The share that option `share` gives.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] where it is none.
    pub(super) fn of(options: &Options) -> Result<Malicious> {
        Ok(Malicious { share: options.get("share", |x| (0.0..=1.0).contains(&x), "a share from 0 to 1")? })
    }

    #[cfg(test)]
    pub(super) fn share(share: f64) -> Malicious {
        Malicious { share }
    }

    /// Whether `client` is one of them.
    pub(super) fn is(&self, seed: u64, client: u32) -> bool {
        let draw = Stream::new(seed, Purpose::Attack, 0, u64::from(client)).u32_at(0);
        f64::from(draw) < self.share * 4_294_967_296.0
    }
}
