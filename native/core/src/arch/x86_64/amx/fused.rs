//! Products of a tile of the weight while it is decoded, with up to 64 rows.
//!
//! A panel that is decoded goes to a buffer in the first cache, and its products are done while the next one is decoded,
//! a step of 64 along k for every two fractals: the processor does them beside the decoding, which uses other units, and
//! nothing waits for stores or sums. Sums of the panel stay in registers 0 to 3 meanwhile, 16 rows in each.
//!
//! A step is one `asm!` block, and so is what loads the sums of a panel, and what stores them. Between them lie the vector
//! instructions of the decoder, which are the compiler's, so the sums outlast a block. To the language, a register that is no
//! operand of a block may hold anything when it begins; it gives Rust no way to say that a tile register holds a value. So what
//! is below is safe whatever the registers hold, and right because they hold what the block before has left:
//!
//! - *Safe*: no address depends on a tile register. Addresses are operands, and how many rows are read and written is the
//!   configuration, which stays loaded until the end of [`within`](super::registers::within).
//! - *Right*: blocks that are not `pure` run as often as they are written, in their order, and name all registers that they
//!   change. Between the blocks nobody else has tile registers: the compiler keeps no values of its own in them (Rust has them
//!   as clobbers only, and LLVM takes them for the values of AMX intrinsics, none of which are stable), nothing is called but
//!   what ends in a panic, and the system saves and restores them around signals and other threads.
//!
//! `tests/ort/test_tile_registers.py` reads the machine code that comes of this, and holds it to the second point on every path.
//! Sums in memory instead, loaded and stored by each step, would need neither, and take 7 to 10 % longer for 8 rows and 23 % for
//! 64, of 1024 × 1024.
//!
//! The processor turns off the units of products and of stores from tile registers after some 400 ns without use, and
//! takes 300 ns to wake each. So they are used now and then while there are no products, see [`Sink::keep_warm`].

use super::block::last_fractal;
use super::registers::{HEIGHT, Heights, STEP, WIDTH, configure};
use crate::arch::operands::{Extent, Rows};
use crate::arch::x86_64::avx512::block::Accumulate;
use crate::arch::x86_64::avx512::sink::Sink;
use crate::arch::x86_64::avx512::unroll::{each_group, unrolled};
use crate::geometry::{FRACTAL, GROUP, GROUPS, PANEL};
use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Rows that there are registers for.
pub const ROWS: usize = 4 * HEIGHT;
/// Panels that the buffer has room for.
pub const PANELS: usize = 2;

/// Multiplies each panel while the next one is decoded.
pub struct PipelinedSink<'a> {
    buffer: *mut u8,
    extent: Extent,
    rows: Rows<'a>,
    to: Accumulate,
    /// Registers of sums, and thus of rows.
    blocks: usize,
    /// Whole steps of 64 along k.
    steps: usize,
    /// Bytes from the rows of one register to those of the next.
    block_bytes: usize,
    /// The panel whose products are under way.
    pending: Option<usize>,
}

/// Registers 0 to 3 are for sums, 4, 5 and 7 for activations, 6 for weights; the last rows, fewer than 16 maybe, are in 7.
fn heights(m: usize) -> (usize, Heights) {
    let blocks = m.div_ceil(HEIGHT);
    let full = HEIGHT as u8;
    let mut heights = [full; _];
    let last = (m - (blocks - 1) * HEIGHT) as u8;
    heights[blocks - 1] = last;
    heights[7] = last;
    (blocks, heights)
}

