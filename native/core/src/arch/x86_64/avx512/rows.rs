//! Work on whole rows, by this kernel's instructions.

use super::epilogue::{Outputs, in_order};
use super::lines::{self, store_four};
use super::unroll::unrolled;
use crate::arch::operands::{ByteRows, Rows, reach};
use crate::arch::output::Output;
use crate::arch::rows::{self, ActivationRow, Panels, Terms};
use crate::arch::x86_64::avx2::rows as avx2;
use crate::arch::x86_64::results::{Dequantized, Requantized, Summed};
use crate::geometry::{FRACTAL, GROUP, GROUP_K, GROUPS, PANEL};
use crate::quantize::{Quantizer, Range};
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

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

/// Bytes from a line of a row to the one that is fetched when it is written.
const LINES_AHEAD: usize = 128;

/// Groups from the one whose columns are written to the one whose lines are fetched.
const GROUPS_AHEAD: usize = 8;

/// Panels whose columns fill a cache line.
const LINE_OF_PANELS: usize = 4;

/// As [`RowKernel::write_columns`]: lines at a time where there are four panels.
///
/// # Safety
/// As there; and the processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) unsafe fn write_columns(panels: Panels<'_>, to: ByteRows) {
    let (ByteRows { at: out, stride, flip, .. }, stores) = (to, lines::way(to));
    // SAFETY: 64 bytes.
    let by_k = unsafe { _mm512_loadu_si512(BY_K.as_ptr().cast()) };
    let flip = _mm512_set1_epi8(flip.cast_signed());
    let by_k = |p: usize, g: usize| {
        // SAFETY: the group's 64 bytes.
        let group = unsafe { _mm512_loadu_si512(panels.group(p, g).as_ptr().cast()) };
        _mm512_xor_si512(_mm512_permutexvar_epi8(by_k, group), flip)
    };
    let lines = panels.count() - panels.count() % LINE_OF_PANELS;
    for g in 0..panels.groups() {
        let to = out.wrapping_add(4 * g * stride);
        for p in (0..lines).step_by(LINE_OF_PANELS) {
            let rows = transpose_quarters([by_k(p, g), by_k(p + 1, g), by_k(p + 2, g), by_k(p + 3, g)]);
            let to = to.wrapping_add(p * PANEL);
            // SAFETY: the caller answers for the output.
            unsafe { store_four(stores, to, stride, GROUPS_AHEAD * GROUP_K * stride, rows) };
        }
        for p in lines..panels.count() {
            let (four, to) = (by_k(p, g), to.wrapping_add(p * PANEL));
            // SAFETY: the caller answers for the output.
            unsafe {
                _mm_storeu_si128(to.cast(), _mm512_castsi512_si128(four));
                _mm_storeu_si128(to.add(stride).cast(), _mm512_extracti32x4_epi32::<1>(four));
                _mm_storeu_si128(to.add(2 * stride).cast(), _mm512_extracti32x4_epi32::<2>(four));
                _mm_storeu_si128(to.add(3 * stride).cast(), _mm512_extracti32x4_epi32::<3>(four));
            }
        }
    }
    lines::finish(stores);
}

/// The transpose of four rows of four quarters.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_quarters(rows: [__m512i; 4]) -> [__m512i; 4] {
    // Quarters 0 and 1, and 2 and 3, of two rows; then those with even numbers, and with odd ones, of two pairs.
    let (a, b) = (_mm512_shuffle_i32x4::<0x44>(rows[0], rows[1]), _mm512_shuffle_i32x4::<0xee>(rows[0], rows[1]));
    let (c, d) = (_mm512_shuffle_i32x4::<0x44>(rows[2], rows[3]), _mm512_shuffle_i32x4::<0xee>(rows[2], rows[3]));
    [
        _mm512_shuffle_i32x4::<0x88>(a, c),
        _mm512_shuffle_i32x4::<0xdd>(a, c),
        _mm512_shuffle_i32x4::<0x88>(b, d),
        _mm512_shuffle_i32x4::<0xdd>(b, d),
    ]
}

