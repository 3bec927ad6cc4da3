//! Sums that show no summand: secure aggregation after Bonawitz et al. (CCS 2017), with as many neighbours as a party needs instead of all
//! (Bell et al., CCS 2020).
//!
//! Each party adds to its vector of 64-bit integers a personal mask and, for each neighbour, a mask that the two have in common and add with opposite
//! signs. Common masks cancel out in the sum. Personal masks, and the common masks of parties who have fallen silent, are taken out by shares of
//! what they are made from, which each party has given to its neighbours: of one party the server is shown the shares of the one or of the other,
//! never of both. Integers wrap, so that the sum has the bits of a plain sum.
//!
//! [`Client`] and [`Server`] are state machines which exchange nothing but bytes. [`simulate`] drives many of them in one process.
//!
//! What it promises: a server that follows the protocol and sees all messages learns the sum of those who arrived and who they were, as long as fewer
//! than [`Plan::threshold`] neighbours of a party hand it their shares. What it does not: parties are not authenticated here (keys have to be
//! signed, or come from a directory), and a server that lies about keys is not found out; nor does anything bound what a malicious party adds.

mod client;
mod keys;
mod message;
mod server;
mod shamir;
mod simulate;

pub use client::Client;
pub use message::Kind;
pub use server::Server;
pub use simulate::simulate;

use crate::base::rng::{Purpose, Stream};
use sha2::{Digest, Sha256};

/// Why a message or a sum is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no message of the protocol, or one of another length than it has to have.
    #[error("the message of party {from} is malformed: {why}")]
    Malformed {
        /// Who sent it, as it says itself.
        from: u32,
        /// What is wrong.
        why: &'static str,
    },
    /// It belongs to another sum: a replay, or a party that is in another round.
    #[error("the message of party {0} belongs to another sum")]
    OtherSum(u32),
    /// It comes too late, or too soon.
    #[error("a message `{got}` of party {from} came while `{wanted}` is on")]
    OutOfTurn {
        /// Who sent it.
        from: u32,
        /// What it is.
        got: &'static str,
        /// What is awaited.
        wanted: &'static str,
    },
    /// Its sender has no part in this, or has dropped out before.
    #[error("party {0} has no part in this step")]
    Stranger(u32),
    /// Its sender has sent the same before.
    #[error("party {0} has sent this already")]
    Twice(u32),
    /// A ciphertext or a key that its sender cannot have made.
    #[error("what party {0} gives does not pass its check")]
    Forged(u32),
    /// Shares do not give what their owner has committed to.
    #[error("shares of party {0} contradict what it has committed to")]
    Inconsistent(u32),
    /// Too many have dropped out.
    #[error("{left} of the neighbours of party {of} are left where {needed} are needed; the sum is lost: repeat it with other parties")]
    TooFew {
        /// Whose neighbours.
        of: u32,
        /// How many are left.
        left: usize,
        /// How many are needed.
        needed: usize,
    },
}

/// A result of the protocol.
pub type Result<T> = std::result::Result<T, Refused>;

/// What all parties of a sum agree on beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Name of this sum: no two of a training are alike.
    pub session: [u8; 16],
    /// Numbers in each vector.
    pub length: usize,
    /// Shares that give a secret back; more than half of a party's neighbours, so that no two halves can be told different things of a party.
    pub threshold: usize,
    /// Neighbours of each party, ascending.
    neighbours: Vec<Vec<u32>>,
}

impl Plan {
    /// A plan for `parties` parties with about `neighbours` neighbours each (all others, where there are no more; 0: as [`Plan::enough`] says), in the
    /// sum number `number` of the training `seed`, over vectors of `length` numbers. Who is whose neighbour is drawn: places on a ring.
    ///
    /// # Panics
    /// Where there are fewer than two parties.
    pub fn new(seed: u64, number: u64, parties: usize, neighbours: usize, length: usize) -> Plan {
        assert!(parties >= 2, "a sum of at least two parties");
        let hash = Sha256::digest(format!("lumos secure sum {seed} {number} {parties} {length}"));
        let mut session = [0; 16];
        session.copy_from_slice(&hash[..16]);
        let wanted = if neighbours == 0 { Plan::enough(parties) } else { neighbours };
        let all = wanted + 1 >= parties;
        let half = wanted.div_ceil(2);
        let mut ring: Vec<u32> = (0..parties as u32).collect();
        Stream::new(seed, Purpose::SecureSum, number, 0).shuffle(&mut ring);
        let mut near = vec![Vec::new(); parties];
        for (place, &party) in ring.iter().enumerate() {
            let mut own: Vec<u32> = if all || 2 * half + 1 >= parties {
                (0..parties as u32).filter(|other| *other != party).collect()
            } else {
                (1..=half).flat_map(|step| [ring[(place + step) % parties], ring[(place + parties - step) % parties]]).collect()
            };
            own.sort_unstable();
            near[party as usize] = own;
        }
        let threshold = near[0].len() / 2 + 1;
        Plan { session, length, threshold, neighbours: near }
    }

    /// Neighbours of which, of `parties` parties a third of whom drop out and a third of whom work with the server, each party has enough honest
    /// ones but with a chance below one in a million: all of up to 40, else `8 log2(parties)` and some. Ours, after the bounds of Bell et al.
    pub fn enough(parties: usize) -> usize {
        if parties <= 41 { parties - 1 } else { 8 * parties.ilog2() as usize + 8 }
    }

    /// Number of parties.
    pub fn parties(&self) -> usize {
        self.neighbours.len()
    }

    /// Neighbours of `party`, ascending.
    pub fn neighbours(&self, party: u32) -> &[u32] {
        &self.neighbours[party as usize]
    }
}

#[cfg(test)]
mod tests;
