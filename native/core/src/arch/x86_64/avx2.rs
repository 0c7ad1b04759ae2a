//! AVX2 with BMI1, BMI2 and POPCNT (Haswell and later; bit deposits are slow before Zen 3).
//!
//! AVX2 can neither expand bytes by a mask nor look bytes up across 16 of them, so the work is cut differently from
//! the AVX-512 kernel's: what a continued weight gains is not a byte but a number in *bit planes*, for bits are what
//! BMI2 expands, 64 at a time.
//!
//! A tile's continuations come first, from the deepest level up (`Continuations::new`). For each level there are
//! planes with a bit for each of its entries: one tells which are escapes, the others are the digits of how many
//! steps an entry is worth (an escape's last step left out, for its byte takes that place):
//!
//! ```text
//! planes = escapes: all bits of the deepest level; digits: none
//! for each level, last first:
//!     for 64 bits of the level: each plane of this level = pdep(next bits of that plane of the level below, bits)
//!     but in level 0: digits += 1, for to have come here is a step
//! ```
//!
//! Then its panels, each in passes over a few kilobytes that stay in the first-level cache (`decode_panels`):
//!
//! ```text
//! fields  = root field of every lane                      shifts and masks of the rows
//!           as a rank                                     twice it, or the complement, if it holds an offset
//! open    = fields >= T                                   compare, and collect the signs of 64 lanes
//! digits  = pdep(next bits of each plane, open)
//! ranks   = fields + A · digits                           a digit of 64 lanes becomes bytes by shuffle and compare
//! symbols = centre + half the ranks, or their complement  shift, mask, exclusive or, addition
//!     or    table[ranks mod 128]                          a shuffle for 16 ranks each, joined by exclusive or
//!           ^ mask where ranks >= 128
//! symbols of escapes, from ranks and their bytes          one by one, from a list of their positions
//! ```
//!
//! Products: `vpmaddubsw` saturates, so symbols are widened, those of even and those of odd k apart, and multiplied
//! by `vpmaddwd`, which is exact.

use crate::arch::rows::{self, ActivationRow, OutputBlock, Terms};
use crate::arch::{Accumulators, Extent, Rows, TileCode, TileKernel};
use crate::codec::decode::CodedTile;
use crate::codec::{MAX_LEVELS, Order};
use crate::container::geometry::{FRACTAL, GROUP, GROUPS, MAX_TILE_FRACTALS, PANEL};
use std::arch::x86_64::*;
use std::cell::RefCell;

/// Lanes of a register.
const LANES: usize = 32;

/// Planes at the most: escapes, and the digits of `MAX_LEVELS` − 1.
const MAX_PLANES: usize = 5;
const _: () = assert!(MAX_LEVELS <= 1 << (MAX_PLANES - 1));

/// Words of a plane: a bit for each weight of the largest tile, and two words for what is read behind the last one.
const PLANE: usize = MAX_TILE_FRACTALS * FRACTAL / 64 + 3;

/// The planes of a level: escapes, then digits from the least.
type Planes = [[u64; PLANE]; MAX_PLANES];

/// Rows up to which a panel is multiplied as soon as it is decoded; more are multiplied from decoded strips.
const FUSED_ROWS: usize = 12;

/// Proof that the processor has the instructions.
#[derive(Debug)]
pub struct Avx2(());

static AVX2: Avx2 = Avx2(());

impl Avx2 {
    /// The kernel, if the processor has all that it uses.
    pub fn new() -> Option<&'static Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt");
        has.then_some(&AVX2)
    }
}

