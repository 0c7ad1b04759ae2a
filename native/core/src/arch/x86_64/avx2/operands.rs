//! What register tiles are of, and where their sums go.

use super::vectors::Sums;
use crate::arch::operands::Extent;
use crate::geometry::PANEL;
use std::arch::x86_64::*;

/// What is multiplied.
#[derive(Clone, Copy)]
pub(super) struct Operands<X> {
    pub symbols: *const u8,
    pub extent: Extent,
    /// Of a panel, those that are not padding as a whole.
    pub blocks: usize,
    pub x: X,
}

/// Where the sums of register tiles go.
pub(super) trait Destination {
    /// Takes the sums of the tile that begins with row `row` and panel `panel`.
    ///
    /// # Safety
    /// AVX2; this destination has MR rows from there on, and the first column of each of NR panels.
    unsafe fn store<const MR: usize, const NR: usize>(&self, row: usize, panel: usize, sums: &Sums<MR, NR>);
}

/// Sums are added to accumulators in memory.
pub(super) struct Accumulate {
    pub at: *mut i32,
    /// Distance of rows.
    pub stride: usize,
    /// Overwrite instead of adding.
    pub overwrite: bool,
}

impl Destination for Accumulate {
    #[inline(always)]
    unsafe fn store<const MR: usize, const NR: usize>(&self, row: usize, panel: usize, sums: &Sums<MR, NR>) {
        for (i, row_of_sums) in sums.iter().enumerate() {
            for (half, sum) in row_of_sums.as_flattened().iter().enumerate() {
                // SAFETY: the caller's contract, with all columns of the panels.
                unsafe {
                    let at = self.at.add((row + i) * self.stride + panel * PANEL + half * PANEL / 2).cast();
                    let sum = if self.overwrite { *sum } else { _mm256_add_epi32(_mm256_loadu_si256(at), *sum) };
                    _mm256_storeu_si256(at, sum);
                }
            }
        }
    }
}
