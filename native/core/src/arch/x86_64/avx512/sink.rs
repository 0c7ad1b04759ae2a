//! What becomes of symbols.

use super::unroll::{each_group, unrolled};
use crate::geometry::{FRACTAL, GROUP, GROUPS};
use std::arch::x86_64::{__m512i, _mm512_storeu_si512};

/// What is done with the eight groups of a fractal once they are symbols.
pub(in crate::arch::x86_64) trait Sink {
    /// # Safety
    /// The processor must have the features of [`Avx512`](super::Avx512), and the sink's own pointers must cover the fractal.
    unsafe fn fractal(&mut self, panel: usize, fractal: usize, symbols: &[__m512i; GROUPS]);
    /// # Safety
    /// As for [`Self::fractal`].
    unsafe fn panel_end(&mut self, panel: usize);
    /// Called now and then while there are no fractals.
    ///
    /// # Safety
    /// As for [`Self::fractal`].
    #[inline(always)]
    unsafe fn keep_warm(&mut self) {}
}

/// Writes the symbols in kernel order, panels `stride` apart.
pub(super) struct Store {
    pub out: *mut u8,
    pub stride: usize,
}

impl Sink for Store {
    #[inline(always)]
    unsafe fn fractal(&mut self, panel: usize, fractal: usize, symbols: &[__m512i; GROUPS]) {
        let at = panel * self.stride + fractal * FRACTAL;
        each_group!(G => {
            // SAFETY: `out` covers the extent, as the caller of this sink promises.
            unsafe { _mm512_storeu_si512(self.out.add(at + G * GROUP).cast(), symbols[G]) };
        });
    }
    #[inline(always)]
    unsafe fn panel_end(&mut self, _: usize) {}
}
