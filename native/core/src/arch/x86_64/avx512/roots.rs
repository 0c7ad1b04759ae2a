//! Root fields, and what becomes of them.

use super::unroll::{each_group, unrolled};
use crate::geometry::{GROUP, GROUPS};
use std::arch::x86_64::*;

/// Matrices of GF2P8AFFINEQB that move bits `from..` of a byte to `to..`, `count` of them, and clear the rest.
const fn move_bits(from: usize, to: usize, count: usize) -> i64 {
    let mut m = 0u64;
    let mut i = 0;
    while i < count {
        // Byte 7 − i of the matrix picks the input bits of output bit i.
        m |= 1 << (8 * (7 - (to + i)) + from + i);
        i += 1;
    }
    m as i64
}

/// As [`move_bits`], with the last of them in all bits above as well.
const fn move_bits_signed(from: usize, to: usize, count: usize) -> i64 {
    let mut m = move_bits(from, to, count) as u64;
    let mut i = to + count;
    while i < 8 {
        m |= 1 << (8 * (7 - i) + from + count - 1);
        i += 1;
    }
    m as i64
}

/// Matrix of GF2P8AFFINEQB that turns bytes with their top bit set into `mask`, and others into 0.
pub(super) const fn spread_top(mask: u8) -> i64 {
    let mut m = 0u64;
    let mut i = 0;
    while i < 8 {
        if mask >> i & 1 == 1 {
            // Byte 7 − i of the matrix picks the input bits of output bit i.
            m |= 0x80 << (8 * (7 - i));
        }
        i += 1;
    }
    m as i64
}

/// What is done with root fields and sums.
pub(super) trait Ranks {
    /// Root fields are offsets from the centre: signed, and given with the highest bit turned over, as 0 is 128.
    const SIGNED: bool;
    /// What reaches the threshold where a weight is continued.
    ///
    /// # Safety
    /// AVX-512BW.
    unsafe fn tested(&self, fields: __m512i) -> __m512i;
    /// The symbols of root fields and sums, 0 for weights that are not continued.
    ///
    /// # Safety
    /// All features of [`Avx512`](super::Avx512).
    unsafe fn symbols(&self, fields: __m512i, sums: __m512i) -> __m512i;
}

/// Ranks by distance from a centre, which is 128 unless there is an addend.
pub(super) struct ByDistance<const ADDEND: bool> {
    pub(super) to_tested: __m512i,
    pub(super) addend: __m512i,
}

impl<const ADDEND: bool> Ranks for ByDistance<ADDEND> {
    const SIGNED: bool = true;
    #[inline(always)]
    unsafe fn tested(&self, fields: __m512i) -> __m512i {
        // SAFETY: the caller's contract.
        unsafe { _mm512_add_epi8(fields, self.to_tested) }
    }
    #[inline(always)]
    unsafe fn symbols(&self, fields: __m512i, sums: __m512i) -> __m512i {
        // SAFETY: the caller's contract.
        unsafe {
            let symbols = _mm512_xor_si512(fields, sums);
            if ADDEND { _mm512_add_epi8(symbols, self.addend) } else { symbols }
        }
    }
}

/// Ranks that are looked up; those of 128 and more with the mask.
pub(super) struct LookedUp<const MASK: bool> {
    pub(super) table: [__m512i; 2],
    pub(super) top_to_mask: __m512i,
}

impl<const MASK: bool> Ranks for LookedUp<MASK> {
    const SIGNED: bool = false;
    #[inline(always)]
    unsafe fn tested(&self, fields: __m512i) -> __m512i {
        fields
    }
    #[inline(always)]
    unsafe fn symbols(&self, fields: __m512i, sums: __m512i) -> __m512i {
        // SAFETY: the caller's contract.
        unsafe {
            let rank = _mm512_add_epi8(fields, sums);
            let symbols = _mm512_permutex2var_epi8(self.table[0], rank, self.table[1]);
            if MASK {
                _mm512_xor_si512(symbols, _mm512_gf2p8affine_epi64_epi8::<0>(rank, self.top_to_mask))
            } else {
                symbols
            }
        }
    }
}

/// The eight root fields of every lane; see [`Ranks::SIGNED`].
///
/// # Safety
/// AVX-512BW and GFNI; `rows` points to R · 64 readable bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,gfni")]
pub(super) unsafe fn root_fields<const R: usize, const SIGNED: bool>(rows: *const u8) -> [__m512i; GROUPS] {
    let zero = _mm512_setzero_si512();
    // SAFETY: called with b < R only.
    let row = |b: usize| unsafe { _mm512_loadu_si512(rows.add(b * GROUP).cast()) };
    // The bits of a field up to its highest, at the bottom of a byte or, of the byte behind it, above `to` others.
    let last_bits = |row: __m512i, from: usize, to: usize, count: usize| {
        if SIGNED {
            _mm512_gf2p8affine_epi64_epi8::<0x80>(row, _mm512_set1_epi64(move_bits_signed(from, to, count)))
        } else {
            _mm512_gf2p8affine_epi64_epi8::<0>(row, _mm512_set1_epi64(move_bits(from, to, count)))
        }
    };
    let mut fields = [zero; GROUPS];
    each_group!(G => {
        let (byte, shift) = (G * R / 8, G * R % 8);
        fields[G] = if shift + R <= 8 {
            last_bits(row(byte), shift, 0, R)
        } else {
            let first = 8 - shift;
            let low = _mm512_set1_epi64(move_bits(shift, 0, first));
            let low = _mm512_gf2p8affine_epi64_epi8::<0>(row(byte), low);
            _mm512_or_si512(low, last_bits(row(byte + 1), 0, first, R - first))
        };
    });
    fields
}
