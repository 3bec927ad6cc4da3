//! Places in a step that a term names while it packs. A token, an output, an item and a row of the client's table
//! ([`crate::backend::TableRow`]) are four different numbers; an item is a plain number, the others have types of their own.

/// A packed token: a place of the step's sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub(crate) u32);

impl Token {
    /// The token `n` places behind this one.
    pub fn after(self, n: usize) -> Token {
        Token(self.0.wrapping_add(n as u32))
    }
}

/// An output: a row of the hidden states `[Q, d]` that losses read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output(pub(crate) u32);

impl Output {
    /// The output `n` places before this one.
    pub fn before(self, n: usize) -> Output {
        Output(self.0.wrapping_sub(n as u32))
    }
}