impl TileKernel for Avx2 {
    fn name(&self) -> &'static str {
        "x86_64-u8i8i32-avx2"
    }

    fn fused_rows(&self) -> usize {
        FUSED_ROWS
    }

    fn decode(&self, code: &TileCode, tile: &CodedTile<'_>, extent: Extent, out: &mut [u8], stride: usize) -> bool {
        let panel = extent.fractals * FRACTAL;
        SCRATCH.with_borrow_mut(|scratch| {
            // SAFETY: `self` proves the features.
            unsafe {
                decode_panels(code, tile, extent, scratch, |p, symbols, _| {
                    out[p * stride..][..panel].copy_from_slice(symbols);
                })
            }
        })
    }

    fn multiply_coded(
        &self,
        code: &TileCode,
        tile: &CodedTile<'_>,
        extent: Extent,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
    ) -> bool {
        let stride = acc.stride();
        SCRATCH.with_borrow_mut(|scratch| {
            // SAFETY: `self` proves the features.
            unsafe {
                widen(&rows, extent.k(), &mut scratch.x);
                decode_panels(code, tile, extent, scratch, |p, symbols, x| {
                    multiply_panel(symbols, x, &mut acc.data()[p * PANEL..], stride);
                })
            }
        })
    }

    fn multiply(&self, symbols: &[u8], extent: Extent, rows: Rows<'_>, acc: &mut Accumulators<'_>) {
        let stride = acc.stride();
        SCRATCH.with_borrow_mut(|scratch| {
            // SAFETY: `self` proves the features.
            unsafe {
                widen(&rows, extent.k(), &mut scratch.x);
                for (p, panel) in symbols[..extent.weights()].chunks_exact(extent.fractals * FRACTAL).enumerate() {
                    multiply_panel(panel, &scratch.x, &mut acc.data()[p * PANEL..], stride);
                }
            }
        });
    }

    fn pack(&self, from: ActivationRow<'_>, to: &mut [i8]) -> i32 {
        // SAFETY: `self` proves the features.
        unsafe { pack(from, to) }
    }

    fn finish(&self, sums: &[i32], stride: usize, terms: &Terms<'_>, out: OutputBlock<'_>) {
        // SAFETY: `self` proves the features.
        unsafe { finish(sums, stride, terms, out) }
    }
}

#[target_feature(enable = "avx2")]
fn pack(from: ActivationRow<'_>, to: &mut [i8]) -> i32 {
    rows::pack(from, to)
}

#[target_feature(enable = "avx2")]
fn finish(sums: &[i32], stride: usize, terms: &Terms<'_>, out: OutputBlock<'_>) {
    rows::finish(sums, stride, terms, out);
}

