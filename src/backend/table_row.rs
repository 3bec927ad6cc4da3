//! A row of the item table that a step runs on.

/// A row of the owner's item table `[R, d]`: the table of the items that a client touches, or the whole catalogue. It is not the item:
/// `Packer::items` says which item a row is. As 32 bits on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct TableRow(pub u32);

impl TableRow {
    /// The row of `item` in a table of the whole catalogue.
    pub fn of_item(item: u32) -> TableRow {
        TableRow(item)
    }

    /// The rows of `items` in a table of the whole catalogue.
    pub fn of_items(items: &[u32]) -> &[TableRow] {
        // SAFETY: a row is 32 bits, as an item is, and in such a table they are the same number.
        unsafe { std::slice::from_raw_parts(items.as_ptr().cast(), items.len()) }
    }

    /// The row as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// The same row of a joint table in which row 0 of this one is row `first`.
    pub fn behind(self, first: u32) -> TableRow {
        TableRow(self.0 + first)
    }
}
