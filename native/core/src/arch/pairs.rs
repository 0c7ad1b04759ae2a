//! Products of weights with runs of bytes, two of which lie beside each other as 16-bit numbers.

use std::ops::Range;

/// Positions of a block of pairs.
pub const POSITIONS: usize = 16;

/// Rows of weights at the most that are multiplied together.
pub const ROWS: usize = 6;

/// Runs of bytes.
#[derive(Debug, Clone, Copy)]
pub struct ByteRuns<'a> {
    pub bytes: &'a [u8],
    /// Whether they are int8.
    pub signed: bool,
    /// 255 at the most of either sign is left when it is subtracted.
    pub zero_point: i16,
    /// Where runs begin.
    pub starts: &'a [usize],
}

impl ByteRuns<'_> {
    /// The number `at` of a run that begins at `start`; 0 behind all bytes.
    pub fn number(&self, start: usize, at: usize) -> i16 {
        let byte = self.bytes.get(start + at).copied();
        let number = |byte: u8| if self.signed { i16::from(byte.cast_signed()) } else { i16::from(byte) };
        byte.map_or(0, |byte| number(byte).wrapping_sub(self.zero_point))
    }

    /// Numbers of a block of pairs.
    pub fn block(&self) -> usize {
        self.starts.len().next_multiple_of(2) * POSITIONS
    }
}

/// Writes numbers of all runs, less the zero point, in blocks of [`POSITIONS`]: of each the first two runs', a number of one and a
/// number of the other in turns, then the next two's. A last run without another has itself beside it. What lies behind the last
/// position in its block is that of some other byte, or 0.
///
/// # Panics
/// If `to` has no room for whole blocks.
#[inline(always)]
pub fn pair(runs: ByteRuns<'_>, positions: Range<usize>, to: &mut [i16]) {
    let blocks = positions.step_by(POSITIONS);
    let to = &mut to[..blocks.len() * runs.block()];
    for (at, to) in blocks.zip(to.chunks_exact_mut(runs.block().max(1))) {
        for (pair, to) in runs.starts.chunks(2).zip(to.as_chunks_mut::<{ 2 * POSITIONS }>().0) {
            for (i, to) in to.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                *to = [runs.number(pair[0], at + i), runs.number(pair[pair.len() - 1], at + i)];
            }
        }
    }
}

/// For each row its base and all of its factors, each times the numbers of a run; sums wrap. `pairs` is as [`pair`] writes it,
/// `factors` (rows, numbers of a position), `sums` (rows, positions of all blocks).
///
/// # Panics
/// If the lengths do not fit, or rows are more than [`ROWS`].
#[inline(always)]
pub fn pair_sums(pairs: &[i16], factors: &[i16], bases: &[i32], sums: &mut [i32]) {
    let (len, block) = check(pairs, factors, bases, sums);
    let of_a_row = factors.len() / bases.len();
    for (row, sums) in sums.chunks_exact_mut(len.max(1)).enumerate() {
        let factors = &factors[row * of_a_row..][..of_a_row];
        for (i, sum) in sums.iter_mut().enumerate() {
            let numbers = &pairs[i / POSITIONS * block..][..block];
            let numbers = numbers.chunks_exact(2 * POSITIONS).map(|both| &both[i % POSITIONS * 2..][..2]);
            *sum = numbers.zip(factors.chunks_exact(2)).fold(bases[row], |sum, (numbers, factors)| {
                let product = |i: usize| i32::from(numbers[i]) * i32::from(factors[i]);
                sum.wrapping_add(product(0)).wrapping_add(product(1))
            });
        }
    }
}

/// Sums of a row, and numbers of a block of pairs, after all checks.
pub fn check(pairs: &[i16], factors: &[i16], bases: &[i32], sums: &[i32]) -> (usize, usize) {
    let rows = bases.len();
    assert!((1..=ROWS).contains(&rows), "1 to {ROWS} rows");
    assert!(sums.len().is_multiple_of(rows * POSITIONS), "whole blocks for each row");
    assert!(factors.len().is_multiple_of(2 * rows), "two factors for each pair of each row");
    let (len, block) = (sums.len() / rows, factors.len() / rows * POSITIONS);
    assert!(pairs.len() >= len / POSITIONS * block, "as many pairs as factors, for all blocks");
    (len, block)
}
