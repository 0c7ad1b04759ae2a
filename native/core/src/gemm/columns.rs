//! Some columns of a weight, as a multiplication of their own.

use crate::error::Error;
use crate::geometry::Geometry;
use std::ops::Range;

/// Columns of whole strips of tiles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    /// The first of them.
    pub start: usize,
    /// How many; those in the padding are left out.
    pub count: usize,
    /// The first strip.
    pub strip: usize,
    /// How many.
    pub strips: usize,
}

impl Columns {
    /// Those of a range, which has to begin and end where strips do.
    pub fn new(geometry: &Geometry, range: Range<usize>) -> Result<Self, Error> {
        let (n, part) = (geometry.n(), geometry.tile_columns());
        if range.start >= range.end || range.end > n {
            return Err(Error::Argument { what: "the columns of a weight", expected: n, found: range.end });
        }
        for whole in [range.start, range.end] {
            if whole != n && !whole.is_multiple_of(part) {
                return Err(Error::Divisibility { what: "columns", whole, part });
            }
        }
        let strip = range.start / part;
        Ok(Self { start: range.start, count: range.len(), strip, strips: range.end.div_ceil(part) - strip })
    }

    /// As a range.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.count
    }
}
