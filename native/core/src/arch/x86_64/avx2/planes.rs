//! What continued weights gain, as numbers in bit planes.
//!
//! For each level there are planes with a bit for each of its entries: one tells which are escapes, the others are the digits of how
//! many steps an entry is worth (an escape's last step left out, for its byte takes that place):
//!
//! ```text
//! planes = escapes: all bits of the deepest level; digits: none
//! for each level, last first:
//!     for 64 bits of the level: each plane of this level = deposit(next bits of that plane of the level below, bits)
//!     but in level 0: digits += 1, for to have come here is a step
//! ```

use super::deposits::Moves;
use super::group::Halves;
use crate::arch::generic::{Group, Ranks};
use crate::arch::operands::TileCode;
use crate::codec::MAX_LEVELS;
use crate::codec::decode::CodedTile;
use crate::geometry::{FRACTAL, GROUP, MAX_TILE_FRACTALS};
use std::arch::x86_64::*;

/// Planes at the most: escapes, and the digits of `MAX_LEVELS` − 1.
pub(super) const MAX_PLANES: usize = 5;
const _: () = assert!(MAX_LEVELS <= 1 << (MAX_PLANES - 1));

/// Words of a plane: a bit for each weight of the largest tile, and two words for what is read behind the last one.
pub(super) const PLANE: usize = MAX_TILE_FRACTALS * FRACTAL / 64 + 3;

/// The planes of a level: escapes, then digits from the least.
pub(super) type Planes = [[u64; PLANE]; MAX_PLANES];

/// Positions written at once for a group that has escapes, at the most.
pub(super) const ESCAPES_AT_ONCE: usize = 4;

/// What continued weights gain, read from the front.
pub(super) struct Continuations<'a, const PDEP: bool> {
    /// Planes of level 0: a bit for each continued weight.
    planes: &'a Planes,
    /// What sums are counted from, and what the least digit is worth.
    first: u8,
    step: u8,
    /// How many of them are used. None if there are no levels: all that is continued is an escape.
    count: usize,
    /// Continued weights, and those met so far.
    total: usize,
    taken: usize,
    /// Bytes of the escapes still to come.
    escapes: &'a [u8],
    /// What comes behind the tile, and how many bytes of it to fetch with each group.
    ahead: *const u8,
    pace: usize,
}

/// Deposits the next bits of each of the first Q planes, `taken` of which were taken, at the ones of `mask`.
///
/// # Safety
/// POPCNT, and BMI2 with PDEP; `taken` is at most the number of weights in the largest tile.
// Inlined into functions that have the features: as a function of its own it would cost more than it does.
#[inline(always)]
unsafe fn deposit<const PDEP: bool, const Q: usize>(planes: &Planes, taken: usize, mask: u64) -> [u64; Q] {
    let mut out = [0; Q];
    let moves = Moves::<PDEP>::to(mask);
    // SAFETY: of the 16 bytes from that of bit `taken` on, the last is in the word after the next, which a plane has.
    unsafe {
        if mask.count_ones() <= 57 {
            for q in 0..Q {
                let bits = planes[q].as_ptr().cast::<u8>().add(taken / 8).cast::<u64>().read_unaligned();
                out[q] = moves.deposit(bits >> (taken % 8));
            }
        } else {
            for q in 0..Q {
                let low = *planes[q].get_unchecked(taken / 64) >> (taken % 64);
                let high = *planes[q].get_unchecked(taken / 64 + 1) << 1 << (63 - taken % 64);
                out[q] = moves.deposit(low | high);
            }
        }
    }
    out
}

/// Writes where the ones of a group's mask are, `at_once` at a time, behind those that were found; how many there are then.
#[inline]
#[target_feature(enable = "bmi1,popcnt")]
fn write_positions(mut ones: u64, group: u16, at_once: usize, to: &mut [u16], mut found: usize) -> usize {
    let end = found + ones.count_ones() as usize;
    loop {
        // All at once, without asking how many there are: what is too much is overwritten.
        for to in &mut to[found..found + at_once] {
            *to = group + ones.trailing_zeros() as u16;
            ones = _blsr_u64(ones);
        }
        found += at_once;
        if found >= end {
            return end;
        }
    }
}

