//! Multiplications by symbols in memory, in register tiles: four rows by one panel, two by two, one by four, or three by two
//! ([`two_panels`]).

use super::blocks::{self, FourRows, ROWS};
use super::dots;
use super::operands::{Destination, Operands};
use super::products::{Products, Saturating, group};
use super::steps::BLOCK;
use super::two_panels::{self, ThreeRows, Weights};
use super::vectors::Sums;
use crate::aligned::LINE;
use crate::arch::operands::{Extent, PIECE_K, PanelSteps, Rows, Symbols};
use crate::arch::x86_64::activations::{Activations, Apart, InPieces, rows_from};
use crate::geometry::GROUP;
use std::arch::asm;
use std::arch::x86_64::*;

/// Lines of memory in a block.
const LINES: usize = BLOCK / LINE;

/// Multiplies panels that lie one behind the other by all rows.
///
/// # Safety
/// AVX2, and what the products need; what the sums go to covers the extent, with all rows.
///
/// # Panics
/// If symbols or rows do not cover it, or steps are those of other panels.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn multiply<P: Products, D: Destination>(
    Symbols { bytes, steps }: Symbols<'_>,
    extent: Extent,
    rows: &Rows<'_>,
    to: &D,
) {
    assert!(bytes.len() >= extent.weights() && rows.covers(extent.k() * P::WIDTH));
    let all = extent.k() / PIECE_K;
    let blocks = rows.pieces().map_or(all, |pieces| pieces.blocks.len().min(all));
    // Those of panels behind the extent would have them multiplied.
    let steps = if P::IN_STEPS { &steps[..steps.len().min(extent.panels())] } else { &[] };
    assert!(steps.iter().all(|steps| steps.blocks() <= blocks));
    let (at, symbols) = (rows.data().as_ptr().cast(), bytes.as_ptr());
    // SAFETY: as was just checked, and the caller's contract.
    unsafe {
        match rows.pieces() {
            None => {
                let x = Apart { at, stride: rows.stride() };
                panels::<P, _, D>(Operands { symbols, extent, blocks, x }, steps, rows.m(), to);
            }
            Some(pieces) => {
                assert!(P::WIDTH == 1, "bytes lie in pieces");
                panels::<P, _, D>(
                    Operands { symbols, extent, blocks, x: InPieces { at, pieces } },
                    steps,
                    rows.m(),
                    to,
                );
            }
        }
    }
}

/// As [`multiply`].
///
/// # Safety
/// As there, for m rows; and symbols, rows and steps cover the extent.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn panels<P: Products, X: Activations, D: Destination>(
    operands: Operands<X>,
    steps: &[PanelSteps],
    m: usize,
    to: &D,
) {
    if P::VNNI {
        // SAFETY: the caller's contract, which is that of these products as well.
        return unsafe { dots::panels::<P, X, D>(operands, m, to) };
    }
    let (panels, mut panel) = (operands.extent.panels(), 0);
    // Two panels from there on meet three rows.
    let by_two = |panel: usize| {
        let fit = |steps: &PanelSteps| P::SATURATES || steps.wide().is_empty();
        let two = steps.get(panel..panel + two_panels::PANELS);
        m >= 2 * two_panels::ROWS
            && two.is_some_and(|two| two.iter().all(|steps| steps.seldom_at_once() && fit(steps)))
    };
    while panel < panels {
        let first = panel;
        // SAFETY: panels that there are, and the caller's contract.
        unsafe {
            if by_two(panel) {
                tiles_of_two(operands, panel, m, to);
                panel += two_panels::PANELS;
                continue;
            }
            while panel < panels && !by_two(panel) {
                panel += 1;
            }
            fours::<P, X, D>(operands, (first, panel), steps, m, to);
            last_rows::<P, X, D>(operands, (first, panel), steps, m, to);
        }
    }
}

/// The rows of two panels, by tiles of [`two_panels`], of int8 with products that saturate.
///
/// # Safety
/// As for [`multiply`]; there are the two panels from `panel` on, and two tiles.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn tiles_of_two<X: Activations, D: Destination>(operands: Operands<X>, panel: usize, m: usize, to: &D) {
    let (count, bytes) = (m / two_panels::ROWS, operands.extent.panel());
    // SAFETY: tiles of rows and panels that there are.
    unsafe {
        let weights = Weights { at: operands.symbols.add(panel * bytes), panel: bytes, ahead: 0 };
        // The last two tiles have the next two panels fetched: before, they would leave the first cache again.
        let first = count - two_panels::PANELS;
        for i in 0..first {
            tile_of_two::<false, _, _>(operands, (i * two_panels::ROWS, panel), weights, to);
        }
        for i in first..count {
            let ahead = (two_panels::PANELS + i - first) * bytes;
            let weights = Weights { ahead, ..weights };
            tile_of_two::<true, _, _>(operands, (i * two_panels::ROWS, panel), weights, to);
        }
        let last = count * two_panels::ROWS;
        match m - last {
            0 => {}
            1 => _ = tile::<Saturating<true>, X, 1, { two_panels::PANELS }, false, D>(operands, (last, panel), to),
            _ => _ = tile::<Saturating<true>, X, 2, { two_panels::PANELS }, false, D>(operands, (last, panel), to),
        }
    }
}

