//! A group in two registers.

use super::vectors::LANES;
use crate::arch::generic::Group;
use std::arch::x86_64::*;

/// 64 bytes. The feature is AVX2.
#[derive(Clone, Copy)]
pub struct Halves(pub [__m256i; 2]);

impl Group for Halves {
    #[inline(always)]
    unsafe fn splat(byte: u8) -> Self {
        // SAFETY: the caller's contract, here and below.
        Self([unsafe { _mm256_set1_epi8(byte.cast_signed()) }; 2])
    }
    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: as above.
        unsafe { Self([_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(LANES).cast())]) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_si256(to.cast(), self.0[0]);
            _mm256_storeu_si256(to.add(LANES).cast(), self.0[1]);
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self([_mm256_add_epi8(self.0[0], other.0[0]), _mm256_add_epi8(self.0[1], other.0[1])]) }
    }
    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self([_mm256_xor_si256(self.0[0], other.0[0]), _mm256_xor_si256(self.0[1], other.0[1])]) }
    }
    #[inline(always)]
    unsafe fn at_least(self, other: Self) -> u64 {
        // SAFETY: as above. There is a comparison of signed bytes only, but a maximum of unsigned ones.
        unsafe {
            let half = |i: usize| {
                let reached = _mm256_cmpeq_epi8(_mm256_max_epu8(self.0[i], other.0[i]), self.0[i]);
                u64::from(_mm256_movemask_epi8(reached).cast_unsigned())
            };
            half(0) | half(1) << LANES
        }
    }
}
