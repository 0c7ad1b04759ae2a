//! The rows of a table.

use mcd_core::{Parallel, PrepareOptions, Residency, RowPart, VerifiedWeight, WeightType};

use crate::operators::weight::Prepared;

/// A table that was verified.
pub struct Table {
    weight: VerifiedWeight,
    /// All of it, with the residency `decoded`.
    decoded: Option<Vec<u8>>,
}

impl Table {
    /// Length of a row.
    pub fn columns(&self) -> usize {
        self.weight.k()
    }

    /// Tells `sink` all parts of all `rows`, as [`VerifiedWeight::gather`] does.
    pub fn gather(
        &self,
        x2: &[u8],
        rows: &[usize],
        pool: &dyn Parallel,
        sink: &(dyn Fn(RowPart<'_>) + Sync),
    ) -> Result<(), mcd_core::Error> {
        let Some(decoded) = &self.decoded else { return self.weight.gather(x2, rows, pool, sink) };
        let columns = self.columns();
        for (position, &row) in rows.iter().enumerate() {
            sink(RowPart { position, row, column: 0, weights: &decoded[row * columns..][..columns] });
        }
        Ok(())
    }
}

impl Prepared for Table {
    fn prepare(x2: &[u8], index: &[u8], info: &[i64], options: PrepareOptions) -> Result<Self, mcd_core::Error> {
        let weight = VerifiedWeight::prepare(x2, index, info, options)?;
        let decoded = match options.residency {
            Residency::Compressed => None,
            Residency::Decoded => Some(weight.decompressed(x2)?),
        };
        Ok(Self { weight, decoded })
    }

    fn n(&self) -> usize {
        self.weight.n()
    }

    fn weight_type(&self) -> WeightType {
        self.weight.weight_type()
    }
}