impl<'a, const PDEP: bool> Continuations<'a, PDEP> {
    /// Builds the planes of a tile with at most `limit` continued weights; `None` if the tile is damaged.
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    pub(super) fn new(
        code: &TileCode,
        tile: &CodedTile<'a>,
        limit: usize,
        planes: [&'a mut Planes; 2],
    ) -> Option<Self> {
        let levels = code.code.levels();
        if limit > MAX_TILE_FRACTALS * FRACTAL {
            return None;
        }
        let starts = tile.starts(levels, limit)?;
        let (start, escapes) = starts[levels];
        let count = match levels {
            0 => 0,
            1.. => 1 + levels.ilog2() as usize + usize::from(!levels.is_power_of_two()),
        };
        let [even, odd] = planes;
        for d in (0..levels).rev() {
            let (own, below) = if d % 2 == 0 { (&mut *even, &*odd) } else { (&mut *odd, &*even) };
            let lift = Lift { tile, level: starts[d], top: d == 0, deepest: d + 1 == levels };
            // SAFETY: the features are this function's; no level has more than `limit` entries.
            let ones = unsafe {
                match count {
                    1 => lift.planes::<PDEP, 1>(below, own),
                    2 => lift.planes::<PDEP, 2>(below, own),
                    3 => lift.planes::<PDEP, 3>(below, own),
                    4 => lift.planes::<PDEP, 4>(below, own),
                    _ => lift.planes::<PDEP, 5>(below, own),
                }
            };
            // Counts that were remembered are no longer right if the file has changed.
            if ones != starts[d + 1].1 {
                return None;
            }
        }
        Some(Self {
            planes: even,
            first: code.code.first_continued(),
            step: code.code.sum_step(),
            count,
            total: starts[0].1,
            taken: 0,
            escapes: &tile.rest[start..start + escapes],
            ahead: tile.rest[tile.len..].as_ptr(),
            pace: (tile.roots.len() + tile.len) * GROUP / limit.max(1),
        })
    }

    /// [`Self::apply`] with the number of planes as a constant.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    pub(super) fn apply_all<K: Ranks<Halves>>(
        &mut self,
        ranks: K,
        fields: &[u8],
        out: &mut [u8],
        escapes: &mut [u16],
    ) -> usize {
        match self.count {
            0 => self.apply::<K, 0>(ranks, fields, out, escapes),
            1 => self.apply::<K, 1>(ranks, fields, out, escapes),
            2 => self.apply::<K, 2>(ranks, fields, out, escapes),
            3 => self.apply::<K, 3>(ranks, fields, out, escapes),
            4 => self.apply::<K, 4>(ranks, fields, out, escapes),
            _ => self.apply::<K, 5>(ranks, fields, out, escapes),
        }
    }