/// An instruction, in the text around its register, for each register of sums of a panel.
macro_rules! each_of_sums {
    ($sink:ident, $panel:expr, $before:literal, $behind:literal) => {
        match $sink.blocks {
            1 => each_of_sums!($sink, $before, $behind, [] "tmm0", at = in(reg) $sink.sums($panel)),
            2 => each_of_sums!($sink, $before, $behind, ["tmm0"] "tmm1", $panel),
            3 => each_of_sums!($sink, $before, $behind, ["tmm0" "tmm1"] "tmm2", $panel),
            _ => each_of_sums!($sink, $before, $behind, ["tmm0" "tmm1" "tmm2"] "tmm3", $panel),
        }
    };
    ($sink:ident, $before:literal, $behind:literal, [$($full:tt)*] $last:tt, $at:ident = $($operands:tt)*) => {
        asm!(
            $(
                concat!($before, $full, $behind),
                "lea {at}, [{at} + {block}]",
            )*
            concat!($before, $last, $behind),
            stride = in(reg) $sink.to.stride * size_of::<i32>(),
            $at = $($operands)*,
            $(out($full) _,)*
            out($last) _,
            options(nostack, preserves_flags),
        )
    };
    ($sink:ident, $before:literal, $behind:literal, [$($full:tt)*] $last:tt, $panel:expr) => {
        each_of_sums!(
            $sink, $before, $behind, [$($full)*] $last,
            at = inout(reg) $sink.sums($panel) => _, block = in(reg) HEIGHT * $sink.to.stride * size_of::<i32>()
        )
    };
}

impl<'a> PipelinedSink<'a> {
    /// # Safety
    /// AMX and the features of the AVX-512 kernel; inside of [`within`](super::registers::within), as all calls that follow,
    /// and nothing else uses tile registers meanwhile; `buffer` has room for [`PANELS`] panels and begins on a line; rows
    /// and accumulators cover the extent.
    ///
    /// # Panics
    /// If there are more than [`ROWS`] rows.
    pub unsafe fn new(buffer: *mut u8, extent: Extent, rows: Rows<'a>, to: Accumulate) -> Self {
        assert!(rows.m() <= ROWS);
        let (blocks, heights) = heights(rows.m());
        // SAFETY: the caller's contract.
        unsafe { configure(heights) };
        let (steps, block_bytes) = (extent.fractals() / STEP, HEIGHT * rows.stride());
        Self { buffer, extent, rows, to, blocks, steps, block_bytes, pending: None }
    }

    /// Where a panel is in the buffer.
    fn symbols(&self, panel: usize) -> *mut u8 {
        self.buffer.wrapping_add(panel % PANELS * self.extent.panel())
    }

