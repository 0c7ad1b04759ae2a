//! The loop over all blocks of two panels that meet three rows, group by group, with products that saturate, in assembly.
//!
//! What a row's activations are broadcast to meets four registers of weights, so that there are fewer instructions for each product
//! than where more rows meet one panel. That leaves no registers for products of several groups at once, so it is for panels of
//! which few blocks could go by fours.

use super::blocks::added;
use super::vectors::Sums;
use crate::geometry::GROUP;
use std::arch::asm;
use std::arch::x86_64::*;

/// Rows of a tile.
pub(super) const ROWS: usize = 3;
/// Panels of a tile, one behind the other.
pub(super) const PANELS: usize = 2;

/// Three rows of uint8 activations, and where their blocks lie.
#[derive(Clone, Copy)]
pub(super) struct ThreeRows {
    pub rows: [*const u8; ROWS],
    /// Of each block, in bytes behind each row; one behind the other where this is null.
    pub blocks: *const u32,
}

/// Where the weights are, of int8.
#[derive(Clone, Copy)]
pub(super) struct Weights {
    /// Of the first panel.
    pub at: *const u8,
    /// Bytes from there to the second.
    pub panel: usize,
    /// Bytes from each block of the first to what is fetched.
    pub ahead: usize,
}

/// The products of the weights at an address, added to `$sum`; `{$t}` is overwritten.
macro_rules! product {
    ($t:literal, $w:literal, $at:literal, $sum:literal) => {
        concat!("vpmaddubsw {", $t, "}, {a}, [{", $w, "} + ", $at, "]\n", added!($sum, $t),)
    };
}

/// One row and one group, whose halves are at `$at` and `$half` of each panel.
macro_rules! row {
    ($row:literal, [$s0:literal, $s1:literal, $s2:literal, $s3:literal], $x:literal, $at:literal, $half:literal) => {
        concat!(
            "vpbroadcastd {a}, [{",
            $row,
            "} + {x} + ",
            $x,
            "]\n",
            product!("t", "w", $at, $s0),
            product!("u", "w", $half, $s1),
            product!("t", "v", $at, $s2),
            product!("a", "v", $half, $s3),
        )
    };
}

/// All rows and one group.
macro_rules! group {
    ($x:literal, $at:literal, $half:literal) => {
        concat!(
            row!("r0", ["s0", "s1", "s2", "s3"], $x, $at, $half),
            row!("r1", ["s4", "s5", "s6", "s7"], $x, $at, $half),
            row!("r2", ["s8", "s9", "s10", "s11"], $x, $at, $half),
        )
    };
}

/// Registers that are zero.
macro_rules! zeros {
    ($($sum:literal),*) => {
        concat!($("vpxor {", $sum, ":x}, {", $sum, ":x}, {", $sum, ":x}\n",)*)
    };
}

/// Where activations begin whose blocks are not beside each other.
macro_rules! place {
    () => {
        "mov {x:e}, dword ptr [{blocks}]\nadd {blocks}, 4"
    };
}

/// Has the block that is so many bytes on fetched.
macro_rules! fetch {
    () => {
        concat!(
            "prefetcht0 [{w} + {ahead}]\n",
            "prefetcht0 [{w} + {ahead} + 64]\n",
            "prefetcht0 [{w} + {ahead} + 128]\n",
            "prefetcht0 [{w} + {ahead} + 192]\n",
        )
    };
}

/// The loop; `$before` and `$after` each block, what finds the next activations; `$fetch`, what fetches weights.
macro_rules! all_blocks {
    ($before:expr, $after:literal, $fetch:expr, $w:ident, $x:ident, $count:ident) => {{
        let Weights { at, panel, ahead } = $w;
        let (s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11);
        asm!(
            "/* {blocks} and {ahead}, which not every way needs */",
            zeros!("s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11"),
            "2:",
            $before,
            $fetch,
            group!("0", "0", "32"),
            group!("4", "64", "96"),
            group!("8", "128", "160"),
            group!("12", "192", "224"),
            $after,
            "add {w}, 256",
            "add {v}, 256",
            "sub {count}, 1",
            "jnz 2b",
            count = inout(reg) $count => _,
            w = inout(reg) at => _,
            v = inout(reg) at.add(panel) => _,
            ahead = in(reg) ahead,
            blocks = inout(reg) $x.blocks => _,
            x = inout(reg) 0usize => _,
            r0 = in(reg) $x.rows[0], r1 = in(reg) $x.rows[1], r2 = in(reg) $x.rows[2],
            s0 = out(ymm_reg) s0, s1 = out(ymm_reg) s1, s2 = out(ymm_reg) s2, s3 = out(ymm_reg) s3,
            s4 = out(ymm_reg) s4, s5 = out(ymm_reg) s5, s6 = out(ymm_reg) s6, s7 = out(ymm_reg) s7,
            s8 = out(ymm_reg) s8, s9 = out(ymm_reg) s9, s10 = out(ymm_reg) s10, s11 = out(ymm_reg) s11,
            ones = in(ymm_reg) _mm256_set1_epi16(1),
            a = out(ymm_reg) _, t = out(ymm_reg) _, u = out(ymm_reg) _,
            options(nostack, readonly),
        );
        [[[s0, s1], [s2, s3]], [[s4, s5], [s6, s7]], [[s8, s9], [s10, s11]]]
    }};
}

/// The products of the first `count` blocks of two panels; `FETCH`: and has what is ahead of the first one fetched.
///
/// # Safety
/// AVX2; the panels, of int8, and the rows have all of these blocks.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn sums<const FETCH: bool>(w: Weights, x: ThreeRows, count: usize) -> Sums<ROWS, PANELS> {
    const { assert!(GROUP == 64) };
    if count == 0 {
        return [[[_mm256_setzero_si256(); 2]; PANELS]; ROWS];
    }
    // SAFETY: the caller's contract; memory is only read.
    unsafe {
        match (x.blocks.is_null(), FETCH) {
            (true, false) => all_blocks!("", "add {x}, 16", "", w, x, count),
            (true, true) => all_blocks!("", "add {x}, 16", fetch!(), w, x, count),
            (false, false) => all_blocks!(place!(), "", "", w, x, count),
            (false, true) => all_blocks!(place!(), "", fetch!(), w, x, count),
        }
    }
}
