//! Products of symbols in memory. `vpmaddubsw` saturates, so symbols are widened, those of even and those of odd k apart, and
//! multiplied by `vpmaddwd`, which is exact.

use super::vectors::{LANES, load};
use crate::arch::kernel::{NoMemory, resize};
use crate::arch::operands::Rows;
use crate::geometry::{GROUP, PANEL};
use std::arch::x86_64::*;

/// Widens rows of `k` activations to 16 bits; of the four of a group, first the even ones, then the odd ones.
#[target_feature(enable = "avx2")]
pub(super) fn widen(rows: &Rows<'_>, k: usize, out: &mut Vec<[i32; 2]>) -> Result<(), NoMemory> {
    resize(out, rows.m() * (k / 4), [0; 2])?;
    for (i, out) in out.chunks_exact_mut(k / 4).enumerate() {
        for (x, out) in rows.row(i)[..k].as_chunks::<4>().0.iter().zip(out) {
            let pair = |low: i8, high: i8| i32::from(high) << 16 | i32::from(low) & 0xffff;
            *out = [pair(x[0], x[2]), pair(x[1], x[3])];
        }
    }
    Ok(())
}

/// Adds the products of one panel and all rows of widened activations; rows of `acc` are `stride` apart.
#[target_feature(enable = "avx2")]
pub(super) fn multiply_panel(panel: &[u8], x: &[[i32; 2]], acc: &mut [i32], stride: usize) {
    let steps = panel.len() / GROUP;
    let mut at = 0;
    let mut rows = x.chunks_exact(4 * steps);
    for x in &mut rows {
        block::<4>(panel, x, &mut acc[at..], stride);
        at += 4 * stride;
    }
    let x = rows.remainder();
    match x.len() / steps {
        0 => {}
        1 => block::<1>(panel, x, &mut acc[at..], stride),
        2 => block::<2>(panel, x, &mut acc[at..], stride),
        _ => block::<3>(panel, x, &mut acc[at..], stride),
    }
}

/// One panel by MR rows.
#[inline]
#[target_feature(enable = "avx2")]
fn block<const MR: usize>(panel: &[u8], x: &[[i32; 2]], acc: &mut [i32], stride: usize) {
    let (groups, _) = panel.as_chunks::<GROUP>();
    // Rows of that length: no index is checked again.
    let x: [&[[i32; 2]]; MR] = std::array::from_fn(|i| &x[i * groups.len()..][..groups.len()]);
    let mut sums = [[_mm256_setzero_si256(); 2]; MR];
    for (s, group) in groups.iter().enumerate() {
        let halves = group.as_chunks::<LANES>().0;
        for h in 0..2 {
            let symbols = load(&halves[h]);
            let even = _mm256_and_si256(symbols, _mm256_set1_epi16(0xff));
            let odd = _mm256_srli_epi16::<8>(symbols);
            for i in 0..MR {
                let [x_even, x_odd] = x[i][s];
                let product = _mm256_add_epi32(
                    _mm256_madd_epi16(even, _mm256_set1_epi32(x_even)),
                    _mm256_madd_epi16(odd, _mm256_set1_epi32(x_odd)),
                );
                sums[i][h] = _mm256_add_epi32(sums[i][h], product);
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