/// Memory that a thread keeps from tile to tile.
struct Scratch {
    /// Planes of the level that is being built, and of the one below it.
    planes: [Box<Planes>; 2],
    /// Root fields, then ranks, of a panel.
    ranks: Vec<u8>,
    /// Symbols of a panel.
    symbols: Vec<u8>,
    /// Positions of a panel's escapes.
    escapes: Vec<u16>,
    /// Widened activations.
    x: Vec<[i32; 2]>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            planes: std::array::from_fn(|_| Box::new([[0; PLANE]; MAX_PLANES])),
            ranks: Vec::new(),
            symbols: Vec::new(),
            escapes: Vec::new(),
            x: Vec::new(),
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A load that cannot leave its operand.
#[inline]
#[target_feature(enable = "avx2")]
fn load(from: &[u8; LANES]) -> __m256i {
    // SAFETY: the reference covers the register.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

/// A store that cannot leave its operand.
#[inline]
#[target_feature(enable = "avx2")]
fn store(to: &mut [u8; LANES], value: __m256i) {
    // SAFETY: the reference covers the register.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), value) }
}

/// Decodes all panels of a tile, one after the other, and hands each to `sink` with the widened activations; whether
/// everything was consumed exactly.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
fn decode_panels(
    code: &TileCode,
    tile: &CodedTile<'_>,
    extent: Extent,
    scratch: &mut Scratch,
    mut sink: impl FnMut(usize, &[u8], &[[i32; 2]]),
) -> bool {
    let row = code.code.root_bits() * GROUP;
    assert_eq!(tile.roots.len(), extent.weights() / FRACTAL * row);
    let Scratch { planes, ranks, symbols, escapes, x } = scratch;
    let Some(mut continuations) = Continuations::new(code, tile, extent.weights(), planes) else {
        return false;
    };
    let panel = extent.fractals * FRACTAL;
    ranks.resize(panel, 0);
    symbols.resize(panel, 0);
    escapes.resize(panel + ESCAPES_AT_ONCE, 0);
    let deltas = deltas(&code.table);
    // What levels add to a rank at the most: an escape's byte takes the place of the last step.
    let most_added = usize::from(code.code.step()) * code.code.levels().saturating_sub(1);
    // The greatest rank that is not an escape's.
    let last = (1usize << code.code.root_bits()) - 1 + most_added;
    for (p, roots) in tile.roots.chunks_exact(extent.fractals * row).enumerate() {
        match code.code.root_bits() {
            1 => root_fields::<1>(roots, ranks),
            2 => root_fields::<2>(roots, ranks),
            3 => root_fields::<3>(roots, ranks),
            4 => root_fields::<4>(roots, ranks),
            5 => root_fields::<5>(roots, ranks),
            6 => root_fields::<6>(roots, ranks),
            _ => root_fields::<7>(roots, ranks),
        }
        if matches!(code.code.order(), Order::Distance(_)) {
            fold(code.code.root_bits(), ranks);
        }
        let found = match continuations.count {
            0 => continuations.add::<0>(ranks, escapes),
            1 => continuations.add::<1>(ranks, escapes),
            2 => continuations.add::<2>(ranks, escapes),
            3 => continuations.add::<3>(ranks, escapes),
            4 => continuations.add::<4>(ranks, escapes),
            _ => continuations.add::<5>(ranks, escapes),
        };
        match (code.code.order(), last / 16) {
            (Order::Distance(centre), _) => unfold(ranks, *centre, symbols),
            (_, 0) => look_up::<1>(ranks, &deltas, symbols),
            (_, 1) => look_up::<2>(ranks, &deltas, symbols),
            (_, 2) => look_up::<3>(ranks, &deltas, symbols),
            (_, 3) => look_up::<4>(ranks, &deltas, symbols),
            (_, 4) => look_up::<5>(ranks, &deltas, symbols),
            (_, 5) => look_up::<6>(ranks, &deltas, symbols),
            (_, 6) => look_up::<7>(ranks, &deltas, symbols),
            (_, 7) => look_up::<8>(ranks, &deltas, symbols),
            (Order::Stored(stored), _) => look_up_all(ranks, &deltas, stored.mask(), symbols),
        }
        let Some(bytes) = continuations.escape_bytes(found) else {
            return false;
        };
        for (&at, byte) in escapes.iter().zip(bytes) {
            let at = usize::from(at);
            let root = ranks[at].wrapping_sub(most_added as u8);
            let rank = code.code.rank(root, code.code.escape_base().wrapping_add(*byte));
            symbols[at] = code.table[usize::from(rank)];
        }
        sink(p, symbols, x);
    }
    continuations.is_finished()
}

/// Positions written at once for a group that has escapes.
const ESCAPES_AT_ONCE: usize = 4;

/// What continued weights gain, read from the front.
struct Continuations<'a> {
    /// Planes of level 0: a bit for each continued weight.
    planes: &'a Planes,
    /// How many of them are used. None if there are no levels: all that is continued is an escape.
    count: usize,
    /// Continued weights, and those met so far.
    total: usize,
    taken: usize,
    /// Bytes of the escapes still to come.
    escapes: &'a [u8],
    /// A, and T − 1.
    step: u8,
    below_threshold: i8,
    /// What comes behind the tile, and how many bytes of it to fetch with each group.
    ahead: *const u8,
    pace: usize,
}

/// Deposits the next bits of each of the first Q planes, `taken` of which were taken, at the ones of `mask`.
///
/// # Safety
/// BMI2 and POPCNT; `taken` is at most the number of weights in the largest tile.
// Inlined into functions that have the features: as a function of its own it would cost more than it does.
#[inline(always)]
unsafe fn deposit<const Q: usize>(planes: &Planes, taken: usize, mask: u64) -> [u64; Q] {
    let mut out = [0; Q];
    // SAFETY: of the 16 bytes from that of bit `taken` on, the last is in the word after the next, which a plane has.
    unsafe {
        if mask.count_ones() <= 57 {
            for q in 0..Q {
                let bits = planes[q].as_ptr().cast::<u8>().add(taken / 8).cast::<u64>().read_unaligned();
                out[q] = _pdep_u64(bits >> (taken % 8), mask);
            }
        } else {
            for q in 0..Q {
                let low = *planes[q].get_unchecked(taken / 64) >> (taken % 64);
                let high = *planes[q].get_unchecked(taken / 64 + 1) << 1 << (63 - taken % 64);
                out[q] = _pdep_u64(low | high, mask);
            }
        }
    }
    out
}

/// The low `count` bits are ones.
fn ones(count: usize) -> u64 {
    if count >= 64 { !0 } else { (1 << count) - 1 }
}

impl<'a> Continuations<'a> {
    /// Builds the planes of a tile with at most `limit` continued weights; `None` if the tile is damaged.
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    fn new(code: &TileCode, tile: &CodedTile<'a>, limit: usize, planes: &'a mut [Box<Planes>; 2]) -> Option<Self> {
        let levels = code.code.levels();
        let count = tile.rest[..tile.len].first_chunk()?;
        let total = usize::from(u16::from_le_bytes(*count));
        if total > limit || limit > MAX_TILE_FRACTALS * FRACTAL {
            return None;
        }
        // Where each level begins, and how many entries it has; the last are the escapes.
        let mut starts = [(0, 0); MAX_LEVELS + 1];
        starts[0] = (count.len(), total);
        for d in 0..levels {
            let (start, count) = starts[d];
            let end = start + count.div_ceil(8);
            let bits = tile.rest[..tile.len].get(start..end)?;
            let words = bits.chunks(8).enumerate().map(|(w, _)| level_word(tile.rest, start, count, w).count_ones());
            starts[d + 1] = (end, words.sum::<u32>() as usize);
        }
        let (start, escapes) = starts[levels];
        if !tile.ends_at(start + escapes) {
            return None;
        }
        let count = match levels {
            0 => 0,
            1.. => 1 + levels.ilog2() as usize + usize::from(!levels.is_power_of_two()),
        };
        let [even, odd] = planes;
        for d in (0..levels).rev() {
            let (own, below) = if d % 2 == 0 { (&mut *even, &*odd) } else { (&mut *odd, &*even) };
            let lift = Lift { rest: tile.rest, level: starts[d], top: d == 0, deepest: d + 1 == levels };
            // SAFETY: the features are this function's; `starts` has counted that a level has as many ones as the one
            // below has entries, of which no level has more than `limit`.
            unsafe {
                match count {
                    1 => lift.planes::<1>(below, own),
                    2 => lift.planes::<2>(below, own),
                    3 => lift.planes::<3>(below, own),
                    4 => lift.planes::<4>(below, own),
                    _ => lift.planes::<5>(below, own),
                }
            }
        }
        Some(Self {
            planes: even,
            count,
            total,
            taken: 0,
            escapes: &tile.rest[start..start + escapes],
            step: code.code.step(),
            // No field is above 127: without a step, none is continued.
            below_threshold: if code.code.step() == 0 { i8::MAX } else { code.code.direct().wrapping_sub(1) as i8 },
            ahead: tile.rest[tile.len..].as_ptr(),
            pace: (tile.roots.len() + tile.len) * GROUP / limit.max(1),
        })
    }