/// One tile of [`two_panels`].
///
/// # Safety
/// As for [`tiles_of_two`]; these are the panels' weights, and there are the rows.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn tile_of_two<const FETCH: bool, X: Activations, D: Destination>(
    Operands { blocks, x, .. }: Operands<X>,
    (row, panel): (usize, usize),
    weights: Weights,
    to: &D,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let rows = ThreeRows { rows: rows_from(x, row), blocks: x.blocks() };
        to.store(row, panel, &two_panels::sums::<FETCH>(weights, rows, blocks));
    }
}

/// All rows of some panels but for the last ones that are fewer than four, four at a time.
///
/// # Safety
/// As for [`multiply`]; there are the panels.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn fours<P: Products, X: Activations, D: Destination>(
    operands: Operands<X>,
    (first, end): (usize, usize),
    steps: &[PanelSteps],
    m: usize,
    to: &D,
) {
    // The last tiles have the next panel fetched: before, it would leave the first cache again. Each its share, if there are as
    // many tiles as lines, for more at once has the products wait.
    let tiles = m / ROWS;
    for panel in first..end {
        let steps = steps.get(panel).filter(|steps| !steps.is_empty());
        for i in 0..tiles {
            let (at, next) = ((i * ROWS, panel), operands.extent.panel());
            // SAFETY: tiles of rows and panels that there are.
            unsafe {
                match (steps, (i + LINES).checked_sub(tiles)) {
                    (Some(steps), None) => tile_in_steps::<P, X, 0, D>(operands, at, (steps, next), to),
                    (Some(steps), Some(line)) if tiles >= LINES => {
                        tile_in_steps::<P, X, 1, D>(operands, at, (steps, next + line * LINE), to)
                    }
                    (Some(steps), Some(_)) => tile_in_steps::<P, X, LINES, D>(operands, at, (steps, next), to),
                    (None, _) if i == 0 => _ = tile::<P, X, ROWS, 1, true, D>(operands, at, to),
                    (None, _) => _ = tile::<P, X, ROWS, 1, false, D>(operands, at, to),
                }
            }
        }
    }
}

/// The rows that [`fours`] leaves.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn last_rows<P: Products, X: Activations, D: Destination>(
    operands: Operands<X>,
    (first, end): (usize, usize),
    steps: &[PanelSteps],
    m: usize,
    to: &D,
) {
    let (mut panel, rest) = (first, m % 4);
    while panel < end && rest > 0 {
        let at = (m - rest, panel);
        let steps = steps.get(panel).filter(|steps| !P::SATURATES && !steps.is_empty());
        // SAFETY: tiles of rows and panels that there are.
        unsafe {
            panel += match (rest, steps, end - panel) {
                (1, Some(steps), _) => few_in_steps::<P, X, 1, D>(operands, at, steps, to),
                (2, Some(steps), _) => few_in_steps::<P, X, 2, D>(operands, at, steps, to),
                (_, Some(steps), _) => few_in_steps::<P, X, 3, D>(operands, at, steps, to),
                (1, None, 4..) => tile::<P, X, 1, 4, false, D>(operands, at, to),
                (1, None, 2..) => tile::<P, X, 1, 2, false, D>(operands, at, to),
                (1, None, _) => tile::<P, X, 1, 1, false, D>(operands, at, to),
                (2, None, 2..) => tile::<P, X, 2, 2, true, D>(operands, at, to),
                (2, None, _) => tile::<P, X, 2, 1, true, D>(operands, at, to),
                (_, None, _) => tile::<P, X, 3, 1, true, D>(operands, at, to),
            };
        }
    }
}

/// One register tile, from `row` and `panel` on; its panels.
///
/// # Safety
/// As for [`multiply`]; there are MR rows and NR panels from there on.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn tile<P: Products, X: Activations, const MR: usize, const NR: usize, const FETCH: bool, D: Destination>(
    Operands { symbols, extent, blocks, x }: Operands<X>,
    (row, panel): (usize, usize),
    to: &D,
) -> usize {
    let mut sums: Sums<MR, NR> = [[[_mm256_setzero_si256(); 2]; NR]; MR];
    // SAFETY: the caller's contract. Plain loops: closures that the standard library calls would not be inlined here.
    unsafe {
        let (w, rows) = (symbols.add(panel * extent.panel()), rows_from(x, row));
        for at in 0..blocks {
            block::<P, MR, NR, FETCH>(&mut sums, (w.add(at * BLOCK), extent.panel()), (&rows, x.block(at, P::WIDTH)));
        }
        to.store(row, panel, &sums);
    }
    NR
}

