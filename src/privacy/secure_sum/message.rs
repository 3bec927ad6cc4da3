//! Messages as bytes. Little-endian: `magic u32, kind u32, session [16], party u32`, then what the kind says. `party` is the sender of what goes to the
//! server, and the receiver of what comes from it.

use super::{Plan, Refused, Result};

const MAGIC: u32 = 0x4D55_534C;
const HEADER: usize = 28;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// A party's public keys: for the channel, for masks.
    Keys = 1,
    /// The keys of the receiver's neighbours.
    Directory = 2,
    /// A commitment, and sealed shares for each neighbour.
    Shares = 3,
    /// The sealed shares that neighbours have for the receiver.
    Delivery = 4,
    /// A masked vector.
    Masked = 5,
    /// Which neighbours' vectors have arrived.
    Arrived = 6,
    /// Shares that take masks out.
    Unmask = 7,
}

impl Kind {
    /// Its name in messages of refusal.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Keys => "keys",
            Kind::Directory => "directory",
            Kind::Shares => "shares",
            Kind::Delivery => "delivery",
            Kind::Masked => "masked",
            Kind::Arrived => "arrived",
            Kind::Unmask => "unmask",
        }
    }

    fn of(number: u32) -> Option<Kind> {
        let all = [Kind::Keys, Kind::Directory, Kind::Shares, Kind::Delivery, Kind::Masked, Kind::Arrived, Kind::Unmask];
        all.into_iter().find(|kind| *kind as u32 == number)
    }
}

/// A message that is being written.
pub struct Writer(Vec<u8>);

impl Writer {
    pub fn new(plan: &Plan, kind: Kind, party: u32) -> Writer {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(&MAGIC.to_le_bytes());
        bytes.extend_from_slice(&(kind as u32).to_le_bytes());
        bytes.extend_from_slice(&plan.session);
        bytes.extend_from_slice(&party.to_le_bytes());
        Writer(bytes)
    }

    pub fn party(&mut self, party: u32) {
        self.bytes(&party.to_le_bytes());
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub fn numbers(&mut self, numbers: &[u64]) {
        self.0.reserve(8 * numbers.len());
        numbers.iter().for_each(|n| self.0.extend_from_slice(&n.to_le_bytes()));
    }

    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

/// A message that is being read.
pub struct Reader<'m> {
    /// The party in its head.
    pub party: u32,
    rest: &'m [u8],
}

impl<'m> Reader<'m> {
    /// The body of a message of `kind` in the sum of `plan`.
    ///
    /// # Errors
    /// [`Refused::Malformed`], [`Refused::OtherSum`], [`Refused::OutOfTurn`].
    pub fn new(plan: &Plan, kind: Kind, message: &'m [u8]) -> Result<Reader<'m>> {
        let word = |at: usize| message.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
        let from = word(24).unwrap_or(u32::MAX);
        let malformed = |why| Refused::Malformed { from, why };
        if message.len() < HEADER {
            return Err(malformed("it is too short"));
        }
        if word(0) != Some(MAGIC) {
            return Err(malformed("it is no message of this protocol"));
        }
        let got = word(4).and_then(Kind::of).ok_or_else(|| malformed("its kind is not known"))?;
        if message[8..24] != plan.session {
            return Err(Refused::OtherSum(from));
        }
        if from as usize >= plan.parties() {
            return Err(Refused::Stranger(from));
        }
        if got != kind {
            return Err(Refused::OutOfTurn { from, got: got.name(), wanted: kind.name() });
        }
        Ok(Reader { party: from, rest: &message[HEADER..] })
    }

    /// What is wrong with it.
    pub fn malformed(&self, why: &'static str) -> Refused {
        Refused::Malformed { from: self.party, why }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn bytes(&mut self, n: usize) -> Result<&'m [u8]> {
        if self.rest.len() < n {
            return Err(self.malformed("it is too short"));
        }
        let (head, tail) = self.rest.split_at(n);
        self.rest = tail;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N)?);
        Ok(out)
    }

    pub fn party(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// `n` numbers, which are all that is left.
    pub fn numbers(&mut self, n: usize) -> Result<impl Iterator<Item = u64> + 'm> {
        if self.rest.len() != 8 * n {
            return Err(self.malformed("its vector has another length"));
        }
        let bytes = self.bytes(8 * n)?;
        Ok(bytes.chunks_exact(8).map(|b| u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])))
    }

    pub fn end(&self) -> Result<()> {
        if self.is_empty() { Ok(()) } else { Err(self.malformed("it is too long")) }
    }
}
