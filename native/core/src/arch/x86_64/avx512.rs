//! AVX-512 with VNNI, VBMI, VBMI2 and GFNI (Ice Lake, Zen 4 and later), and BMI2.
//!
//! A tile in two steps. First its continuations, from the deepest level up (`continuations`):
//!
//! ```text
//! sums = the escapes
//! for each level, last first:
//!     for 64 bits of the level: next sums = expand(sums) into the lanes of the ones, 0 elsewhere, + A
//! ```
//!
//! then its groups, a fractal's eight side by side (`panels`):
//!
//! ```text
//! rank   = root field of every lane         one or two GF(2) affine transforms of the rows
//! open   = rank >= T                        compare into a mask
//! rank  += expand(sums) in the lanes of open
//! symbol = centre + half the rank, or its complement     a GF(2) affine transform, an addition
//!     or   table[rank mod 128]                           two-register byte permute
//!          ^ mask where rank >= 128                      a GF(2) affine transform, if the code has a mask
//! ```
//!
//! Counts of ones are all that leads from one step to the next, so the processor overlaps them freely.

use super::avx512_block::{Accumulate, FinishColumns, multiply};
use crate::arch::rows::{self, ActivationRow, OutputBlock, Terms};
use crate::arch::{Accumulators, Extent, Rows, TileCode, TileKernel};
use crate::codec::decode::CodedTile;
use crate::codec::{MAX_LEVELS, Order};
use crate::container::geometry::{FRACTAL, FRACTAL_K, GROUP, GROUPS, PANEL};
use std::arch::x86_64::*;
use std::cell::RefCell;

/// Bytes of a cache line.
const LINE: usize = 64;
/// Bytes that the low 12 bits of an address tell apart.
const PAGE: usize = 4096;

/// Rows up to which each visits the groups while they are in registers; more are multiplied from decoded strips.
const FUSED_ROWS: usize = 12;

/// Entries of levels after which the sink gets its turn: some 100 ns.
const MEANWHILE_ENTRIES: usize = 4096;

/// Proof that the processor has the instructions.
#[derive(Debug)]
pub struct Avx512(());

static AVX512: Avx512 = Avx512(());

impl Avx512 {
    /// The kernel, if the processor has all that it uses.
    pub fn new() -> Option<&'static Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vbmi2")
            && is_x86_feature_detected!("gfni")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt");
        has.then_some(&AVX512)
    }
}

/// What is done with the eight groups of a fractal once they are symbols.
pub(super) trait Sink {
    /// # Safety
    /// The processor must have the features of [`Avx512`], and the sink's own pointers must cover the fractal.
    unsafe fn fractal(&mut self, panel: usize, fractal: usize, symbols: &[__m512i; GROUPS]);
    /// # Safety
    /// As for [`Self::fractal`].
    unsafe fn panel_end(&mut self, panel: usize);
    /// Called now and then while there are no fractals.
    ///
    /// # Safety
    /// As for [`Self::fractal`].
    #[inline(always)]
    unsafe fn meanwhile(&mut self) {}
}

