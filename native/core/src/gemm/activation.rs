//! Activations as the kernels take them: int8, rows padded with zeros to whole fractals, and the sum of each row.

use crate::aligned::Aligned;
use crate::arch::TileKernel;
use crate::arch::rows::ActivationRow;
use crate::container::geometry::FRACTAL_K;
use crate::parallel::Parallel;
use std::sync::{Mutex, PoisonError};

/// (m, k) activations, row-major.
#[derive(Debug, Clone, Copy)]
pub enum Activation<'a> {
    /// uint8.
    U8(&'a [u8]),
    /// int8.
    I8(&'a [i8]),
}

impl<'a> Activation<'a> {
    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(x) => x.len(),
            Self::I8(x) => x.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the kernels' operand falls short of the activation by.
    pub fn shift(&self) -> i32 {
        match self {
            Self::U8(_) => 128,
            Self::I8(_) => 0,
        }
    }

    /// Row `i` of rows of `k`.
    fn row(&self, i: usize, k: usize) -> ActivationRow<'a> {
        match self {
            Self::U8(x) => ActivationRow::U8(&x[i * k..(i + 1) * k]),
            Self::I8(x) => ActivationRow::I8(&x[i * k..(i + 1) * k]),
        }
    }
}

/// Packed rows.
#[derive(Debug, Default)]
pub struct Packed {
    /// (m, padded k), rows `stride` apart.
    pub data: Aligned<i8>,
    /// Σₖ of each packed row.
    pub sums: Vec<i32>,
    /// Distance of rows.
    pub stride: usize,
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Activations that make a second thread worth waking.
const PER_THREAD: usize = 1 << 16;

/// Bytes from row to row, for rows of `len`: an odd number of cache lines, so that neighbouring rows lie in different
/// sets of the first cache whatever their length.
fn apart(len: usize) -> usize {
    (len.div_ceil(LINE) | 1) * LINE
}

impl Packed {
    /// Packs (m, k) activations, reusing the memory of the last call.
    pub fn pack(
        &mut self,
        kernel: &dyn TileKernel,
        x: &Activation<'_>,
        (m, k): (usize, usize),
        threads: usize,
        pool: &dyn Parallel,
    ) {
        let padded = k.next_multiple_of(FRACTAL_K);
        let stride = apart(padded);
        self.stride = stride;
        self.data.reset(m * stride);
        self.sums.resize(m, 0);
        let tasks = threads.min(m * k / PER_THREAD).max(1);
        let rows = m.div_ceil(tasks).max(1);
        let parts = self.data.chunks_mut(rows * stride).zip(self.sums.chunks_mut(rows)).enumerate();
        let parts = Mutex::new(parts);
        pool.run(tasks, &|_| {
            let part = parts.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((part, (data, sums))) = part else { return };
            for ((i, row), sum) in data.chunks_exact_mut(stride).enumerate().zip(sums) {
                let (body, pad) = row.split_at_mut(k);
                *sum = kernel.pack(x.row(part * rows + i, k), body);
                pad[..padded - k].fill(0);
            }
        });
    }
}
