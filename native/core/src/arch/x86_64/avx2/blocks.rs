//! Loops over blocks of one panel that meet four rows, with products that saturate, in assembly: of several loops one behind the
//! other, the compiler kept some of the eight sums in memory, and added products to one another before it added them to sums.

use super::vectors::Sums;
use crate::geometry::GROUP;
use std::arch::asm;
use std::arch::x86_64::*;

/// Rows of a tile.
pub(super) const ROWS: usize = 4;

/// Four rows of uint8 activations, and where their blocks lie.
#[derive(Clone, Copy)]
pub(super) struct FourRows {
    pub rows: [*const u8; ROWS],
    /// Of each block, in bytes behind each row; one behind the other where this is null.
    pub blocks: *const u32,
    /// Bytes from each block to the first line that is fetched with it.
    pub next: usize,
}

/// Widens products, two for each column, to 32 bits and adds them to a sum.
macro_rules! added {
    ($sum:literal, $products:literal) => {
        concat!(
            "vpmaddwd {",
            $products,
            "}, {",
            $products,
            "}, {ones}\n",
            "vpaddd {",
            $sum,
            "}, {",
            $sum,
            "}, {",
            $products,
            "}\n",
        )
    };
}

pub(super) use added;

/// Adds the products of one row and half a panel to a sum: those of four groups in 16 bits first, of two, or of one.
macro_rules! half {
    (4, $sum:literal, $w:literal) => {
        concat!(
            "vpmaddubsw {t4}, {t0}, [{w} + ",
            $w,
            "]\n",
            "vpmaddubsw {t5}, {t1}, [{w} + ",
            $w,
            " + 64]\n",
            "vpaddw {t4}, {t4}, {t5}\n",
            "vpmaddubsw {t5}, {t2}, [{w} + ",
            $w,
            " + 128]\n",
            "vpmaddubsw {t6}, {t3}, [{w} + ",
            $w,
            " + 192]\n",
            "vpaddw {t5}, {t5}, {t6}\n",
            "vpaddw {t4}, {t4}, {t5}\n",
            added!($sum, "t4"),
        )
    };
    (2, $sum:literal, $w:literal) => {
        concat!(
            "vpmaddubsw {t4}, {t0}, [{w} + ",
            $w,
            "]\n",
            "vpmaddubsw {t5}, {t1}, [{w} + ",
            $w,
            " + 64]\n",
            "vpaddw {t4}, {t4}, {t5}\n",
            added!($sum, "t4"),
        )
    };
    (1, $sum:literal, $weights:literal) => {
        concat!("vpmaddubsw {t3}, {t2}, {", $weights, "}\n", added!($sum, "t3"),)
    };
}

/// Loads four activations of a row, `$at` bytes into the block, to each lane.
macro_rules! activations {
    ($to:literal, $row:literal, $at:literal) => {
        concat!("vpbroadcastd {", $to, "}, [{", $row, "} + {x} + ", $at, "]\n")
    };
}

/// All of a block and one row, where groups go by four or by two; by one, all rows and one group.
macro_rules! part {
    (4, $row:literal, $low:literal, $high:literal) => {
        concat!(
            activations!("t0", $row, "0"),
            activations!("t1", $row, "4"),
            activations!("t2", $row, "8"),
            activations!("t3", $row, "12"),
            half!(4, $low, "0"),
            half!(4, $high, "32"),
        )
    };
    (2, $row:literal, $low:literal, $high:literal) => {
        concat!(
            activations!("t0", $row, "0"),
            activations!("t1", $row, "4"),
            half!(2, $low, "0"),
            half!(2, $high, "32"),
            activations!("t0", $row, "8"),
            activations!("t1", $row, "12"),
            half!(2, $low, "128"),
            half!(2, $high, "160"),
        )
    };
    (1, $w:literal, $at:literal) => {
        concat!(
            "vmovdqu {t0}, [{w} + ",
            $w,
            "]\n",
            "vmovdqu {t1}, [{w} + ",
            $w,
            " + 32]\n",
            activations!("t2", "r0", $at),
            half!(1, "s0", "t0"),
            half!(1, "s1", "t1"),
            activations!("t2", "r1", $at),
            half!(1, "s2", "t0"),
            half!(1, "s3", "t1"),
            activations!("t2", "r2", $at),
            half!(1, "s4", "t0"),
            half!(1, "s5", "t1"),
            activations!("t2", "r3", $at),
            half!(1, "s6", "t0"),
            half!(1, "s7", "t1"),
        )
    };
}

/// A block.
macro_rules! block {
    (1) => {
        concat!(part!(1, "0", "0"), part!(1, "64", "4"), part!(1, "128", "8"), part!(1, "192", "12"))
    };
    ($groups:tt) => {
        concat!(
            part!($groups, "r0", "s0", "s1"),
            part!($groups, "r1", "s2", "s3"),
            part!($groups, "r2", "s4", "s5"),
            part!($groups, "r3", "s6", "s7"),
        )
    };
}

