//! AVX-512 with VNNI, VBMI, VBMI2 and GFNI (Ice Lake, Zen 4 and later), and BMI2.
//!
//! One fractal at a time, its eight groups of 64 weights side by side:
//!
//! ```text
//! rank   = root field of every lane                one or two GF(2) affine transforms of the rows
//! alive  = rank >= T                               compare into a mask
//! for each level:
//!     next   = deposit(bits of the stream, alive)  hands each continued lane its bit
//!     stream += popcount(alive)
//!     alive  = next
//! rank  += A · (how often a lane was continued)    the masks of the levels as binary digits: three masked adds
//! symbol = table[rank]                             two-register byte permute
//! symbol = expand(escapes) in the lanes of alive
//! ```
//!
//! Level 0 waits for nothing but the root fields; the chain through the deeper levels is shared by four groups.

use crate::arch::{Accumulators, Extent, Rows, TileCode, TileKernel};
use crate::codec::decode::CodedTile;
use crate::codec::encode::NARROW;
use crate::codec::{DEEP_STREAMS, MAX_STREAMS};
use crate::container::geometry::{FRACTAL, FRACTAL_K, GROUP, GROUPS, PANEL};
use std::arch::x86_64::*;

/// Bytes of a cache line.
const LINE: usize = 64;

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
trait Sink {
    /// Whether to look for groups that are too wide for their kind.
    const CHECK: bool = false;
    /// # Safety
    /// The processor must have the features of [`Avx512`], and the sink's own pointers must cover the fractal.
    unsafe fn fractal(&mut self, panel: usize, fractal: usize, symbols: &[__m512i; GROUPS]);
    /// # Safety
    /// As for [`Self::fractal`].
    unsafe fn panel_end(&mut self, panel: usize);
}

/// Where a tile's variable parts are, with room behind them for wide loads.
struct Cursor {
    rest: *const u8,
    /// Where the next tile begins, or any address: only prefetched.
    ahead: *const u8,
    /// Cache lines to prefetch for each fractal.
    lines: usize,
    /// Next bit of each stream, counted from `rest`.
    bits: [usize; MAX_STREAMS],
    /// Next escape, counted in bytes from `rest`.
    escape: usize,
    /// Ends of the streams in bits and of the escapes in bytes.
    ends: ([usize; MAX_STREAMS], usize),
    /// Whether a group has more bits than a narrow load serves.
    too_wide: bool,
}

impl TileKernel for Avx512 {
    fn name(&self) -> &'static str {
        "x86_64-u8i8i32-avx512vnni"
    }

    fn fused_rows(&self) -> usize {
        12
    }

    fn decode(&self, code: &TileCode, tile: &CodedTile<'_>, extent: Extent, out: &mut [u8]) -> bool {
        assert!(out.len() >= extent.weights());
        let mut sink = Store { out: out.as_mut_ptr(), fractals: extent.fractals };
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
        let (stride, data) = (acc.stride(), acc.data().as_mut_ptr());
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
        let (stride, data) = (acc.stride(), acc.data().as_mut_ptr());
        // SAFETY: `self` proves the features; the two checks above cover every address that the loops form.
        unsafe { multiply(symbols.as_ptr(), extent, &rows, data, stride) };
    }

    fn verify(&self, code: &TileCode, tile: &CodedTile<'_>, extent: Extent) -> Result<(), &'static str> {
        let mut sink = Discard;
        if decode_tile(code, tile, extent, &mut sink) {
            return Ok(());
        }
        // The reference finds the reason.
        tile.decode(&code.code, &mut vec![0; extent.weights()])?;
        Err("is refused by the vector decoder")
    }
}

/// # Panics
/// If the rows or accumulators do not cover the tile.
fn check_operands(extent: Extent, rows: &Rows<'_>, acc: &mut Accumulators<'_>) {
    let last = rows.m() - 1;
    assert!(last * rows.stride() + extent.k() <= rows.data().len());
    assert!(last * acc.stride() + extent.columns() <= acc.data().len());
}

