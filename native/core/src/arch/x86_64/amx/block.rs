//! Products of panels in memory, with any number of rows, in blocks of four tile registers of sums:
//!
//! ```text
//! up to 16 rows: 1 × 4 (rows × panels)        more rows: 2 × 2, in chunks of up to 32 rows of nearly equal height
//! for each 64 of k:                           for each 64 of k:
//!     load A0                                     load A0, A1, B0, B1
//!     for each of four panels:                    C0 += A0 B0    C1 += A0 B1
//!         load B;  C += A0 B                      C2 += A1 B0    C3 += A1 B1
//! ```
//!
//! With up to 16 rows, weights from the last cache arrive slower where a panel ends within what the processor fetches ahead;
//! then fewer are read at a time: see [`panels_at_a_time`].
//!
//! Where k ends in a single fractal, that one is multiplied as the AVX-512 kernel does it.

use super::registers::{HEIGHT, Heights, STEP, WIDTH, configure};
use crate::arch::operands::{Extent, Rows};
use crate::arch::x86_64::avx512::block::{self as avx512, Accumulate};
use crate::arch::x86_64::avx512::epilogue::{Outputs, Results};
use crate::geometry::{FRACTAL, FRACTAL_K, PANEL};
use std::arch::asm;
use std::mem::MaybeUninit;

/// Rows of a chunk.
pub const CHUNK: usize = 2 * HEIGHT;
/// Panels that are multiplied at a time by up to 16 rows, at most.
pub const QUAD: usize = 4;
/// Steps after which a tile is stored.
const AWAKE_STEPS: usize = 12;

/// Rows by length of k up to which the AVX-512 kernel is faster on symbols in memory, by the number of rows: few rows leave
/// tile registers mostly empty, and waking them takes longer than short products.
fn few_activations(m: usize) -> usize {
    match m {
        0..=4 => usize::MAX,
        5..=8 => 2048,
        _ => 1024,
    }
}

/// Panels of so many bytes that are read at a time by up to 16 rows. Measured with 24 MB of weights, which come from the last
/// cache, in GB/s (docs/experiments/2026-11-28-sessions.md). Four keep the products busiest where weights are in the second cache,
/// and arrive soonest where they come from memory.
///
/// | k | 256 | 320 | 384 | 512 | 640 | 768 | 832 | 960 |
/// |---|---|---|---|---|---|---|---|---|
/// | four | 29.7 | 27.6 | 24.3 | 25.2 | 25.6 | 26.2 | 27.8 | 28.6 |
/// | two | 29.9 | 28.8 | 28.8 | 28.6 | 27.8 | 25.2 | 25.9 | 28.2 |
/// | one | 29.8 | 28.4 | 28.5 | 28.4 | 28.4 | 28.6 | 28.3 | 28.3 |
fn panels_at_a_time(panel_bytes: usize) -> usize {
    match panel_bytes / PANEL {
        321..=640 => 2,
        641..=832 => 1,
        _ => QUAD,
    }
}

/// Whether tile registers do not pay for a block of `m` rows.
pub fn too_few(m: usize, extent: Extent) -> bool {
    m.saturating_mul(extent.k()) <= few_activations(m)
}

/// The rows of a chunk in two tile registers; none in the second if the first has room for all.
fn halves(rows: usize) -> (usize, usize) {
    if rows <= HEIGHT { (rows, 0) } else { (rows.div_ceil(2), rows / 2) }
}

/// Registers 0 to 3 are for sums, 4 and 5 for activations, 5 to 7 for weights: 5 where there is one height only.
fn heights(first: usize, second: usize) -> Heights {
    let (first, second, full) = (first as u8, second as u8, HEIGHT as u8);
    match second {
        0 => [first, first, first, first, first, full, full, full],
        _ => [first, first, second, second, first, second, full, full],
    }
}

/// Chunks of `m` rows: where each begins, and its height, which differs by 1 at the most.
fn chunks(m: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = m.div_ceil(CHUNK);
    let (height, higher) = (m / count, m % count);
    (0..count).map(move |c| (c * height + c.min(higher), height + usize::from(c < higher)))
}

