//! Bits deposited at the ones of a mask: by the instruction for it, or without it.
//!
//! PDEP is microcode before Zen 3, some cycles for each one of the mask. What stands in for it takes the same time whatever the
//! mask: the bits move up in six steps, each half of the group that they are in, and which move in a step is found once for
//! all planes (Hacker's Delight, "expand").

use std::arch::x86_64::_pdep_u64;

/// Steps: a bit moves by up to 63 places.
const STEPS: usize = 6;

/// Where the next bits go.
#[derive(Clone, Copy)]
pub(super) struct Moves<const PDEP: bool> {
    mask: u64,
    /// For each step, the places that are reached in it. Not used with the instruction.
    steps: [u64; STEPS],
}

impl<const PDEP: bool> Moves<PDEP> {
    /// To the ones of `mask`.
    #[inline(always)]
    pub(super) fn to(mask: u64) -> Self {
        let mut steps = [0; STEPS];
        if !PDEP {
            // Zeros of the mask below each place, as numbers in bit planes: step by step their parity is found, which says
            // what moves by so many places, and the rest is halved.
            let (mut rest, mut zeros) = (mask, !mask << 1);
            for (s, step) in steps.iter_mut().enumerate() {
                let mut odd = zeros;
                for shift in [1, 2, 4, 8, 16, 32] {
                    odd ^= odd << shift;
                }
                *step = odd & rest;
                rest = (rest ^ *step) | *step >> (1 << s);
                zeros &= !odd;
            }
        }
        Self { mask, steps }
    }

    /// The lowest bits, each at its place.
    ///
    /// # Safety
    /// BMI2, with the instruction.
    #[inline(always)]
    pub(super) unsafe fn deposit(&self, mut bits: u64) -> u64 {
        if PDEP {
            // SAFETY: the caller's contract.
            return unsafe { _pdep_u64(bits, self.mask) };
        }
        for (s, step) in self.steps.iter().enumerate().rev() {
            bits = (bits & !step) | (bits << (1 << s) & step);
        }
        bits & self.mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mcd_testkit::Rng;

    fn one_by_one(mut bits: u64, mask: u64) -> u64 {
        let mut out = 0;
        for place in 0..64 {
            if mask >> place & 1 == 1 {
                out |= (bits & 1) << place;
                bits >>= 1;
            }
        }
        out
    }

    #[test]
    fn both_ways_put_each_bit_at_its_place() {
        let mut rng = Rng::new(5);
        for round in 0..4000 {
            let mask = match round % 4 {
                0 => rng.next(),
                1 => rng.next() & rng.next(),
                2 => rng.next() | rng.next() | rng.next(),
                _ => [0, !0, 1, 1 << 63, 0xffff_0000_0000_0000][round / 4 % 5],
            };
            let bits = rng.next();
            let expected = one_by_one(bits, mask);
            // SAFETY: without the instruction there is nothing to need.
            assert_eq!(unsafe { Moves::<false>::to(mask).deposit(bits) }, expected, "{bits:#x} to {mask:#x}");
            if is_x86_feature_detected!("bmi2") {
                // SAFETY: as was just found.
                assert_eq!(unsafe { Moves::<true>::to(mask).deposit(bits) }, expected);
            }
        }
    }
}