thread_local! {
    /// Copy of the variable parts of a tile that ends too near the end of `x2`.
    static PATCH: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Decodes all of a tile into `sink`; whether every part was consumed exactly, and (if the sink checks) whether no
/// group of a narrow tile was wide. The sink must cover `extent`.
fn decode_tile<S: Sink>(code: &TileCode, tile: &CodedTile<'_>, extent: Extent, sink: &mut S) -> bool {
    let streams = code.code.streams();
    assert_eq!(tile.roots.len(), extent.weights() / FRACTAL * code.code.root_bits() * GROUP);
    // Positions are held against the ends of their parts after every panel. However damaged the tile is, a panel moves
    // a stream by no more than one bit a weight and level, and the escapes by no more than one byte a weight.
    let panel = extent.fractals * FRACTAL;
    let used = tile.starts[streams + 1] as usize;
    let reach = used + (panel + GROUP).max(panel / 8 * code.code.levels() + 17);
    if reach <= tile.rest.len() {
        return run(code, tile, extent, tile.rest, sink);
    }
    PATCH.with_borrow_mut(|patch| {
        if patch.len() < reach {
            patch.resize(reach, 0);
        }
        patch[..used].copy_from_slice(&tile.rest[..used]);
        run(code, tile, extent, patch, sink)
    })
}

/// As [`decode_tile`], with `rest` long enough for every load.
fn run<S: Sink>(code: &TileCode, tile: &CodedTile<'_>, extent: Extent, rest: &[u8], sink: &mut S) -> bool {
    let streams = code.code.streams();
    let used = tile.starts[streams + 1] as usize;
    let mut cursor = Cursor {
        rest: rest.as_ptr(),
        ahead: tile.rest[used..].as_ptr(),
        lines: (tile.roots.len() + used).div_ceil(LINE * extent.weights() / FRACTAL),
        bits: std::array::from_fn(|s| tile.starts[s] as usize * 8),
        escape: tile.starts[streams] as usize,
        ends: (std::array::from_fn(|s| tile.starts[s + 1] as usize * 8), used),
        too_wide: false,
    };
    let roots = tile.roots.as_ptr();
    // SAFETY: a kernel exists only where the features do; `roots` covers the extent (checked by the caller), `rest`
    // covers all that a tile of this many weights can read (checked by the caller), and so does the sink.
    unsafe {
        match (code.code.levels(), tile.wide) {
            (0, _) => fractals::<S, 0, false>(code, extent, roots, &mut cursor, sink),
            (1, false) => fractals::<S, 1, false>(code, extent, roots, &mut cursor, sink),
            (2, false) => fractals::<S, 2, false>(code, extent, roots, &mut cursor, sink),
            (3, false) => fractals::<S, 3, false>(code, extent, roots, &mut cursor, sink),
            (4, false) => fractals::<S, 4, false>(code, extent, roots, &mut cursor, sink),
            (5, false) => fractals::<S, 5, false>(code, extent, roots, &mut cursor, sink),
            (6, false) => fractals::<S, 6, false>(code, extent, roots, &mut cursor, sink),
            (7, false) => fractals::<S, 7, false>(code, extent, roots, &mut cursor, sink),
            (_, false) => fractals::<S, 8, false>(code, extent, roots, &mut cursor, sink),
            (1, true) => fractals::<S, 1, true>(code, extent, roots, &mut cursor, sink),
            (2, true) => fractals::<S, 2, true>(code, extent, roots, &mut cursor, sink),
            (3, true) => fractals::<S, 3, true>(code, extent, roots, &mut cursor, sink),
            (4, true) => fractals::<S, 4, true>(code, extent, roots, &mut cursor, sink),
            (5, true) => fractals::<S, 5, true>(code, extent, roots, &mut cursor, sink),
            (6, true) => fractals::<S, 6, true>(code, extent, roots, &mut cursor, sink),
            (7, true) => fractals::<S, 7, true>(code, extent, roots, &mut cursor, sink),
            (_, true) => fractals::<S, 8, true>(code, extent, roots, &mut cursor, sink),
        }
    }
    let exact = |s: usize| {
        let (at, end) = (cursor.bits[s], tile.starts[s + 1] as usize);
        at.div_ceil(8) == end && (at % 8 == 0 || rest[at / 8] >> (at % 8) == 0)
    };
    // A tile that was left early has a position behind its end, which is not exact either.
    let consumed = (0..streams).all(exact) && cursor.escape == tile.starts[streams + 1] as usize;
    consumed && !(cursor.too_wide && !tile.wide)
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

/// Writes a block out for each of the eight groups.
macro_rules! each_group {
    ($g:ident => $body:block) => {
        unrolled!($g in [0 1 2 3 4 5 6 7] $body)
    };
}

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

/// The 64 bits at bit `at` from `rest` on; only the lowest 57 are sure to be right unless WIDE.
///
/// # Safety
/// 17 bytes from byte `at / 8` on are readable.
#[inline(always)]
unsafe fn read_bits<const WIDE: bool>(rest: *const u8, at: usize) -> u64 {
    // SAFETY: as promised by the caller.
    unsafe {
        let word = rest.add(at >> 3).cast::<u64>();
        let bits = word.read_unaligned() >> (at & 7);
        if WIDE { bits | word.add(1).read_unaligned() << 1 << (63 - (at & 7)) } else { bits }
    }
}

/// # Safety
/// All features of [`Avx512`]; `roots` covers the extent, `cursor.rest` all that its weights can read, `sink` the extent.
#[target_feature(
    enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx512vbmi2,gfni,bmi1,bmi2,popcnt"
)]
unsafe fn fractals<S: Sink, const LEVELS: usize, const WIDE: bool>(
    code: &TileCode,
    extent: Extent,
    mut roots: *const u8,
    cursor: &mut Cursor,
    sink: &mut S,
) {
    let root_bits = code.code.root_bits();
    let threshold = _mm512_set1_epi8(code.code.direct() as i8);
    let step = code.code.step();
    let step1 = _mm512_set1_epi8(step as i8);
    let step2 = _mm512_set1_epi8(step.wrapping_mul(2) as i8);
    let step4 = _mm512_set1_epi8(step.wrapping_mul(4) as i8);
    let step8 = _mm512_set1_epi8(step.wrapping_mul(8) as i8);
    // SAFETY: the table has 128 bytes.
    let (low, high) = unsafe {
        (_mm512_loadu_si512(code.table.as_ptr().cast()), _mm512_loadu_si512(code.table.as_ptr().add(64).cast()))
    };
    let rest = cursor.rest;
    let [mut first, mut deep @ ..] = cursor.bits;
    let mut escape = cursor.escape;
    let mut widest = 0;
    for panel in 0..extent.panels {
        for fractal in 0..extent.fractals {
            // A tile's parts are too short for the hardware prefetcher to find its pace, so the next tile, which lies
            // behind this one, is fetched evenly while this one is decoded.
            for line in 0..cursor.lines {
                _mm_prefetch::<_MM_HINT_T1>(cursor.ahead.wrapping_add(line * LINE).cast());
            }
            cursor.ahead = cursor.ahead.wrapping_add(cursor.lines * LINE);
            // SAFETY: the caller's roots cover every fractal.
            let mut rank = unsafe {
                match root_bits {
                    1 => root_fields::<1>(roots),
                    2 => root_fields::<2>(roots),
                    3 => root_fields::<3>(roots),
                    4 => root_fields::<4>(roots),
                    5 => root_fields::<5>(roots),
                    6 => root_fields::<6>(roots),
                    _ => root_fields::<7>(roots),
                }
            };
            // SAFETY: at most one past the end.
            roots = unsafe { roots.add(root_bits * GROUP) };
            let mut alive = [0u64; GROUPS];
            let mut any = 0;
            each_group!(G => {
                alive[G] = _mm512_cmpge_epu8_mask(rank[G], threshold);
                if LEVELS > 0 {
                    // SAFETY: `rest` has 17 bytes behind every bit that the tile's weights can reach.
                    let mut bits = unsafe { read_bits::<WIDE>(rest, first) };
                    let mut count = alive[G].count_ones() as usize;
                    first += count;
                    if S::CHECK {
                        widest = widest.max(count);
                    }
                    alive[G] = _pdep_u64(bits, alive[G]);
                    // How often each lane was continued, as binary digits: digit i changes at every 2^i-th level.
                    let mut digits = [alive[G], 0, 0, 0];
                    let start = deep[G % DEEP_STREAMS];
                    let mut at = start;
                    unrolled!(LEVEL in [2 3 4 5 6 7 8] {
                        if LEVEL <= LEVELS {
                            if WIDE || LEVEL == 2 {
                                // SAFETY: as above.
                                bits = unsafe { read_bits::<WIDE>(rest, at) };
                            } else {
                                bits >>= count & 63;
                            }
                            count = alive[G].count_ones() as usize;
                            at += count;
                            alive[G] = _pdep_u64(bits, alive[G]);
                            digits[0] ^= alive[G];
                            if LEVEL % 2 == 0 {
                                digits[1] ^= alive[G];
                            }
                            if LEVEL % 4 == 0 {
                                digits[2] ^= alive[G];
                            }
                            if LEVEL % 8 == 0 {
                                digits[3] ^= alive[G];
                            }
                        }
                    });
                    deep[G % DEEP_STREAMS] = at;
                    if S::CHECK {
                        widest = widest.max(at - start);
                    }
                    any |= alive[G];
                    rank[G] = _mm512_mask_add_epi8(rank[G], digits[0], rank[G], step1);
                    if LEVELS >= 2 {
                        rank[G] = _mm512_mask_add_epi8(rank[G], digits[1], rank[G], step2);
                    }
                    if LEVELS >= 4 {
                        rank[G] = _mm512_mask_add_epi8(rank[G], digits[2], rank[G], step4);
                    }
                    if LEVELS >= 8 {
                        rank[G] = _mm512_mask_add_epi8(rank[G], digits[3], rank[G], step8);
                    }
                }
            });
            let mut symbols = [_mm512_setzero_si512(); GROUPS];
            each_group!(G => {
                symbols[G] = _mm512_permutex2var_epi8(low, rank[G], high);
            });
            // Without levels a fractal seldom lacks escapes; with some it seldom has any.
            if LEVELS == 0 || any != 0 {
                each_group!(G => {
                    // SAFETY: `rest` has 64 bytes behind every escape that the tile's weights can reach.
                    let literal = unsafe { _mm512_loadu_si512(rest.add(escape).cast()) };
                    symbols[G] = _mm512_mask_expand_epi8(symbols[G], alive[G], literal);
                    escape += alive[G].count_ones() as usize;
                });
            }
            // SAFETY: the caller's sink covers the extent.
            unsafe { sink.fractal(panel, fractal, &symbols) };
        }
        // SAFETY: the caller's sink covers the extent.
        unsafe { sink.panel_end(panel) };
        cursor.bits = [first, deep[0], deep[1], deep[2], deep[3]];
        cursor.escape = escape;
        let streams = cursor.bits.iter().zip(cursor.ends.0).take(code.code.streams());
        if escape > cursor.ends.1 || streams.into_iter().any(|(at, end)| *at > end) {
            return;
        }
    }
    cursor.too_wide = widest > NARROW as usize;
}

