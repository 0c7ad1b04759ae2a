//! AVX-512 with VNNI and no instructions of later processors (Cascade Lake and Cooper Lake; hypervisors that hide some):
//! decoding as with AVX2, products as with AVX-512.

use super::block::{self, Accumulate, OfSymbols, TILE_PANELS, check_operands};
use super::bytes::Avx512Bytes;
use super::{in_memory, rows};
use crate::arch::feature::Feature;
use crate::arch::kernel::{Multiplier, NoMemory, Refused, RowKernel, TileKernel, row_operations};
use crate::arch::operands::{Accumulators, Coded, Extent, Rows, Symbols};
use crate::arch::output::Output;
use crate::arch::rows::Terms;
use crate::arch::workspace::Scratch;
use crate::arch::x86_64::avx2::decode::{decode, decode_panels};
use crate::arch::x86_64::avx2::rows as avx2;
use crate::arch::x86_64::prefetch;
use crate::geometry::PANEL;

/// Rows up to which a panel is multiplied as soon as it is decoded; more are multiplied from decoded strips.
const FUSED_ROWS: usize = 12;

/// Proof that the processor has the instructions.
#[derive(Debug)]
pub struct Avx512Vnni(());

impl Avx512Vnni {
    /// What it needs; AVX2 and the rest for decoding and some work on rows. No processor that has the first ones has slow
    /// [deposits](Feature::FastDeposits).
    pub const NEEDS: &[Feature] = &[
        Feature::Avx512f,
        Feature::Avx512bw,
        Feature::Avx512vl,
        Feature::Avx512dq,
        Feature::Avx512vnni,
        Feature::Avx2,
        Feature::Bmi1,
        Feature::Bmi2,
        Feature::Popcnt,
        Feature::F16c,
    ];

    /// # Safety
    /// The processor has all of [`Self::NEEDS`].
    pub const unsafe fn assume() -> Self {
        Self(())
    }
}

impl Multiplier for Avx512Vnni {
    fn name(&self) -> &'static str {
        "x86_64-u8i8i32-avx512vnni-avx2"
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
        unsafe { in_memory::to_sums::<OfSymbols>(symbols, extent, &rows, acc) };
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
        unsafe { in_memory::to_outputs::<OfSymbols>(symbols, extent, &rows, terms, out) }
    }

    fn epilogue_tile(&self) -> Option<(usize, usize)> {
        Some((1, TILE_PANELS))
    }

    fn rows(&self) -> &dyn RowKernel {
        self
    }
}

impl TileKernel for Avx512Vnni {
    fn fused_rows(&self) -> usize {
        FUSED_ROWS
    }

    fn outpaces_memory(&self) -> bool {
        false
    }

    fn prefetch(&self, bytes: &[u8]) {
        prefetch(bytes);
    }

    fn decode(&self, coded: Coded<'_>, out: &mut [u8], stride: usize, scratch: &mut Scratch) -> Result<(), Refused> {
        // SAFETY: `self` proves the features.
        unsafe { decode::<true>(coded, out, stride, scratch) }
    }

    fn multiply_coded(
        &self,
        coded: Coded<'_>,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Refused> {
        check_operands(coded.extent, &rows, acc);
        let panel = Extent::new(1, coded.extent.fractals());
        let (stride, (acc, overwrite)) = (acc.stride(), acc.data_or_overwrite());
        let acc = acc.as_mut_ptr();
        // SAFETY: `self` proves the features. Rows and accumulators cover all panels, as was just checked; the decoder gives
        // the symbols of one after the other.
        unsafe {
            decode_panels::<true>(coded, scratch.of(), |p, symbols| {
                let to = Accumulate { at: acc.add(p * PANEL), stride, overwrite };
                block::multiply(symbols.as_ptr(), panel.panel(), panel, &rows, &to);
            })
        }
    }

    fn of_bytes(&self) -> Option<&'static dyn Multiplier> {
        // SAFETY: `self` proves the features.
        Some(const { &unsafe { Avx512Bytes::assume() } })
    }
}

impl RowKernel for Avx512Vnni {
    row_operations! {
        range: rows::range,
        quantize: rows::quantize,
        transpose_words: avx2::transpose_words,
        write_rows: rows::write_rows,
        write_columns: avx2::write_columns,
        dequantize: avx2::dequantize,
        pack: rows::pack,
        column_terms: avx2::column_terms,
        weighted_sums: avx2::weighted_sums,
        scaled: avx2::scaled,
        epilogue: rows::epilogue,
    }
}
