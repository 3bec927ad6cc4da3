//! Numbers that a decoder's weights and activations are kept in, rounded by their definition.

/// A kind of number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    F32,
    Bf16,
    F16,
}
use Number::{Bf16, F16, F32};

#[allow(dead_code)] // every test uses some of it
impl Number {
    pub const ALL: [Number; 3] = [F32, Bf16, F16];

    pub fn suffix(self) -> &'static str {
        match self {
            F32 => "f32",
            Bf16 => "bf16",
            F16 => "f16",
        }
    }

    pub fn bytes(self) -> usize {
        if self == F32 { 4 } else { 2 }
    }

    /// Bits of mantissa after the leading one, the least exponent of a normal number, the largest number.
    fn shape(self) -> (i32, i32, f64) {
        match self {
            F32 => (23, -126, f64::from(f32::MAX)),
            Bf16 => (7, -126, (2.0 - 2f64.powi(-7)) * 2f64.powi(127)),
            F16 => (10, -14, 65504.0),
        }
    }

    /// The nearest number of this kind, of two equally near the even one.
    pub fn round(self, v: f32) -> f64 {
        let x = f64::from(v);
        if x == 0.0 || !x.is_finite() {
            return x;
        }
        let (bits, least, largest) = self.shape();
        let mut exponent = x.abs().log2().floor() as i32;
        exponent = if 2f64.powi(exponent) > x.abs() { exponent - 1 } else { exponent };
        let unit = 2f64.powi(exponent.max(least) - bits);
        let rounded = (x / unit).round_ties_even() * unit;
        if rounded.abs() > largest { f64::INFINITY.copysign(x) } else { rounded }
    }

    /// The bits of a number of this kind.
    pub fn encode(self, v: f32) -> u32 {
        let r = self.round(v);
        match self {
            F32 => v.to_bits(),
            Bf16 => (r as f32).to_bits() >> 16,
            F16 => {
                let sign = if r.is_sign_negative() { 0x8000 } else { 0 };
                let size = r.abs();
                sign | if size.is_infinite() {
                    0x7c00
                } else if size < 2f64.powi(-14) {
                    (size * 2f64.powi(24)) as u32
                } else {
                    let exponent = (size as f32).to_bits() >> 23;
                    let mantissa = (size as f32).to_bits() >> 13 & 0x3ff;
                    (exponent - 112) << 10 | mantissa
                }
            }
        }
    }

    /// The number of these bits.
    pub fn decode(self, bits: u32) -> f32 {
        match self {
            F32 => f32::from_bits(bits),
            Bf16 => f32::from_bits(bits << 16),
            F16 => {
                let (exponent, mantissa) = ((bits >> 10 & 31) as i32, f64::from(bits & 1023));
                let size = match exponent {
                    0 => mantissa * 2f64.powi(-24),
                    31 if mantissa == 0.0 => f64::INFINITY,
                    31 => f64::NAN,
                    e => (mantissa + 1024.0) * 2f64.powi(e - 25),
                };
                (if bits & 0x8000 != 0 { -size } else { size }) as f32
            }
        }
    }

    /// Rows of `width` numbers in memory, padded with `pad` to `ld`, at a multiple of 16 bytes.
    pub fn rows(self, values: &[f32], width: usize, ld: usize, pad: f32) -> Memory {
        let rows = values.len() / width;
        let mut memory = Memory::new(rows * ld * self.bytes());
        for (i, to) in memory.bytes_mut().chunks_exact_mut(self.bytes()).enumerate() {
            let (row, column) = (i / ld, i % ld);
            let v = if column < width { values[row * width + column] } else { pad };
            to.copy_from_slice(&self.encode(v).to_le_bytes()[..to.len()]);
        }
        memory
    }

    /// All numbers of `memory`.
    pub fn read(self, memory: &Memory) -> Vec<f32> {
        let one = |b: &[u8]| {
            let mut bits = [0; 4];
            bits[..b.len()].copy_from_slice(b);
            self.decode(u32::from_le_bytes(bits))
        };
        memory.bytes().chunks_exact(self.bytes()).map(one).collect()
    }
}

/// Bytes at a multiple of 16; NaN where nothing was written.
pub struct Memory {
    words: Vec<u128>,
    len: usize,
}

#[allow(dead_code)]
impl Memory {
    pub fn new(len: usize) -> Memory {
        Memory { words: vec![u128::MAX; len.div_ceil(16) + 1], len }
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: plain bytes of the vector, which holds more than `len` of them.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), self.len) }
    }

    pub fn pointer(&self) -> *const u8 {
        self.words.as_ptr().cast()
    }

    pub fn pointer_mut(&mut self) -> *mut u8 {
        self.words.as_mut_ptr().cast()
    }
}
