//! Work on whole rows, by this kernel's instructions.

use super::epilogue::{Columns, DequantizedColumns, RequantizedColumns, epilogue_of_narrow_rows, epilogue_of_rows};
use crate::arch::operands::reach;
use crate::arch::output::Output;
use crate::arch::rows::{self, ActivationRow, Terms};
use crate::arch::x86_64::avx2::rows as avx2;
use crate::geometry::{GROUP, PANEL};
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

/// As [`RowKernel::write_columns`].
///
/// # Safety
/// As there; and the processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) unsafe fn write_columns(panel: &[u8], flip: u8, out: *mut u8, stride: usize) {
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

#[target_feature(enable = "avx512f")]
pub(super) fn range(x: &[f32]) -> Range {
    Range::of(x)
}

#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn quantize<'a>(by: Quantizer, x: &[f32], out: &'a mut [MaybeUninit<u8>]) -> &'a mut [u8] {
    by.quantize(x, out)
}

/// Outputs that their columns' way makes, a row at a time; others as the plain loop does.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,f16c")]
pub(super) fn epilogue(sums: &[i32], stride: usize, terms: &Terms<'_>, mut out: Output<'_>) {
    let m = terms.row_sums.len();
    let columns = terms.columns.len();
    let has_sums = || assert!(reach(m, stride, columns).is_some_and(|reach| reach <= sums.len()));
    // SAFETY: the features are this function's; `new` has checked the block, and `has_sums` the sums.
    unsafe {
        if let Some(columns) = DequantizedColumns::new(columns, m, terms, &mut out) {
            has_sums();
            return epilogue_of_rows(columns.first_row(), 0..m, sums.as_ptr(), stride);
        }
        if let Some(columns) = RequantizedColumns::new(columns, m, terms, &mut out) {
            has_sums();
            return epilogue_of_rows(columns.first_row(), 0..m, sums.as_ptr(), stride);
        }
        if let Some(to) = DequantizedColumns::narrow(m, terms, &mut out) {
            has_sums();
            return epilogue_of_narrow_rows(&to, (m, columns), sums.as_ptr(), stride);
        }
        if let Some(to) = RequantizedColumns::narrow(m, terms, &mut out) {
            has_sums();
            return epilogue_of_narrow_rows(&to, (m, columns), sums.as_ptr(), stride);
        }
    }
    rows::epilogue(sums, stride, terms, out, |floats, halves| avx2::to_halves(floats, halves));
}