/// Adds the products of panels in memory.
///
/// # Safety
/// AMX and the features of the AVX-512 kernel; inside of [`within`](super::registers::within); symbols, rows and
/// accumulators cover the extent.
pub unsafe fn multiply(symbols: *const u8, extent: Extent, rows: &Rows<'_>, to: Accumulate) {
    let panel_bytes = extent.panel();
    let steps = extent.fractals() / STEP;
    let at_a_time = panels_at_a_time(panel_bytes);
    let mut panel = 0;
    while panel < extent.panels() && steps > 0 {
        let wide = match (rows.m(), extent.panels() - panel) {
            (..=HEIGHT, QUAD..) => at_a_time,
            (..=HEIGHT, left) => left.min(at_a_time).min(2),
            (_, left) => left.min(2),
        };
        for (row, height) in chunks(rows.m()) {
            let (first, second) = halves(height);
            // SAFETY: the caller's contract; the block lies inside of what it promises.
            unsafe {
                configure(heights(first, second));
                let block = Block {
                    x: rows.data().as_ptr().add(row * rows.stride()),
                    x_stride: rows.stride(),
                    weights: symbols.add(panel * panel_bytes),
                    panel_bytes,
                    steps,
                    to: to.at.add(row * to.stride + panel * PANEL),
                    stride: to.stride,
                    overwrite: to.overwrite,
                };
                match (second, wide) {
                    (0, QUAD) => block.one_by_four(),
                    (0, 2) => block.one_by_two(),
                    (0, _) => block.one_by_one(),
                    (_, 2) => block.two_by_two(first),
                    (..) => block.two_by_one(first),
                }
            }
        }
        panel += wide;
    }
    // SAFETY: the caller's contract.
    unsafe { last_fractal(symbols, extent, rows, Accumulate { overwrite: to.overwrite && steps == 0, ..to }) };
}

/// Adds the products of the fractal that is left where panels have an odd number of them.
///
/// # Safety
/// As for [`multiply`].
pub unsafe fn last_fractal(symbols: *const u8, extent: Extent, rows: &Rows<'_>, to: Accumulate) {
    let done = extent.fractals() / STEP * STEP;
    if done < extent.fractals() {
        let rest = Extent::new(extent.panels(), extent.fractals() - done);
        let x = Rows::new(&rows.data()[done * FRACTAL_K..], rows.stride(), rows.m(), rest.k());
        // SAFETY: the last fractal of each panel, in what the caller promises.
        unsafe { avx512::multiply(symbols.add(done * FRACTAL), extent.panel(), rest, &x, &to) };
    }
}

/// Multiplies four panels that reach over all of k, and does the epilogue chunk by chunk in the first cache.
///
/// # Safety
/// As for [`multiply`]; the extent has an even number of fractals, and the outputs have these rows and no more columns.
pub unsafe fn multiply_epilogue<R: Results>(
    symbols: *const u8,
    extent: Extent,
    rows: &Rows<'_>,
    outputs: &Outputs<'_, R>,
) {
    /// Sums of a chunk.
    #[repr(align(64))]
    struct Sums([i32; CHUNK * QUAD * PANEL]);
    let mut sums = Sums([0; _]);
    let stride = QUAD * PANEL;
    for (row, height) in chunks(rows.m()) {
        let x = Rows::new(&rows.data()[row * rows.stride()..], rows.stride(), height, extent.k());
        let to = Accumulate { at: sums.0.as_mut_ptr(), stride, overwrite: true };
        // SAFETY: the buffer has room for a chunk of four panels; the rest is the caller's contract.
        unsafe {
            multiply(symbols, extent, &x, to);
            outputs.rows(row..row + height, sums.0.as_ptr(), stride);
        }
    }
}

// What the sums of a panel's columns lie apart, in the texts below.
const _: () = assert!(PANEL * size_of::<i32>() == 64);

/// Some panels by a chunk of rows.
#[derive(Clone, Copy)]
struct Block {
    x: *const i8,
    x_stride: usize,
    weights: *const u8,
    panel_bytes: usize,
    steps: usize,
    to: *mut i32,
    stride: usize,
    overwrite: bool,
}