    /// Makes of the root fields of a panel what [`Ranks`] says, except that escapes lack their bytes; writes the positions of
    /// these, and gives their number.
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    fn apply<K: Ranks<Halves>, const Q: usize>(
        &mut self,
        ranks: K,
        fields: &[u8],
        out: &mut [u8],
        escapes: &mut [u16],
    ) -> usize {
        assert!(escapes.len() >= fields.len() + ESCAPES_AT_ONCE && fields.len() <= usize::from(u16::MAX));
        assert!(out.len() == fields.len() && self.taken + fields.len() <= MAX_TILE_FRACTALS * FRACTAL);
        let digits: [__m256i; MAX_PLANES] = std::array::from_fn(|q| {
            _mm256_set1_epi8(if q == 0 { 0 } else { self.step.wrapping_shl(q as u32 - 1) as i8 })
        });
        let none = _mm256_setzero_si256();
        // Sums of offsets are counted from the first one that is continued, and become what an offset differs by.
        let first = if K::OFFSETS { _mm256_set1_epi8(self.first as i8) } else { none };
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        let to_lanes = to_lanes();
        let mut found = 0;
        let mut taken = self.taken;
        for (g, (group, out)) in fields.chunks_exact(GROUP).zip(out.chunks_exact_mut(GROUP)).enumerate() {
            // A tile's parts are too short for the hardware prefetcher to find its pace, so the next tile, which lies
            // behind this one, is fetched evenly while this one is decoded.
            _mm_prefetch::<_MM_HINT_T1>(self.ahead.cast());
            self.ahead = self.ahead.wrapping_add(self.pace);
            // SAFETY: the features are this function's; a group has 64 bytes.
            let (fields, open) = unsafe {
                let fields = Halves::load(group.as_ptr());
                (fields, ranks.open(fields))
            };
            // SAFETY: the features are this function's; no more is taken than weights are passed, as many as asserted
            // above.
            let masks = unsafe { deposit::<PDEP, Q>(self.planes, taken, open) };
            taken += open.count_ones() as usize;
            let sums = to_lanes.map(|to_lanes| {
                if Q < 2 {
                    return none;
                }
                let mut sums = first;
                for q in 1..Q {
                    let mask = _mm256_set1_epi64x(masks[q] as i64);
                    let digit = _mm256_and_si256(_mm256_shuffle_epi8(mask, to_lanes), bit);
                    let digit = _mm256_cmpeq_epi8(digit, bit);
                    sums = _mm256_add_epi8(sums, _mm256_and_si256(digit, digits[q]));
                }
                if K::OFFSETS { _mm256_xor_si256(sums, first) } else { sums }
            });
            // SAFETY: the features are this function's; a group has 64 bytes.
            unsafe { ranks.symbols(fields, Halves(sums)).store(out.as_mut_ptr()) };
            let escaped = if Q == 0 { open } else { masks[0] };
            // Without levels every other group has some: to ask would be to guess wrong too often.
            if Q == 0 || escaped != 0 {
                let at_once = if Q == 0 { 2 } else { ESCAPES_AT_ONCE };
                found = write_positions(escaped, (g * GROUP) as u16, at_once, escapes, found);
            }
        }
        self.taken = taken;
        found
    }

    /// The bytes of the next `count` escapes, if there are so many.
    pub(super) fn escape_bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.escapes.split_at_checked(count)?;
        self.escapes = rest;
        Some(bytes)
    }

    /// Whether all was used.
    pub(super) fn is_finished(&self) -> bool {
        self.taken == self.total && self.escapes.is_empty()
    }
}

/// What brings each byte of a mask to the eight lanes that it tells of, for either half of a group.
#[inline]
#[target_feature(enable = "avx2")]
fn to_lanes() -> [__m256i; 2] {
    [0, 4].map(|first: i64| {
        let of = |byte: i64| (first + byte) * 0x0101_0101_0101_0101;
        _mm256_setr_epi64x(of(0), of(1), of(2), of(3))
    })
}

/// One level's planes from those of the level below it.
struct Lift<'a> {
    tile: &'a CodedTile<'a>,
    /// Where the level begins, and how many entries it has.
    level: (usize, usize),
    top: bool,
    deepest: bool,
}

impl Lift<'_> {
    /// Gives the number of ones, and with it that of the entries taken from below.
    ///
    /// # Safety
    /// The level has no more entries than the largest tile has weights.
    #[target_feature(enable = "bmi1,bmi2,popcnt")]
    unsafe fn planes<const PDEP: bool, const Q: usize>(&self, below: &Planes, own: &mut Planes) -> usize {
        let mut taken = 0;
        for (w, bits) in self.tile.words(self.level).enumerate() {
            let mut planes = if self.deepest {
                let mut planes = [0; Q];
                planes[0] = bits;
                planes
            } else {
                // SAFETY: `taken` counts ones of this level, so it is at most the number of its entries.
                unsafe { deposit::<PDEP, Q>(below, taken, bits) }
            };
            taken += bits.count_ones() as usize;
            if !self.top {
                let mut carry = !0;
                for digit in &mut planes[1..] {
                    (*digit, carry) = (*digit ^ carry, *digit & carry);
                }
            }
            for (own, plane) in own.iter_mut().zip(planes) {
                own[w] = plane;
            }
        }
        taken
    }
}
