//! What becomes of symbols.

use super::unroll::{each_group, unrolled};
use crate::geometry::{FRACTAL, GROUP, GROUPS};
use std::arch::x86_64::{__m512i, _mm512_storeu_si512};

/// What is done with the eight groups of a fractal once they are symbols.
pub(in crate::arch::x86_64) trait Sink {
    /// All of it, before the next fractal is decoded, but for what [`Self::beside`] does.
    ///
    /// # Safety
    /// The processor must have the features of [`Avx512`](super::Avx512), and the sink's own pointers must cover the fractal.
    #[inline(always)]
    unsafe fn fractal(&mut self, _panel: usize, _fractal: usize, _symbols: &[__m512i; GROUPS]) {}
    /// An eighth of it, each time before a group of the next fractal is decoded: a processor looks less far ahead than the
    /// products of some rows with a fractal are long, so they come in turns with what other units do.
    ///
    /// # Safety
    /// As for [`Self::fractal`].
    #[inline(always)]
    unsafe fn beside<const G: usize>(&mut self, _panel: usize, _fractal: usize, _symbols: &[__m512i; GROUPS]) {}
    /// Behind the last fractal of a panel.
    ///
    /// # Safety
    /// As for [`Self::fractal`].
    #[inline(always)]
    unsafe fn panel_end(&mut self, _panel: usize) {}
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
}
