//! Root fields.

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

/// Bytes moved down to where the field of a group begins, with bits of others above.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn shifted<const R: usize, const G: usize>(row: __m512i) -> __m512i {
    match G * R % 8 {
        1 => _mm512_srli_epi16::<1>(row),
        2 => _mm512_srli_epi16::<2>(row),
        3 => _mm512_srli_epi16::<3>(row),
        4 => _mm512_srli_epi16::<4>(row),
        5 => _mm512_srli_epi16::<5>(row),
        6 => _mm512_srli_epi16::<6>(row),
        7 => _mm512_srli_epi16::<7>(row),
        _ => row,
    }
}

/// The eight root fields of every lane, as [`Ranks::OFFSETS`](crate::arch::generic::Ranks::OFFSETS) says.
///
/// # Safety
/// AVX-512BW and GFNI; `rows` points to R · 64 readable bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,gfni")]
pub(super) unsafe fn root_fields<const R: usize, const OFFSETS: bool>(rows: *const u8) -> [__m512i; GROUPS] {
    let zero = _mm512_setzero_si512();
    // SAFETY: called with b < R only.
    let row = |b: usize| unsafe { _mm512_loadu_si512(rows.add(b * GROUP).cast()) };
    // The bits of a field up to its highest, at the bottom of a byte or, of the byte behind it, above `to` others.
    let last_bits = |row: __m512i, from: usize, to: usize, count: usize| {
        if OFFSETS {
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
            // What comes in from the next byte is masked away below. A shift goes to other units than an affine transform.
            let low = shifted::<R, G>(row(byte));
            let mask = _mm512_set1_epi8((1i8 << first) - 1);
            // (low & mask) | last
            _mm512_ternarylogic_epi32::<0xf8>(last_bits(row(byte + 1), 0, first, R - first), low, mask)
        };
    });
    fields
}
