//! Where register tiles find their activations.

use crate::arch::operands::{PIECE_K, Pieces};

/// Where activations lie.
pub(super) trait Activations: Copy {
    /// Row `i`.
    ///
    /// # Safety
    /// There is such a row.
    unsafe fn row(self, i: usize) -> *const u8;
    /// Where block `at` of a row begins, in bytes behind the row, of activations of `width` bytes.
    ///
    /// # Safety
    /// There is such a block.
    unsafe fn block(self, at: usize, width: usize) -> usize;
    /// Where blocks begin, if not one behind the other; else null.
    fn blocks(self) -> *const u32;
}

/// Rows one behind the other, so many bytes apart.
#[derive(Clone, Copy)]
pub(super) struct Apart {
    pub at: *const u8,
    pub stride: usize,
}

impl Activations for Apart {
    #[inline(always)]
    unsafe fn row(self, i: usize) -> *const u8 {
        // SAFETY: the caller's contract.
        unsafe { self.at.add(i * self.stride) }
    }
    #[inline(always)]
    unsafe fn block(self, at: usize, width: usize) -> usize {
        at * PIECE_K * width
    }
    fn blocks(self) -> *const u32 {
        std::ptr::null()
    }
}

/// Rows of bytes in pieces.
#[derive(Clone, Copy)]
pub(super) struct InPieces<'a> {
    pub at: *const u8,
    pub pieces: Pieces<'a>,
}

impl Activations for InPieces<'_> {
    #[inline(always)]
    unsafe fn row(self, i: usize) -> *const u8 {
        // SAFETY: the caller's contract.
        unsafe { self.at.add(*self.pieces.rows.get_unchecked(i) as usize) }
    }
    #[inline(always)]
    unsafe fn block(self, at: usize, _: usize) -> usize {
        // SAFETY: the caller's contract. A check would be a branch in a loop whose sums the compiler then spills.
        unsafe { *self.pieces.blocks.get_unchecked(at) as usize }
    }
    fn blocks(self) -> *const u32 {
        self.pieces.blocks.as_ptr()
    }
}

/// MR rows from `first` on.
///
/// # Safety
/// There are so many.
#[inline(always)]
pub(super) unsafe fn rows_from<const MR: usize>(x: impl Activations, first: usize) -> [*const u8; MR] {
    let mut rows = [std::ptr::null(); MR];
    for (i, row) in rows.iter_mut().enumerate() {
        // SAFETY: the caller's contract.
        *row = unsafe { x.row(first + i) };
    }
    rows
}
