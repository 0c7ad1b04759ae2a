//! Work on whole rows, by this kernel's instructions.

use super::products::Products;
use super::vectors::{LANES, load};
use crate::arch::operands::{ByteRows, Rows};
use crate::arch::output::Output;
use crate::arch::rows::{self, ActivationRow, Panels, Terms, WeightedRuns};
use crate::codec::WeightType;
use crate::dequantize::Channels;
use crate::geometry::{FRACTAL, FRACTAL_K, GROUP, GROUPS, PANEL};
use crate::quantize::{Quantizer, Range};
use crate::transpose::{Matrix, transpose_from};
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Rows and columns that are transposed in registers.
const PIECE: usize = 8;

/// Numbers of 16 bits in a vector.
const LANES_16: usize = LANES / 2;

/// As [`rows::pack`]: bytes are added up as unsigned ones, eight by one instruction.
#[target_feature(enable = "avx2")]
pub(super) fn pack(from: ActivationRow<'_>, to: &mut [i8]) -> i32 {
    let (bytes, flip) = match from {
        ActivationRow::U8(from) => (from, i8::MIN),
        // SAFETY: the layout is the same.
        ActivationRow::I8(from) => (unsafe { &*(std::ptr::from_ref(from) as *const [u8]) }, 0),
    };
    let len = bytes.len().min(to.len());
    let (vectors, rest) = bytes[..len].as_chunks::<LANES>();
    let (packed, packed_rest) = to[..len].as_chunks_mut::<LANES>();
    let (flip, to_unsigned) = (_mm256_set1_epi8(flip), _mm256_set1_epi8(i8::MIN));
    let mut sums = _mm256_setzero_si256();
    for (from, to) in vectors.iter().zip(packed) {
        let packed = _mm256_xor_si256(load(from), flip);
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), packed) };
        let of_eight = _mm256_sad_epu8(_mm256_xor_si256(packed, to_unsigned), _mm256_setzero_si256());
        sums = _mm256_add_epi64(sums, of_eight);
    }
    // Sums of rows wrap, like the products.
    let halves = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let sum = _mm_cvtsi128_si64(halves).wrapping_add(_mm_extract_epi64::<1>(halves));
    let sum = (sum - 128 * (len - rest.len()) as i64) as i32;
    let rest = match from {
        ActivationRow::U8(_) => ActivationRow::U8(rest),
        ActivationRow::I8(from) => ActivationRow::I8(&from[len - rest.len()..len]),
    };
    sum.wrapping_add(rows::pack(rest, packed_rest))
}

/// As [`rows::sums`].
#[target_feature(enable = "avx2")]
pub(super) fn sums(of: Rows<'_>, k: usize, sums: &mut [i32]) {
    rows::sums(of, k, sums);
}

/// As [`rows::column_terms`].
#[target_feature(enable = "avx2")]
pub(in crate::arch::x86_64) fn column_terms(sums: &[i32], factor: i32, base: i32, terms: &mut [i32]) {
    rows::column_terms(sums, factor, base, terms);
}

/// As [`rows::scaled`].
#[target_feature(enable = "avx2")]
pub(in crate::arch::x86_64) fn scaled(sums: &[i32], scale: f32, addend: Option<f32>, to: &mut [MaybeUninit<f32>]) {
    rows::scaled(sums, scale, addend, to);
}

