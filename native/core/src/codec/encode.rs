//! Encoder of one tile.

use super::{Code, DEEP_STREAMS, MAX_LEVELS};
use crate::container::geometry::{FRACTAL, GROUP};

/// As many bits come with one 64-bit load at any bit offset.
pub const NARROW: u32 = 57;

/// What the encoder knows of each symbol.
pub struct EncodeTable {
    /// Root field.
    root: [u8; 256],
    /// 0: direct; 1 + u: continued by u ones (u = D: escape).
    class: [u8; 256],
    root_bits: usize,
    levels: usize,
    streams: usize,
}

/// A coded tile, ready to be laid out.
pub struct EncodedTile {
    /// Root fields, then lengths, streams and escapes: docs/format.md, "Coded tile".
    pub bytes: Vec<u8>,
    /// Whether some group has more than 57 bits of level 0, or of the deeper levels together.
    pub wide: bool,
}

impl EncodeTable {
    /// Derives the table of `code`.
    pub fn new(code: &Code) -> Self {
        let direct = usize::from(code.direct());
        let step = usize::from(code.step());
        // Escapes: the first continued root value, and D ones.
        let mut table = Self {
            root: [direct as u8; 256],
            class: [1 + code.levels() as u8; 256],
            root_bits: code.root_bits(),
            levels: code.levels(),
            streams: code.streams(),
        };
        for (rank, &symbol) in code.ranks().iter().enumerate() {
            let (root, class) = match rank.checked_sub(direct) {
                None => (rank, 0),
                Some(rest) => (direct + rest % step, 1 + rest / step),
            };
            table.root[usize::from(symbol)] = root as u8;
            table.class[usize::from(symbol)] = class as u8;
        }
        table
    }

    /// Encodes `symbols` (whole fractals in kernel order).
    pub fn encode(&self, symbols: &[u8]) -> EncodedTile {
        let row = self.root_bits * GROUP;
        let mut roots = vec![0u8; symbols.len() / FRACTAL * row];
        let mut streams: Vec<BitWriter> = (0..self.streams).map(|_| BitWriter::default()).collect();
        let mut escapes = Vec::new();
        let mut wide = false;
        // masks[j]: the lanes of class j + 1 or more.
        let mut masks = [0u64; MAX_LEVELS + 1];
        for (fractal, rows) in symbols.chunks_exact(FRACTAL).zip(roots.chunks_exact_mut(row)) {
            let mut fields = [0u64; GROUP];
            for (g, group) in fractal.chunks_exact(GROUP).enumerate() {
                masks[..=self.levels].fill(0);
                for (lane, &s) in group.iter().enumerate() {
                    fields[lane] |= u64::from(self.root[usize::from(s)]) << (g * self.root_bits);
                    for mask in &mut masks[..usize::from(self.class[usize::from(s)])] {
                        *mask |= 1 << lane;
                    }
                }
                let mut deep_bits = 0;
                for d in 0..self.levels {
                    let count = masks[d].count_ones();
                    let stream = if d == 0 { 0 } else { 1 + g % DEEP_STREAMS };
                    streams[stream].push(extract_bits(masks[d + 1], masks[d]), count);
                    deep_bits += if d == 0 { 0 } else { count };
                    wide |= d == 0 && count > NARROW;
                }
                wide |= deep_bits > NARROW;
                let mut escaped = masks[self.levels];
                while escaped != 0 {
                    escapes.push(group[escaped.trailing_zeros() as usize]);
                    escaped &= escaped - 1;
                }
            }
            for (lane, field) in fields.iter().enumerate() {
                for (b, byte) in field.to_le_bytes()[..self.root_bits].iter().enumerate() {
                    rows[b * GROUP + lane] = *byte;
                }
            }
        }
        let mut bytes = roots;
        let streams: Vec<Vec<u8>> = streams.into_iter().map(BitWriter::finish).collect();
        for part in streams.iter().chain([&escapes]) {
            let len = u16::try_from(part.len()).expect("a tile has fewer than 65536 weights");
            bytes.extend_from_slice(&len.to_le_bytes());
        }
        for part in streams.iter().chain([&escapes]) {
            bytes.extend_from_slice(part);
        }
        EncodedTile { bytes, wide }
    }
}

/// Collects the bits of `source` at the ones of `mask`, lowest first (the PEXT instruction).
fn extract_bits(source: u64, mut mask: u64) -> u64 {
    let mut out = 0;
    let mut at = 0;
    while mask != 0 {
        out |= (source >> mask.trailing_zeros() & 1) << at;
        at += 1;
        mask &= mask - 1;
    }
    out
}

/// Bits, least significant first.
#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    pending: u128,
    bits: u32,
}

impl BitWriter {
    fn push(&mut self, bits: u64, count: u32) {
        self.pending |= u128::from(bits) << self.bits;
        self.bits += count;
        while self.bits >= 32 {
            self.bytes.extend_from_slice(&(self.pending as u32).to_le_bytes());
            self.pending >>= 32;
            self.bits -= 32;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        let rest = self.bits.div_ceil(8) as usize;
        self.bytes.extend_from_slice(&self.pending.to_le_bytes()[..rest]);
        self.bytes
    }
}
