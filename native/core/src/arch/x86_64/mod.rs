//! Kernels for x86-64.

mod activations;
pub mod amx;
pub mod avx2;
pub mod avx512;
mod heights;
mod results;

use crate::aligned::LINE;
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

/// As [`TileKernel::prefetch`](super::TileKernel::prefetch): into the second cache.
fn prefetch(bytes: &[u8]) {
    for line in bytes.chunks(LINE) {
        // SAFETY: a hint, which accepts any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
}