/// Adds the products of a block, group by group.
///
/// # Safety
/// As for [`group`], of all groups of the block.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn block<P: Products, const MR: usize, const NR: usize, const FETCH: bool>(
    sums: &mut Sums<MR, NR>,
    (w, panel): (*const u8, usize),
    (rows, at): (&[*const u8; MR], usize),
) {
    for g in 0..PanelSteps::BLOCK {
        // SAFETY: the caller's contract.
        unsafe { group::<P, MR, NR, FETCH>(sums, (w.add(g * GROUP), panel), (rows, at + 4 * g * P::WIDTH)) };
        for sum in sums.as_flattened_mut().as_flattened_mut() {
            *sum = settled(*sum);
        }
    }
}

/// The same sum, which the compiler takes for another: it would add products to one another first, and sums would no longer fit
/// the registers.
#[inline]
#[target_feature(enable = "avx2")]
fn settled(mut sum: __m256i) -> __m256i {
    // SAFETY: nothing is done.
    unsafe { asm!("/* {0} */", inout(ymm_reg) sum, options(pure, nomem, nostack, preserves_flags)) };
    sum
}

/// One register tile of a single panel, in the steps that are known for it, of bytes: products that saturate, or exact ones, for
/// which blocks that may saturate are widened. With each other block, `FETCH` lines `next` bytes behind it are fetched.
///
/// # Safety
/// As for [`tile`]; the steps are of as many blocks as the panel has.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn tile_in_steps<P: Products, X: Activations, const FETCH: usize, D: Destination>(
    Operands { symbols, extent, x: activations, .. }: Operands<X>,
    (row, panel): (usize, usize),
    (steps, next): (&PanelSteps, usize),
    to: &D,
) {
    let mut sums: Sums<ROWS, 1> = [[[_mm256_setzero_si256(); 2]; 1]; ROWS];
    // SAFETY: the caller's contract; `PanelSteps` names blocks that there are.
    unsafe {
        let w = symbols.add(panel * extent.panel());
        let x = FourRows { rows: rows_from(activations, row), blocks: activations.blocks(), next };
        blocks::add::<4, FETCH>(&mut sums, w, x, steps.fours());
        blocks::add::<2, FETCH>(&mut sums, w, x, steps.twos());
        if P::SATURATES {
            blocks::add::<1, FETCH>(&mut sums, w, x, steps.ones());
        } else {
            blocks::add::<1, FETCH>(&mut sums, w, x, steps.ones_that_fit());
            listed_blocks::<P, X, ROWS>(&mut sums, (w, extent), (activations, &x.rows), steps.wide());
        }
        to.store(row, panel, &sums);
    }
}

/// One register tile of a single panel and less than four rows: only what may saturate is multiplied by exact products.
///
/// # Safety
/// As for [`tile_in_steps`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn few_in_steps<P: Products, X: Activations, const MR: usize, D: Destination>(
    Operands { symbols, extent, x, .. }: Operands<X>,
    (row, panel): (usize, usize),
    steps: &PanelSteps,
    to: &D,
) -> usize {
    let mut sums: Sums<MR, 1> = [[[_mm256_setzero_si256(); 2]; 1]; MR];
    // SAFETY: the caller's contract.
    unsafe {
        let (w, rows) = (symbols.add(panel * extent.panel()), rows_from(x, row));
        listed_blocks::<Saturating<true>, X, MR>(&mut sums, (w, extent), (x, &rows), steps.fitting());
        listed_blocks::<P, X, MR>(&mut sums, (w, extent), (x, &rows), steps.wide());
        to.store(row, panel, &sums);
    }
    1
}

/// Adds the products of those blocks of the panel at `w` that a list has.
///
/// # Safety
/// As for [`tile_in_steps`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn listed_blocks<P: Products, X: Activations, const MR: usize>(
    sums: &mut Sums<MR, 1>,
    (w, extent): (*const u8, Extent),
    (x, rows): (X, &[*const u8; MR]),
    blocks: &[u16],
) {
    for at in blocks.iter().map(|at| usize::from(*at)) {
        // SAFETY: the caller's contract.
        unsafe { block::<P, MR, 1, false>(sums, (w.add(at * BLOCK), extent.panel()), (rows, x.block(at, P::WIDTH))) };
    }
}
