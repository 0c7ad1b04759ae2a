//! Multiplications by symbols in memory with AVX-VNNI, whose products of four neighbours along k are one instruction: register
//! tiles of up to six rows by one panel.

use super::operands::{Destination, Operands};
use super::products::{Products, group};
use super::steps::BLOCK;
use super::vectors::Sums;
use crate::arch::operands::PanelSteps;
use crate::arch::x86_64::activations::{Activations, rows_from};
use crate::arch::x86_64::heights::Heights;
use crate::geometry::{GROUP, GROUP_K};
use std::arch::x86_64::*;

/// As [`tiles::multiply`](super::tiles::multiply), panel by panel.
///
/// # Safety
/// AVX-VNNI, and as there, for m rows; symbols and rows cover the extent.
#[target_feature(enable = "avx2,avxvnni")]
pub(super) unsafe fn panels<P: Products, X: Activations, D: Destination>(operands: Operands<X>, m: usize, to: &D) {
    if m == 0 {
        return;
    }
    let heights = Heights::of(m);
    for panel in 0..operands.extent.panels() {
        let mut row = 0;
        while row < m {
            let (high, at) = (heights.from(row), (row, panel));
            // SAFETY: the tile lies inside of what the caller promises.
            unsafe {
                match high {
                    6 => tile::<P, X, 6, 1, D>(operands, at, to),
                    5 => tile::<P, X, 5, 1, D>(operands, at, to),
                    4 => tile::<P, X, 4, 1, D>(operands, at, to),
                    3 => tile::<P, X, 3, 2, D>(operands, at, to),
                    2 => tile::<P, X, 2, 2, D>(operands, at, to),
                    _ => tile::<P, X, 1, 4, D>(operands, at, to),
                }
            }
            row += high;
        }
    }
}

/// One register tile; groups along k are added up in `ACC` turns, for sums to wait less for each other.
///
/// # Safety
/// As for [`panels`]; there are MR rows from `row` on, and the panel.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn tile<P: Products, X: Activations, const MR: usize, const ACC: usize, D: Destination>(
    Operands { symbols, extent, blocks, x }: Operands<X>,
    (row, panel): (usize, usize),
    to: &D,
) {
    let mut turns: [Sums<MR, 1>; ACC] = [[[[_mm256_setzero_si256(); 2]; 1]; MR]; ACC];
    // SAFETY: the caller's contract.
    unsafe {
        let (w, rows) = (symbols.add(panel * extent.panel()), rows_from::<MR>(x, row));
        for at in 0..blocks {
            let (w, from) = (w.add(at * BLOCK), x.block(at, P::WIDTH));
            for g in 0..PanelSteps::BLOCK {
                let at = from + g * GROUP_K * P::WIDTH;
                group::<P, MR, 1, false>(&mut turns[g % ACC], (w.add(g * GROUP), 0), (&rows, at));
            }
        }
        let mut sums = turns[0];
        for turn in &turns[1..] {
            let turn = turn.as_flattened().as_flattened();
            for (sum, turn) in sums.as_flattened_mut().as_flattened_mut().iter_mut().zip(turn) {
                *sum = _mm256_add_epi32(*sum, *turn);
            }
        }
        to.store(row, panel, &sums);
    }
}
