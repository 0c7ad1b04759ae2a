//! The rows of a table.

use std::cell::Cell;
use std::sync::Arc;

use mcd_core::container::Decoded;
use mcd_core::{Bound, Kernel, Parallel, PrepareOptions, Residency, RowPart, Serial, VerifiedWeight};

use crate::operators::weight::Prepared;
use crate::sharing::Shared;

/// Bytes of a table up to which it may be decoded with the residency `auto`. In a model with a larger one the multiplications take
/// so long that it does not matter how rows are looked up.
const SMALL: u64 = 4 << 20;

/// Decoded tables that sessions have.
static DECODED: Shared<Vec<i64>, Vec<u8>> = Shared::new();

/// A table that was verified.
pub struct Table {
    weight: VerifiedWeight,
    /// All of it, where it is decoded once.
    decoded: Option<Arc<Vec<u8>>>,
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
        Ok(BoundTable { weight: self.weight.bind(x2)?, decoded: self.decoded.as_deref().map(Vec::as_slice) })
    }

    fn prepare(x2: &[u8], index: &[u8], info: &[i64], options: PrepareOptions) -> Result<Self, mcd_core::Error> {
        let weight = VerifiedWeight::prepare(x2, index, info, options)?;
        let decoded = match options.residency {
            Residency::Compressed => None,
            Residency::Decoded => {
                let made = Cell::new(weight.bind(x2)?.decompressed(&Serial)?);
                let is_same = |other: &Vec<u8>| {
                    let own = made.take();
                    let same = *other == own;
                    made.set(own);
                    Ok::<_, mcd_core::Error>(same)
                };
                Some(DECODED.get_or_make(info.to_vec(), is_same, || Ok(made.take()))?)
            }
        };
        Ok(Self { weight, decoded })
    }

    fn has_choice(bytes: u64) -> bool {
        bytes <= SMALL
    }

    const DECODED: Option<Decoded> = Some(Decoded::Plain);
}

#[cfg(test)]
mod tests {
    use super::*;
    use mcd_core::container::{WeightView, encode};
    use mcd_core::{Profile, Tiling, WeightType};

    #[test]
    fn sessions_share_a_decoded_table_and_others_have_their_own() {
        let table = |seed: usize, residency| {
            let bytes: Vec<u8> = (0..40 * 50).map(|i| (i * seed % 17) as u8).collect();
            let view = WeightView::new(&bytes, (40, 50), (50, 1), WeightType::I8).unwrap();
            let packed = encode(&view, Profile::Balanced, Tiling::default()).unwrap();
            let options = PrepareOptions { residency, ..PrepareOptions::from_env().unwrap() };
            let made = Table::prepare(&packed.x2, &packed.compress_index, &packed.compress_info, options).unwrap();
            assert_eq!(made.decoded.is_some(), residency == Residency::Decoded);
            assert!(made.decoded.as_ref().is_none_or(|decoded| **decoded == bytes));
            made.decoded
        };
        let [one, same, other] = [3, 3, 5].map(|seed| table(seed, Residency::Decoded).unwrap());
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        assert!(table(3, Residency::Compressed).is_none());
    }

    #[test]
    fn of_small_tables_alone_the_rule_is_asked() {
        assert!(Table::has_choice(SMALL) && !Table::has_choice(SMALL + 1));
    }
}