impl TileKernel for Avx512 {
    fn name(&self) -> &'static str {
        "x86_64-u8i8i32-avx512vnni"
    }

    fn fused_rows(&self) -> usize {
        FUSED_ROWS
    }

    fn prefetch(&self, bytes: &[u8]) {
        for line in bytes.chunks(LINE) {
            // SAFETY: a hint, which accepts any address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
        }
    }

    fn decode(&self, code: &TileCode, tile: &CodedTile<'_>, extent: Extent, out: &mut [u8], stride: usize) -> bool {
        assert!(out.len() >= extent.span(stride));
        let mut sink = Store { out: out.as_mut_ptr(), stride };
        decode_tile(code, tile, extent, &mut sink)
    }

    fn multiply_coded(
        &self,
        code: &TileCode,
        tile: &CodedTile<'_>,
        extent: Extent,
        rows: Rows<'_>,
        acc: &mut Accumulators<'_>,
    ) -> bool {
        check_operands(extent, &rows, acc);
        let stride = acc.stride();
        let data = acc.data().as_mut_ptr();
        if rows.m() == 1 {
            // SAFETY: setting a register to zero needs nothing but the feature, which `self` proves.
            let sums = unsafe { [_mm512_setzero_si512(); 2] };
            let mut sink = DotOne { x: rows.data().as_ptr(), acc: data, sums };
            decode_tile(code, tile, extent, &mut sink)
        } else {
            let mut sink =
                DotMany { x: rows.data().as_ptr(), x_stride: rows.stride(), m: rows.m(), acc: data, stride };
            decode_tile(code, tile, extent, &mut sink)
        }
    }

    fn multiply(&self, symbols: &[u8], extent: Extent, rows: Rows<'_>, acc: &mut Accumulators<'_>) {
        assert!(symbols.len() >= extent.weights());
        check_operands(extent, &rows, acc);
        let stride = acc.stride();
        let (data, fresh) = acc.data_or_fresh();
        let to = Accumulate { at: data.as_mut_ptr(), stride, fresh };
        // SAFETY: `self` proves the features; the two checks above cover every address that the loops form.
        unsafe { multiply(symbols.as_ptr(), extent.fractals * FRACTAL, extent, &rows, to) };
    }

    fn multiply_finish(
        &self,
        symbols: &[u8],
        extent: Extent,
        rows: Rows<'_>,
        terms: &Terms<'_>,
        out: &mut OutputBlock<'_>,
    ) -> bool {
        assert!(symbols.len() >= extent.weights() && rows.covers(extent.k()));
        let Some(finish) = FinishColumns::new(extent.columns(), rows.m(), terms, out) else { return false };
        // SAFETY: `self` proves the features; the checks above cover symbols and rows, `new` has checked the rest.
        unsafe { multiply(symbols.as_ptr(), extent.fractals * FRACTAL, extent, &rows, finish.first_row()) };
        true
    }

    fn pack(&self, from: ActivationRow<'_>, to: &mut [i8]) -> i32 {
        // SAFETY: `self` proves the features.
        unsafe { pack(from, to) }
    }

    fn finish(&self, sums: &[i32], stride: usize, terms: &Terms<'_>, mut out: OutputBlock<'_>) {
        let m = terms.row_sums.len();
        if let Some(finish) = FinishColumns::new(terms.columns.len(), m, terms, &mut out) {
            assert!(m == 0 || (m - 1) * stride + terms.columns.len() <= sums.len());
            // SAFETY: `self` proves the features; `new` has checked the block, and the line above the sums.
            unsafe { finish.rows(0, m, sums.as_ptr(), stride) };
            return;
        }
        // SAFETY: `self` proves the features.
        unsafe { finish(sums, stride, terms, out) }
    }
}

/// Packs a row: 64 bytes are flipped, if they are unsigned, and summed by a product with ones.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,bmi2")]
fn pack(from: ActivationRow<'_>, to: &mut [i8]) -> i32 {
    let (from, len, flip) = match from {
        ActivationRow::U8(x) => (x.as_ptr().cast::<i8>(), x.len(), _mm512_set1_epi8(i8::MIN)),
        ActivationRow::I8(x) => (x.as_ptr(), x.len(), _mm512_setzero_si512()),
    };
    assert_eq!(len, to.len());
    let ones = _mm512_set1_epi8(1);
    let mut sum = _mm512_setzero_si512();
    for at in (0..len).step_by(64) {
        let mask = _bzhi_u64(u64::MAX, (len - at).min(64) as u32);
        // SAFETY: the mask keeps both accesses inside of rows that have the same length.
        unsafe {
            let x = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, from.add(at)), flip);
            _mm512_mask_storeu_epi8(to.as_mut_ptr().add(at), mask, x);
            sum = _mm512_dpbusd_epi32(sum, ones, _mm512_maskz_mov_epi8(mask, x));
        }
    }
    _mm512_reduce_add_epi32(sum)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn finish(sums: &[i32], stride: usize, terms: &Terms<'_>, out: OutputBlock<'_>) {
    rows::finish(sums, stride, terms, out);
}

