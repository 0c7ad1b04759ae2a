//! Products of symbols in memory, in register tiles: four rows by one panel, two by two, or one by four.
//!
//! `vpmaddubsw` multiplies bytes, and adds each two products with saturation. Exact ones are of wider operands: symbols are
//! widened to 16 bits, those of even and those of odd k apart, and multiplied by `vpmaddwd`.

use super::vectors::LANES;
use crate::arch::operands::{Extent, Rows};
use crate::geometry::{GROUP, PANEL};
use std::arch::x86_64::*;

/// The sums of a register tile: of each row, the halves of each panel.
pub(super) type Sums<const MR: usize, const NR: usize> = [[[__m256i; 2]; NR]; MR];

/// Where the sums of register tiles go.
pub(super) trait Destination {
    /// Takes the sums of the tile that begins with row `row` and panel `panel`.
    ///
    /// # Safety
    /// AVX2; this destination has MR rows from there on, and the first column of each of NR panels.
    unsafe fn store<const MR: usize, const NR: usize>(&self, row: usize, panel: usize, sums: &Sums<MR, NR>);
}

/// Sums are added to accumulators in memory.
pub(super) struct Accumulate {
    pub at: *mut i32,
    /// Distance of rows.
    pub stride: usize,
    /// Overwrite instead of adding.
    pub overwrite: bool,
}

impl Destination for Accumulate {
    #[inline(always)]
    unsafe fn store<const MR: usize, const NR: usize>(&self, row: usize, panel: usize, sums: &Sums<MR, NR>) {
        for (i, row_of_sums) in sums.iter().enumerate() {
            for (half, sum) in row_of_sums.as_flattened().iter().enumerate() {
                // SAFETY: the caller's contract, with all columns of the panels.
                unsafe {
                    let at = self.at.add((row + i) * self.stride + panel * PANEL + half * PANEL / 2).cast();
                    let sum = if self.overwrite { *sum } else { _mm256_add_epi32(_mm256_loadu_si256(at), *sum) };
                    _mm256_storeu_si256(at, sum);
                }
            }
        }
    }
}

/// How symbols are multiplied with activations.
pub(super) trait Products {
    /// Bytes of an activation.
    const WIDTH: usize;
    /// Half of a group's symbols, as they are multiplied.
    type Symbols: Copy;
    /// Four activations in each lane of 32 bits, as they are multiplied.
    type Activations: Copy;

    /// # Safety
    /// AVX2, here and below; 32 symbols can be read.
    unsafe fn symbols(at: *const u8) -> Self::Symbols;
    /// # Safety
    /// Four activations can be read.
    unsafe fn activations(at: *const u8) -> Self::Activations;
    /// Adds the products of four activations and the symbols of eight columns.
    ///
    /// # Safety
    /// AVX2.
    unsafe fn add(sum: __m256i, symbols: Self::Symbols, activations: Self::Activations) -> __m256i;
}

/// Loads half of a group, whose symbols are int8 or not, and makes them such as are wanted.
///
/// # Safety
/// AVX2; 32 symbols can be read.
#[inline(always)]
unsafe fn load<const SIGNED: bool, const WANTED: bool>(at: *const u8) -> __m256i {
    // SAFETY: the caller's contract.
    unsafe {
        let symbols = _mm256_loadu_si256(at.cast());
        if SIGNED == WANTED { symbols } else { _mm256_xor_si256(symbols, _mm256_set1_epi8(i8::MIN)) }
    }
}

/// Products that saturate in pairs, of activations as they are in the model: uint8, see [`unsigned`].
pub(super) struct Saturating<const SIGNED: bool>;

impl<const SIGNED: bool> Products for Saturating<SIGNED> {
    const WIDTH: usize = 1;
    type Symbols = __m256i;
    type Activations = __m256i;

