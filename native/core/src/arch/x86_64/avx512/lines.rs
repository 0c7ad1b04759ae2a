//! Ways to write whole cache lines.

use crate::aligned::LINE;
use crate::arch::operands::{ByteRows, Stores};
use std::arch::x86_64::*;

/// The way that these rows can be written in: streaming needs rows that begin on lines.
pub(super) fn way(rows: ByteRows) -> Stores {
    let on_lines = rows.at.addr().is_multiple_of(LINE) && rows.stride.is_multiple_of(LINE);
    if rows.stores == Stores::Streamed && !on_lines { Stores::Fetched } else { rows.stores }
}

/// Writes four lines, `stride` apart, in a [`way`] of such rows; those `ahead` bytes behind them will be written soon. Kept as one
/// function for all ways, for everything that decodes would exist three times otherwise.
///
/// # Safety
/// AVX-512F; all can be written. [`finish`] is called before others read them.
#[inline(always)]
pub(super) unsafe fn store_four(stores: Stores, to: *mut u8, stride: usize, ahead: usize, lines: [__m512i; 4]) {
    let at = [to, to.wrapping_add(stride), to.wrapping_add(2 * stride), to.wrapping_add(3 * stride)];
    if stores == Stores::Streamed {
        // SAFETY: the caller's contract.
        unsafe {
            _mm512_stream_si512(at[0].cast(), lines[0]);
            _mm512_stream_si512(at[1].cast(), lines[1]);
            _mm512_stream_si512(at[2].cast(), lines[2]);
            _mm512_stream_si512(at[3].cast(), lines[3]);
        }
        return;
    }
    if stores == Stores::Fetched {
        // SAFETY: hints, which accept any address.
        unsafe {
            _mm_prefetch::<_MM_HINT_ET0>(at[0].wrapping_add(ahead).cast());
            _mm_prefetch::<_MM_HINT_ET0>(at[1].wrapping_add(ahead).cast());
            _mm_prefetch::<_MM_HINT_ET0>(at[2].wrapping_add(ahead).cast());
            _mm_prefetch::<_MM_HINT_ET0>(at[3].wrapping_add(ahead).cast());
        }
    }
    // SAFETY: the caller's contract.
    unsafe {
        _mm512_storeu_si512(at[0].cast(), lines[0]);
        _mm512_storeu_si512(at[1].cast(), lines[1]);
        _mm512_storeu_si512(at[2].cast(), lines[2]);
        _mm512_storeu_si512(at[3].cast(), lines[3]);
    }
}

/// What has to be done before others may read what was written.
pub(super) fn finish(stores: Stores) {
    if stores == Stores::Streamed {
        // SAFETY: a part of every x86-64.
        unsafe { _mm_sfence() }
    }
}
