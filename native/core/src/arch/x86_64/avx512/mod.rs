//! AVX-512 with VNNI, VBMI, VBMI2 and GFNI (Ice Lake, Zen 4 and later), and BMI2. `decode` has the decoder, `block` the
//! products of symbols in memory; products of what is just being decoded are here.

mod ahead;
pub(super) mod block;
pub(super) mod decode;
pub(super) mod epilogue;
mod group;

mod roots;
pub(super) mod sink;
pub(super) mod unroll;

use crate::arch::feature::Feature;
use crate::arch::kernel::{Damaged, TileKernel};
use crate::arch::operands::{Accumulators, Extent, Rows, TileCode, reach};
use crate::arch::output::Output;
use crate::arch::rows::{self, ActivationRow, Terms};
use crate::arch::workspace::Scratch;
use crate::arch::x86_64::avx2::rows as avx2;
use crate::codec::WeightType;
use crate::codec::decode::CodedTile;
use crate::dequantize::Along;
use crate::geometry::{FRACTAL, FRACTAL_K, GROUP, GROUPS, PANEL};
use crate::quantize::{Quantizer, Range};
use crate::transpose::Matrix;
use ahead::LINE;
use block::{Accumulate, multiply};
use decode::{Memory, decode_tile};
use epilogue::{Columns, DequantizedColumns, RequantizedColumns, epilogue_of_rows};
use sink::Sink;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use unroll::{each_group, unrolled};

/// Rows up to which each visits the groups while they are in registers, so that products fill the gaps of decoding; more are
/// multiplied from decoded strips, for their sums of a tile's columns would leave the first cache.
const FUSED_ROWS: usize = 64;

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