    /// Adds the products of a step of 64 along k of a panel.
    ///
    /// # Safety
    /// That of [`Self::new`]; the panel is in the buffer, the step exists, and the sums of the panel are in their registers.
    #[inline(always)]
    unsafe fn step(&self, panel: usize, step: usize) {
        let w = self.symbols(panel).wrapping_add(step * STEP * FRACTAL);
        let x = self.rows.data().as_ptr().wrapping_add(step * WIDTH);
        /// The products of rows with the weights: first those of all registers of rows but the last, by way of `$by`, with what it
        /// takes to get from the rows of one register to those of the next.
        macro_rules! products {
            ([$($full:tt with $by:tt),*] $last:tt, $x:ident = $($operands:tt)*) => {
                asm!(
                    "tileloadd tmm6, [{w} + {width}*1]",
                    $(
                        concat!("tileloadd ", $by, ", [{x} + {stride}*1]"),
                        concat!("tdpbsud ", $full, ", ", $by, ", tmm6"),
                        "lea {x}, [{x} + {block}]",
                    )*
                    "tileloadd tmm7, [{x} + {stride}*1]",
                    concat!("tdpbsud ", $last, ", tmm7, tmm6"),
                    w = in(reg) w,
                    width = in(reg) WIDTH,
                    stride = in(reg) self.rows.stride(),
                    $x = $($operands)*,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, readonly, preserves_flags),
                )
            };
            ([$($each:tt)*] $last:tt) => {
                products!([$($each)*] $last, x = inout(reg) x => _, block = in(reg) self.block_bytes)
            };
        }
        // SAFETY: the buffer has the step's weights, 16 lines, and the rows reach over the step, as was promised; the sums are
        // in their registers.
        unsafe {
            match self.blocks {
                1 => products!([] "tmm0", x = in(reg) x),
                2 => products!(["tmm0" with "tmm4"] "tmm1"),
                3 => products!(["tmm0" with "tmm4", "tmm1" with "tmm5"] "tmm2"),
                _ => products!(["tmm0" with "tmm4", "tmm1" with "tmm5", "tmm2" with "tmm4"] "tmm3"),
            }
        }
    }

    /// Accumulators of a panel's first rows.
    fn sums(&self, panel: usize) -> *mut i32 {
        self.to.at.wrapping_add(panel * PANEL)
    }

    /// Loads the sums of a panel, or clears them.
    ///
    /// # Safety
    /// That of [`Self::new`]; the panel exists.
    #[inline(always)]
    unsafe fn begin(&self, panel: usize) {
        // SAFETY: the accumulators cover the panel, as was promised.
        unsafe {
            if self.to.overwrite {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    options(nostack, nomem, preserves_flags)
                );
            } else {
                each_of_sums!(self, panel, "tileloadd ", ", [{at} + {stride}*1]");
            }
        }
    }

    /// Stores the sums of a panel.
    ///
    /// # Safety
    /// As for [`Self::begin`]; the panel is in the buffer, and its sums are in their registers.
    #[inline(always)]
    unsafe fn end(&self, panel: usize) {
        let (at, extent) = (self.sums(panel), Extent::new(1, self.extent.fractals()));
        // SAFETY: the panel is in the buffer with its sums in their registers, and the accumulators cover it, as was promised.
        unsafe {
            each_of_sums!(self, panel, "tilestored [{at} + {stride}*1], ", "");
            last_fractal(self.symbols(panel), extent, &self.rows, Accumulate { at, overwrite: false, ..self.to });
        }
    }

    /// Adds the products of the last panel.
    ///
    /// # Safety
    /// That of [`Self::new`]; the tile was decoded into this.
    pub unsafe fn flush(self) {
        if let Some(panel) = self.pending {
            // SAFETY: the panel is in the buffer, and its sums in their registers.
            unsafe {
                for step in 0..self.steps {
                    self.step(panel, step);
                }
                self.end(panel);
            }
        }
    }
}

impl Sink for PipelinedSink<'_> {
    #[inline(always)]
    unsafe fn fractal(&mut self, panel: usize, fractal: usize, symbols: &[__m512i; GROUPS]) {
        let at = self.symbols(panel).wrapping_add(fractal * FRACTAL);
        each_group!(G => {
            // SAFETY: the buffer has room for the panel, and begins on a line.
            unsafe { _mm512_store_si512(at.add(G * GROUP).cast(), symbols[G]) };
        });
        if fractal % STEP == STEP - 1
            && let Some(pending) = self.pending
        {
            // SAFETY: the panel before is in the buffer, its sums are in their registers, and it has as many steps as this.
            unsafe { self.step(pending, fractal / STEP) };
        }
    }

    #[inline(always)]
    unsafe fn panel_end(&mut self, panel: usize) {
        // SAFETY: all steps of the panel before were done; this one exists.
        unsafe {
            if let Some(pending) = self.pending.replace(panel) {
                self.end(pending);
            }
            self.begin(panel);
        }
    }

    #[inline(always)]
    unsafe fn keep_warm(&mut self) {
        let mut discard = MaybeUninit::<[u8; HEIGHT * WIDTH]>::uninit();
        // The store does not wait for the product.
        // SAFETY: registers 4 to 6 have 16 rows, and nothing of use between two steps, as 7; the tile fits its place.
        unsafe {
            asm!(
                "tdpbsud tmm5, tmm4, tmm6",
                "tilestored [{discard} + {width}*1], tmm7",
                discard = in(reg) discard.as_mut_ptr(),
                width = in(reg) WIDTH,
                out("tmm5") _,
                options(nostack, preserves_flags),
            );
        }
    }
}