/// Forgets the symbols.
struct Discard;

impl Sink for Discard {
    const CHECK: bool = true;

    #[inline(always)]
    unsafe fn fractal(&mut self, _: usize, _: usize, _: &[__m512i; GROUPS]) {}
    #[inline(always)]
    unsafe fn panel_end(&mut self, _: usize) {}
}

/// Writes the symbols in kernel order.
struct Store {
    out: *mut u8,
    fractals: usize,
}

impl Sink for Store {
    #[inline(always)]
    unsafe fn fractal(&mut self, panel: usize, fractal: usize, symbols: &[__m512i; GROUPS]) {
        let at = (panel * self.fractals + fractal) * FRACTAL;
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

/// Multiplication of symbols in memory: register tiles of 6 rows × 4 panels.
///
/// # Safety
/// All features of [`Avx512`]; symbols, rows and accumulators cover the extent.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn multiply(symbols: *const u8, extent: Extent, rows: &Rows<'_>, acc: *mut i32, stride: usize) {
    let panel_bytes = extent.fractals * FRACTAL;
    let mut panel = 0;
    while panel < extent.panels {
        let wide = if extent.panels - panel >= 4 { 4 } else { 1 };
        let mut row = 0;
        while row < rows.m() {
            let high = (rows.m() - row).min(6);
            // SAFETY: the block lies inside of what the caller promises.
            unsafe {
                let w = symbols.add(panel * panel_bytes);
                let x = rows.data().as_ptr().add(row * rows.stride());
                let c = acc.add(row * stride + panel * PANEL);
                let xs = rows.stride();
                let steps = extent.fractals * GROUPS;
                match (high, wide) {
                    (6, 4) => block::<6, 4>(w, panel_bytes, steps, x, xs, c, stride),
                    (5, 4) => block::<5, 4>(w, panel_bytes, steps, x, xs, c, stride),
                    (4, 4) => block::<4, 4>(w, panel_bytes, steps, x, xs, c, stride),
                    (3, 4) => block::<3, 4>(w, panel_bytes, steps, x, xs, c, stride),
                    (2, 4) => block::<2, 4>(w, panel_bytes, steps, x, xs, c, stride),
                    (1, 4) => block::<1, 4>(w, panel_bytes, steps, x, xs, c, stride),
                    (6, _) => block::<6, 1>(w, panel_bytes, steps, x, xs, c, stride),
                    (5, _) => block::<5, 1>(w, panel_bytes, steps, x, xs, c, stride),
                    (4, _) => block::<4, 1>(w, panel_bytes, steps, x, xs, c, stride),
                    (3, _) => block::<3, 1>(w, panel_bytes, steps, x, xs, c, stride),
                    (2, _) => block::<2, 1>(w, panel_bytes, steps, x, xs, c, stride),
                    _ => block::<1, 1>(w, panel_bytes, steps, x, xs, c, stride),
                }
            }
            row += high;
        }
        panel += wide;
    }
}

/// # Safety
/// AVX-512 with VNNI; `w` points to NR panels of `steps` groups, `x` to MR rows of 4 · `steps`, `c` to MR rows of
/// 16 · NR accumulators.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn block<const MR: usize, const NR: usize>(
    w: *const u8,
    panel_bytes: usize,
    steps: usize,
    x: *const i8,
    x_stride: usize,
    c: *mut i32,
    stride: usize,
) {
    let mut sums = [[_mm512_setzero_si512(); NR]; MR];
    for s in 0..steps {
        let mut weights = [_mm512_setzero_si512(); NR];
        for (j, weight) in weights.iter_mut().enumerate() {
            // SAFETY: j < NR, s < steps.
            *weight = unsafe { _mm512_loadu_si512(w.add(j * panel_bytes + s * GROUP).cast()) };
        }
        for (i, row) in sums.iter_mut().enumerate() {
            // SAFETY: i < MR, s < steps.
            let x4 = _mm512_set1_epi32(unsafe { x.add(i * x_stride).cast::<i32>().add(s).read_unaligned() });
            for (sum, weight) in row.iter_mut().zip(&weights) {
                *sum = _mm512_dpbusd_epi32(*sum, *weight, x4);
            }
        }
    }
    for (i, row) in sums.iter().enumerate() {
        for (j, sum) in row.iter().enumerate() {
            // SAFETY: i < MR, j < NR.
            unsafe {
                let at = c.add(i * stride + j * PANEL).cast();
                _mm512_storeu_si512(at, _mm512_add_epi32(_mm512_loadu_si512(at), *sum));
            }
        }
    }
}
