//! The rows of a table.

use mcd_core::{Bound, Kernel, Parallel, PrepareOptions, Residency, RowPart, Serial, VerifiedWeight};

use crate::operators::weight::Prepared;

/// A table that was verified.
pub struct Table {
    weight: VerifiedWeight,
    /// All of it, with the residency `decoded`.
    decoded: Option<Vec<u8>>,
}

/// The same with the bytes that it was made from.
pub struct BoundTable<'a> {
    weight: Bound<'a, VerifiedWeight>,
    decoded: Option<&'a [u8]>,
}

impl BoundTable<'_> {
    /// Length of a row.
    pub fn columns(&self) -> usize {
        self.weight.k()
    }

    /// What decodes it.
    pub fn kernel(&self) -> Kernel {
        self.weight.kernel()
    }

    /// Tells `sink` all parts of all `rows`, as the core's `gather` does.
    pub fn gather(
        &self,
        rows: &[usize],
        pool: &dyn Parallel,
        sink: &(dyn Fn(RowPart<'_>) + Sync),
    ) -> Result<(), mcd_core::Error> {
        let Some(decoded) = self.decoded else { return self.weight.gather(rows, pool, sink) };
        let columns = self.columns();
        for (position, &row) in rows.iter().enumerate() {
            sink(RowPart { position, row, column: 0, weights: &decoded[row * columns..][..columns] });
        }
        Ok(())
    }
}

impl Prepared for Table {
    type Bound<'a> = BoundTable<'a>;

    fn bind<'a>(&'a self, x2: &'a [u8]) -> Result<BoundTable<'a>, mcd_core::Error> {
        Ok(BoundTable { weight: self.weight.bind(x2)?, decoded: self.decoded.as_deref() })
    }

    fn prepare(x2: &[u8], index: &[u8], info: &[i64], options: PrepareOptions) -> Result<Self, mcd_core::Error> {
        let weight = VerifiedWeight::prepare(x2, index, info, options)?;
        let decoded = match options.residency {
            Residency::Compressed => None,
            Residency::Decoded => Some(weight.bind(x2)?.decompressed(&Serial)?),
        };
        Ok(Self { weight, decoded })
    }

    const DECODES: bool = true;
}