/// As [`RowKernel::write_rows`]: lines at a time, of two fractals.
///
/// # Safety
/// As there; and the processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx2")]
pub(super) unsafe fn write_rows(panel: &[u8], to: ByteRows) {
    let ByteRows { at: out, stride, flip, .. } = to;
    let (pairs, last) = panel.as_chunks::<{ 2 * FRACTAL }>();
    let flips = _mm512_set1_epi8(flip.cast_signed());
    for (i, pair) in pairs.iter().enumerate() {
        // SAFETY: 16 groups; the caller answers for the output.
        unsafe { write_lines(pair, flips, out.add(i * GROUP), stride) };
    }
    // SAFETY: the caller's contract.
    unsafe { avx2::write_rows(last, ByteRows { at: out.wrapping_add(pairs.len() * GROUP), ..to }) };
}

/// Writes a fractal as 16 rows of 32 bytes.
///
/// # Safety
/// From `to` on 16 rows, `stride` apart, of 32 bytes can be written; the processor has the features.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn write_half_lines(fractal: &[__m512i; GROUPS], flip: __m512i, to: *mut u8, stride: usize) {
    let [low, high] = [words_of_rows(first_four(fractal)), words_of_rows(last_four(fractal))];
    unrolled!(J in [0 1 2 3] {
        // Quarters of rows J, 4 + J, 8 + J and 12 + J: their first halves, and their second ones.
        let (low, high) = (_mm512_xor_si512(low[J], flip), _mm512_xor_si512(high[J], flip));
        unrolled!(I in [0 1 2 3] {
            // SAFETY: the caller's contract.
            unsafe {
                let to = to.add((4 * I + J) * stride);
                _mm_storeu_si128(to.cast(), _mm512_extracti32x4_epi32::<{ I as i32 }>(low));
                _mm_storeu_si128(to.add(PANEL).cast(), _mm512_extracti32x4_epi32::<{ I as i32 }>(high));
            }
        });
    });
}

/// Writes two fractals as 16 rows of 64 bytes.
///
/// # Safety
/// 16 rows of 64 bytes can be written in the way that `to` says; the processor has the features. [`lines::finish`] is called before
/// others read them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn write_whole_lines(fractals: [&[__m512i; GROUPS]; 2], flip: __m512i, to: ByteRows) {
    let quarters = [
        words_of_rows(first_four(fractals[0])),
        words_of_rows(last_four(fractals[0])),
        words_of_rows(first_four(fractals[1])),
        words_of_rows(last_four(fractals[1])),
    ];
    unrolled!(J in [0 1 2 3] {
        let rows = transpose_quarters([quarters[0][J], quarters[1][J], quarters[2][J], quarters[3][J]]);
        let rows = [
            _mm512_xor_si512(rows[0], flip),
            _mm512_xor_si512(rows[1], flip),
            _mm512_xor_si512(rows[2], flip),
            _mm512_xor_si512(rows[3], flip),
        ];
        // SAFETY: the caller's contract; rows J, 4 + J, 8 + J and 12 + J.
        unsafe { store_four(to.stores, to.at.add(J * to.stride), 4 * to.stride, LINES_AHEAD, rows) };
    });
}

/// The first four groups of a fractal.
#[inline(always)]
fn first_four(groups: &[__m512i; GROUPS]) -> [__m512i; 4] {
    [groups[0], groups[1], groups[2], groups[3]]
}

/// The last four.
#[inline(always)]
fn last_four(groups: &[__m512i; GROUPS]) -> [__m512i; 4] {
    [groups[4], groups[5], groups[6], groups[7]]
}

/// The words of four groups by rows: in register j, quarter i, those of row 4 i + j.
#[inline]
#[target_feature(enable = "avx512f")]
fn words_of_rows([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
    let (ab2, cd2) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(ab2, cd2),
        _mm512_unpackhi_epi64(ab2, cd2),
    ]
}

