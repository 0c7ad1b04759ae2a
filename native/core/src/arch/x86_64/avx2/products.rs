//! How symbols and activations are multiplied.
//!
//! `vpmaddubsw` multiplies bytes, and adds each two products with saturation. Exact ones are of wider operands: symbols are
//! widened to 16 bits, those of even and those of odd k apart, and multiplied by `vpmaddwd`. Where it is known of most blocks
//! that no sum of two products saturates ([`steps`](super::steps)), bytes are multiplied there and wider operands elsewhere.
//! With AVX-VNNI, `vpdpbusd` multiplies four bytes by four others, exactly.

use super::vectors::{LANES, Sums};
use crate::arch::feature::Feature;
use std::arch::x86_64::*;
use std::fmt::Debug;

/// Products of symbols as they are decoded; others are of such as have their sign bits turned over.
pub trait AsDecoded: Products {}
impl AsDecoded for Exact<false> {}
impl AsDecoded for Saturating<false> {}
impl AsDecoded for Dots<false> {}

/// How far ahead symbols are fetched while they meet several rows, in bytes: one row takes them faster than this gains.
const AHEAD: usize = 4 << 10;

/// How symbols are multiplied with activations.
pub trait Products: Debug + Send + Sync + 'static {
    /// Bytes of an activation.
    const WIDTH: usize;
    /// Whether they saturate in pairs.
    const SATURATES: bool = false;
    /// Whether they need AVX-VNNI: then functions here need it as well, and [`dots`](super::dots) has the loops.
    const VNNI: bool = false;
    /// Whether the sign bits of symbols are turned over.
    const SIGNED: bool;
    /// Whether they are of activations as they are in the model, uint8.
    const BYTES: bool;
    /// Whether those of several groups can be added at once ([`blocks`](super::blocks)).
    const IN_STEPS: bool = Self::BYTES && Self::SIGNED;
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

/// Adds the products of a group; `FETCH`: and has what comes later fetched.
///
/// # Safety
/// What the products need; of NR panels, `panel` bytes from one to the next, the group of the first begins at `w`. Those groups can be
/// read, and the activations for them, which each row has `at` bytes on.
#[inline(always)]
pub(super) unsafe fn group<P: Products, const MR: usize, const NR: usize, const FETCH: bool>(
    sums: &mut Sums<MR, NR>,
    (w, panel): (*const u8, usize),
    (rows, at): (&[*const u8; MR], usize),
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut symbols = [[P::symbols(w); 2]; NR];
        for (j, symbols) in symbols.iter_mut().enumerate() {
            let w = w.add(j * panel);
            *symbols = [P::symbols(w), P::symbols(w.add(LANES))];
            if FETCH {
                _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(AHEAD).cast());
            }
        }
        for (sums, row) in sums.iter_mut().zip(rows) {
            let x = P::activations(row.add(at));
            for (sums, symbols) in sums.iter_mut().zip(&symbols) {
                sums[0] = P::add(sums[0], symbols[0], x);
                sums[1] = P::add(sums[1], symbols[1], x);
            }
        }
    }
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

/// Products that saturate in pairs, of activations as they are in the model, uint8; [`finish`](super::rows::finish) makes them.
#[derive(Debug)]
pub struct Saturating<const SIGNED: bool>;

impl<const SIGNED: bool> Products for Saturating<SIGNED> {
    const WIDTH: usize = 1;
    const SATURATES: bool = true;
    const SIGNED: bool = SIGNED;
    const BYTES: bool = true;
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

/// Exact products, of activations that are widened to 16 bits: of each group, the even ones in a word and the odd ones in the next.
#[derive(Debug)]
pub struct Exact<const SIGNED: bool>;

impl<const SIGNED: bool> Products for Exact<SIGNED> {
    const WIDTH: usize = 2;
    const SIGNED: bool = SIGNED;
    const BYTES: bool = false;
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

/// Exact products, of activations as they are in the model, uint8, and symbols with their sign bits turned over, all of which are
/// widened here: for blocks whose products may not fit 16 bits.
#[derive(Debug)]
pub struct ExactBytes;

impl Products for ExactBytes {
    const WIDTH: usize = 1;
    const SIGNED: bool = true;
    const BYTES: bool = true;
    type Symbols = [__m256i; 2];
    type Activations = [__m256i; 2];

    #[inline(always)]
    unsafe fn symbols(at: *const u8) -> [__m256i; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let symbols = load::<true, true>(at);
            let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(symbols));
            [even, _mm256_srai_epi16::<8>(symbols)]
        }
    }
    #[inline(always)]
    unsafe fn activations(at: *const u8) -> [__m256i; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let four = _mm256_set1_epi32(at.cast::<i32>().read_unaligned());
            [_mm256_and_si256(four, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(four)]
        }
    }
    #[inline(always)]
    unsafe fn add(sum: __m256i, symbols: [__m256i; 2], x: [__m256i; 2]) -> __m256i {
        // SAFETY: the caller's contract.
        unsafe { Exact::<true>::add(sum, symbols, x) }
    }
}

/// Exact products of AVX-VNNI: of symbols as they are decoded and packed activations, int8; or, `SIGNED`, of symbols with their sign
/// bits turned over and activations as they are in the model, uint8.
#[derive(Debug)]
pub struct Dots<const SIGNED: bool>;

impl Dots<false> {
    /// What they need beside AVX2.
    pub const NEEDS: &[Feature] = &[Feature::AvxVnni];
}

impl<const SIGNED: bool> Products for Dots<SIGNED> {
    const WIDTH: usize = 1;
    const VNNI: bool = true;
    const SIGNED: bool = SIGNED;
    const BYTES: bool = SIGNED;
    const IN_STEPS: bool = false;
    type Symbols = __m256i;
    type Activations = __m256i;

    #[inline(always)]
    unsafe fn symbols(at: *const u8) -> __m256i {
        // SAFETY: the caller's contract.
        unsafe { load::<SIGNED, SIGNED>(at) }
    }
    #[inline(always)]
    unsafe fn activations(at: *const u8) -> __m256i {
        // SAFETY: the caller's contract.
        unsafe { _mm256_set1_epi32(at.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn add(sum: __m256i, symbols: __m256i, x: __m256i) -> __m256i {
        // The instruction takes uint8 and int8.
        let (unsigned, signed) = if SIGNED { (x, symbols) } else { (symbols, x) };
        // SAFETY: the caller's contract.
        unsafe { _mm256_dpbusd_avx_epi32(sum, unsigned, signed) }
    }
}
