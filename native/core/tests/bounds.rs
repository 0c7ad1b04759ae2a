//! What a small file can make a reader allocate: bounded by the file's own size and by the shape that it declares, checked
//! before a byte of it is set aside, and an error where it cannot be had.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use mcd_core::container::{Decoded, memory_needed};
use mcd_core::{Error, Kernel, PrepareOptions, PreparedWeight, Residency, Serial, unpack};
use mcd_testkit::forge::{Fields, Forged, Tile, forge, seal_header};

/// Counts what each thread holds, remembers the peak, and refuses single requests above a limit.
struct Counting;

thread_local! {
    // What one thread sets free may have been another's.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}
const LIMIT: usize = 1 << 33;

/// Adds to what this thread holds.
fn count(bytes: isize) {
    LIVE.set(LIVE.get() + bytes);
    PEAK.set(PEAK.get().max(LIVE.get()));
}

// SAFETY: every call goes on to the system's allocator with the caller's own arguments, or is refused with null, which
// the trait allows; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > LIMIT {
            return std::ptr::null_mut();
        }
        count(layout.size().cast_signed());
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes at the peak above what this thread held before.
fn peak<R>(run: impl FnOnce() -> R) -> (R, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let result = run();
    (result, (PEAK.get() - before).cast_unsigned())
}

/// A weight of `entries` constant tiles, all checksums right.
fn forged(tiling: [u16; 2], k: usize, n: usize, entries: usize) -> Forged {
    forge(&Fields { tiling, k, n, ..Fields::default() }, &vec![Tile::Constant(0); entries])
}

fn options(residency: Residency) -> PrepareOptions {
    PrepareOptions { residency, kernel: Kernel::best(), threads: 1 }
}

#[test]
fn a_shape_without_its_index_costs_nothing() {
    let huge = (1 << 31) - 1;
    for (k, n) in [(1 << 20, 1 << 20), (huge, 1), (1, huge), (huge, huge), (usize::MAX, usize::MAX), (1 << 40, 1)] {
        for tiling in [[8, 8], [1, 1], [127, 1], [u16::MAX, u16::MAX]] {
            let Forged { x2, index, info } = forged(tiling, k, n, 3);
            let (result, bytes) = peak(|| PreparedWeight::new(&x2, &index, &info, options(Residency::Decoded)));
            result.unwrap_err();
            assert!(bytes < 4096, "{k} x {n}: {bytes} bytes");
        }
    }
}

#[test]
fn any_length_that_a_header_declares_is_compared_before_it_is_used() {
    for total in [0_u64, 1, 127, 129, 1 << 40, u64::MAX] {
        let mut weight = forged([8, 8], 256, 128, 1);
        weight.x2[32..40].copy_from_slice(&total.to_le_bytes());
        seal_header(&mut weight.x2);
        let (result, bytes) = peak(|| weight.parse());
        assert!(matches!(result, Err(Error::Length { .. })), "{total}: {result:?}");
        assert!(bytes < 4096, "{total}: {bytes} bytes");
    }
}

/// The densest file there is: tiles of 127 fractals, all constant, 8 bytes for 65024 weights.
#[test]
fn loading_needs_memory_for_the_table_one_row_and_one_column() {
    for (tiling, k, n) in [([127, 1], 1_usize << 26, 1_usize), ([1, 127], 1, 1 << 22), ([12, 10], 1 << 15, 1 << 15)] {
        let tiles = k.div_ceil(32 * usize::from(tiling[0])) * n.div_ceil(16 * usize::from(tiling[1]));
        let Forged { x2, index, info } = forged(tiling, k, n, tiles);
        let (result, bytes) =
            peak(|| PreparedWeight::new(&x2, &index, &info, options(Residency::Compressed)).unwrap());
        let allowed = memory_needed(index.len(), &info, None) as usize + 16 * 2032 + (1 << 20);
        assert!(bytes <= allowed, "{k} x {n}: {bytes} bytes, {allowed} allowed");
        drop(result);
    }
}

/// Shapes of one column or one row take 16 and 32 times as much for kernels as their elements.
#[test]
fn decoding_needs_memory_for_whole_fractals() {
    for (tiling, k, n) in [([127, 1], 1_usize << 21, 1_usize), ([1, 127], 1, 1 << 20), ([12, 10], 1 << 11, 1 << 11)] {
        let tiles = k.div_ceil(32 * usize::from(tiling[0])) * n.div_ceil(16 * usize::from(tiling[1]));
        let weight = forged(tiling, k, n, tiles);
        let Forged { x2, index, info } = &weight;
        let allowed = memory_needed(index.len(), info, Some(Decoded::Fractals)) as usize + 16 * 2032 + (1 << 20);
        let exact = options(Residency::Decoded);
        let saturating = exact.kernel.saturating().map(|kernel| PrepareOptions { kernel, ..exact });
        for options in [Some(exact), saturating].into_iter().flatten() {
            let (result, bytes) = peak(|| PreparedWeight::new(x2, index, info, options).unwrap());
            assert!(bytes <= allowed, "{k} x {n}: {bytes} bytes, {allowed} allowed");
            drop(result);
        }
        let parsed = weight.parse().unwrap();
        let (result, bytes) = peak(|| unpack(parsed, x2, Kernel::best(), &Serial).unwrap());
        let allowed = memory_needed(index.len(), info, Some(Decoded::Plain)) as usize + (1 << 20);
        assert!(bytes <= allowed, "{k} x {n} plain: {bytes} bytes, {allowed} allowed");
        drop(result);
    }
}

#[test]
fn what_cannot_be_had_is_an_error_and_not_the_end() {
    // 16 GiB of weights in 2 MB of index: above the allocator's limit.
    let (k, n) = (1_usize << 17, 1_usize << 17);
    let weight = forged([12, 10], k, n, k.div_ceil(32 * 12) * n.div_ceil(160));
    let parsed = weight.parse().unwrap();
    let Forged { x2, index, info } = weight;
    assert!(matches!(unpack(parsed, &x2, Kernel::best(), &Serial), Err(Error::Memory { .. })));
    let decoded = PreparedWeight::new(&x2, &index, &info, options(Residency::Decoded));
    assert!(matches!(decoded, Err(Error::Memory { .. })), "{decoded:?}");
    PreparedWeight::new(&x2, &index, &info, options(Residency::Compressed)).unwrap();
}

#[test]
fn what_is_needed_is_known_before() {
    assert_eq!(memory_needed(80, &[8, 8, 1000, 100, 1], None), 640 + 2000 + 1600);
    assert_eq!(memory_needed(80, &[8, 8, 1000, 100, 1], Some(Decoded::Plain)), 640 + 2000 + 1600 + 100_000);
    assert_eq!(
        memory_needed(80, &[8, 8, 1000, 100, 1], Some(Decoded::Fractals)),
        640 + 2000 + 1600 + 1024 * 112 + 7 * 96 + 4 * 112 * 2
    );
    // Whatever a file declares: no number that is too small, and none below zero.
    for decoded in [Decoded::Plain, Decoded::Fractals] {
        assert_eq!(memory_needed(usize::MAX, &[8, 8, i64::MAX, i64::MAX, 1], Some(decoded)), u64::MAX);
        assert_eq!(memory_needed(8, &[8, 8, -1, i64::MIN, 1], Some(decoded)), 64);
        assert_eq!(memory_needed(8, &[], Some(decoded)), 64);
    }
}