/// # Panics
/// If the rows or accumulators do not cover the tile.
pub(super) fn check_operands(extent: Extent, rows: &Rows<'_>, acc: &Accumulators<'_>) {
    assert!(rows.covers(extent.k()));
    assert!((rows.m() - 1) * acc.stride() + extent.columns() <= acc.len());
}

/// A 64-byte load or store.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

thread_local! {
    /// Sums of the level that is being built, and of the one below it.
    static SUMS: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Decodes all of a tile into `sink`, which must cover `extent`; whether everything was consumed exactly.
pub(super) fn decode_tile<S: Sink>(code: &TileCode, tile: &CodedTile<'_>, extent: Extent, sink: &mut S) -> bool {
    assert_eq!(tile.roots.len(), extent.weights() / FRACTAL * code.code.root_bits() * GROUP);
    assert!(tile.rest.len() >= tile.len + GROUP);
    // A load of 64 sums may begin with the last one. The two buffers are half a page apart modulo the page, for a load
    // waits for an earlier store whose address has the same low 12 bits.
    let second = (extent.weights() + GROUP).next_multiple_of(PAGE) + PAGE / 2;
    SUMS.with_borrow_mut(|lines| {
        let needed = (second + extent.weights() + GROUP).div_ceil(LINE);
        if lines.len() < needed {
            lines.resize(needed, Line([0; LINE]));
        }
        let sums = lines.as_mut_ptr().cast::<u8>();
        let sums = [sums, sums.wrapping_add(second)];
        // SAFETY: a kernel exists only where the features do; the assertions above cover the roots and the rest, both
        // sums have room for all weights and 64 more, and the caller answers for the sink.
        unsafe {
            match code.code.root_bits() {
                1 => panels::<S, 1>(code, tile, extent, sums, sink),
                2 => panels::<S, 2>(code, tile, extent, sums, sink),
                3 => panels::<S, 3>(code, tile, extent, sums, sink),
                4 => panels::<S, 4>(code, tile, extent, sums, sink),
                5 => panels::<S, 5>(code, tile, extent, sums, sink),
                6 => panels::<S, 6>(code, tile, extent, sums, sink),
                _ => panels::<S, 7>(code, tile, extent, sums, sink),
            }
        }
    })
}

/// Builds the sums of a tile's continued weights in `sums[0]`, at most `limit` of them. Gives their number, or `None` if
/// the tile is damaged.
///
/// # Safety
/// All features of [`Avx512`]; 64 bytes behind `tile.len` are readable; both sums have `limit` + 64 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,bmi1,bmi2,popcnt")]
unsafe fn continuations<S: Sink>(
    code: &TileCode,
    tile: &CodedTile<'_>,
    limit: usize,
    sums: [*mut u8; 2],
    sink: &mut S,
) -> Option<usize> {
    let levels = code.code.levels();
    let count = tile.rest[..tile.len].first_chunk()?;
    let total = usize::from(u16::from_le_bytes(*count));
    if total > limit {
        return None;
    }
    // Where each level begins, and how many entries it has; the last are the escapes.
    let mut starts = [(0, 0); MAX_LEVELS + 1];
    starts[0] = (count.len(), total);
    let rest = tile.rest.as_ptr();
    for d in 0..levels {
        let (start, count) = starts[d];
        if start + count.div_ceil(8) > tile.len {
            return None;
        }
        let mut ones = 0;
        for word in 0..count / 64 {
            // SAFETY: inside of the level, which is inside of the tile.
            ones += unsafe { rest.add(start + word * 8).cast::<u64>().read_unaligned() }.count_ones();
        }
        // SAFETY: at most 7 bytes behind the level's end.
        let last = unsafe { rest.add(start + count / 64 * 8).cast::<u64>().read_unaligned() };
        ones += _bzhi_u64(last, (count % 64) as u32).count_ones();
        starts[d + 1] = (start + count.div_ceil(8), ones as usize);
    }
    let (start, escapes) = starts[levels];
    if !tile.ends_at(start + escapes) {
        return None;
    }
    // Copied: should the file change while it is read, a level may have more ones than were counted, and what they take
    // must lie in memory of our own.
    // SAFETY: the escapes end inside of the tile, as was checked; they are no more than `total`, which fits both sums.
    unsafe { rest.add(start).copy_to_nonoverlapping(sums[levels % 2], escapes) };
    let step = _mm512_set1_epi8(code.code.step() as i8);
    let mut below = sums[levels % 2];
    let mut entries = 0;
    for d in (0..levels).rev() {
        let (start, count) = starts[d];
        let own = sums[d % 2];
        // SAFETY: the level is inside of the tile, behind which 64 bytes are readable. No level has more than `limit` entries, so
        // whatever its bits are by now, no more are taken from the level below; both sums have room for `limit` + 64.
        unsafe {
            let bits = rest.add(start);
            // At level 0 a weight that goes no further keeps its root field.
            if d == 0 {
                expand_level(bits, count, below, own, |entries| entries);
            } else {
                expand_level(bits, count, below, own, |entries| _mm512_add_epi8(entries, step));
            }
        }
        below = own;
        entries += count;
        if d == 0 || entries > MEANWHILE_ENTRIES {
            entries = 0;
            // SAFETY: the caller's contract.
            unsafe { sink.meanwhile() };
        }
    }
    Some(total)
}

/// Builds a level's sums in `own` from those of the level below: the entries whose bits are ones take the next of them each,
/// and `add` is done to all.
///
/// # Safety
/// AVX-512 with VBMI2; `bits` and 7 bytes behind them are readable; as many sums as there are ones, and 64 bytes more, are
/// below; `own` has room for `count` sums and 64 more.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,bmi2,popcnt")]
unsafe fn expand_level(
    bits: *const u8,
    count: usize,
    below: *const u8,
    own: *mut u8,
    add: impl Fn(__m512i) -> __m512i,
) {
    let mut taken = 0;
    let mut expand = |block: usize, bits: u64| {
        // SAFETY: the caller's contract.
        unsafe {
            let entries = _mm512_maskz_expand_epi8(bits, _mm512_loadu_si512(below.add(taken).cast()));
            _mm512_storeu_si512(own.add(block * 64).cast(), add(entries));
        }
        taken += bits.count_ones() as usize;
    };
    for block in 0..count / 64 {
        // SAFETY: inside of the level.
        expand(block, unsafe { bits.add(block * 8).cast::<u64>().read_unaligned() });
    }
    // SAFETY: at most 7 bytes behind the level's end; ones there are cut off.
    let last = unsafe { bits.add(count / 64 * 8).cast::<u64>().read_unaligned() };
    expand(count / 64, _bzhi_u64(last, (count % 64) as u32));
}

/// Writes a block out for each value of a constant: left as a loop, arrays of registers end up in memory.
macro_rules! unrolled {
    ($name:ident in [$($value:literal)*] $body:block) => {
        $({
            const $name: usize = $value;
            $body
        })*
    };
}
pub(super) use unrolled;

/// Writes a block out for each of the eight groups.
macro_rules! each_group {
    ($g:ident => $body:block) => {
        unrolled!($g in [0 1 2 3 4 5 6 7] $body)
    };
}
pub(super) use each_group;

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

/// Matrix of GF2P8AFFINEQB that turns a rank into a distance: the upper seven bits move down, and the lowest is added to all.
const UNFOLD: i64 = {
    let mut m = 0u64;
    let mut i = 0;
    while i < 8 {
        // Byte 7 − i of the matrix picks the input bits of output bit i.
        m |= ((2 << i) & 0xff | 1) << (8 * (7 - i));
        i += 1;
    }
    m as i64
};

/// Matrix of GF2P8AFFINEQB that turns bytes with their top bit set into `mask`, and others into 0.
const fn spread_top(mask: u8) -> i64 {
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

/// The eight root fields of every lane.
///
/// # Safety
/// AVX-512BW and GFNI; `rows` points to R · 64 readable bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,gfni")]
unsafe fn root_fields<const R: usize>(rows: *const u8) -> [__m512i; GROUPS] {
    let zero = _mm512_setzero_si512();
    // SAFETY: called with b < R only.
    let row = |b: usize| unsafe { _mm512_loadu_si512(rows.add(b * GROUP).cast()) };
    let mut fields = [zero; GROUPS];
    each_group!(G => {
        let (byte, shift) = (G * R / 8, G * R % 8);
        let first = if shift + R <= 8 { R } else { 8 - shift };
        fields[G] = _mm512_gf2p8affine_epi64_epi8::<0>(row(byte), _mm512_set1_epi64(move_bits(shift, 0, first)));
        if first < R {
            let high = _mm512_set1_epi64(move_bits(0, first, R - first));
            fields[G] = _mm512_or_si512(fields[G], _mm512_gf2p8affine_epi64_epi8::<0>(row(byte + 1), high));
        }
    });
    fields
}

/// # Safety
/// All features of [`Avx512`]; the tile's roots cover the extent, both sums and the rest are as `continuations` needs
/// them, `sink` covers the extent.
#[target_feature(
    enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx512vbmi2,gfni,bmi1,bmi2,popcnt"
)]
unsafe fn panels<S: Sink, const R: usize>(
    code: &TileCode,
    tile: &CodedTile<'_>,
    extent: Extent,
    sums: [*mut u8; 2],
    sink: &mut S,
) -> bool {
    // A code without a step continues nothing: no root field reaches the threshold.
    let threshold = _mm512_set1_epi8(if code.code.step() == 0 { -1 } else { code.code.direct() as i8 });
    // SAFETY: the table has 256 bytes.
    let table: [__m512i; 2] = unsafe {
        let row = code.table.as_ptr().cast::<__m512i>();
        [_mm512_loadu_si512(row), _mm512_loadu_si512(row.add(1))]
    };
    let (by_distance, mask) = match code.code.order() {
        Order::Distance(_) => (true, 0),
        Order::Stored(stored) => (false, stored.mask()),
    };
    let unfold = _mm512_set1_epi64(UNFOLD);
    let centre = _mm512_set1_epi8(code.table[0] as i8);
    let top_to_mask = _mm512_set1_epi64(spread_top(mask));
    // SAFETY: as promised by the caller.
    let Some(total) = (unsafe { continuations(code, tile, extent.weights(), sums, sink) }) else {
        return false;
    };
    let sums = sums[0].cast_const();
    let mut taken = 0;
    let mut roots = tile.roots.as_ptr();
    let mut ahead = tile.rest[tile.len..].as_ptr();
    let lines = (tile.roots.len() + tile.len).div_ceil(LINE * extent.weights() / FRACTAL);
    for panel in 0..extent.panels {
        for fractal in 0..extent.fractals {
            // A tile's parts are too short for the hardware prefetcher to find its pace, so the next tile, which lies
            // behind this one, is fetched evenly while this one is decoded.
            for line in 0..lines {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(line * LINE).cast());
            }
            ahead = ahead.wrapping_add(lines * LINE);
            // SAFETY: the caller's roots cover every fractal.
            let mut rank = unsafe { root_fields::<R>(roots) };
            // SAFETY: at most one past the end.
            roots = unsafe { roots.add(R * GROUP) };
            each_group!(G => {
                let open = _mm512_cmpge_epu8_mask(rank[G], threshold);
                // SAFETY: a tile has no more continued weights than weights, for which there is room, and 64 more.
                let added = unsafe { _mm512_loadu_si512(sums.add(taken).cast()) };
                rank[G] = _mm512_add_epi8(rank[G], _mm512_maskz_expand_epi8(open, added));
                taken += open.count_ones() as usize;
            });
            let mut symbols = [_mm512_setzero_si512(); GROUPS];
            if by_distance {
                each_group!(G => {
                    let distance = _mm512_gf2p8affine_epi64_epi8::<0>(rank[G], unfold);
                    symbols[G] = _mm512_add_epi8(distance, centre);
                });
            } else {
                each_group!(G => {
                    symbols[G] = _mm512_permutex2var_epi8(table[0], rank[G], table[1]);
                });
                if mask != 0 {
                    each_group!(G => {
                        let flipped = _mm512_gf2p8affine_epi64_epi8::<0>(rank[G], top_to_mask);
                        symbols[G] = _mm512_xor_si512(symbols[G], flipped);
                    });
                }
            }
            // SAFETY: the caller's sink covers the extent.
            unsafe { sink.fractal(panel, fractal, &symbols) };
        }
        // SAFETY: the caller's sink covers the extent.
        unsafe { sink.panel_end(panel) };
    }
    taken == total
}

