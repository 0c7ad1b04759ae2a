//! The loop over all blocks of one panel that meet six rows, group by group, with products that saturate, in assembly.
//!
//! It has fewer instructions beside those that multiply than the loops for four rows ([`blocks`](super::blocks)), which counts where
//! another process computes on the same core. Six rows leave no registers for products of several groups, so it is for panels of
//! which most blocks go group by group anyway.

use super::vectors::Sums;
use crate::geometry::GROUP;
use std::arch::asm;
use std::arch::x86_64::*;

/// Rows of a tile.
pub(super) const ROWS: usize = 6;

/// Six rows of uint8 activations, and where their blocks lie.
#[derive(Clone, Copy)]
pub(super) struct SixRows {
    pub rows: [*const u8; ROWS],
    /// Of each block, in bytes behind each row; one behind the other where this is null.
    pub blocks: *const u32,
}

/// One row and one group, whose halves are at `$w` and `$v`.
macro_rules! row {
    ($row:literal, $low:literal, $high:literal, $x:literal, $w:literal, $v:literal) => {
        concat!(
            "vpbroadcastd {t0}, [{",
            $row,
            "} + {x} + ",
            $x,
            "]\n",
            "vpmaddubsw {t1}, {t0}, [{w} + ",
            $w,
            "]\n",
            "vpmaddubsw {t0}, {t0}, [{w} + ",
            $v,
            "]\n",
            "vpmaddwd {t1}, {t1}, {ones}\n",
            "vpaddd {",
            $low,
            "}, {",
            $low,
            "}, {t1}\n",
            "vpmaddwd {t0}, {t0}, {ones}\n",
            "vpaddd {",
            $high,
            "}, {",
            $high,
            "}, {t0}\n",
        )
    };
}

/// All rows and one group.
macro_rules! group {
    ($x:literal, $w:literal, $v:literal) => {
        concat!(
            row!("r0", "s0", "s1", $x, $w, $v),
            row!("r1", "s2", "s3", $x, $w, $v),
            row!("r2", "s4", "s5", $x, $w, $v),
            row!("r3", "s6", "s7", $x, $w, $v),
            row!("r4", "s8", "s9", $x, $w, $v),
            row!("r5", "s10", "s11", $x, $w, $v),
        )
    };
}

/// The loop; `$before` and `$after` each block, what finds the next activations.
macro_rules! all_blocks {
    ($before:literal, $after:literal, $sums:ident, $w:ident, $x:ident, $count:ident) => {{
        let [[[s0, s1]], [[s2, s3]], [[s4, s5]], [[s6, s7]], [[s8, s9]], [[s10, s11]]] = $sums;
        asm!(
            "/* {blocks}, which not every way needs */",
            "2:",
            $before,
            group!("0", "0", "32"),
            group!("4", "64", "96"),
            group!("8", "128", "160"),
            group!("12", "192", "224"),
            $after,
            "add {w}, 256",
            "sub {count}, 1",
            "jnz 2b",
            count = inout(reg) $count => _,
            w = inout(reg) $w => _,
            blocks = inout(reg) $x.blocks => _,
            x = inout(reg) 0usize => _,
            r0 = in(reg) $x.rows[0], r1 = in(reg) $x.rows[1], r2 = in(reg) $x.rows[2],
            r3 = in(reg) $x.rows[3], r4 = in(reg) $x.rows[4], r5 = in(reg) $x.rows[5],
            s0 = inout(ymm_reg) *s0, s1 = inout(ymm_reg) *s1, s2 = inout(ymm_reg) *s2, s3 = inout(ymm_reg) *s3,
            s4 = inout(ymm_reg) *s4, s5 = inout(ymm_reg) *s5, s6 = inout(ymm_reg) *s6, s7 = inout(ymm_reg) *s7,
            s8 = inout(ymm_reg) *s8, s9 = inout(ymm_reg) *s9, s10 = inout(ymm_reg) *s10, s11 = inout(ymm_reg) *s11,
            ones = in(ymm_reg) _mm256_set1_epi16(1),
            t0 = out(ymm_reg) _, t1 = out(ymm_reg) _,
            options(nostack, readonly),
        );
    }};
}

/// Adds the products of the first `count` blocks of the panel at `w`.
///
/// # Safety
/// AVX2; the panel, of int8, and the rows have all of these blocks.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn add(sums: &mut Sums<ROWS, 1>, w: *const u8, x: SixRows, count: usize) {
    const { assert!(GROUP == 64) };
    if count == 0 {
        return;
    }
    // SAFETY: the caller's contract; memory is only read.
    unsafe {
        if x.blocks.is_null() {
            all_blocks!("", "add {x}, 16", sums, w, x, count);
        } else {
            all_blocks!("mov {x:e}, dword ptr [{blocks}]\nadd {blocks}, 4", "", sums, w, x, count);
        }
    }
}