impl TileKernel for Avx512 {
    fn name(&self) -> &'static str {
        "x86_64-u8i8i32-avx512vnni"
    }

    fn fused_rows(&self) -> usize {
        FUSED_ROWS
    }

    fn prefetch(&self, bytes: &[u8]) {
        for line in bytes.chunks(LINE) {
            // SAFETY: a hint, which accepts any address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
        }
    }

    fn decode(
        &self,
        code: &TileCode,
        tile: &CodedTile<'_>,
        extent: Extent,
        out: &mut [u8],
        stride: usize,
        scratch: &mut Scratch,
    ) -> Result<(), Damaged> {
        assert!(out.len() >= extent.span(stride));
        let mut sink = Store { out: out.as_mut_ptr(), stride };
        // SAFETY: `self` proves the features, and the check above covers what the sink writes.
        unsafe { decode_tile(code, tile, extent, &mut scratch.of::<Memory>().levels, &mut sink) }
    }

    fn multiply_coded(
        &self,
        code: &TileCode,
        tile: &CodedTile<'_>,
        extent: Extent,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Damaged> {
        check_operands(extent, &rows, acc);
        let stride = acc.stride();
        let data = acc.data().as_mut_ptr();
        if rows.m() == 1 {
            // SAFETY: setting a register to zero needs nothing but the feature, which `self` proves.
            let sums = unsafe { [_mm512_setzero_si512(); 2] };
            let mut sink = DotOne { x: rows.data().as_ptr(), acc: data, sums };
            // SAFETY: `self` proves the features, and the check above covers the sink's row and sums.
            unsafe { decode_tile(code, tile, extent, &mut scratch.of::<Memory>().levels, &mut sink) }
        } else {
            let mut sink =
                DotMany { x: rows.data().as_ptr(), x_stride: rows.stride(), m: rows.m(), acc: data, stride };
            // SAFETY: `self` proves the features, and the check above covers the sink's rows and sums.
            unsafe { decode_tile(code, tile, extent, &mut scratch.of::<Memory>().levels, &mut sink) }
        }
    }

    fn multiply(&self, symbols: &[u8], extent: Extent, rows: Rows<'_>, acc: &mut Accumulators<'_>, _: &mut Scratch) {
        assert!(symbols.len() >= extent.weights());
        check_operands(extent, &rows, acc);
        let stride = acc.stride();
        let (data, overwrite) = acc.data_or_overwrite();
        let to = Accumulate { at: data.as_mut_ptr(), stride, overwrite };
        // SAFETY: `self` proves the features; the two checks above cover every address that the loops form.
        unsafe { multiply(symbols.as_ptr(), extent.panel(), extent, &rows, to) };
    }

    fn multiply_epilogue(
        &self,
        symbols: &[u8],
        extent: Extent,
        rows: Rows<'_>,
        terms: &Terms<'_>,
        out: &mut Output<'_>,
    ) -> bool {
        assert!(symbols.len() >= extent.weights() && rows.covers(extent.k()));
        let (columns, m, panel) = (extent.columns(), rows.m(), extent.panel());
        // SAFETY: `self` proves the features; the checks above cover symbols and rows, `new` has checked the rest.
        unsafe {
            if let Some(columns) = DequantizedColumns::new(columns, m, terms, out) {
                multiply(symbols.as_ptr(), panel, extent, &rows, columns.first_row());
            } else if let Some(columns) = RequantizedColumns::new(columns, m, terms, out) {
                multiply(symbols.as_ptr(), panel, extent, &rows, columns.first_row());
            } else {
                return false;
            }
        }
        true
    }

    fn range(&self, x: &[f32]) -> Range {
        // SAFETY: `self` proves the features.
        unsafe { range(x) }
    }

    fn quantize<'a>(&self, by: Quantizer, x: &[f32], out: &'a mut [MaybeUninit<u8>]) -> &'a mut [u8] {
        // SAFETY: `self` proves the features.
        unsafe { quantize(by, x, out) }
    }

    fn transpose_words(&self, from: Matrix<'_, u32>, to: &mut [MaybeUninit<u32>]) {
        // SAFETY: `self` proves the features.
        unsafe { avx2::transpose_words(from, to) }
    }

    unsafe fn write_rows(&self, panel: &[u8], flip: u8, out: *mut u8, stride: usize) {
        // SAFETY: `self` proves the features, and the caller answers for the rest.
        unsafe { avx2::write_rows(panel, flip, out, stride) }
    }

    unsafe fn write_columns(&self, panel: &[u8], flip: u8, out: *mut u8, stride: usize) {
        // SAFETY: `self` proves the features, and the caller answers for the rest.
        unsafe { write_columns(panel, flip, out, stride) }
    }

    fn dequantize(
        &self,
        weights: &[u8],
        weight_type: WeightType,
        scale: Along<'_>,
        zero_point: Along<'_>,
        out: &mut [MaybeUninit<f32>],
    ) {
        // SAFETY: `self` proves the features.
        unsafe { avx2::dequantize(weights, weight_type, scale, zero_point, out) }
    }

    fn pack(&self, from: ActivationRow<'_>, to: &mut [i8]) -> i32 {
        // SAFETY: `self` proves the features.
        unsafe { pack(from, to) }
    }

    fn epilogue(&self, sums: &[i32], stride: usize, terms: &Terms<'_>, mut out: Output<'_>) {
        let m = terms.row_sums.len();
        let columns = terms.columns.len();
        let has_sums = || assert!(reach(m, stride, columns).is_some_and(|reach| reach <= sums.len()));
        // SAFETY: `self` proves the features; `new` has checked the block, and `has_sums` the sums.
        unsafe {
            if let Some(columns) = DequantizedColumns::new(columns, m, terms, &mut out) {
                has_sums();
                return epilogue_of_rows(columns.first_row(), 0..m, sums.as_ptr(), stride);
            }
            if let Some(columns) = RequantizedColumns::new(columns, m, terms, &mut out) {
                has_sums();
                return epilogue_of_rows(columns.first_row(), 0..m, sums.as_ptr(), stride);
            }
        }
        // SAFETY: `self` proves the features.
        unsafe { epilogue_of_any(sums, stride, terms, out) }
    }
}

/// Where the weights of a group, which has four along k for each of 16 columns, are in rows along n.
const BY_K: [u8; GROUP] = {
    let mut from = [0; GROUP];
    let mut at = 0;
    while at < GROUP {
        from[at] = (at % PANEL * 4 + at / PANEL) as u8;
        at += 1;
    }
    from
};

