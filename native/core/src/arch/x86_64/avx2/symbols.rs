//! Root fields, and the symbols of ranks.

use super::vectors::{LANES, load, store};
use crate::geometry::{FRACTAL, GROUP, GROUPS};
use std::arch::x86_64::*;

/// The root fields of a panel's lanes, as [`Ranks::OFFSETS`](crate::arch::generic::Ranks::OFFSETS) says.
#[target_feature(enable = "avx2")]
pub(super) fn root_fields<const R: usize, const OFFSETS: bool>(roots: &[u8], fields: &mut [u8]) {
    // The sign bit of an offset, and from what it makes when it is turned over to an offset with 128 added.
    let sign = 1u8 << (R - 1);
    let (sign, to_offset) = (_mm256_set1_epi8(sign as i8), _mm256_set1_epi8(0x80u8.wrapping_sub(sign) as i8));
    for (rows, fields) in roots.chunks_exact(R * GROUP).zip(fields.chunks_exact_mut(FRACTAL)) {
        let (rows, _) = rows.as_chunks::<LANES>();
        let (fields, _) = fields.as_chunks_mut::<LANES>();
        for half in 0..2 {
            let rows: [__m256i; R] = std::array::from_fn(|b| load(&rows[2 * b + half]));
            for g in 0..GROUPS {
                let (byte, shift) = (g * R / 8, g * R % 8);
                // Shifts are of 16 bits: what crosses from byte to byte is masked.
                let mask = |bits: usize| _mm256_set1_epi8(((1u32 << bits) - 1) as i8);
                let low = _mm256_srl_epi16(rows[byte], _mm_cvtsi64_si128(shift as i64));
                let field = if shift + R <= 8 {
                    _mm256_and_si256(low, mask(R))
                } else {
                    let first = 8 - shift;
                    let high = _mm256_sll_epi16(rows[byte + 1], _mm_cvtsi64_si128(first as i64));
                    let high = _mm256_andnot_si256(mask(first), _mm256_and_si256(high, mask(R)));
                    _mm256_or_si256(_mm256_and_si256(low, mask(first)), high)
                };
                let field = if OFFSETS { _mm256_add_epi8(_mm256_xor_si256(field, sign), to_offset) } else { field };
                store(&mut fields[2 * g + half], field);
            }
        }
    }
}

/// The first half of a table as rows for `look_up`: row b has what the symbols of ranks 16 b to 16 b + 15 differ by, in
/// the sense of exclusive or, from those 16 ranks before, the first row excepted.
#[target_feature(enable = "avx2")]
pub(super) fn deltas(table: &[u8; 256]) -> [__m256i; 8] {
    let (rows, _) = table.as_chunks::<16>();
    // SAFETY: a row has the 16 bytes that are read.
    let row = |b: usize| unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(rows[b].as_ptr().cast())) };
    std::array::from_fn(|b| if b == 0 { row(b) } else { _mm256_xor_si256(row(b), row(b - 1)) })
}

/// The symbols of ranks below 16 N ≤ 128.
///
/// A byte shuffle looks up 16 ranks by the low four bits of an index, and gives 0 if its top bit is set. Ranks of
/// which 16 is taken away again and again, with saturation, get their top bit once they are used up, so a lane adds
/// up the rows of its own 16 ranks and all before; those are stored as differences.
#[inline]
#[target_feature(enable = "avx2")]
fn shuffles<const N: usize>(mut ranks: __m256i, rows: &[__m256i]) -> __m256i {
    let mut symbols = _mm256_shuffle_epi8(rows[0], ranks);
    for row in &rows[1..N] {
        ranks = _mm256_subs_epi8(ranks, _mm256_set1_epi8(16));
        symbols = _mm256_xor_si256(symbols, _mm256_shuffle_epi8(*row, ranks));
    }
    symbols
}

/// Symbols of ranks below 16 N ≤ 128.
#[target_feature(enable = "avx2")]
pub(super) fn look_up<const N: usize>(ranks: &[u8], rows: &[__m256i; 8], symbols: &mut [u8]) {
    for (ranks, symbols) in ranks.as_chunks().0.iter().zip(symbols.as_chunks_mut().0) {
        store(symbols, shuffles::<N>(load(ranks), rows));
    }
}

/// Symbols of any ranks: for those of 128 and more the bits of `mask` are turned over.
#[target_feature(enable = "avx2")]
pub(super) fn look_up_all(ranks: &[u8], rows: &[__m256i; 8], mask: u8, symbols: &mut [u8]) {
    for (ranks, symbols) in ranks.as_chunks().0.iter().zip(symbols.as_chunks_mut().0) {
        let ranks = load(ranks);
        let low = _mm256_and_si256(ranks, _mm256_set1_epi8(i8::MAX));
        let above = _mm256_cmpgt_epi8(_mm256_setzero_si256(), ranks);
        let flipped = _mm256_and_si256(above, _mm256_set1_epi8(mask as i8));
        store(symbols, _mm256_xor_si256(shuffles::<8>(low, rows), flipped));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::Kernel;

    #[test]
    fn every_rank_finds_its_symbol() {
        if Kernel::by_name("avx2").is_err() {
            return;
        }
        let mask = 0x51;
        let table: [u8; 256] = std::array::from_fn(|i| (i % 128 * 167 + 13) as u8 ^ if i < 128 { 0 } else { mask });
        let ranks: Vec<u8> = (0..=255).collect();
        let mut symbols = [0; 256];
        // SAFETY: the processor has the features.
        unsafe { look_up_all(&ranks, &deltas(&table), mask, &mut symbols) };
        assert_eq!(symbols, table);
        symbols.fill(0);
        // SAFETY: as above.
        unsafe { look_up::<5>(&ranks[..80 / 32 * 32], &deltas(&table), &mut symbols) };
        assert_eq!(symbols[..64], table[..64]);
    }
}