/// As [`rows::weighted_sums`]: the products of two runs are added by the instruction that multiplies them.
#[target_feature(enable = "avx2")]
pub(in crate::arch::x86_64) fn weighted_sums(base: i32, runs: WeightedRuns<'_>, sums: &mut [i32]) {
    assert!(runs.covers(sums.len()));
    let WeightedRuns { values, starts, factors } = runs;
    let (starts, starts_rest) = starts.as_chunks::<2>();
    let (factors, factors_rest) = factors.as_chunks::<2>();
    // The last one by itself has a companion that counts for nothing.
    let rest = starts_rest.iter().zip(factors_rest).map(|(&start, &factor)| ([start; 2], [factor, 0]));
    let pairs = starts.iter().copied().zip(factors.iter().copied()).chain(rest);
    let (blocks, sums_rest) = sums.as_chunks_mut::<{ 2 * LANES_16 }>();
    for (block, sums) in blocks.iter_mut().enumerate() {
        let mut acc = [_mm256_setzero_si256(); 4];
        for (starts, [even, odd]) in pairs.clone() {
            let factor = i32::from(even) & 0xffff | i32::from(odd) << 16;
            let factor = _mm256_set1_epi32(factor);
            for half in 0..2 {
                let at = block * 2 * LANES_16 + half * LANES_16;
                // SAFETY: runs cover all sums, as was just checked; these 16 are among them.
                let [a, b] =
                    starts.map(|start| unsafe { _mm256_loadu_si256(values.as_ptr().add(start + at).cast()) });
                let (low, high) = (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
                acc[2 * half] = _mm256_add_epi32(acc[2 * half], _mm256_madd_epi16(low, factor));
                acc[2 * half + 1] = _mm256_add_epi32(acc[2 * half + 1], _mm256_madd_epi16(high, factor));
            }
        }
        let base = _mm256_set1_epi32(base);
        for half in 0..2 {
            let (low, high) = (acc[2 * half], acc[2 * half + 1]);
            let in_order =
                [_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high)];
            let to = sums[half * LANES_16..].as_mut_ptr().cast::<__m256i>();
            for (i, eight) in in_order.into_iter().enumerate() {
                // SAFETY: 16 sums.
                unsafe { _mm256_storeu_si256(to.add(i), _mm256_add_epi32(eight, base)) };
            }
        }
    }
    let done = blocks.len() * 2 * LANES_16;
    let runs = WeightedRuns { values: &values[done.min(values.len())..], ..runs };
    rows::weighted_sums(base, runs, sums_rest);
}

/// As [`RowKernel::finish`](crate::arch::RowKernel::finish).
#[target_feature(enable = "avx2")]
pub(super) fn finish<P: Products>(row: &mut [i8]) {
    if P::BYTES {
        row.iter_mut().for_each(|x| *x ^= i8::MIN);
    } else if P::WIDTH == 2 {
        widen(row);
    }
}

/// Widens the second half of a row to 16 bits: of each group, the even ones in a word and the odd ones in the next.
#[inline]
#[target_feature(enable = "avx2")]
fn widen(row: &mut [i8]) {
    let k = row.len() / 2;
    assert!(k.is_multiple_of(FRACTAL_K));
    let at = row.as_mut_ptr();
    for x in (0..k).step_by(FRACTAL_K) {
        // SAFETY: k + x + 32 and 2 x + 64 are not behind the end. What is written is not behind what has been read.
        unsafe {
            let packed = _mm256_loadu_si256(at.add(k + x).cast());
            let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(packed));
            let odd = _mm256_srai_epi16::<8>(packed);
            let (low, high) = (_mm256_unpacklo_epi32(even, odd), _mm256_unpackhi_epi32(even, odd));
            let to = at.add(2 * x);
            _mm256_storeu_si256(to.cast(), _mm256_permute2x128_si256::<0x20>(low, high));
            _mm256_storeu_si256(to.add(FRACTAL_K).cast(), _mm256_permute2x128_si256::<0x31>(low, high));
        }
    }
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn epilogue(sums: &[i32], stride: usize, terms: &Terms<'_>, out: Output<'_>) {
    rows::epilogue(sums, stride, terms, out, |floats, halves| to_halves(floats, halves));
}

/// As [`rows::to_halves`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in crate::arch::x86_64) fn to_halves(floats: &[f32], halves: &mut [u16]) {
    let (eights, rest) = floats.as_chunks::<8>();
    let (to, to_rest) = halves.as_chunks_mut::<8>();
    for (floats, halves) in eights.iter().zip(to) {
        // SAFETY: eight floats are read, eight halves written.
        unsafe {
            let eight = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(floats.as_ptr()));
            _mm_storeu_si128(halves.as_mut_ptr().cast(), eight);
        }
    }
    rows::to_halves(rest, to_rest);
}

#[target_feature(enable = "avx2")]
pub(in crate::arch::x86_64) fn dequantize(
    weights: &[u8],
    weight_type: WeightType,
    channels: Channels<'_>,
    at: usize,
    out: &mut [MaybeUninit<f32>],
) {
    crate::dequantize::dequantize(weights, weight_type, channels, at, out);
}