/// Where activations begin whose blocks are not beside each other.
macro_rules! place {
    () => {
        "mov {x:e}, dword ptr [{blocks} + 4 * {x}]"
    };
}

/// Has so many lines fetched.
macro_rules! fetch {
    (1) => {
        "prefetcht0 [{w} + {next}]\n"
    };
    (4) => {
        concat!(
            fetch!(1),
            "prefetcht0 [{w} + {next} + 64]\n",
            "prefetcht0 [{w} + {next} + 128]\n",
            "prefetcht0 [{w} + {next} + 192]\n",
        )
    };
}

/// The loop over the blocks of a panel, at `$w`, whose numbers a list has.
macro_rules! all_blocks {
    ($groups:tt, $place:expr, $fetch:expr, $sums:ident, $w:ident, $x:ident, $blocks:ident) => {{
        let [[s0, s1], [s2, s3], [s4, s5], [s6, s7]] = $sums;
        let numbers = $blocks.as_ptr_range();
        asm!(
            "/* {t0} {t1} {t2} {t3} {t4} {t5} {t6} {blocks} {next}, of which not every way needs all */",
            "cmp {number}, {end}",
            "je 4f",
            "2:",
            "movzx {x:e}, word ptr [{number}]",
            "add {number}, 2",
            "mov {w:e}, {x:e}",
            "shl {w}, 8",
            "add {w}, {panel}",
            $place,
            $fetch,
            block!($groups),
            "cmp {number}, {end}",
            "jne 2b",
            "4:",
            number = inout(reg) numbers.start => _,
            end = in(reg) numbers.end,
            panel = in(reg) $w,
            blocks = in(reg) $x.blocks,
            next = in(reg) $x.next,
            w = out(reg) _,
            x = out(reg) _,
            r0 = in(reg) $x.rows[0],
            r1 = in(reg) $x.rows[1],
            r2 = in(reg) $x.rows[2],
            r3 = in(reg) $x.rows[3],
            s0 = inout(ymm_reg) *s0, s1 = inout(ymm_reg) *s1, s2 = inout(ymm_reg) *s2, s3 = inout(ymm_reg) *s3,
            s4 = inout(ymm_reg) *s4, s5 = inout(ymm_reg) *s5, s6 = inout(ymm_reg) *s6, s7 = inout(ymm_reg) *s7,
            ones = in(ymm_reg) _mm256_set1_epi16(1),
            t0 = out(ymm_reg) _, t1 = out(ymm_reg) _, t2 = out(ymm_reg) _, t3 = out(ymm_reg) _,
            t4 = out(ymm_reg) _, t5 = out(ymm_reg) _, t6 = out(ymm_reg) _,
            options(nostack, readonly),
        );
    }};
}

/// Each way to find activations, with so many lines fetched.
macro_rules! all_ways {
    ($groups:tt, $fetch:ident, $sums:ident, $w:ident, $x:ident, $blocks:ident) => {
        match ($x.blocks.is_null(), $fetch) {
            (true, 0) => all_blocks!($groups, "shl {x}, 4", "", $sums, $w, $x, $blocks),
            (true, 1) => all_blocks!($groups, "shl {x}, 4", fetch!(1), $sums, $w, $x, $blocks),
            (true, _) => all_blocks!($groups, "shl {x}, 4", fetch!(4), $sums, $w, $x, $blocks),
            (false, 0) => all_blocks!($groups, place!(), "", $sums, $w, $x, $blocks),
            (false, 1) => all_blocks!($groups, place!(), fetch!(1), $sums, $w, $x, $blocks),
            (false, _) => all_blocks!($groups, place!(), fetch!(4), $sums, $w, $x, $blocks),
        }
    };
}

/// Adds the products of those blocks of the panel at `w` of which G groups go at once: 4, 2 or 1. With each, `FETCH` lines are
/// fetched: none, 1 or 4.
///
/// # Safety
/// AVX2; the panel, of int8, and the rows have all of the blocks.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn add<const G: usize, const FETCH: usize>(
    sums: &mut Sums<ROWS, 1>,
    w: *const u8,
    x: FourRows,
    blocks: &[u16],
) {
    const { assert!(GROUP == 64 && (G == 4 || G == 2 || G == 1) && matches!(FETCH, 0 | 1 | 4)) };
    let [[row0], [row1], [row2], [row3]] = sums;
    let sums = [row0, row1, row2, row3];
    // SAFETY: the caller's contract; memory is only read.
    unsafe {
        match G {
            4 => all_ways!(4, FETCH, sums, w, x, blocks),
            2 => all_ways!(2, FETCH, sums, w, x, blocks),
            _ => all_ways!(1, FETCH, sums, w, x, blocks),
        }
    }
}
