//! Shamir's sharing of 32 bytes over the field of `2^61 - 1` elements: any `threshold` shares give the secret, fewer say nothing of it.

/// The field's size, a Mersenne prime.
const P: u64 = (1 << 61) - 1;

/// Parts of seven bytes that a secret is cut into.
const PARTS: usize = 5;

/// Bytes of a share.
pub const BYTES: usize = 8 * PARTS;

/// One party's share of each part.
pub type Share = [u64; PARTS];

fn reduce(x: u128) -> u64 {
    let folded = (x & u128::from(P)) as u64 + (x >> 61) as u64;
    if folded >= P { folded - P } else { folded }
}

fn multiply(a: u64, b: u64) -> u64 {
    reduce(u128::from(a) * u128::from(b))
}

fn add(a: u64, b: u64) -> u64 {
    reduce(u128::from(a) + u128::from(b))
}

fn subtract(a: u64, b: u64) -> u64 {
    add(a, P - b)
}

fn inverse(a: u64) -> u64 {
    // a^(P - 2), Fermat.
    let (mut result, mut base, mut left) = (1, a, P - 2);
    while left > 0 {
        if left & 1 == 1 {
            result = multiply(result, base);
        }
        (base, left) = (multiply(base, base), left >> 1);
    }
    result
}

fn parts(secret: &[u8; 32]) -> Share {
    std::array::from_fn(|i| {
        let chunk = &secret[7 * i..(7 * i + 7).min(32)];
        chunk.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    })
}

/// Shares of `secret` at the points `points`, each above 0 and below the field's size, any `threshold` of which give it back. `draw` gives uniform
/// 64-bit numbers.
pub fn split(secret: &[u8; 32], points: &[u64], threshold: usize, mut draw: impl FnMut() -> u64) -> Vec<Share> {
    let mut element = || loop {
        // Uniform below the size: what lies above is drawn again.
        let x = draw() >> 3;
        if x < P {
            return x;
        }
    };
    let coefficients: Vec<[u64; PARTS]> =
        std::iter::once(parts(secret)).chain((1..threshold).map(|_| std::array::from_fn(|_| element()))).collect();
    let at = |&x: &u64| std::array::from_fn(|part| coefficients.iter().rev().fold(0, |sum, c| add(multiply(sum, x), c[part])));
    points.iter().map(at).collect()
}

/// The secret that `shares` at distinct points give; nothing where they give none.
pub fn join(shares: &[(u64, Share)]) -> Option<[u8; 32]> {
    // Lagrange at 0.
    let mut found = [0u64; PARTS];
    for (i, (x, share)) in shares.iter().enumerate() {
        let (mut above, mut below) = (1, 1);
        for (_, (other, _)) in shares.iter().enumerate().filter(|(j, _)| *j != i) {
            above = multiply(above, *other);
            below = multiply(below, subtract(*other, *x));
        }
        let weight = multiply(above, inverse(below));
        found.iter_mut().zip(share).for_each(|(sum, part)| *sum = add(*sum, multiply(weight, *part)));
    }
    let mut secret = [0u8; 32];
    for (i, part) in found.iter().enumerate() {
        let chunk = &mut secret[7 * i..(7 * i + 7).min(32)];
        if part >> (8 * chunk.len()) != 0 {
            return None;
        }
        chunk.iter_mut().enumerate().for_each(|(k, byte)| *byte = (part >> (8 * k)) as u8);
    }
    Some(secret)
}

/// A share as bytes.
pub fn to_bytes(share: &Share) -> [u8; BYTES] {
    let mut out = [0; BYTES];
    out.chunks_exact_mut(8).zip(share).for_each(|(to, part)| to.copy_from_slice(&part.to_le_bytes()));
    out
}

/// Back from [`to_bytes`]; nothing for what is no element of the field.
pub fn from_bytes(bytes: &[u8]) -> Option<Share> {
    let mut share = [0; PARTS];
    if bytes.len() != BYTES {
        return None;
    }
    for (part, chunk) in share.iter_mut().zip(bytes.chunks_exact(8)) {
        *part = u64::from_le_bytes(chunk.try_into().ok()?);
    }
    share.iter().all(|part| *part < P).then_some(share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, Stream};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_enough_shares_give_the_secret_and_one_less_does_not(secret in any::<[u8; 32]>(), threshold in 1usize..9, more in 0usize..6, seed in any::<u64>()) {
            let mut stream = Stream::new(seed, Purpose::Bench, 0, 0);
            let mut points: Vec<u64> = (1..=(threshold + more) as u64).map(|x| x * 1_000_003).collect();
            let shares = split(&secret, &points, threshold, || u64::from(stream.u32()) << 32 | u64::from(stream.u32()));
            let mut all: Vec<(u64, Share)> = points.drain(..).zip(shares).collect();
            Stream::new(seed, Purpose::Bench, 1, 0).shuffle(&mut all);
            prop_assert_eq!(join(&all[..threshold]), Some(secret));
            prop_assert_eq!(from_bytes(&to_bytes(&all[0].1)), Some(all[0].1));
            if threshold > 1 {
                prop_assert_ne!(join(&all[..threshold - 1]), Some(secret));
            }
        }

        #[test]
        fn the_field_is_one(a in 1..P, b in 0..P) {
            prop_assert_eq!(multiply(a, inverse(a)), 1);
            prop_assert_eq!(add(subtract(b, a), a), b);
            prop_assert_eq!(u128::from(multiply(a, b)), u128::from(a) * u128::from(b) % u128::from(P));
        }
    }
}
