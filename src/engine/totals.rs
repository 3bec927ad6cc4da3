//! Sums over the clients of a round, for its report.

/// Sums over the clients of a round, for its report.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Clients, local steps, tokens, examples, uploaded rows, downloaded rows.
    pub counts: [u64; 6],
    /// Next-item loss and contrast in fixed point.
    pub losses: [i64; 2],
    /// Distinct item rows that were uploaded.
    pub item_rows: u64,
    /// Bytes down and up.
    pub bytes: [u64; 2],
}
