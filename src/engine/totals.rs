//! Sums over the clients of a round, for its report.

/// Counts, losses and bytes over clients. Integers, so that adding them up in any order gives the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Clients, local steps, tokens, examples, uploaded rows, downloaded rows, clients left out because they diverged.
    pub counts: [u64; 7],
    /// Next-item loss and contrast in fixed point, each summed over clients (mean over the client's steps).
    pub losses: [i64; 2],
    /// Bytes down and up.
    pub bytes: [u64; 2],
}

impl Totals {
    /// Adds `other`.
    pub fn add(&mut self, other: &Totals) {
        let mut sums = self.to_array();
        sums.iter_mut().zip(other.to_array()).for_each(|(a, b)| *a += b);
        *self = Totals::from_array(sums);
    }

    /// All numbers in one array, for a [`crate::cluster::Reduce`].
    pub fn to_array(&self) -> [i64; 11] {
        let [a, b, c, d, e, f, g] = self.counts.map(|n| n as i64);
        let [down, up] = self.bytes.map(|n| n as i64);
        [a, b, c, d, e, f, g, self.losses[0], self.losses[1], down, up]
    }

    /// Back from [`Totals::to_array`].
    pub fn from_array([a, b, c, d, e, f, g, next_item, contrast, down, up]: [i64; 11]) -> Totals {
        Totals { counts: [a, b, c, d, e, f, g].map(|n| n as u64), losses: [next_item, contrast], bytes: [down, up].map(|n| n as u64) }
    }
}
