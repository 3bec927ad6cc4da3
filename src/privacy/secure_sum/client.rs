//! A party that adds a vector.

use super::keys::{Pair, TAG, add_mask, commitment, numbers, open, own, seal};
use super::message::{Kind, Reader, Writer};
use super::shamir::{self, Share};
use super::{Plan, Refused, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a sealed pair of shares.
pub(super) const SEALED: usize = 2 * shamir::BYTES + TAG;

/// What a neighbour has given.
struct Neighbour {
    channel: [u8; 32],
    mask: [u8; 32],
    /// Its shares of its personal seed and of its mask key, once delivered.
    shares: Option<[Share; 2]>,
}

/// A party: [`Client::keys`], then [`Client::shares`], [`Client::masked`] and [`Client::unmask`], each answer to the message that it names. A message
/// that is refused changes nothing.
pub struct Client {
    plan: Arc<Plan>,
    me: u32,
    channel: Pair,
    mask: Pair,
    mask_secret: [u8; 32],
    personal: [u8; 32],
    entropy: [u8; 32],
    neighbours: BTreeMap<u32, Neighbour>,
    awaits: Kind,
}

impl Client {
    /// Party `me` of `plan`. `entropy` must be secret and uniform; what it gives holds for this sum alone.
    pub fn new(plan: Arc<Plan>, me: u32, entropy: [u8; 32]) -> Client {
        let secret = |purpose: &[u8]| own(&plan.session, &entropy, purpose);
        let mask_secret = secret(b"mask key");
        Client {
            channel: Pair::new(secret(b"channel key")),
            mask: Pair::new(mask_secret),
            mask_secret,
            personal: secret(b"personal seed"),
            neighbours: BTreeMap::new(),
            awaits: Kind::Keys,
            plan,
            me,
            entropy,
        }
    }

    /// This party's public keys.
    pub fn keys(&mut self) -> Vec<u8> {
        let mut message = Writer::new(&self.plan, Kind::Keys, self.me);
        message.bytes(&self.channel.public);
        message.bytes(&self.mask.public);
        self.awaits = Kind::Directory;
        message.done()
    }

    fn read<'m>(&self, kind: Kind, message: &'m [u8]) -> Result<Reader<'m>> {
        let reader = Reader::new(&self.plan, kind, message)?;
        if reader.party != self.me {
            return Err(Refused::Stranger(reader.party));
        }
        if self.awaits != kind {
            return Err(Refused::OutOfTurn { from: self.me, got: kind.name(), wanted: self.awaits.name() });
        }
        Ok(reader)
    }

    fn enough(&self, left: usize) -> Result<()> {
        let needed = self.plan.threshold;
        if left >= needed { Ok(()) } else { Err(Refused::TooFew { of: self.me, left, needed }) }
    }

    /// Sealed shares for the neighbours in a [`Kind::Directory`].
    ///
    /// # Errors
    /// [`Refused`], also for a neighbour that the plan does not have and for a directory of too few.
    pub fn shares(&mut self, directory: &[u8]) -> Result<Vec<u8>> {
        let mut reader = self.read(Kind::Directory, directory)?;
        let mut neighbours = BTreeMap::new();
        while !reader.is_empty() {
            let party = reader.party()?;
            let entry = Neighbour { channel: reader.array()?, mask: reader.array()?, shares: None };
            if self.plan.neighbours(self.me).binary_search(&party).is_err() {
                return Err(Refused::Stranger(party));
            }
            if entry.channel == self.channel.public || entry.mask == self.mask.public {
                return Err(Refused::Forged(party));
            }
            if neighbours.insert(party, entry).is_some() {
                return Err(Refused::Twice(party));
            }
        }
        self.enough(neighbours.len())?;
        let points: Vec<u64> = neighbours.keys().map(|&party| u64::from(party) + 1).collect();
        let mut draw = numbers(own(&self.plan.session, &self.entropy, b"shares"));
        let personal = shamir::split(&self.personal, &points, self.plan.threshold, &mut draw);
        let mask = shamir::split(&self.mask_secret, &points, self.plan.threshold, &mut draw);
        let mut message = Writer::new(&self.plan, Kind::Shares, self.me);
        message.bytes(&commitment(&self.personal));
        for ((&party, neighbour), (personal, mask)) in neighbours.iter().zip(personal.iter().zip(&mask)) {
            let keys = self.channel.channel(&self.plan.session, [self.me, party], party, &neighbour.channel)?;
            message.party(party);
            message.bytes(&seal(&keys, &[shamir::to_bytes(personal), shamir::to_bytes(mask)].concat()));
        }
        (self.neighbours, self.awaits) = (neighbours, Kind::Delivery);
        Ok(message.done())
    }

    /// The vector `input` under its masks, with the neighbours of a [`Kind::Delivery`].
    ///
    /// # Errors
    /// [`Refused`], also for shares that a neighbour cannot have sealed.
    ///
    /// # Panics
    /// Where `input` has not the plan's length.
    pub fn masked(&mut self, delivery: &[u8], input: &[u64]) -> Result<Vec<u8>> {
        assert_eq!(input.len(), self.plan.length, "a vector of the plan's length");
        let mut reader = self.read(Kind::Delivery, delivery)?;
        let mut delivered = BTreeMap::new();
        while !reader.is_empty() {
            let party = reader.party()?;
            let sealed = reader.bytes(SEALED)?;
            let neighbour = self.neighbours.get(&party).ok_or(Refused::Stranger(party))?;
            let keys = self.channel.channel(&self.plan.session, [party, self.me], party, &neighbour.channel)?;
            let text = open(&keys, sealed).ok_or(Refused::Forged(party))?;
            let (personal, mask) = text.split_at(shamir::BYTES);
            let both = shamir::from_bytes(personal).zip(shamir::from_bytes(mask)).ok_or(Refused::Forged(party))?;
            if delivered.insert(party, [both.0, both.1]).is_some() {
                return Err(Refused::Twice(party));
            }
        }
        self.enough(delivered.len())?;
        let mut sum = input.to_vec();
        add_mask(&self.personal, &mut sum, false);
        for party in delivered.keys() {
            let seed = self.mask.mask_seed(&self.plan.session, self.me, *party, &self.neighbours[party].mask)?;
            add_mask(&seed, &mut sum, self.me > *party);
        }
        self.neighbours.retain(|party, _| delivered.contains_key(party));
        for (party, shares) in delivered {
            if let Some(neighbour) = self.neighbours.get_mut(&party) {
                neighbour.shares = Some(shares);
            }
        }
        self.awaits = Kind::Arrived;
        let mut message = Writer::new(&self.plan, Kind::Masked, self.me);
        message.numbers(&sum);
        Ok(message.done())
    }

    /// Of each neighbour that a [`Kind::Arrived`] lists the share of its personal seed, of the others that of their mask key; once.
    ///
    /// # Errors
    /// [`Refused`], also where fewer neighbours have arrived than give a secret back: then nothing is given away.
    pub fn unmask(&mut self, arrived: &[u8]) -> Result<Vec<u8>> {
        let mut reader = self.read(Kind::Arrived, arrived)?;
        let mut there = Vec::new();
        while !reader.is_empty() {
            let party = reader.party()?;
            if !self.neighbours.contains_key(&party) {
                return Err(Refused::Stranger(party));
            }
            if there.contains(&party) {
                return Err(Refused::Twice(party));
            }
            there.push(party);
        }
        self.enough(there.len())?;
        let mut message = Writer::new(&self.plan, Kind::Unmask, self.me);
        for (party, neighbour) in &self.neighbours {
            let Some([personal, mask]) = &neighbour.shares else { continue };
            message.party(*party);
            message.bytes(&shamir::to_bytes(if there.contains(party) { personal } else { mask }));
        }
        // Asked a second time, with another list, it would give both.
        self.awaits = Kind::Unmask;
        Ok(message.done())
    }
}