/// As [`Range::of`]: four vectors at a time. Where a value is NaN, the instructions give the other operand, the lowest or highest
/// of those before.
#[target_feature(enable = "avx2")]
pub(super) fn range(x: &[f32]) -> Range {
    const LANES: usize = 8;
    let mut lowest = [_mm256_setzero_ps(); 4];
    let mut highest = lowest;
    let (blocks, rest) = x.as_chunks::<{ 4 * LANES }>();
    for block in blocks {
        for i in 0..4 {
            // SAFETY: a quarter of the block.
            let values = unsafe { _mm256_loadu_ps(block.as_ptr().add(i * LANES)) };
            (lowest[i], highest[i]) = (_mm256_min_ps(values, lowest[i]), _mm256_max_ps(values, highest[i]));
        }
    }
    let lowest = _mm256_min_ps(_mm256_min_ps(lowest[0], lowest[1]), _mm256_min_ps(lowest[2], lowest[3]));
    let highest = _mm256_max_ps(_mm256_max_ps(highest[0], highest[1]), _mm256_max_ps(highest[2], highest[3]));
    let lowest = _mm_min_ps(_mm256_castps256_ps128(lowest), _mm256_extractf128_ps::<1>(lowest));
    let highest = _mm_max_ps(_mm256_castps256_ps128(highest), _mm256_extractf128_ps::<1>(highest));
    let lowest = _mm_min_ps(lowest, _mm_movehl_ps(lowest, lowest));
    let highest = _mm_max_ps(highest, _mm_movehl_ps(highest, highest));
    let lowest = _mm_min_ss(lowest, _mm_movehdup_ps(lowest));
    let highest = _mm_max_ss(highest, _mm_movehdup_ps(highest));
    Range::new(_mm_cvtss_f32(lowest), _mm_cvtss_f32(highest)).with(Range::of(rest))
}

/// As [`Quantizer::quantize`], four vectors at a time by products with the reciprocal, where those say which bytes become of them.
#[target_feature(enable = "avx2")]
pub(super) fn quantize<'a>(by: Quantizer, x: &[f32], out: &'a mut [MaybeUninit<u8>]) -> &'a mut [u8] {
    const LANES: usize = 8;
    let Some(reciprocal) = by.reciprocal() else { return by.quantize(x, out) };
    assert_eq!(x.len(), out.len(), "a byte for each value");
    let (blocks, rest) = x.as_chunks::<{ 4 * LANES }>();
    let (to, to_rest) = out.as_chunks_mut::<{ 4 * LANES }>();
    by.quantize(rest, to_rest);
    let (reciprocal, large) = (_mm256_set1_ps(reciprocal), _mm256_set1_ps(Quantizer::LARGE));
    let (halfway, sign) = (_mm256_set1_ps(Quantizer::HALFWAY), _mm256_set1_ps(-0.0));
    let zero_point = _mm256_set1_epi16(by.zero_point.into());
    for (block, to) in blocks.iter().zip(to) {
        let mut off = _mm256_setzero_ps();
        let mut rounded = [_mm256_setzero_si256(); 4];
        for (i, rounded) in rounded.iter_mut().enumerate() {
            // SAFETY: a quarter of the block.
            let values = unsafe { _mm256_loadu_ps(block.as_ptr().add(i * LANES)) };
            // Of a NaN and a number, the instruction gives the second operand; NaN is rounded to the lowest number.
            let values = _mm256_min_ps(large, _mm256_mul_ps(values, reciprocal));
            *rounded = _mm256_cvtps_epi32(values);
            let error = _mm256_sub_ps(values, _mm256_cvtepi32_ps(*rounded));
            off = _mm256_max_ps(_mm256_andnot_ps(sign, error), off);
        }
        if _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(off, halfway)) != 0 {
            by.quantize(block, to);
            continue;
        }
        let [a, b, c, d] = rounded;
        let (low, high) = (_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
        let (low, high) = (_mm256_adds_epi16(low, zero_point), _mm256_adds_epi16(high, zero_point));
        // Each half of the register has the fours of bytes of its halves of the four vectors.
        let in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        let bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), in_order);
        // SAFETY: as many bytes as the block has values.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), bytes) };
    }
    // SAFETY: every element was written, and the layout is the same.
    unsafe { &mut *(std::ptr::from_mut(out) as *mut [u8]) }
}

/// As [`transpose`](crate::transpose::transpose).
#[target_feature(enable = "avx2")]
pub(in crate::arch::x86_64) fn transpose_words(from: Matrix<'_, u32>, to: &mut [MaybeUninit<u32>]) {
    from.check(to.len());
    let (rows, columns) = (from.rows - from.rows % PIECE, from.columns - from.columns % PIECE);
    // Rows of the transpose outside, so that it is written in order.
    for j in (0..columns).step_by(PIECE) {
        for i in (0..rows).step_by(PIECE) {
            // SAFETY: the piece's rows and columns exist, as `check` has seen: it reads 8 words from each of 8 rows, and
            // writes as many to rows j to j + 7 of the transpose.
            unsafe {
                let piece = from.elements.as_ptr().add(i * from.stride + j);
                let to = to.as_mut_ptr().cast::<u32>().add(j * from.rows + i);
                transpose_piece(piece, from.stride, to.cast(), from.rows * size_of::<u32>(), _mm256_setzero_si256());
            }
        }
    }
    transpose_from(from, to, rows, columns);
}