    #[inline(always)]
    unsafe fn symbols(at: *const u8) -> __m256i {
        // SAFETY: the caller's contract.
        unsafe { load::<SIGNED, true>(at) }
    }
    #[inline(always)]
    unsafe fn activations(at: *const u8) -> __m256i {
        // SAFETY: the caller's contract.
        unsafe { _mm256_set1_epi32(at.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn add(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the caller's contract.
        unsafe {
            let pairs = _mm256_maddubs_epi16(x, weights);
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
}

/// Exact products, of activations that [`widen`] has made.
pub(super) struct Exact<const SIGNED: bool>;

impl<const SIGNED: bool> Products for Exact<SIGNED> {
    const WIDTH: usize = 2;
    type Symbols = [__m256i; 2];
    type Activations = [__m256i; 2];

    #[inline(always)]
    unsafe fn symbols(at: *const u8) -> [__m256i; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let symbols = load::<SIGNED, false>(at);
            [_mm256_and_si256(symbols, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(symbols)]
        }
    }
    #[inline(always)]
    unsafe fn activations(at: *const u8) -> [__m256i; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let at = at.cast::<i32>();
            [_mm256_set1_epi32(at.read_unaligned()), _mm256_set1_epi32(at.add(1).read_unaligned())]
        }
    }
    #[inline(always)]
    unsafe fn add(sum: __m256i, [even, odd]: [__m256i; 2], x: [__m256i; 2]) -> __m256i {
        // SAFETY: the caller's contract.
        unsafe {
            let fours = _mm256_add_epi32(_mm256_madd_epi16(even, x[0]), _mm256_madd_epi16(odd, x[1]));
            _mm256_add_epi32(sum, fours)
        }
    }
}

/// How far ahead symbols are fetched while they meet several rows, in bytes: one row takes them faster than this gains.
const AHEAD: usize = 4 << 10;

/// Rows of activations as they are multiplied.
#[derive(Clone, Copy)]
struct Activations {
    at: *const u8,
    /// Bytes from row to row.
    stride: usize,
}

/// Multiplies panels that lie one behind the other by all rows.
///
/// # Safety
/// AVX2; what the sums go to covers the extent, with all rows.
///
/// # Panics
/// If symbols or rows do not cover it.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn multiply<P: Products, D: Destination>(symbols: &[u8], extent: Extent, rows: &Rows<'_>, to: &D) {
    assert!(symbols.len() >= extent.weights() && rows.covers(extent.k() * P::WIDTH));
    let (symbols, x) = (symbols.as_ptr(), Activations { at: rows.data().as_ptr().cast(), stride: rows.stride() });
    let (panels, m, rest) = (extent.panels(), rows.m(), rows.m() % 4);
    // SAFETY: tiles of rows and panels that there are.
    unsafe {
        for panel in 0..panels {
            for row in (0..m - rest).step_by(4) {
                tile::<P, 4, 1, D>(symbols, extent, x, (row, panel), to);
            }
        }
        let (mut panel, row) = (0, m - rest);
        while panel < panels && rest > 0 {
            let at = (row, panel);
            panel += match (rest, panels - panel) {
                (1, 4..) => tile::<P, 1, 4, D>(symbols, extent, x, at, to),
                (1, 2..) => tile::<P, 1, 2, D>(symbols, extent, x, at, to),
                (1, _) => tile::<P, 1, 1, D>(symbols, extent, x, at, to),
                (2, 2..) => tile::<P, 2, 2, D>(symbols, extent, x, at, to),
                (2, _) => tile::<P, 2, 1, D>(symbols, extent, x, at, to),
                _ => tile::<P, 3, 1, D>(symbols, extent, x, at, to),
            };
        }
    }
}

/// One register tile, from `row` and `panel` on; its panels.
///
/// # Safety
/// As for [`multiply`]; there are MR rows and NR panels from there on.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn tile<P: Products, const MR: usize, const NR: usize, D: Destination>(
    symbols: *const u8,
    extent: Extent,
    x: Activations,
    (row, panel): (usize, usize),
    to: &D,
) -> usize {
    let mut sums: Sums<MR, NR> = [[[_mm256_setzero_si256(); 2]; NR]; MR];
    // SAFETY: the caller's contract. Plain loops: closures that the standard library calls would not be inlined here.
    unsafe {
        let mut w = symbols.add(panel * extent.panel());
        let mut x_at = x.at.add(row * x.stride);
        for _ in 0..extent.panel() / GROUP {
            let mut symbols = [[P::symbols(w); 2]; NR];
            for (j, symbols) in symbols.iter_mut().enumerate() {
                let w = w.add(j * extent.panel());
                *symbols = [P::symbols(w), P::symbols(w.add(LANES))];
                if MR > 1 {
                    _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(AHEAD).cast());
                }
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = P::activations(x_at.add(i * x.stride));
                for (sums, symbols) in sums.iter_mut().zip(&symbols) {
                    sums[0] = P::add(sums[0], symbols[0], x);
                    sums[1] = P::add(sums[1], symbols[1], x);
                }
            }
            w = w.add(GROUP);
            x_at = x_at.add(4 * P::WIDTH);
        }
        to.store(row, panel, &sums);
    }
    NR
}