    /// Turns the root fields of a panel into ranks, except that escapes lack their bytes; writes the positions of
    /// these, and gives their number.
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    fn add<const Q: usize>(&mut self, ranks: &mut [u8], escapes: &mut [u16]) -> usize {
        assert!(escapes.len() >= ranks.len() + ESCAPES_AT_ONCE && ranks.len() <= usize::from(u16::MAX));
        assert!(self.taken + ranks.len() <= MAX_TILE_FRACTALS * FRACTAL);
        let below_threshold = _mm256_set1_epi8(self.below_threshold);
        let digits: [__m256i; MAX_PLANES] = std::array::from_fn(|q| {
            _mm256_set1_epi8(if q == 0 { 0 } else { self.step.wrapping_shl(q as u32 - 1) as i8 })
        });
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        // Each byte of a mask to the eight lanes that it tells of.
        let spread = [0, 4].map(|first: i64| {
            let of = |byte: i64| (first + byte) * 0x0101_0101_0101_0101;
            _mm256_setr_epi64x(of(0), of(1), of(2), of(3))
        });
        let mut found = 0;
        let mut taken = self.taken;
        for (g, group) in ranks.chunks_exact_mut(GROUP).enumerate() {
            // A tile's parts are too short for the hardware prefetcher to find its pace, so the next tile, which lies
            // behind this one, is fetched evenly while this one is decoded.
            _mm_prefetch::<_MM_HINT_T1>(self.ahead.cast());
            self.ahead = self.ahead.wrapping_add(self.pace);
            let (halves, _) = group.as_chunks_mut::<LANES>();
            let mut lanes = [load(&halves[0]), load(&halves[1])];
            let open = lanes.map(|f| _mm256_movemask_epi8(_mm256_cmpgt_epi8(f, below_threshold)) as u32);
            let open = u64::from(open[0]) | u64::from(open[1]) << 32;
            // SAFETY: the features are this function's; no more is taken than weights are passed, as many as asserted
            // above.
            let masks = unsafe { deposit::<Q>(self.planes, taken, open) };
            taken += open.count_ones() as usize;
            for q in 1..Q {
                let mask = _mm256_set1_epi64x(masks[q] as i64);
                for (lanes, spread) in lanes.iter_mut().zip(spread) {
                    let digit = _mm256_and_si256(_mm256_shuffle_epi8(mask, spread), bit);
                    let digit = _mm256_cmpeq_epi8(digit, bit);
                    *lanes = _mm256_add_epi8(*lanes, _mm256_and_si256(digit, digits[q]));
                }
            }
            if Q > 1 {
                store(&mut halves[0], lanes[0]);
                store(&mut halves[1], lanes[1]);
            }
            let mut escaped = if Q == 0 { open } else { masks[0] };
            if escaped != 0 {
                let end = found + escaped.count_ones() as usize;
                while found < end {
                    // All at once, without asking how many there are: what is too much is overwritten.
                    for to in &mut escapes[found..found + ESCAPES_AT_ONCE] {
                        *to = (g * GROUP) as u16 + escaped.trailing_zeros() as u16;
                        escaped = _blsr_u64(escaped);
                    }
                    found += ESCAPES_AT_ONCE;
                }
                found = end;
            }
        }
        self.taken = taken;
        found
    }

