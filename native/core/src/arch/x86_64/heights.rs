//! How rows are cut into register tiles.

/// Rows of a register tile at the most.
const ROWS: usize = 6;

/// As few tiles as there can be, whose heights differ by 1 at the most. Of more than 3 rows, none is lower than 3.
#[derive(Clone, Copy)]
pub(super) struct Heights {
    /// Rows of the lower tiles.
    low: usize,
    /// Rows in tiles that are one row higher, which come first.
    higher: usize,
}

impl Heights {
    pub fn of(m: usize) -> Self {
        let tiles = m.div_ceil(ROWS);
        let (low, higher) = (m / tiles, m % tiles);
        Self { low, higher: higher * (low + 1) }
    }

    /// That of the tile that begins with a row.
    pub fn from(self, row: usize) -> usize {
        self.low + usize::from(row < self.higher)
    }
}
