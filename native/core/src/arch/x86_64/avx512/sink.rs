//! What becomes of symbols.

use crate::geometry::GROUPS;
use std::arch::x86_64::__m512i;

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
