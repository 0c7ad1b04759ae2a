//! Memory that a thread keeps from call to call, so that a call neither allocates nor touches fresh pages.

use crate::aligned::Aligned;
use std::any::Any;
use std::cell::Cell;
use std::sync::atomic::AtomicU64;
use std::thread::LocalKey;

/// All of it; what it holds is not specified.
#[derive(Debug, Default)]
pub struct Workspace {
    /// A row that is quantised and not packed yet.
    pub row: Vec<u8>,
    /// Decoded symbols: of a tile or of a strip.
    pub symbols: Aligned<u8>,
    /// Sums of a strip or of a block.
    pub sums: Aligned<i32>,
    /// What the kernel needs by itself.
    pub scratch: Scratch,
    pub direct: DirectMemory,
    pub columns: ColumnMemory,
}

/// What a thread needs for its part of a convolution of channels that stay first.
#[derive(Debug, Default)]
pub struct ColumnMemory {
    /// What weights meet, of a piece of the positions.
    pub pairs: Aligned<i16>,
    /// Of some output channels.
    pub sums: Aligned<i32>,
    /// As many as positions.
    pub zeros: Vec<i32>,
}

/// What a thread needs for its part of a direct convolution.
#[derive(Debug, Default)]
pub struct DirectMemory {
    /// Of the image.
    pub channels: Aligned<i16>,
    /// Of an output channel.
    pub sums: Aligned<i32>,
    /// As many as positions.
    pub zeros: Vec<i32>,
}

/// What all threads of a multiplication share.
#[derive(Debug, Default)]
pub struct CallMemory {
    /// Packed activations, and the sums of their rows.
    pub packed: Aligned<i8>,
    pub row_sums: Vec<i32>,
    /// Where activations lie that are not packed.
    pub places: Places,
    /// What is left to do of the work.
    pub runs: Vec<AtomicU64>,
    pub terms: TermMemory,
}

/// What [`Pieces`](super::Pieces) are made of.
#[derive(Debug, Default)]
pub struct Places {
    pub rows: Vec<u32>,
    pub blocks: Vec<u32>,
}

/// What goes with each column, once the activations are known.
#[derive(Debug, Default)]
pub struct TermMemory {
    pub columns: Vec<i32>,
    pub weights: Vec<i32>,
    pub scales: Vec<f32>,
}

/// What all threads of a convolution share: an image with its channels last, and with what is beside it, and results before they
/// get another order.
#[derive(Debug, Default)]
pub struct Staging {
    pub pixels: Aligned<i8>,
    pub padded: Aligned<i8>,
    /// Of each pixel's channels.
    pub sums: Vec<i32>,
    pub results: Aligned<u32>,
    /// Where patches are no rows: all weights, row by row, and less their zero points; where their runs begin, and where lines
    /// of an image do.
    pub weights: Aligned<u8>,
    pub factors: Vec<i16>,
    pub starts: Vec<usize>,
    pub lines: Vec<usize>,
}

/// A place of a thread for memory, by a pointer: it is taken out and put back at every call.
type Place<T> = LocalKey<Cell<Option<Box<T>>>>;

thread_local! {
    static WORKSPACE: Cell<Option<Box<Workspace>>> = const { Cell::new(None) };
    static CALL: Cell<Option<Box<CallMemory>>> = const { Cell::new(None) };
    static STAGING: Cell<Option<Box<Staging>>> = const { Cell::new(None) };
}

/// Does some work with a thread's memory. It is taken out meanwhile: should a pool run other work on this thread before this
/// ends, that has new memory.
fn lent<T: Default, R>(place: &'static Place<T>, work: impl FnOnce(&mut T) -> R) -> R {
    let mut memory = place.take().unwrap_or_default();
    let result = work(&mut memory);
    place.set(Some(memory));
    result
}

impl Workspace {
    /// Does a thread's part of the work with its workspace.
    pub fn with<R>(work: impl FnOnce(&mut Self) -> R) -> R {
        lent(&WORKSPACE, work)
    }

    /// Does the work of a whole convolution with this thread's memory for it; its workspace is left for the part of that work
    /// which this thread may be given.
    pub fn with_staging<R>(work: impl FnOnce(&mut Staging) -> R) -> R {
        lent(&STAGING, work)
    }

    /// As [`Self::with_staging`], of a multiplication.
    pub fn with_call<R>(work: impl FnOnce(&mut CallMemory) -> R) -> R {
        lent(&CALL, work)
    }
}

/// Memory of the kernel that ran last on this thread, and of the tile that it is given.
#[derive(Debug, Default)]
pub struct Scratch {
    kernel: Option<Box<dyn Any>>,
    /// Parts of a tile that are not stored as kernels read them.
    pub tile: Vec<u8>,
}

impl Scratch {
    /// That of a kernel whose memory is a `T`.
    pub fn of<T: Any + Default>(&mut self) -> &mut T {
        if !self.kernel.as_ref().is_some_and(|any| any.is::<T>()) {
            self.kernel = Some(Box::<T>::default());
        }
        self.kernel.as_mut().and_then(|any| any.downcast_mut()).expect("it is one, or was just made")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_kept_and_no_two_parts_have_the_same() {
        let address = Workspace::with(|workspace| {
            workspace.sums.reset(100, "sums").unwrap();
            workspace.scratch.of::<Vec<u8>>().extend([1; 100]);
            Workspace::with(|other| assert!(other.sums.is_empty()));
            (workspace.sums.as_ptr(), workspace.scratch.of::<Vec<u8>>().as_ptr())
        });
        Workspace::with_call(|call| {
            call.packed.reset(10, "rows").unwrap();
            Workspace::with_call(|other| assert!(other.packed.is_empty()));
            Workspace::with(|workspace| {
                assert_eq!((workspace.sums.as_ptr(), workspace.scratch.of::<Vec<u8>>().as_ptr()), address);
            });
        });
        Workspace::with_call(|call| assert_eq!(call.packed.len(), 10));
    }

    #[test]
    fn a_kernel_finds_its_own_memory() {
        let mut scratch = Scratch::default();
        scratch.of::<Vec<u8>>().push(1);
        assert_eq!(scratch.of::<Vec<u8>>(), &[1]);
        assert!(scratch.of::<Vec<u16>>().is_empty());
        assert!(scratch.of::<Vec<u8>>().is_empty());
    }
}
