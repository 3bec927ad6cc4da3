//! Pieces of bytes in one array, each behind its length: what processes send each other.

/// Pieces, in the order in which they were put in. Numbers are little-endian.
#[derive(Clone, Debug, Default)]
pub struct Parcel(Vec<u8>);

impl Parcel {
    /// Without a piece.
    pub fn new() -> Parcel {
        Parcel::default()
    }

    /// Appends a piece.
    #[must_use]
    pub fn bytes(mut self, piece: &[u8]) -> Parcel {
        self.0.extend_from_slice(&(piece.len() as u64).to_le_bytes());
        self.0.extend_from_slice(piece);
        self
    }

    /// Appends a piece of 32-bit numbers.
    #[must_use]
    pub fn words(self, values: &[u32]) -> Parcel {
        self.numbers(values.iter().map(|v| v.to_le_bytes()), values.len())
    }

    /// Appends a piece of 64-bit numbers.
    #[must_use]
    pub fn longs(self, values: &[u64]) -> Parcel {
        self.numbers(values.iter().map(|v| v.to_le_bytes()), values.len())
    }

    /// Appends a piece of 32-bit floats; every bit of them comes back.
    #[must_use]
    pub fn floats(self, values: &[f32]) -> Parcel {
        self.numbers(values.iter().map(|v| v.to_le_bytes()), values.len())
    }

    fn numbers<const W: usize>(mut self, values: impl Iterator<Item = [u8; W]>, n: usize) -> Parcel {
        self.0.extend_from_slice(&((n * W) as u64).to_le_bytes());
        self.0.extend(values.flatten());
        self
    }

    /// All pieces in one array, to be read by [`Pieces`].
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// The pieces of a parcel, one after the other; nothing where there is none any more or the bytes are damaged.
#[derive(Clone, Copy, Debug)]
pub struct Pieces<'b>(&'b [u8]);

impl<'b> Pieces<'b> {
    /// Of the bytes of a parcel.
    pub fn of(bytes: &'b [u8]) -> Pieces<'b> {
        Pieces(bytes)
    }

    /// Whether no piece is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next piece.
    pub fn bytes(&mut self) -> Option<&'b [u8]> {
        let (length, rest) = self.0.split_first_chunk::<8>()?;
        let (piece, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        self.0 = rest;
        Some(piece)
    }

    /// The next piece as text.
    pub fn text(&mut self) -> Option<&'b str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// The next piece as 32-bit numbers.
    pub fn words(&mut self) -> Option<Vec<u32>> {
        self.numbers(u32::from_le_bytes)
    }

    /// The next piece as 64-bit numbers.
    pub fn longs(&mut self) -> Option<Vec<u64>> {
        self.numbers(u64::from_le_bytes)
    }

    /// The next piece as 32-bit floats.
    pub fn floats(&mut self) -> Option<Vec<f32>> {
        self.numbers(f32::from_le_bytes)
    }

    fn numbers<T, const W: usize>(&mut self, from: fn([u8; W]) -> T) -> Option<Vec<T>> {
        let (chunks, rest) = self.bytes()?.as_chunks::<W>();
        rest.is_empty().then(|| chunks.iter().map(|chunk| from(*chunk)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_back_and_damage_is_seen() {
        let nan = f32::from_bits(0x7fc0_1234);
        let bytes = Parcel::new().bytes(b"head").words(&[7, 8]).longs(&[]).floats(&[nan, -0.0]).into_bytes();
        let mut pieces = Pieces::of(&bytes);
        assert_eq!(pieces.text(), Some("head"));
        assert_eq!(pieces.words(), Some(vec![7, 8]));
        assert_eq!(pieces.longs(), Some(vec![]));
        let floats: Vec<u32> = pieces.floats().unwrap().into_iter().map(f32::to_bits).collect();
        assert_eq!(floats, [0x7fc0_1234, 0x8000_0000]);
        assert!(pieces.is_empty() && pieces.bytes().is_none());

        let mut cut = Pieces::of(&bytes[..10]);
        assert_eq!(cut.bytes(), None);
        assert_eq!(Pieces::of(&Parcel::new().bytes(b"abc").into_bytes()).words(), None);
    }
}