/// Writes the symbols in kernel order, panels `stride` apart.
struct Store {
    out: *mut u8,
    stride: usize,
}

impl Sink for Store {
    #[inline(always)]
    unsafe fn fractal(&mut self, panel: usize, fractal: usize, symbols: &[__m512i; GROUPS]) {
        let at = panel * self.stride + fractal * FRACTAL;
        each_group!(G => {
            // SAFETY: `out` covers the extent, as the caller of this sink promises.
            unsafe { _mm512_storeu_si512(self.out.add(at + G * GROUP).cast(), symbols[G]) };
        });
    }
    #[inline(always)]
    unsafe fn panel_end(&mut self, _: usize) {}
}

/// One row: the sums stay in registers for a panel.
struct DotOne {
    x: *const i8,
    acc: *mut i32,
    sums: [__m512i; 2],
}

impl Sink for DotOne {
    #[inline(always)]
    unsafe fn fractal(&mut self, _: usize, fractal: usize, symbols: &[__m512i; GROUPS]) {
        // SAFETY: the row covers the extent, as the caller of this sink promises; features as well.
        unsafe {
            let x = self.x.add(fractal * FRACTAL_K).cast::<i32>();
            each_group!(G => {
                let x4 = _mm512_set1_epi32(x.add(G).read_unaligned());
                self.sums[G % 2] = _mm512_dpbusd_epi32(self.sums[G % 2], symbols[G], x4);
            });
        }
    }
    #[inline(always)]
    unsafe fn panel_end(&mut self, panel: usize) {
        // SAFETY: the accumulators cover the extent, as the caller of this sink promises; features as well.
        unsafe {
            let acc = self.acc.add(panel * PANEL).cast();
            let sum = _mm512_add_epi32(self.sums[0], self.sums[1]);
            _mm512_storeu_si512(acc, _mm512_add_epi32(_mm512_loadu_si512(acc), sum));
            self.sums = [_mm512_setzero_si512(); 2];
        }
    }
}

