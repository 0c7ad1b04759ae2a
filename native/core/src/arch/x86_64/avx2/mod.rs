//! AVX2 with BMI1, BMI2 and POPCNT (Haswell and later, Zen and later), and the same with AVX-VNNI (Alder Lake and later).
//!
//! AVX2 can neither expand bytes by a mask nor look bytes up across 16 of them, so the work is cut differently from
//! the AVX-512 kernel's: what a continued weight gains is not a byte but a number in *bit planes*, for bits are what
//! BMI2 expands, 64 at a time. Where its instruction for that is slow (before Zen 3), shifts and masks do the same.
//!
//! `deposits` has the two ways to expand bits, `planes` those of a tile's continued weights, `symbols` what becomes of root
//! fields, `decode` the passes over a panel, `products` how both operands are multiplied, `tiles` the multiplications, `dots`
//! those with AVX-VNNI, `steps` what can be added in 16 bits in them, `epilogue` what becomes of their sums.

mod blocks;
pub(super) mod decode;
mod deposits;
mod dots;
mod epilogue;
mod group;
mod operands;
mod pairs;
mod planes;
mod products;
pub(super) mod rows;
mod steps;
mod symbols;
mod tiles;
mod two_panels;
mod vectors;

use crate::arch::feature::Feature;
use crate::arch::kernel::{Multiplier, NoMemory, Refused, RowKernel, TileKernel, multiply_constant, row_operations};
use crate::arch::operands::{Accumulators, Coded, Extent, PanelSteps, Rows, Symbols};
use crate::arch::output::Output;
use crate::arch::rows::Terms;
use crate::arch::workspace::Scratch;
use crate::arch::x86_64::prefetch;
use crate::arch::x86_64::results::{Dequantized, Requantized, Summed};
use crate::error::{Error, with_room};
use crate::geometry::PANEL;
use decode::decode_panels;
use epilogue::Outputs;
use operands::Accumulate;
use products::{AsDecoded, Exact, ExactBytes, Products, Saturating};

pub use products::Dots;
use std::marker::PhantomData;

/// Rows up to which a panel is multiplied as soon as it is decoded; more are multiplied from decoded strips.
const FUSED_ROWS: usize = 12;

/// Proof that the processor has the instructions; with PDEP or without, and how it multiplies.
#[derive(Debug)]
pub struct Avx2<const PDEP: bool, P: Products = Exact<false>>(PhantomData<P>);

impl Avx2<true> {
    /// What makes this way the better one.
    pub const FAST: &[Feature] = &[Feature::FastDeposits];
}

impl<const PDEP: bool, P: Products> Avx2<PDEP, P> {
    /// What it needs.
    pub const NEEDS: &[Feature] = &[Feature::Avx2, Feature::Bmi1, Feature::Bmi2, Feature::Popcnt, Feature::F16c];

    /// # Safety
    /// The processor has all of [`Self::NEEDS`] and, for products by VNNI, of [`Dots::NEEDS`].
    pub const unsafe fn assume() -> Self {
        Self(PhantomData)
    }
}

impl<const PDEP: bool, P: Products> Multiplier for Avx2<PDEP, P> {
    fn name(&self) -> &'static str {
        match (PDEP, P::SATURATES, P::VNNI) {
            (_, _, true) => "x86_64-u8i8i32-avxvnni",
            (true, false, _) => "x86_64-u8i8i32-avx2",
            (false, false, _) => "x86_64-u8i8i32-avx2-nopdep",
            (true, true, _) => "x86_64-u8i8i16-avx2",
            (false, true, _) => "x86_64-u8i8i16-avx2-nopdep",
        }
    }

    fn saturates(&self) -> bool {
        P::SATURATES
    }

    fn steps(&self, panel: &[u8]) -> Result<PanelSteps, Error> {
        if !P::IN_STEPS {
            return Ok(PanelSteps::default());
        }
        let mut blocks = with_room(panel.len() / steps::BLOCK, "steps of a panel")?;
        // SAFETY: `self` proves the features.
        blocks.extend(panel.as_chunks().0.iter().map(|block| unsafe { steps::at_once(block) }));
        PanelSteps::new(&blocks)
    }

    fn suits(&self, steps: &[PanelSteps]) -> bool {
        P::VNNI || P::BYTES && steps::are_narrow(steps)
    }

    fn multiply(
        &self,
        symbols: Symbols<'_>,
        extent: Extent,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
        _: &mut Scratch,
    ) -> Result<(), NoMemory> {
        assert!(acc.covers(rows.m(), extent.columns()));
        let (stride, (acc, overwrite)) = (acc.stride(), acc.data_or_overwrite());
        let to = Accumulate { at: acc.as_mut_ptr(), stride, overwrite };
        // SAFETY: `self` proves the features; the accumulators cover the extent, as was just checked.
        unsafe { tiles::multiply::<P, _>(symbols, extent, &rows, &to) };
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
        assert!(terms.row_sums.len() == rows.m() && terms.columns.len() <= extent.columns());
        // SAFETY: `self` proves the features; the outputs have the rows, and leave out columns that they do not have.
        unsafe {
            if let Some(outputs) = Outputs::<Summed>::new(terms, out) {
                tiles::multiply::<P, _>(symbols, extent, &rows, &outputs);
            } else if let Some(outputs) = Outputs::<Dequantized<'_>>::new(terms, out) {
                tiles::multiply::<P, _>(symbols, extent, &rows, &outputs);
            } else if let Some(outputs) = Outputs::<Requantized<'_>>::new(terms, out) {
                tiles::multiply::<P, _>(symbols, extent, &rows, &outputs);
            } else {
                return false;
            }
        }
        true
    }

    fn epilogue_tile(&self) -> Option<(usize, usize)> {
        Some(if P::VNNI { (1, 1) } else { (two_panels::ROWS, two_panels::PANELS) })
    }

    fn rows(&self) -> &dyn RowKernel {
        self
    }
}