/// Writes 16 rows of 64 bytes: words of 16 groups, each of which has one for every row.
///
/// Quarters are put together as they are loaded, which one more port can do than a shuffle of 64 bytes.
///
/// # Safety
/// From `to` on 16 rows, `stride` apart, of 64 bytes can be written.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn write_lines(groups: &[u8; 2 * FRACTAL], flip: __m512i, to: *mut u8, stride: usize) {
    unrolled!(QUARTER in [0 1 2 3] {
        // SAFETY: a quarter of a group.
        let quarter = |g: usize| unsafe { _mm_loadu_si128(groups.as_ptr().add(g * GROUP + QUARTER * PANEL).cast()) };
        // Of groups j, 4 + j and so on: words of four rows each.
        let of = |j: usize| {
            let two = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(quarter(j)), quarter(4 + j));
            _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(two, quarter(8 + j)), quarter(12 + j))
        };
        let (a, b, c, d) = (of(0), of(1), of(2), of(3));
        let rows = words_of_rows([a, b, c, d]);
        for (i, row) in rows.into_iter().enumerate() {
            // SAFETY: the caller's contract.
            unsafe { _mm512_storeu_si512(to.add((4 * QUARTER + i) * stride).cast(), _mm512_xor_si512(row, flip)) };
        }
    });
}

