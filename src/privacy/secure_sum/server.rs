//! The party that learns the sum and nothing else.

use super::client::SEALED;
use super::keys::{Pair, add_mask, commitment};
use super::message::{Kind, Reader, Writer};
use super::shamir::{self, Share};
use super::{Plan, Refused, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the server holds of a party.
#[derive(Default)]
struct Party {
    /// Keys of the channel and of masks.
    keys: Option<[[u8; 32]; 2]>,
    commitment: Option<[u8; 32]>,
    /// Sealed shares by receiver.
    sealed: BTreeMap<u32, Vec<u8>>,
    arrived: bool,
    answered: bool,
    /// Shares of its secret, by the point that they are of.
    shares: Vec<(u64, Share)>,
}

/// The server: takes [`Kind::Keys`] of the parties, gives each its [`Server::directory`]; takes [`Kind::Shares`], gives each its [`Server::delivery`];
/// takes [`Kind::Masked`], gives those who arrived [`Server::arrived`]; takes [`Kind::Unmask`], and gives the sum. Who is late is refused and counts as
/// dropped out. A message that is refused changes nothing.
pub struct Server {
    plan: Arc<Plan>,
    parties: Vec<Party>,
    sum: Vec<u64>,
    takes: Kind,
}

impl Server {
    /// A server that waits for the keys of all parties.
    pub fn new(plan: Arc<Plan>) -> Server {
        let parties = (0..plan.parties()).map(|_| Party::default()).collect();
        Server { sum: vec![0; plan.length], parties, takes: Kind::Keys, plan }
    }

    /// What is awaited.
    pub fn takes(&self) -> Kind {
        self.takes
    }

    /// Takes a message of the kind that is awaited.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn receive(&mut self, message: &[u8]) -> Result<()> {
        let reader = Reader::new(&self.plan, self.takes, message)?;
        match self.takes {
            Kind::Keys => self.take_keys(reader),
            Kind::Shares => self.take_shares(reader),
            Kind::Masked => self.take_masked(reader),
            _ => self.take_unmask(reader),
        }
    }

    fn take_keys(&mut self, mut reader: Reader) -> Result<()> {
        let keys = [reader.array()?, reader.array()?];
        reader.end()?;
        let party = &mut self.parties[reader.party as usize];
        if party.keys.is_some() {
            return Err(Refused::Twice(reader.party));
        }
        party.keys = Some(keys);
        Ok(())
    }

    fn take_shares(&mut self, mut reader: Reader) -> Result<()> {
        let from = reader.party;
        let party = &self.parties[from as usize];
        if party.keys.is_none() {
            return Err(Refused::Stranger(from));
        }
        if party.commitment.is_some() {
            return Err(Refused::Twice(from));
        }
        let commitment = reader.array()?;
        let mut sealed = BTreeMap::new();
        while !reader.is_empty() {
            let to = reader.party()?;
            let text = reader.bytes(SEALED)?.to_vec();
            if self.plan.neighbours(from).binary_search(&to).is_err() || self.parties[to as usize].keys.is_none() {
                return Err(Refused::Stranger(to));
            }
            if sealed.insert(to, text).is_some() {
                return Err(reader.malformed("it has two shares for one party"));
            }
        }
        if sealed.len() != self.keyed(from).count() {
            return Err(reader.malformed("it has not a share for each neighbour"));
        }
        let party = &mut self.parties[from as usize];
        (party.commitment, party.sealed) = (Some(commitment), sealed);
        Ok(())
    }

    fn take_masked(&mut self, mut reader: Reader) -> Result<()> {
        let party = &mut self.parties[reader.party as usize];
        if party.commitment.is_none() {
            return Err(Refused::Stranger(reader.party));
        }
        if party.arrived {
            return Err(Refused::Twice(reader.party));
        }
        let numbers = reader.numbers(self.plan.length)?;
        self.sum.iter_mut().zip(numbers).for_each(|(sum, x)| *sum = sum.wrapping_add(x));
        party.arrived = true;
        Ok(())
    }

    fn take_unmask(&mut self, mut reader: Reader) -> Result<()> {
        let from = reader.party;
        if !self.parties[from as usize].arrived {
            return Err(Refused::Stranger(from));
        }
        if self.parties[from as usize].answered {
            return Err(Refused::Twice(from));
        }
        let mut shares = Vec::new();
        while !reader.is_empty() {
            let of = reader.party()?;
            let share = shamir::from_bytes(reader.bytes(shamir::BYTES)?).ok_or_else(|| reader.malformed("it has a share out of range"))?;
            shares.push((of, share));
        }
        let wanted: Vec<u32> = self.shared(from).collect();
        if !shares.iter().map(|(of, _)| *of).eq(wanted) {
            return Err(reader.malformed("it has not the shares that were asked for"));
        }
        for (of, share) in shares {
            self.parties[of as usize].shares.push((u64::from(from) + 1, share));
        }
        self.parties[from as usize].answered = true;
        Ok(())
    }

    /// Neighbours of `party` that have sent keys.
    fn keyed(&self, party: u32) -> impl Iterator<Item = u32> + '_ {
        self.plan.neighbours(party).iter().copied().filter(|other| self.parties[*other as usize].keys.is_some())
    }

    /// Neighbours of `party` that have sent shares.
    fn shared(&self, party: u32) -> impl Iterator<Item = u32> + '_ {
        self.plan.neighbours(party).iter().copied().filter(|other| self.parties[*other as usize].commitment.is_some())
    }

    /// Ends the step `from`; no message of it is taken any more.
    fn close(&mut self, from: Kind, to: Kind) {
        if self.takes == from {
            self.takes = to;
        }
    }

    /// The keys of the neighbours of `party`, for whoever has sent its own. Ends the taking of keys.
    pub fn directory(&mut self, party: u32) -> Vec<u8> {
        self.close(Kind::Keys, Kind::Shares);
        let mut message = Writer::new(&self.plan, Kind::Directory, party);
        for other in self.keyed(party) {
            message.party(other);
            self.parties[other as usize].keys.iter().flatten().for_each(|key| message.bytes(key));
        }
        message.done()
    }

    /// The shares that neighbours have for `party`. Ends the taking of shares.
    pub fn delivery(&mut self, party: u32) -> Vec<u8> {
        self.close(Kind::Shares, Kind::Masked);
        let mut message = Writer::new(&self.plan, Kind::Delivery, party);
        for other in self.shared(party) {
            if let Some(sealed) = self.parties[other as usize].sealed.get(&party) {
                message.party(other);
                message.bytes(sealed);
            }
        }
        message.done()
    }

    /// The parties whose vectors have arrived, ascending.
    pub fn survivors(&self) -> Vec<u32> {
        (0..self.parties.len() as u32).filter(|party| self.parties[*party as usize].arrived).collect()
    }

    /// Which neighbours of `party` have arrived. Ends the taking of vectors.
    pub fn arrived(&mut self, party: u32) -> Vec<u8> {
        self.close(Kind::Masked, Kind::Unmask);
        let mut message = Writer::new(&self.plan, Kind::Arrived, party);
        self.shared(party).filter(|other| self.parties[*other as usize].arrived).for_each(|other| message.party(other));
        message.done()
    }

    /// The secret of `party` that its neighbours' shares give.
    fn secret(&self, party: u32) -> Result<[u8; 32]> {
        let (shares, needed) = (&self.parties[party as usize].shares, self.plan.threshold);
        if shares.len() < needed {
            return Err(Refused::TooFew { of: party, left: shares.len(), needed });
        }
        shamir::join(&shares[..needed]).ok_or(Refused::Inconsistent(party))
    }

    /// The sum of the vectors that arrived, without masks.
    ///
    /// # Errors
    /// [`Refused::TooFew`] where too many have dropped out, [`Refused::Inconsistent`] where shares give a secret that is not the one that its owner
    /// has committed to.
    pub fn finish(mut self) -> Result<Vec<u64>> {
        let mut sum = std::mem::take(&mut self.sum);
        for (number, party) in self.parties.iter().enumerate().filter(|(_, party)| party.commitment.is_some()) {
            let number = number as u32;
            let secret = self.secret(number)?;
            if party.arrived {
                if Some(commitment(&secret)) != party.commitment {
                    return Err(Refused::Inconsistent(number));
                }
                add_mask(&secret, &mut sum, true);
                continue;
            }
            let pair = Pair::new(secret);
            if party.keys.map(|keys| keys[1]) != Some(pair.public) {
                return Err(Refused::Inconsistent(number));
            }
            for other in self.shared(number).filter(|other| self.parties[*other as usize].arrived) {
                let Some([_, key]) = self.parties[other as usize].keys else { continue };
                let seed = pair.mask_seed(&self.plan.session, number, other, &key)?;
                // The other one has added its own sign.
                add_mask(&seed, &mut sum, other < number);
            }
        }
        Ok(sum)
    }
}