/// As [`TileKernel::write_columns`].
///
/// # Safety
/// As there; and the processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn write_columns(panel: &[u8], flip: u8, out: *mut u8, stride: usize) {
    // SAFETY: 64 bytes.
    let by_k = unsafe { _mm512_loadu_si512(BY_K.as_ptr().cast()) };
    let flip = _mm512_set1_epi8(flip.cast_signed());
    for (g, group) in panel.as_chunks::<GROUP>().0.iter().enumerate() {
        // SAFETY: the group's 64 bytes; the caller answers for the output.
        unsafe {
            let group = _mm512_loadu_si512(group.as_ptr().cast());
            let four = _mm512_xor_si512(_mm512_permutexvar_epi8(by_k, group), flip);
            let to = out.add(4 * g * stride);
            _mm_storeu_si128(to.cast(), _mm512_castsi512_si128(four));
            _mm_storeu_si128(to.add(stride).cast(), _mm512_extracti32x4_epi32::<1>(four));
            _mm_storeu_si128(to.add(2 * stride).cast(), _mm512_extracti32x4_epi32::<2>(four));
            _mm_storeu_si128(to.add(3 * stride).cast(), _mm512_extracti32x4_epi32::<3>(four));
        }
    }
}

/// Packs a row: 64 bytes are flipped, if they are unsigned, and summed by a product with ones.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,bmi2")]
fn pack(from: ActivationRow<'_>, to: &mut [i8]) -> i32 {
    let (from, len, flip) = match from {
        ActivationRow::U8(x) => (x.as_ptr().cast::<i8>(), x.len(), _mm512_set1_epi8(i8::MIN)),
        ActivationRow::I8(x) => (x.as_ptr(), x.len(), _mm512_setzero_si512()),
    };
    assert_eq!(len, to.len());
    let ones = _mm512_set1_epi8(1);
    let mut sum = _mm512_setzero_si512();
    for at in (0..len).step_by(64) {
        let mask = _bzhi_u64(u64::MAX, (len - at).min(64) as u32);
        // SAFETY: the mask keeps both accesses inside of rows that have the same length.
        unsafe {
            let x = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, from.add(at)), flip);
            _mm512_mask_storeu_epi8(to.as_mut_ptr().add(at), mask, x);
            sum = _mm512_dpbusd_epi32(sum, ones, _mm512_maskz_mov_epi8(mask, x));
        }
    }
    _mm512_reduce_add_epi32(sum)
}

#[target_feature(enable = "avx512f")]
fn range(x: &[f32]) -> Range {
    Range::of(x)
}

#[target_feature(enable = "avx512f,avx512bw")]
fn quantize<'a>(by: Quantizer, x: &[f32], out: &'a mut [MaybeUninit<u8>]) -> &'a mut [u8] {
    by.quantize(x, out)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,f16c")]
fn epilogue_of_any(sums: &[i32], stride: usize, terms: &Terms<'_>, out: Output<'_>) {
    rows::epilogue(sums, stride, terms, out, |floats, halves| avx2::to_halves(floats, halves));
}

/// # Panics
/// If the rows or accumulators do not cover the tile.
pub(super) fn check_operands(extent: Extent, rows: &Rows<'_>, acc: &Accumulators<'_>) {
    assert!(rows.covers(extent.k()));
    assert!(acc.covers(rows.m(), extent.columns()));
}

/// Writes the symbols in kernel order, panels `stride` apart.
struct Store {
    out: *mut u8,
    stride: usize,
}

impl Sink for Store {
    #[inline(always)]
    unsafe fn fractal(&mut self, panel: usize, fractal: usize, symbols: &[__m512i; GROUPS]) {
        let at = panel * self.stride + fractal * FRACTAL;
        each_group!(G => {
            // SAFETY: `out` covers the extent, as the caller of this sink promises.
            unsafe { _mm512_storeu_si512(self.out.add(at + G * GROUP).cast(), symbols[G]) };
        });
    }
    #[inline(always)]
    unsafe fn panel_end(&mut self, _: usize) {}
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

/// A few rows: each visits the eight groups while they are in registers.
struct DotMany {
    x: *const i8,
    x_stride: usize,
    m: usize,
    acc: *mut i32,
    stride: usize,
}

impl Sink for DotMany {
    #[inline(always)]
    unsafe fn fractal(&mut self, panel: usize, fractal: usize, symbols: &[__m512i; GROUPS]) {
        // SAFETY: rows and accumulators cover the extent, as the caller of this sink promises; features as well.
        unsafe {
            let mut x = self.x.add(fractal * FRACTAL_K);
            let mut acc = self.acc.add(panel * PANEL);
            for _ in 0..self.m {
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
    #[inline(always)]
    unsafe fn panel_end(&mut self, _: usize) {}
}
