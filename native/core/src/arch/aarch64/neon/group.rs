//! A group in four registers.

use super::expand;
use crate::arch::generic::{Expand, Group, LookUp};
use std::arch::aarch64::*;

/// Lanes of a register, and registers of a group.
pub const LANES: usize = 16;
pub const QUARTERS: usize = 4;

/// 64 bytes. The feature is NEON.
#[derive(Clone, Copy)]
pub struct Quarters(pub [uint8x16_t; QUARTERS]);

impl Quarters {
    /// Does the same with each quarter of two groups.
    #[inline(always)]
    fn with(self, other: Self, one: impl Fn(uint8x16_t, uint8x16_t) -> uint8x16_t) -> Self {
        Self(std::array::from_fn(|i| one(self.0[i], other.0[i])))
    }
}

impl Group for Quarters {
    #[inline(always)]
    unsafe fn splat(byte: u8) -> Self {
        // SAFETY: the caller's contract, here and below.
        Self([unsafe { vdupq_n_u8(byte) }; QUARTERS])
    }
    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: as above.
        Self(std::array::from_fn(|i| unsafe { vld1q_u8(from.add(LANES * i)) }))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        for (i, quarter) in self.0.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { vst1q_u8(to.add(LANES * i), quarter) };
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        self.with(other, |a, b| unsafe { vaddq_u8(a, b) })
    }
    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: as above.
        self.with(other, |a, b| unsafe { veorq_u8(a, b) })
    }
    #[inline(always)]
    unsafe fn at_least(self, other: Self) -> u64 {
        // SAFETY: as above.
        unsafe { expand::mask(self.with(other, |a, b| vcgeq_u8(a, b)).0) }
    }
}

impl Expand for Quarters {
    #[inline(always)]
    unsafe fn expand(bits: u64, from: *const u8) -> Self {
        // SAFETY: as above.
        Self(unsafe { expand::expand(bits, from) })
    }
}

impl LookUp for Quarters {
    type Table = [uint8x16x4_t; 2];
    type Mask = uint8x16_t;
    #[inline(always)]
    unsafe fn table(symbols: &[u8; 256]) -> Self::Table {
        // SAFETY: two times 64 bytes of 256.
        [0, 64].map(|at| unsafe { vld1q_u8_x4(symbols[at..].as_ptr()) })
    }
    #[inline(always)]
    unsafe fn mask(mask: u8) -> Self::Mask {
        // SAFETY: as above.
        unsafe { vdupq_n_u8(mask) }
    }
    #[inline(always)]
    unsafe fn look_up(self, table: &Self::Table) -> Self {
        // SAFETY: as above.
        Self(self.0.map(|ranks| unsafe {
            let low = vandq_u8(ranks, vdupq_n_u8(0x7f));
            // Behind the table's end the first gives 0, and the second what it was given.
            vqtbx4q_u8(vqtbl4q_u8(table[0], low), table[1], vsubq_u8(low, vdupq_n_u8(64)))
        }))
    }
    #[inline(always)]
    unsafe fn high(self, mask: &Self::Mask) -> Self {
        // SAFETY: as above.
        Self(self.0.map(|ranks| unsafe { vandq_u8(vcgeq_u8(ranks, vdupq_n_u8(0x80)), *mask) }))
    }
}