    /// The bytes of the next `count` escapes, if there are so many.
    fn escape_bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.escapes.split_at_checked(count)?;
        self.escapes = rest;
        Some(bytes)
    }

    /// Whether all was used.
    fn is_finished(&self) -> bool {
        self.taken == self.total && self.escapes.is_empty()
    }
}

/// Word `w` of a level that begins at byte `start` and has `count` bits, without what lies behind them.
fn level_word(rest: &[u8], start: usize, count: usize, w: usize) -> u64 {
    let bytes = rest[start + w * 8..].first_chunk().expect("64 bytes follow every tile");
    u64::from_le_bytes(*bytes) & ones(count - w * 64)
}

/// One level's planes from those of the level below it.
struct Lift<'a> {
    rest: &'a [u8],
    /// Where the level begins, and how many entries it has.
    level: (usize, usize),
    top: bool,
    deepest: bool,
}

impl Lift<'_> {
    /// # Safety
    /// The level has as many ones as the one below has entries; neither has more entries than the largest tile has
    /// weights.
    #[target_feature(enable = "bmi1,bmi2,popcnt")]
    unsafe fn planes<const Q: usize>(&self, below: &Planes, own: &mut Planes) {
        let (start, count) = self.level;
        let mut taken = 0;
        for w in 0..count.div_ceil(64) {
            let bits = level_word(self.rest, start, count, w);
            let mut planes = if self.deepest {
                let mut planes = [0; Q];
                planes[0] = bits;
                planes
            } else {
                // SAFETY: `taken` counts ones of this level, so it is at most the number of entries below.
                unsafe { deposit::<Q>(below, taken, bits) }
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
    }
}

/// The root fields of a panel's lanes.
#[target_feature(enable = "avx2")]
fn root_fields<const R: usize>(roots: &[u8], fields: &mut [u8]) {
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
                store(&mut fields[2 * g + half], field);
            }
        }
    }
}