impl<const PDEP: bool, P: AsDecoded> TileKernel for Avx2<PDEP, P> {
    fn outpaces_memory(&self) -> bool {
        false
    }

    fn saturating(&self) -> Option<&'static dyn TileKernel> {
        // Proven by `self`. Processors with VNNI have no use for it.
        (!P::VNNI).then_some(&Avx2::<PDEP, Saturating<false>>(PhantomData))
    }

    fn of_signed(&self) -> Option<&'static dyn Multiplier> {
        // Proven by `self`.
        if P::SATURATES {
            Some(&Avx2::<PDEP, Saturating<true>>(PhantomData))
        } else if P::VNNI {
            None
        } else {
            Some(&Avx2::<PDEP, Exact<true>>(PhantomData))
        }
    }

    fn of_bytes(&self) -> Option<&'static dyn Multiplier> {
        // Proven by `self`.
        if P::VNNI {
            Some(&Avx2::<PDEP, Dots<true>>(PhantomData))
        } else {
            Some(&Avx2::<PDEP, ExactBytes>(PhantomData))
        }
    }

    fn fused_rows(&self) -> usize {
        FUSED_ROWS
    }

    fn prefetch(&self, bytes: &[u8]) {
        prefetch(bytes);
    }

    fn decode(&self, coded: Coded<'_>, out: &mut [u8], stride: usize, scratch: &mut Scratch) -> Result<(), Refused> {
        // SAFETY: `self` proves the features.
        unsafe { decode::decode::<PDEP>(coded, out, stride, scratch) }
    }

    fn multiply_coded(
        &self,
        coded: Coded<'_>,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Refused> {
        assert!(acc.covers(rows.m(), coded.extent.columns()));
        let panel = Extent::new(1, coded.extent.fractals());
        let (stride, (acc, overwrite)) = (acc.stride(), acc.data_or_overwrite());
        let acc = acc.as_mut_ptr();
        // SAFETY: `self` proves the features. The accumulators cover all panels, as was just checked; the decoder gives the
        // symbols of one after the other.
        unsafe {
            decode_panels::<PDEP>(coded, scratch.of(), |p, symbols| {
                let to = Accumulate { at: acc.add(p * PANEL), stride, overwrite };
                tiles::multiply::<P, _>(symbols.into(), panel, &rows, &to);
            })
        }
    }

    /// Of activations that are bytes or of 16 bits, as [`rows::finish`] makes them.
    fn multiply_constant(&self, row: &[i8], symbol: u8) -> i32 {
        let pairs = row.as_chunks::<2>().0.iter();
        if P::SATURATES {
            let product = |x: i8| i32::from(x.cast_unsigned()) * (i32::from(symbol) - 128);
            let pairs = pairs.map(|x| (product(x[0]) + product(x[1])).clamp(i16::MIN.into(), i16::MAX.into()));
            return pairs.fold(0, i32::wrapping_add);
        }
        if P::WIDTH == 1 {
            return multiply_constant(row, symbol);
        }
        let wide =
            pairs.map(|&[low, high]| i32::from(i16::from_ne_bytes([low.cast_unsigned(), high.cast_unsigned()])));
        wide.fold(0, i32::wrapping_add).wrapping_mul(symbol.into())
    }
}

impl<const PDEP: bool, P: Products> RowKernel for Avx2<PDEP, P> {
    row_operations! {
        range: rows::range,
        quantize: rows::quantize,
        transpose_words: rows::transpose_words,
        write_rows: rows::write_rows,
        write_columns: rows::write_columns,
        dequantize: rows::dequantize,
        pack: rows::pack,
        sums: rows::sums,
        column_terms: rows::column_terms,
        weighted_sums: rows::weighted_sums,
        scaled: rows::scaled,
        pair: pairs::pair,
        pair_sums: pairs::pair_sums,
        finish: rows::finish::<P>,
        epilogue: rows::epilogue,
    }

    fn multiplies_bytes(&self) -> bool {
        P::BYTES
    }

    fn multiplies_pairs(&self) -> bool {
        !P::VNNI
    }

    fn width(&self) -> usize {
        P::WIDTH
    }
}
