//! Whole registers: loads, stores, and those of a tile.

use std::arch::x86_64::*;

/// Lanes of a register.
pub(super) const LANES: usize = 32;

/// The sums of a register tile: of each row, the halves of each panel.
pub(super) type Sums<const MR: usize, const NR: usize> = [[[__m256i; 2]; NR]; MR];

/// A load that cannot leave its operand.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load(from: &[u8; LANES]) -> __m256i {
    // SAFETY: the reference covers the register.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

/// A store that cannot leave its operand.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store(to: &mut [u8; LANES], value: __m256i) {
    // SAFETY: the reference covers the register.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), value) }
}
