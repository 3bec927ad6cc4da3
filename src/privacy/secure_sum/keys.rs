//! Keys, what is derived from them, masks, and sealed shares.

use super::{Refused, Result};
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use hkdf::Hkdf;
use hkdf::hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};

/// Bytes that are added to a sealed text.
pub const TAG: usize = 32;

/// `length` bytes from `secret` for one purpose, by HKDF-SHA-256 with the session as salt.
fn derive<const N: usize>(session: &[u8; 16], secret: &[u8], purpose: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    let filled = Hkdf::<Sha256>::new(Some(session), secret).expand(&purpose.concat(), &mut out);
    // HKDF gives up to 8,160 bytes.
    filled.expect("at most 64 bytes are asked for");
    out
}

/// A secret of `purpose` from a party's own entropy.
pub fn own(session: &[u8; 16], entropy: &[u8; 32], purpose: &[u8]) -> [u8; 32] {
    derive(session, entropy, &[purpose])
}

/// A secret key and its public one.
pub struct Pair {
    secret: StaticSecret,
    pub public: [u8; 32],
}

impl Pair {
    pub fn new(secret: [u8; 32]) -> Pair {
        let secret = StaticSecret::from(secret);
        let public = PublicKey::from(&secret).to_bytes();
        Pair { secret, public }
    }

    /// What this party and `other` with key `public` share.
    ///
    /// # Errors
    /// [`Refused::Forged`] for a key that gives everybody the same.
    fn agree(&self, other: u32, public: &[u8; 32]) -> Result<[u8; 32]> {
        let shared = self.secret.diffie_hellman(&PublicKey::from(*public));
        if shared.was_contributory() { Ok(*shared.as_bytes()) } else { Err(Refused::Forged(other)) }
    }

    /// Seed of the mask that parties `me` and `other` have in common.
    pub fn mask_seed(&self, session: &[u8; 16], me: u32, other: u32, public: &[u8; 32]) -> Result<[u8; 32]> {
        let pair = [me.min(other).to_le_bytes(), me.max(other).to_le_bytes()].concat();
        Ok(derive(session, &self.agree(other, public)?, &[b"mask", &pair]))
    }

    /// Keys for what goes from one party to the other, with `other` as the second of them: of the cipher and of the check.
    pub fn channel(&self, session: &[u8; 16], [from, to]: [u32; 2], other: u32, public: &[u8; 32]) -> Result<[u8; 64]> {
        let way = [from.to_le_bytes(), to.to_le_bytes()].concat();
        Ok(derive(session, &self.agree(other, public)?, &[b"channel", &way]))
    }
}

fn mac(keys: &[u8; 64], text: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&keys[32..]).expect("HMAC takes keys of any length");
    mac.update(text);
    mac
}

fn cipher(key: &[u8], text: &mut [u8]) {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(key);
    // Each key seals one text, so that the nonce may stay.
    ChaCha20::new(&bytes.into(), &[0; 12].into()).apply_keystream(text);
}

/// Encrypts `text` and appends its check.
pub fn seal(keys: &[u8; 64], text: &[u8]) -> Vec<u8> {
    let mut out = text.to_vec();
    cipher(&keys[..32], &mut out);
    let tag = mac(keys, &out).finalize().into_bytes();
    out.extend_from_slice(&tag);
    out
}

/// Back from [`seal`]; nothing where the check fails.
pub fn open(keys: &[u8; 64], sealed: &[u8]) -> Option<Vec<u8>> {
    let (text, tag) = sealed.split_at(sealed.len().checked_sub(TAG)?);
    mac(keys, text).verify_slice(tag).ok()?;
    let mut text = text.to_vec();
    cipher(&keys[..32], &mut text);
    Some(text)
}

/// What a party commits to its personal seed by.
pub fn commitment(seed: &[u8; 32]) -> [u8; 32] {
    Sha256::digest([b"personal".as_slice(), seed].concat()).into()
}

/// Adds the mask of `seed` to `sum`, or subtracts it: ChaCha20's stream as 64-bit integers.
pub fn add_mask(seed: &[u8; 32], sum: &mut [u64], subtract: bool) {
    let mut stream = ChaCha20::new(&(*seed).into(), &[0; 12].into());
    let mut bytes = [0u8; 4096];
    for part in sum.chunks_mut(bytes.len() / 8) {
        let bytes = &mut bytes[..8 * part.len()];
        bytes.fill(0);
        stream.apply_keystream(bytes);
        for (value, chunk) in part.iter_mut().zip(bytes.chunks_exact(8)) {
            let mask = u64::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3], chunk[4], chunk[5], chunk[6], chunk[7]]);
            *value = if subtract { value.wrapping_sub(mask) } else { value.wrapping_add(mask) };
        }
    }
}

/// Uniform 64-bit numbers from `seed`.
pub fn numbers(seed: [u8; 32]) -> impl FnMut() -> u64 {
    let mut stream = ChaCha20::new(&seed.into(), &[0; 12].into());
    move || {
        let mut bytes = [0u8; 8];
        stream.apply_keystream(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}