/// As [`RowKernel::write_rows`](crate::arch::RowKernel::write_rows).
///
/// # Safety
/// As there; and the processor has AVX2.
#[target_feature(enable = "avx2")]
pub(in crate::arch::x86_64) unsafe fn write_rows(panel: &[u8], ByteRows { at: out, stride, flip, .. }: ByteRows) {
    const { assert!(GROUPS == PIECE && FRACTAL_K == PIECE * size_of::<u32>()) };
    let flip = _mm256_set1_epi8(flip.cast_signed());
    let words = panel.as_ptr().cast::<u32>();
    for fractal in 0..panel.len() / FRACTAL {
        for half in [0, PIECE] {
            // SAFETY: a fractal has 8 groups of 16 words, one for each row; the caller answers for the output.
            unsafe {
                let from = words.add(fractal * FRACTAL / size_of::<u32>() + half);
                let to = out.add(half * stride + fractal * FRACTAL_K);
                transpose_piece(from, GROUP / size_of::<u32>(), to, stride, flip);
            }
        }
    }
}

/// As [`RowKernel::write_columns`](crate::arch::RowKernel::write_columns).
///
/// # Safety
/// As there; and the processor has AVX2.
#[target_feature(enable = "avx2")]
pub(in crate::arch::x86_64) unsafe fn write_columns(
    panels: Panels<'_>,
    ByteRows { at: out, stride, flip, .. }: ByteRows,
) {
    let flip = _mm_set1_epi8(flip.cast_signed());
    // The weights of four columns, by their place along k.
    let by_k = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let columns_of = |group: &[u8; GROUP]| {
        let quarter = |j: usize| {
            // SAFETY: a quarter of the group's 64 bytes.
            let four = unsafe { _mm_loadu_si128(group.as_ptr().add(j * PANEL).cast()) };
            _mm_xor_si128(_mm_shuffle_epi8(four, by_k), flip)
        };
        let (a, b, c, d) = (quarter(0), quarter(1), quarter(2), quarter(3));
        let (low, high) = (_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
        let (low2, high2) = (_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
        [
            _mm_unpacklo_epi64(low, low2),
            _mm_unpackhi_epi64(low, low2),
            _mm_unpacklo_epi64(high, high2),
            _mm_unpackhi_epi64(high, high2),
        ]
    };
    for g in 0..panels.groups() {
        for p in 0..panels.count() {
            for (l, column) in columns_of(panels.group(p, g)).into_iter().enumerate() {
                // SAFETY: the caller's contract.
                unsafe { _mm_storeu_si128(out.add((4 * g + l) * stride + p * PANEL).cast(), column) };
            }
        }
    }
}

/// Writes the transpose of 8 rows of 8 words, exclusive-or `flip`.
///
/// # Safety
/// The processor has AVX2. 8 words can be read from each of 8 rows, `stride` apart from `from` on, and written to as
/// many rows, `to_stride` bytes apart from `to` on.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn transpose_piece(from: *const u32, stride: usize, to: *mut u8, to_stride: usize, flip: __m256i) {
    // SAFETY: the caller's contract.
    let row = |i: usize| unsafe { _mm256_loadu_si256(from.add(i * stride).cast()) };
    let mut r: [__m256i; 8] = [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)];
    // Pairs of rows, then fours, within halves of 128 bits.
    let mut t = r;
    for i in (0..8).step_by(2) {
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for i in (0..8).step_by(4) {
        r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for i in 0..4 {
        let (low, high) =
            (_mm256_permute2x128_si256(r[i], r[i + 4], 0x20), _mm256_permute2x128_si256(r[i], r[i + 4], 0x31));
        // SAFETY: the caller's contract.
        unsafe {
            _mm256_storeu_si256(to.add(i * to_stride).cast(), _mm256_xor_si256(low, flip));
            _mm256_storeu_si256(to.add((i + 4) * to_stride).cast(), _mm256_xor_si256(high, flip));
        }
    }
}