/// A block: loads the sums that there are already, or clears them; adds the products, a step for each 64 of k with the operands
/// `$pointer`, which advance by `$by` bytes; and stores the sums. It is one `asm!`, for what tile registers hold does not
/// outlast one.
///
/// In front of every few steps register 4 is stored to no purpose: the processor turns off what stores tiles after some
/// 400 ns, and takes 300 to wake it, which it does while it multiplies.
macro_rules! run {
    (
        $block:ident, $text:expr, { $($pointer:ident = $from:expr, $by:literal;)* },
        sums: { $($base:ident = $address:expr => $($tile:literal + $offset:literal),*;)* }
    ) => {
        let mut discard = MaybeUninit::<[u8; HEIGHT * WIDTH]>::uninit();
        asm!(
            "test {some}, {some}",
            "jz 3f",
            $($(concat!("tilezero tmm", $tile),)*)*
            "jmp 4f",
            "3:",
            $($(concat!("tileloadd tmm", $tile, ", [{", stringify!($base), "} + {stride}*1 + ", $offset, "]"),)*)*
            "4:",
            "tilestored [{discard} + {width}*1], tmm4",
            "mov {some}, {awake}",
            "cmp {left}, {some}",
            "cmovb {some}, {left}",
            "sub {left}, {some}",
            "2:",
            $text,
            $(concat!("add {", stringify!($pointer), "}, ", $by),)*
            "dec {some}",
            "jnz 2b",
            "test {left}, {left}",
            "jnz 4b",
            $($(concat!("tilestored [{", stringify!($base), "} + {stride}*1 + ", $offset, "], tmm", $tile),)*)*
            // Whether to clear, then the steps up to the next store.
            some = inout(reg) usize::from($block.overwrite) => _,
            left = inout(reg) $block.steps => _,
            awake = const AWAKE_STEPS,
            $($pointer = inout(reg) $from => _,)*
            $($base = in(reg) $address,)*
            stride = in(reg) $block.stride * size_of::<i32>(),
            x_stride = in(reg) $block.x_stride,
            width = in(reg) WIDTH,
            discard = in(reg) discard.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    };
}

/// All have the same contract.
///
/// # Safety
/// Inside of [`within`](super::registers::within), with the chunk's heights configured; `steps` is at least 1; activations,
/// weights and sums cover the chunk's rows, 64 · `steps` of k and the panels.
impl Block {
    unsafe fn one_by_four(&self) {
        let (w, c) = (self.weights, self.to);
        // SAFETY: the caller's contract covers every address; the loop runs `steps` times.
        unsafe {
            run!(self, concat!(
                "tileloadd tmm4, [{x0} + {x_stride}*1]\n",
                "tileloadd tmm5, [{w0} + {width}*1]\n",
                "tdpbsud tmm0, tmm4, tmm5\n",
                "tileloadd tmm6, [{w1} + {width}*1]\n",
                "tdpbsud tmm1, tmm4, tmm6\n",
                "tileloadd tmm7, [{w2} + {width}*1]\n",
                "tdpbsud tmm2, tmm4, tmm7\n",
                "tileloadd tmm5, [{w3} + {width}*1]\n",
                "tdpbsud tmm3, tmm4, tmm5",
            ), {
                x0 = self.x, 64;
                w0 = w, 1024;
                w1 = w.add(self.panel_bytes), 1024;
                w2 = w.add(2 * self.panel_bytes), 1024;
                w3 = w.add(3 * self.panel_bytes), 1024;
            }, sums: { c0 = c => 0 + 0, 1 + 64, 2 + 128, 3 + 192; });
        }
    }

    unsafe fn one_by_two(&self) {
        let (w, c) = (self.weights, self.to);
        // SAFETY: as above.
        unsafe {
            run!(self, concat!(
                "tileloadd tmm4, [{x0} + {x_stride}*1]\n",
                "tileloadd tmm5, [{w0} + {width}*1]\n",
                "tdpbsud tmm0, tmm4, tmm5\n",
                "tileloadd tmm6, [{w1} + {width}*1]\n",
                "tdpbsud tmm1, tmm4, tmm6",
            ), {
                x0 = self.x, 64;
                w0 = w, 1024;
                w1 = w.add(self.panel_bytes), 1024;
            }, sums: { c0 = c => 0 + 0, 1 + 64; });
        }
    }

    unsafe fn one_by_one(&self) {
        let c = self.to;
        // SAFETY: as above.
        unsafe {
            run!(self, concat!(
                "tileloadd tmm4, [{x0} + {x_stride}*1]\n",
                "tileloadd tmm5, [{w0} + {width}*1]\n",
                "tdpbsud tmm0, tmm4, tmm5",
            ), {
                x0 = self.x, 64;
                w0 = self.weights, 1024;
            }, sums: { c0 = c => 0 + 0; });
        }
    }

    unsafe fn two_by_two(&self, first: usize) {
        let (w, c) = (self.weights, self.to);
        // SAFETY: as above.
        unsafe {
            let below = c.add(first * self.stride);
            run!(self, concat!(
                "tileloadd tmm4, [{x0} + {x_stride}*1]\n",
                "tileloadd tmm6, [{w0} + {width}*1]\n",
                "tdpbsud tmm0, tmm4, tmm6\n",
                "tileloadd tmm7, [{w1} + {width}*1]\n",
                "tdpbsud tmm1, tmm4, tmm7\n",
                "tileloadd tmm5, [{x1} + {x_stride}*1]\n",
                "tdpbsud tmm2, tmm5, tmm6\n",
                "tdpbsud tmm3, tmm5, tmm7",
            ), {
                x0 = self.x, 64;
                x1 = self.x.add(first * self.x_stride), 64;
                w0 = w, 1024;
                w1 = w.add(self.panel_bytes), 1024;
            }, sums: { c0 = c => 0 + 0, 1 + 64; c1 = below => 2 + 0, 3 + 64; });
        }
    }

    unsafe fn two_by_one(&self, first: usize) {
        let c = self.to;
        // SAFETY: as above.
        unsafe {
            let below = c.add(first * self.stride);
            run!(self, concat!(
                "tileloadd tmm4, [{x0} + {x_stride}*1]\n",
                "tileloadd tmm6, [{w0} + {width}*1]\n",
                "tdpbsud tmm0, tmm4, tmm6\n",
                "tileloadd tmm5, [{x1} + {x_stride}*1]\n",
                "tdpbsud tmm2, tmm5, tmm6",
            ), {
                x0 = self.x, 64;
                x1 = self.x.add(first * self.x_stride), 64;
                w0 = self.weights, 1024;
            }, sums: { c0 = c => 0 + 0; c1 = below => 2 + 0; });
        }
    }
}