/// A few rows: each visits the eight groups while they are in registers.
struct DotMany {
    x: *const i8,
    x_stride: usize,
    m: usize,
    acc: *mut i32,
    stride: usize,
}

impl Sink for DotMany {
    #[inline(always)]
    unsafe fn fractal(&mut self, panel: usize, fractal: usize, symbols: &[__m512i; GROUPS]) {
        // SAFETY: rows and accumulators cover the extent, as the caller of this sink promises; features as well.
        unsafe {
            let mut x = self.x.add(fractal * FRACTAL_K);
            let mut acc = self.acc.add(panel * PANEL);
            for _ in 0..self.m {
                let x4 = x.cast::<i32>();
                let mut sums = [_mm512_loadu_si512(acc.cast()), _mm512_setzero_si512()];
                each_group!(G => {
                    let x4 = _mm512_set1_epi32(x4.add(G).read_unaligned());
                    sums[G % 2] = _mm512_dpbusd_epi32(sums[G % 2], symbols[G], x4);
                });
                _mm512_storeu_si512(acc.cast(), _mm512_add_epi32(sums[0], sums[1]));
                x = x.wrapping_add(self.x_stride);
                acc = acc.wrapping_add(self.stride);
            }
        }
    }
    #[inline(always)]
    unsafe fn panel_end(&mut self, _: usize) {}
}
