//! AVX-512 with VNNI, VBMI, VBMI2 and GFNI (Ice Lake, Zen 4 and later), and BMI2. `decode` has the decoder, `block` the
//! products of symbols in memory, `rows` the work on rows; products of what is just being decoded are here.

mod ahead;
pub(super) mod block;
mod bytes;
pub(super) mod decode;
pub(super) mod epilogue;
mod group;
mod in_memory;
mod lines;
mod roots;
mod rows;
pub(super) mod sink;
pub(super) mod unroll;
mod vnni;

use crate::arch::feature::Feature;
use crate::arch::kernel::{Multiplier, NoMemory, Refused, RowKernel, TileKernel, row_operations};
use crate::arch::operands::{Accumulators, ByteRows, Coded, Extent, Rows, Stores, Symbols};
use crate::arch::output::Output;
use crate::arch::rows::Terms;
use crate::arch::workspace::Scratch;
use crate::arch::x86_64::avx2::rows as avx2;
use crate::arch::x86_64::prefetch;
use crate::geometry::{FRACTAL_K, GROUPS, PANEL};
use block::{OfSymbols, check_operands};
use bytes::Avx512Bytes;
use decode::{Memory, decode_tile};
use sink::Sink;
use std::arch::x86_64::*;
use unroll::{each_group, unrolled};

pub use vnni::Avx512Vnni;

/// Rows up to which each visits the groups while they are in registers, so that products fill the gaps of decoding; more are
/// multiplied from decoded strips, for their sums of a tile's columns would leave the first cache.
const FUSED_ROWS: usize = 64;
/// Rows up to which all visit a fractal at once, whose products are few enough for the processor to look past them.
const ROWS_AT_ONCE: usize = 4;

/// Proof that the processor has the instructions.
#[derive(Debug)]
pub struct Avx512(());

impl Avx512 {
    /// What it needs; AVX2 and F16C for some work on rows.
    pub const NEEDS: &[Feature] = &[
        Feature::Avx512f,
        Feature::Avx512bw,
        Feature::Avx512vl,
        Feature::Avx512dq,
        Feature::Avx512vnni,
        Feature::Avx512vbmi,
        Feature::Avx512vbmi2,
        Feature::Gfni,
        Feature::Bmi1,
        Feature::Bmi2,
        Feature::Popcnt,
        Feature::Avx2,
        Feature::F16c,
    ];

    /// # Safety
    /// The processor has all of [`Self::NEEDS`].
    pub const unsafe fn assume() -> Self {
        Self(())
    }
}

impl Multiplier for Avx512 {
    fn name(&self) -> &'static str {
        "x86_64-u8i8i32-avx512vnni"
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
        Some((1, block::TILE_PANELS))
    }

    fn rows(&self) -> &dyn RowKernel {
        self
    }
}

impl TileKernel for Avx512 {
    fn fused_rows(&self) -> usize {
        FUSED_ROWS
    }

    fn prefetch(&self, bytes: &[u8]) {
        prefetch(bytes);
    }

    fn decode(&self, coded: Coded<'_>, out: &mut [u8], stride: usize, scratch: &mut Scratch) -> Result<(), Refused> {
        // SAFETY: `self` proves the features.
        unsafe { decode::decode(coded, out, stride, scratch) }
    }

    unsafe fn decode_rows(
        &self,
        coded: Coded<'_>,
        to: ByteRows,
        scratch: &mut Scratch,
    ) -> Option<Result<(), Refused>> {
        let (levels, stores) = (&mut scratch.of::<Memory>().levels, lines::way(to));
        // SAFETY: `self` proves the features, and the caller answers for what the sink writes.
        let result = unsafe {
            let waiting = [_mm512_setzero_si512(); GROUPS];
            let flip = _mm512_set1_epi8(to.flip.cast_signed());
            decode_tile(
                coded,
                levels,
                &mut StoreRows { to, stores, flip, waiting, fractals: coded.extent.fractals() },
            )
        };
        lines::finish(stores);
        Some(result)
    }

    fn multiply_coded(
        &self,
        coded: Coded<'_>,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Refused> {
        check_operands(coded.extent, &rows, acc);
        let stride = acc.stride();
        let data = acc.data().as_mut_ptr();
        let levels = &mut scratch.of::<Memory>().levels;
        if rows.m() == 1 {
            // SAFETY: setting a register to zero needs nothing but the feature, which `self` proves.
            let sums = unsafe { [_mm512_setzero_si512(); 2] };
            let mut sink = DotOne { x: rows.data().as_ptr(), acc: data, sums };
            // SAFETY: `self` proves the features, and the check above covers the sink's row and sums.
            return unsafe { decode_tile(coded, levels, &mut sink) };
        }
        let visits = Visits { x: rows.data().as_ptr(), x_stride: rows.stride(), acc: data, stride };
        // SAFETY: `self` proves the features, and the check above covers the sink's rows and sums.
        unsafe {
            if rows.m() <= ROWS_AT_ONCE {
                decode_tile(coded, levels, &mut DotFew { visits, m: rows.m() })
            } else {
                decode_tile(coded, levels, &mut DotMany::new(visits, rows.m()))
            }
        }
    }

    fn of_bytes(&self) -> Option<&'static dyn Multiplier> {
        // SAFETY: `self` proves the features.
        Some(const { &unsafe { Avx512Bytes::assume() } })
    }
}