/// Ranks below 2^R from root fields that hold offsets.
#[target_feature(enable = "avx2")]
fn fold(root_bits: usize, fields: &mut [u8]) {
    let most = _mm256_set1_epi8(((1u32 << (root_bits - 1)) - 1) as i8);
    let mask = _mm256_set1_epi8(((1u32 << root_bits) - 1) as i8);
    for fields in fields.as_chunks_mut().0 {
        let field = load(fields);
        let negative = _mm256_cmpgt_epi8(field, most);
        let rank = _mm256_xor_si256(_mm256_add_epi8(field, field), negative);
        store(fields, _mm256_and_si256(rank, mask));
    }
}

/// Symbols of any ranks in the order of distance.
#[target_feature(enable = "avx2")]
fn unfold(ranks: &[u8], centre: u8, symbols: &mut [u8]) {
    for (ranks, symbols) in ranks.as_chunks().0.iter().zip(symbols.as_chunks_mut().0) {
        let ranks = load(ranks);
        let half = _mm256_and_si256(_mm256_srli_epi16(ranks, 1), _mm256_set1_epi8(i8::MAX));
        let odd = _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_and_si256(ranks, _mm256_set1_epi8(1)));
        store(symbols, _mm256_add_epi8(_mm256_xor_si256(half, odd), _mm256_set1_epi8(centre as i8)));
    }
}