/// Packs a row: 64 bytes are flipped, if they are unsigned, and summed by a product with ones.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,bmi2")]
pub(super) fn pack(from: ActivationRow<'_>, to: &mut [i8]) -> i32 {
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

/// As [`rows::sums`]: 64 bytes are summed by a product with ones.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,bmi2")]
pub(super) fn sums(of: Rows<'_>, k: usize, sums: &mut [i32]) {
    if of.pieces().is_some() {
        return rows::sums(of, k, sums);
    }
    assert!(sums.len() == of.m() && of.covers(k));
    let (ones, middle) = (_mm512_set1_epi8(1), (k as i32).wrapping_mul(128));
    for (i, to) in sums.iter_mut().enumerate() {
        let row = of.row(i).as_ptr();
        let mut sum = _mm512_setzero_si512();
        for at in (0..k).step_by(64) {
            let mask = _bzhi_u64(u64::MAX, (k - at).min(64) as u32);
            // SAFETY: the mask keeps the access inside of the row, which has k bytes.
            sum = _mm512_dpbusd_epi32(sum, unsafe { _mm512_maskz_loadu_epi8(mask, row.add(at)) }, ones);
        }
        *to = _mm512_reduce_add_epi32(sum).wrapping_sub(middle);
    }
}

/// As [`Range::of`]: four vectors at a time. Where a value is NaN, the instructions give the other operand, the lowest or highest
/// of those before.
#[target_feature(enable = "avx512f,bmi2")]
pub(super) fn range(x: &[f32]) -> Range {
    const LANES: usize = 16;
    let mut lowest = [_mm512_setzero_ps(); 4];
    let mut highest = lowest;
    let (blocks, rest) = x.as_chunks::<{ 4 * LANES }>();
    for block in blocks {
        for i in 0..4 {
            // SAFETY: a quarter of the block.
            let values = unsafe { _mm512_loadu_ps(block.as_ptr().add(i * LANES)) };
            (lowest[i], highest[i]) = (_mm512_min_ps(values, lowest[i]), _mm512_max_ps(values, highest[i]));
        }
    }
    for (i, values) in rest.chunks(LANES).enumerate() {
        let mask = _bzhi_u32(0xffff, values.len() as u32) as __mmask16;
        // SAFETY: the mask keeps the access inside of the values; the others count as zeros, which are in every range.
        let values = unsafe { _mm512_maskz_loadu_ps(mask, values.as_ptr()) };
        (lowest[i], highest[i]) = (_mm512_min_ps(values, lowest[i]), _mm512_max_ps(values, highest[i]));
    }
    let lowest = _mm512_min_ps(_mm512_min_ps(lowest[0], lowest[1]), _mm512_min_ps(lowest[2], lowest[3]));
    let highest = _mm512_max_ps(_mm512_max_ps(highest[0], highest[1]), _mm512_max_ps(highest[2], highest[3]));
    Range::new(_mm512_reduce_min_ps(lowest), _mm512_reduce_max_ps(highest))
}

/// Values from which on products with the reciprocal take less time than quotients.
const LEAST_VALUES: usize = 1 << 10;

/// As [`Quantizer::quantize`], four vectors at a time by products with the reciprocal, where those say which bytes become of them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn quantize<'a>(by: Quantizer, x: &[f32], out: &'a mut [MaybeUninit<u8>]) -> &'a mut [u8] {
    const LANES: usize = 16;
    let Some(reciprocal) = by.reciprocal().filter(|_| x.len() >= LEAST_VALUES) else { return by.quantize(x, out) };
    assert_eq!(x.len(), out.len(), "a byte for each value");
    let (blocks, rest) = x.as_chunks::<{ 4 * LANES }>();
    let (to, to_rest) = out.as_chunks_mut::<{ 4 * LANES }>();
    by.quantize(rest, to_rest);
    let (reciprocal, large) = (_mm512_set1_ps(reciprocal), _mm512_set1_ps(Quantizer::LARGE));
    let zero_point = _mm512_set1_epi16(by.zero_point.into());
    for (block, to) in blocks.iter().zip(to) {
        let mut off = _mm512_setzero_ps();
        let mut rounded = [_mm512_setzero_si512(); 4];
        for (i, rounded) in rounded.iter_mut().enumerate() {
            // SAFETY: a quarter of the block.
            let values = unsafe { _mm512_loadu_ps(block.as_ptr().add(i * LANES)) };
            // Of a NaN and a number, the instruction gives the second operand; NaN is rounded to the lowest number.
            let values = _mm512_min_ps(large, _mm512_mul_ps(values, reciprocal));
            *rounded = _mm512_cvtps_epi32(values);
            off = _mm512_max_ps(_mm512_abs_ps(_mm512_sub_ps(values, _mm512_cvtepi32_ps(*rounded))), off);
        }
        if _mm512_cmp_ps_mask::<_CMP_GE_OQ>(off, _mm512_set1_ps(Quantizer::HALFWAY)) != 0 {
            by.quantize(block, to);
            continue;
        }
        let [a, b, c, d] = rounded;
        let (low, high) = (_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
        let (low, high) = (_mm512_adds_epi16(low, zero_point), _mm512_adds_epi16(high, zero_point));
        // SAFETY: the features are this function's.
        let bytes = unsafe { in_order(_mm512_packus_epi16(low, high)) };
        // By quarters, from which loads of four bytes that come soon are forwarded.
        // SAFETY: as many bytes as the block has values.
        unsafe {
            let to = to.as_mut_ptr().cast::<u8>();
            _mm_storeu_si128(to.cast(), _mm512_castsi512_si128(bytes));
            _mm_storeu_si128(to.add(16).cast(), _mm512_extracti32x4_epi32::<1>(bytes));
            _mm_storeu_si128(to.add(32).cast(), _mm512_extracti32x4_epi32::<2>(bytes));
            _mm_storeu_si128(to.add(48).cast(), _mm512_extracti32x4_epi32::<3>(bytes));
        };
    }
    // SAFETY: every element was written, and the layout is the same.
    unsafe { &mut *(std::ptr::from_mut(out) as *mut [u8]) }
}

/// Outputs by whole vectors, where one zero point is that of all columns; others as the plain loop does.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,bmi2,f16c")]
pub(super) fn epilogue(sums: &[i32], stride: usize, terms: &Terms<'_>, mut out: Output<'_>) {
    let m = terms.row_sums.len();
    let has_sums = || assert!(reach(m, stride, terms.columns.len()).is_some_and(|reach| reach <= sums.len()));
    // SAFETY: the features are this function's; the outputs have the rows, and `has_sums` has seen that the sums do.
    unsafe {
        if let Some(to) = Outputs::<Dequantized<'_>>::new(terms, &mut out) {
            has_sums();
            return to.rows(0..m, sums.as_ptr(), stride);
        }
        if let Some(to) = Outputs::<Requantized<'_>>::new(terms, &mut out) {
            has_sums();
            return to.rows(0..m, sums.as_ptr(), stride);
        }
        if let Some(to) = Outputs::<Summed>::new(terms, &mut out) {
            has_sums();
            return to.rows(0..m, sums.as_ptr(), stride);
        }
    }
    rows::epilogue(sums, stride, terms, out, |floats, halves| avx2::to_halves(floats, halves));
}

/// Makes a packed row what bytes are multiplied as: the uint8 activations that it stands for.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn finish(row: &mut [i8]) {
    row.iter_mut().for_each(|x| *x ^= i8::MIN);
}
