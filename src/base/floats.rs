//! A vector of numbers that begins at a cache line.

use std::ops::{Deref, DerefMut};

/// Numbers of a cache line.
pub const LINE: usize = 16;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Numbers at the start of a cache line, so that vectors of a whole line lie in one: loads and stores of two lines cost products a fifteenth of
/// their speed.
#[derive(Clone, Default)]
pub struct Floats {
    lines: Vec<Line>,
    len: usize,
}

impl Floats {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Floats {
        let mut floats = Floats::default();
        floats.resize(len);
        floats
    }

    /// Makes it `len` long. What is added is 0.
    pub fn resize(&mut self, len: usize) {
        let before = self.len;
        self.lines.resize(len.div_ceil(LINE), Line([0.0; LINE]));
        self.len = len;
        // The end of the line that was the last one may hold what was cut off.
        let end = len.min(before.next_multiple_of(LINE));
        if before < end {
            self[before..end].fill(0.0);
        }
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        size_of::<Line>() * self.lines.capacity()
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: lines lie without gaps, each is `LINE` numbers that have been set, and there are at least `len` of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_a_line_and_grows_with_zeros() {
        let mut floats = Floats::default();
        assert!(floats.is_empty());
        for len in [1, 16, 17, 5, 40] {
            floats.resize(len);
            assert_eq!((floats.len(), floats.as_ptr() as usize % 64), (len, 0));
            let kept = floats.iter().take_while(|x| **x == 7.0).count();
            assert!(floats[kept..].iter().all(|x| *x == 0.0), "{len}: {floats:?}", floats = &floats[..]);
            floats.fill(7.0);
        }
        assert!(floats.bytes() >= 160);
        assert_eq!(Floats::zeros(3)[..], [0.0; 3]);
    }
}