/// The first half of a table as rows for `look_up`: row b has what the symbols of ranks 16 b to 16 b + 15 differ by, in
/// the sense of exclusive or, from those 16 ranks before, the first row excepted.
#[target_feature(enable = "avx2")]
fn deltas(table: &[u8; 256]) -> [__m256i; 8] {
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
fn look_up<const N: usize>(ranks: &[u8], rows: &[__m256i; 8], symbols: &mut [u8]) {
    for (ranks, symbols) in ranks.as_chunks().0.iter().zip(symbols.as_chunks_mut().0) {
        store(symbols, shuffles::<N>(load(ranks), rows));
    }
}

/// Symbols of any ranks: for those of 128 and more the bits of `mask` are turned over.
#[target_feature(enable = "avx2")]
fn look_up_all(ranks: &[u8], rows: &[__m256i; 8], mask: u8, symbols: &mut [u8]) {
    for (ranks, symbols) in ranks.as_chunks().0.iter().zip(symbols.as_chunks_mut().0) {
        let ranks = load(ranks);
        let low = _mm256_and_si256(ranks, _mm256_set1_epi8(i8::MAX));
        let above = _mm256_cmpgt_epi8(_mm256_setzero_si256(), ranks);
        let flipped = _mm256_and_si256(above, _mm256_set1_epi8(mask as i8));
        store(symbols, _mm256_xor_si256(shuffles::<8>(low, rows), flipped));
    }
}

/// Widens rows of `k` activations to 16 bits; of the four of a group, first the even ones, then the odd ones.
#[target_feature(enable = "avx2")]
fn widen(rows: &Rows<'_>, k: usize, out: &mut Vec<[i32; 2]>) {
    out.resize(rows.m() * (k / 4), [0; 2]);
    for (i, out) in out.chunks_exact_mut(k / 4).enumerate() {
        for (x, out) in rows.row(i)[..k].as_chunks::<4>().0.iter().zip(out) {
            let pair = |low: i8, high: i8| i32::from(high) << 16 | i32::from(low) & 0xffff;
            *out = [pair(x[0], x[2]), pair(x[1], x[3])];
        }
    }
}

/// Adds the products of one panel and all rows of widened activations; rows of `acc` are `stride` apart.
#[target_feature(enable = "avx2")]
fn multiply_panel(panel: &[u8], x: &[[i32; 2]], acc: &mut [i32], stride: usize) {
    let steps = panel.len() / GROUP;
    let mut at = 0;
    let mut rows = x.chunks_exact(4 * steps);
    for x in &mut rows {
        block::<4>(panel, x, &mut acc[at..], stride);
        at += 4 * stride;
    }
    let x = rows.remainder();
    match x.len() / steps {
        0 => {}
        1 => block::<1>(panel, x, &mut acc[at..], stride),
        2 => block::<2>(panel, x, &mut acc[at..], stride),
        _ => block::<3>(panel, x, &mut acc[at..], stride),
    }
}

/// One panel by MR rows.
#[inline]
#[target_feature(enable = "avx2")]
fn block<const MR: usize>(panel: &[u8], x: &[[i32; 2]], acc: &mut [i32], stride: usize) {
    let (groups, _) = panel.as_chunks::<GROUP>();
    // Rows of that length: no index is checked again.
    let x: [&[[i32; 2]]; MR] = std::array::from_fn(|i| &x[i * groups.len()..][..groups.len()]);
    let mut sums = [[_mm256_setzero_si256(); 2]; MR];
    for (s, group) in groups.iter().enumerate() {
        let halves = group.as_chunks::<LANES>().0;
        for h in 0..2 {
            let symbols = load(&halves[h]);
            let even = _mm256_and_si256(symbols, _mm256_set1_epi16(0xff));
            let odd = _mm256_srli_epi16::<8>(symbols);
            for i in 0..MR {
                let [x_even, x_odd] = x[i][s];
                let product = _mm256_add_epi32(
                    _mm256_madd_epi16(even, _mm256_set1_epi32(x_even)),
                    _mm256_madd_epi16(odd, _mm256_set1_epi32(x_odd)),
                );
                sums[i][h] = _mm256_add_epi32(sums[i][h], product);
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        let acc = &mut acc[i * stride..][..PANEL];
        for (sum, acc) in sums.iter().zip(acc.chunks_exact_mut(8)) {
            // SAFETY: eight accumulators are what is read and written.
            unsafe {
                let at = acc.as_mut_ptr().cast();
                _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), *sum));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::portable::Portable;
    use crate::{CompressedWeight, Profile, Tiling, WeightType, WeightView, container::Tile, encode};

    struct Rng(u64);

    impl Rng {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }
    }

    #[test]
    fn every_rank_finds_its_symbol() {
        if Avx2::new().is_none() {
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

    /// Whatever the reference accepts must decode to the same symbols; the rest must do no harm.
    #[test]
    fn damaged_tiles() {
        let Some(kernel) = Avx2::new() else { return };
        let (n, k) = (48, 96);
        let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
        let mut accepted = 0;
        for width in [3, 9, 40, 100] {
            let bell = |rng: &mut Rng| (0..4).map(|_| rng.next() as i64 % width).sum::<i64>() as u8;
            let w: Vec<u8> = (0..n * k).map(|_| bell(&mut rng)).collect();
            let view = WeightView::new(&w, (n, k), (k, 1), WeightType::I8).unwrap();
            for profile in [Profile::Fast, Profile::Balanced, Profile::Small] {
                let encoded = encode(&view, profile, Tiling { k: 2, n: 3 }).unwrap();
                let weight =
                    CompressedWeight::parse(&encoded.x2, &encoded.compress_index, &encoded.compress_info).unwrap();
                let Some(code) = weight.code().cloned().map(TileCode::from) else { continue };
                for trial in 0..200 {
                    let mut x2 = encoded.x2.clone();
                    for _ in 0..trial % 8 {
                        let at = rng.next() as usize % x2.len();
                        x2[at] = rng.next() as u8;
                    }
                    for t in 0..weight.geometry().tiles() {
                        let Ok(Tile::Coded(tile)) = weight.tile(&x2, t) else { continue };
                        let shape = weight.geometry().tile(t);
                        let extent = Extent { panels: shape.panels, fractals: shape.fractals };
                        let (mut expected, mut found) = (vec![0; extent.weights()], vec![0; extent.weights()]);
                        let panel = extent.fractals * FRACTAL;
                        let valid = Portable.decode(&code, &tile, extent, &mut expected, panel);
                        let decodes = kernel.decode(&code, &tile, extent, &mut found, panel);
                        assert!(!valid || decodes && expected == found, "{width} {profile:?} {trial} {t}");
                        accepted += usize::from(valid);
                        let (x, mut acc) = (vec![-128; 5 * extent.k()], vec![0; 5 * extent.columns()]);
                        let rows = Rows::new(&x, extent.k(), 5, extent.k());
                        let mut acc = Accumulators::new(&mut acc, extent.columns(), 5, extent.columns());
                        let multiplies = kernel.multiply_coded(&code, &tile, extent, rows, &mut acc);
                        assert_eq!(multiplies, decodes);
                    }
                }
            }
        }
        assert!(accepted > 100);
    }
}