impl RowKernel for Avx512 {
    row_operations! {
        range: rows::range,
        quantize: rows::quantize,
        transpose_words: avx2::transpose_words,
        write_rows: rows::write_rows,
        write_columns: rows::write_columns,
        dequantize: avx2::dequantize,
        pack: rows::pack,
        column_terms: avx2::column_terms,
        weighted_sums: avx2::weighted_sums,
        scaled: avx2::scaled,
        epilogue: rows::epilogue,
    }
}

/// Writes the symbols as rows: lines of two fractals, of which the first waits for the second.
struct StoreRows {
    to: ByteRows,
    /// The way that `to` can be written in.
    stores: Stores,
    flip: __m512i,
    waiting: [__m512i; GROUPS],
    fractals: usize,
}

impl StoreRows {
    fn at(&self, panel: usize, fractal: usize) -> *mut u8 {
        self.to.at.wrapping_add(panel * PANEL * self.to.stride + fractal * FRACTAL_K)
    }
}

impl Sink for StoreRows {
    #[inline(always)]
    unsafe fn fractal(&mut self, panel: usize, fractal: usize, symbols: &[__m512i; GROUPS]) {
        // SAFETY: `out` covers the extent, as the caller of this sink promises; features as well.
        unsafe {
            if fractal % 2 == 1 {
                let to = ByteRows { at: self.at(panel, fractal - 1), stores: self.stores, ..self.to };
                rows::write_whole_lines([&self.waiting, symbols], self.flip, to);
            } else if fractal + 1 == self.fractals {
                rows::write_half_lines(symbols, self.flip, self.at(panel, fractal), self.to.stride);
            } else {
                self.waiting = *symbols;
            }
        }
    }
}

/// One row: the sums stay in registers for a panel.
struct DotOne {
    x: *const i8,
    acc: *mut i32,
    sums: [__m512i; 2],
}

impl Sink for DotOne {
    #[inline(always)]
    unsafe fn fractal(&mut self, _: usize, fractal: usize, symbols: &[__m512i; GROUPS]) {
        // SAFETY: the row covers the extent, as the caller of this sink promises; features as well.
        unsafe {
            let x = self.x.add(fractal * FRACTAL_K).cast::<i32>();
            each_group!(G => {
                let x4 = _mm512_set1_epi32(x.add(G).read_unaligned());
                self.sums[G % 2] = _mm512_dpbusd_epi32(self.sums[G % 2], symbols[G], x4);
            });
        }
    }
    #[inline(always)]
    unsafe fn panel_end(&mut self, panel: usize) {
        // SAFETY: the accumulators cover the extent, as the caller of this sink promises; features as well.
        unsafe {
            let acc = self.acc.add(panel * PANEL).cast();
            let sum = _mm512_add_epi32(self.sums[0], self.sums[1]);
            _mm512_storeu_si512(acc, _mm512_add_epi32(_mm512_loadu_si512(acc), sum));
            self.sums = [_mm512_setzero_si512(); 2];
        }
    }
}

/// Rows that visit the eight groups of a fractal while they are in registers.
struct Visits {
    x: *const i8,
    x_stride: usize,
    acc: *mut i32,
    stride: usize,
}

impl Visits {
    /// Adds the products of `count` rows, from `row` on, with a fractal.
    ///
    /// # Safety
    /// The features of [`Avx512`]; these are rows, and both they and their accumulators cover the fractal.
    #[inline(always)]
    unsafe fn rows(&self, (row, count): (usize, usize), panel: usize, fractal: usize, symbols: &[__m512i; GROUPS]) {
        // SAFETY: the caller's contract.
        unsafe {
            let mut x = self.x.add(fractal * FRACTAL_K + row * self.x_stride);
            let mut acc = self.acc.add(panel * PANEL + row * self.stride);
            for _ in 0..count {
                let x4 = x.cast::<i32>();
                let mut sums = [_mm512_loadu_si512(acc.cast()), _mm512_setzero_si512()];
                each_group!(G => {
                    let x4 = _mm512_set1_epi32(x4.add(G).read_unaligned());
                    sums[G % 2] = _mm512_dpbusd_epi32(sums[G % 2], symbols[G], x4);
                });
                _mm512_storeu_si512(acc.cast(), _mm512_add_epi32(sums[0], sums[1]));
                x = x.wrapping_add(self.x_stride);
                acc = acc.wrapping_add(self.stride);
            }
        }
    }
}

/// Few rows, all at once.
struct DotFew {
    visits: Visits,
    m: usize,
}

impl Sink for DotFew {
    #[inline(always)]
    unsafe fn fractal(&mut self, panel: usize, fractal: usize, symbols: &[__m512i; GROUPS]) {
        // SAFETY: rows and accumulators cover the extent, as the caller of this sink promises; features as well.
        unsafe { self.visits.rows((0, self.m), panel, fractal, symbols) };
    }
}

/// More rows: an eighth of them beside each group of the next fractal.
struct DotMany {
    visits: Visits,
    /// Where the rows of each group begin, and where the last end.
    starts: [usize; GROUPS + 1],
}

impl DotMany {
    fn new(visits: Visits, m: usize) -> Self {
        Self { visits, starts: std::array::from_fn(|group| group * m / GROUPS) }
    }
}

impl Sink for DotMany {
    #[inline(always)]
    unsafe fn beside<const G: usize>(&mut self, panel: usize, fractal: usize, symbols: &[__m512i; GROUPS]) {
        let (row, end) = (self.starts[G], self.starts[G + 1]);
        // SAFETY: rows and accumulators cover the extent, as the caller of this sink promises; features as well.
        unsafe { self.visits.rows((row, end - row), panel, fractal, symbols) };
    }
}
