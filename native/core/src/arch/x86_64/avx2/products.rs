//! Products of symbols in memory.
//!
//! `vpmaddubsw` multiplies bytes, and adds each two products with saturation. Exact ones are of wider operands: symbols are
//! widened to 16 bits, those of even and those of odd k apart, and multiplied by `vpmaddwd`.

use super::vectors::{LANES, load};
use crate::arch::kernel::{NoMemory, resize};
use crate::arch::operands::Rows;
use crate::geometry::{FRACTAL, FRACTAL_K, GROUP, GROUPS, PANEL};
use std::arch::x86_64::*;

/// Words that the activations of one row are in, for each fractal: of its groups first the even activations, widened, then
/// the odd ones; where products saturate, all four as the bytes that they are.
const fn words(saturates: bool) -> usize {
    if saturates { GROUPS } else { 2 * GROUPS }
}

/// Prepares rows of `k` activations, a multiple of [`FRACTAL_K`], to be multiplied.
#[target_feature(enable = "avx2")]
pub(super) fn prepare<const SATURATES: bool>(rows: &Rows<'_>, k: usize, out: &mut Vec<i32>) -> Result<(), NoMemory> {
    let len = k / FRACTAL_K * words(SATURATES);
    resize(out, rows.m() * len, 0)?;
    for (i, out) in out.chunks_exact_mut(len).enumerate() {
        let x = rows.row(i)[..k].as_chunks::<LANES>().0;
        for (x, out) in x.iter().zip(out.chunks_exact_mut(words(SATURATES))) {
            let x = load(&x.map(i8::cast_unsigned));
            let (first, rest) = out.split_at_mut(GROUPS);
            if SATURATES {
                put(first, _mm256_xor_si256(x, _mm256_set1_epi8(i8::MIN)));
            } else {
                put(first, _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)));
                put(rest, _mm256_srai_epi16::<8>(x));
            }
        }
    }
    Ok(())
}

/// Stores the words of a register.
#[inline]
#[target_feature(enable = "avx2")]
fn put(to: &mut [i32], value: __m256i) {
    const { assert!(size_of::<[i32; GROUPS]>() == LANES) };
    let to: &mut [i32; GROUPS] = to.try_into().expect("as many as there are groups in a fractal");
    // SAFETY: the array is as long as the register.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), value) }
}

/// Adds the products of one panel and all rows of prepared activations; rows of `acc` are `stride` apart.
#[target_feature(enable = "avx2")]
pub(super) fn multiply_panel<const SATURATES: bool>(panel: &[u8], x: &[i32], acc: &mut [i32], stride: usize) {
    let len = panel.len() / FRACTAL * words(SATURATES);
    let mut at = 0;
    let mut rows = x.chunks_exact(4 * len);
    for x in &mut rows {
        block::<4, SATURATES>(panel, x, &mut acc[at..], stride);
        at += 4 * stride;
    }
    let x = rows.remainder();
    match x.len() / len {
        0 => {}
        1 => block::<1, SATURATES>(panel, x, &mut acc[at..], stride),
        2 => block::<2, SATURATES>(panel, x, &mut acc[at..], stride),
        _ => block::<3, SATURATES>(panel, x, &mut acc[at..], stride),
    }
}

/// One panel by MR rows.
#[inline]
#[target_feature(enable = "avx2")]
fn block<const MR: usize, const SATURATES: bool>(panel: &[u8], x: &[i32], acc: &mut [i32], stride: usize) {
    let (fractals, words) = (panel.as_chunks::<FRACTAL>().0, words(SATURATES));
    // Rows of that length: no index is checked again.
    let x: [&[i32]; MR] = std::array::from_fn(|i| &x[i * fractals.len() * words..][..fractals.len() * words]);
    let mut sums = [[_mm256_setzero_si256(); 2]; MR];
    for (f, fractal) in fractals.iter().enumerate() {
        let x: [&[i32]; MR] = std::array::from_fn(|i| &x[i][f * words..][..words]);
        for (s, group) in fractal.as_chunks::<GROUP>().0.iter().enumerate() {
            let halves = group.as_chunks::<LANES>().0;
            for h in 0..2 {
                let symbols = load(&halves[h]);
                if SATURATES {
                    let weights = _mm256_xor_si256(symbols, _mm256_set1_epi8(i8::MIN));
                    for i in 0..MR {
                        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi32(x[i][s]), weights);
                        let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                        sums[i][h] = _mm256_add_epi32(sums[i][h], fours);
                    }
                } else {
                    let even = _mm256_and_si256(symbols, _mm256_set1_epi16(0xff));
                    let odd = _mm256_srli_epi16::<8>(symbols);
                    for i in 0..MR {
                        let fours = _mm256_add_epi32(
                            _mm256_madd_epi16(even, _mm256_set1_epi32(x[i][s])),
                            _mm256_madd_epi16(odd, _mm256_set1_epi32(x[i][GROUPS + s])),
                        );
                        sums[i][h] = _mm256_add_epi32(sums[i][h], fours);
                    }
                }
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        let acc = &mut acc[i * stride..][..PANEL];
        for (sum, acc) in sums.iter().zip(acc.chunks_exact_mut(8)) {
            // SAFETY: eight accumulators are what is read and written.
            unsafe {
                let at = acc.as_mut_ptr().cast();
                _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), *sum));
            }
        }
    }
}
