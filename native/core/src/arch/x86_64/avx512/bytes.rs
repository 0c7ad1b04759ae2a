//! Products of activations as they are in the model, uint8, by weights that are decoded and int8: their symbols with the sign bits
//! turned over. No row has to be packed, and where the weight is symmetric nobody asks for the sums of rows.

use super::block::{OfBytes, TILE_PANELS};
use super::{in_memory, rows};
use crate::arch::kernel::{Multiplier, NoMemory, RowKernel, row_operations};
use crate::arch::operands::{Accumulators, Extent, GROUP_K, PanelSteps, Rows, Symbols};
use crate::arch::output::Output;
use crate::arch::rows::Terms;
use crate::arch::workspace::Scratch;
use crate::arch::x86_64::avx2::rows as avx2;

/// Proof that the processor has what [`Avx512Vnni`](super::Avx512Vnni) needs; the AVX-512 kernel needs more.
#[derive(Debug)]
pub struct Avx512Bytes(());

impl Avx512Bytes {
    /// # Safety
    /// The processor has all of that.
    pub(super) const unsafe fn assume() -> Self {
        Self(())
    }
}

impl Multiplier for Avx512Bytes {
    fn name(&self) -> &'static str {
        "x86_64-u8i8i32-avx512vnni-bytes"
    }

    fn multiply(
        &self,
        symbols: Symbols<'_>,
        extent: Extent,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
        _: &mut Scratch,
    ) -> Result<(), NoMemory> {
        // SAFETY: `self` proves the features.
        unsafe { in_memory::to_sums::<OfBytes>(symbols, extent, &rows, acc) };
        Ok(())
    }

    fn multiply_epilogue(
        &self,
        symbols: Symbols<'_>,
        extent: Extent,
        rows: Rows<'_>,
        terms: &Terms<'_>,
        out: &mut Output<'_>,
    ) -> bool {
        // SAFETY: `self` proves the features.
        unsafe { in_memory::to_outputs::<OfBytes>(symbols, extent, &rows, terms, out) }
    }

    fn epilogue_tile(&self) -> Option<(usize, usize)> {
        Some((1, TILE_PANELS))
    }

    fn suits(&self, _: &[PanelSteps]) -> bool {
        true
    }

    fn rows(&self) -> &dyn RowKernel {
        self
    }
}

impl RowKernel for Avx512Bytes {
    row_operations! {
        range: rows::range,
        quantize: rows::quantize,
        transpose_words: avx2::transpose_words,
        write_rows: rows::write_rows,
        write_columns: avx2::write_columns,
        dequantize: avx2::dequantize,
        pack: rows::pack,
        sums: rows::sums,
        column_terms: avx2::column_terms,
        weighted_sums: avx2::weighted_sums,
        scaled: avx2::scaled,
        finish: rows::finish,
        epilogue: rows::epilogue,
    }

    fn multiplies_bytes(&self) -> bool {
        true
    }

    fn bytes_multiple(&self) -> usize {
        GROUP_K
    }
}
