//! Products of pairs of 16-bit numbers.

use crate::arch::pairs::{self, ByteRuns, POSITIONS};
use std::arch::x86_64::*;
use std::ops::Range;

/// As [`pairs::pair`].
#[target_feature(enable = "avx2")]
pub(super) fn pair(runs: ByteRuns<'_>, positions: Range<usize>, to: &mut [i16]) {
    let room = runs.bytes.len();
    let last = runs.starts.iter().copied().max().unwrap_or(0).saturating_add(positions.end);
    if last.saturating_add(POSITIONS) > room {
        // Vectors would reach beyond the bytes somewhere.
        return paired::<true>(runs, positions, to);
    }
    paired::<false>(runs, positions, to);
}

/// `CHECKED`: a block that reaches beyond the bytes is written number by number.
#[target_feature(enable = "avx2")]
fn paired<const CHECKED: bool>(runs: ByteRuns<'_>, positions: Range<usize>, to: &mut [i16]) {
    let blocks = positions.step_by(POSITIONS);
    let to = &mut to[..blocks.len() * runs.block()];
    let zero_point = _mm256_set1_epi16(runs.zero_point);
    for (at, to) in blocks.zip(to.chunks_exact_mut(runs.block().max(1))) {
        for (pair, to) in runs.starts.chunks(2).zip(to.as_chunks_mut::<{ 2 * POSITIONS }>().0) {
            let (one, other) = (pair[0] + at, pair[pair.len() - 1] + at);
            if CHECKED && one.max(other) + POSITIONS > runs.bytes.len() {
                for (i, to) in to.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    *to = [runs.number(one, i), runs.number(other, i)];
                }
                continue;
            }
            // SAFETY: there are 16 bytes at either place: this was just seen, or for all places by the caller.
            let [one, other] = [one, other].map(|at| unsafe { _mm_loadu_si128(runs.bytes.as_ptr().add(at).cast()) });
            for (half, bytes) in
                [_mm_unpacklo_epi8(one, other), _mm_unpackhi_epi8(one, other)].into_iter().enumerate()
            {
                let wide = if runs.signed { _mm256_cvtepi8_epi16(bytes) } else { _mm256_cvtepu8_epi16(bytes) };
                let less = _mm256_sub_epi16(wide, zero_point);
                // SAFETY: 16 of 32 numbers.
                unsafe { _mm256_storeu_si256(to.as_mut_ptr().add(half * POSITIONS).cast(), less) };
            }
        }
    }
}

/// As [`pairs::pair_sums`].
#[target_feature(enable = "avx2")]
pub(super) fn pair_sums(of: &[i16], factors: &[i16], bases: &[i32], sums: &mut [i32]) {
    match bases.len() {
        1 => rows::<1>(of, factors, bases, sums),
        2 => rows::<2>(of, factors, bases, sums),
        3 => rows::<3>(of, factors, bases, sums),
        4 => rows::<4>(of, factors, bases, sums),
        5 => rows::<5>(of, factors, bases, sums),
        _ => rows::<6>(of, factors, bases, sums),
    }
}

/// The sums of so many rows as `R`.
#[target_feature(enable = "avx2")]
fn rows<const R: usize>(of: &[i16], factors: &[i16], bases: &[i32], sums: &mut [i32]) {
    let (len, block) = pairs::check(of, factors, bases, sums);
    assert!(bases.len() == R, "so many rows");
    let of_a_row = factors.len() / R;
    for at in (0..len).step_by(POSITIONS) {
        let mut acc: [[__m256i; 2]; R] = std::array::from_fn(|row| [_mm256_set1_epi32(bases[row]); 2]);
        let numbers = of[at / POSITIONS * block..][..block].as_chunks::<{ 2 * POSITIONS }>().0;
        for (pair, numbers) in numbers.iter().enumerate() {
            // SAFETY: 32 numbers.
            let both =
                [0, 1].map(|half| unsafe { _mm256_loadu_si256(numbers.as_ptr().add(half * POSITIONS).cast()) });
            for (row, acc) in acc.iter_mut().enumerate() {
                let at = row * of_a_row + 2 * pair;
                // SAFETY: each row has two factors for each pair of a block, as was checked.
                let factor = _mm256_set1_epi32(unsafe { factors.as_ptr().add(at).cast::<i32>().read_unaligned() });
                for (acc, numbers) in acc.iter_mut().zip(both) {
                    *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(numbers, factor));
                }
            }
        }
        for (row, acc) in acc.into_iter().enumerate() {
            let to = sums[row * len + at..][..POSITIONS].as_mut_ptr().cast::<__m256i>();
            for (half, eight) in acc.into_iter().enumerate() {
                // SAFETY: 8 of 16 sums.
                unsafe { _mm256_storeu_si256(to.add(half), eight) };
            }
        }
    }
}
