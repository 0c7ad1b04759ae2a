//! Scalar decoder of one tile: the reference that every other decoder is compared with.
//!
//! It trusts nothing: a tile that no encoder writes gives a reason.

use super::encode::NARROW;
use super::{Code, DEEP_STREAMS, MAX_STREAMS};
use crate::container::geometry::{FRACTAL, GROUP};
use std::ops::Range;

/// A coded tile cut into its parts; every range is inside its slice.
#[derive(Debug, Clone, Copy)]
pub struct CodedTile<'a> {
    /// Root fields: R rows of 64 bytes a fractal.
    pub roots: &'a [u8],
    /// Streams and escapes, one after the other, then all that follows in `x2`: wide loads may reach over the end.
    pub rest: &'a [u8],
    /// Where each stream begins in `rest`, then where the escapes begin and end.
    pub starts: [u32; MAX_STREAMS + 2],
    /// Some group may have more than 57 bits of level 0, or of the deeper levels together.
    pub wide: bool,
}

impl<'a> CodedTile<'a> {
    /// Cuts `x2[extent]`, a tile of `fractals` fractals, padding of less than 64 zero bytes included.
    pub fn parse(
        x2: &'a [u8],
        extent: Range<usize>,
        code: &Code,
        fractals: usize,
        wide: bool,
    ) -> Result<Self, &'static str> {
        let roots_len = fractals * code.root_bits() * GROUP;
        let parts = code.streams() + 1;
        let (roots, rest) =
            x2[extent.clone()].split_at_checked(roots_len).ok_or("is shorter than its root fields")?;
        let (lengths, rest) = rest.split_at_checked(2 * parts).ok_or("ends within its lengths")?;
        let mut starts = [0u32; MAX_STREAMS + 2];
        for d in 0..parts {
            let len = u16::from_le_bytes([lengths[2 * d], lengths[2 * d + 1]]);
            starts[d + 1] = starts[d] + u32::from(len);
        }
        let used = starts[parts] as usize;
        if used > rest.len() {
            return Err("declares more than its extent holds");
        }
        if rest.len() - used >= 64 || rest[used..].iter().any(|&b| b != 0) {
            return Err("has padding that is not zero or too long");
        }
        Ok(Self { roots, rest: &x2[extent.end - rest.len()..], starts, wide })
    }

    /// Bytes of a stream, or of the escapes.
    pub fn part(&self, d: usize) -> &'a [u8] {
        &self.rest[self.starts[d] as usize..self.starts[d + 1] as usize]
    }

    /// Decodes into `out` (whole fractals in kernel order) and checks that every part is consumed exactly.
    pub fn decode(&self, code: &Code, out: &mut [u8]) -> Result<(), &'static str> {
        let row = code.root_bits() * GROUP;
        if out.len() / FRACTAL * row != self.roots.len() || out.len() % FRACTAL != 0 {
            return Err("has another number of weights");
        }
        let (direct, step, table) = (code.direct(), code.step(), code.table());
        let mut streams: Vec<BitReader> = (0..code.streams()).map(|s| BitReader::new(self.part(s))).collect();
        let mut escapes = self.part(code.streams()).iter();
        let mask = (1u64 << code.root_bits()) - 1;
        for (rows, fractal) in self.roots.chunks_exact(row).zip(out.chunks_exact_mut(FRACTAL)) {
            let mut fields = [0u64; GROUP];
            for (lane, field) in fields.iter_mut().enumerate() {
                for b in 0..code.root_bits() {
                    *field |= u64::from(rows[b * GROUP + lane]) << (8 * b);
                }
            }
            for (g, group) in fractal.chunks_exact_mut(GROUP).enumerate() {
                let mut ranks: [u8; GROUP] =
                    std::array::from_fn(|lane| (fields[lane] >> (g * code.root_bits()) & mask) as u8);
                // The lanes that the next level continues.
                let mut open: Vec<usize> = (0..GROUP).filter(|&l| step > 0 && ranks[l] >= direct).collect();
                let mut deep_bits = 0;
                for d in 0..code.levels() {
                    let count = open.len() as u32;
                    deep_bits += if d == 0 { 0 } else { count };
                    if !self.wide && (d == 0 && count > NARROW || deep_bits > NARROW) {
                        return Err("has a group too wide for its kind");
                    }
                    let stream = &mut streams[if d == 0 { 0 } else { 1 + g % DEEP_STREAMS }];
                    let mut still = Vec::with_capacity(open.len());
                    for lane in open {
                        if stream.next().ok_or("has a stream that ends early")? {
                            ranks[lane] = ranks[lane].wrapping_add(step);
                            still.push(lane);
                        }
                    }
                    open = still;
                }
                for (symbol, rank) in group.iter_mut().zip(ranks) {
                    // Ranks without a symbol read the table's zero padding.
                    *symbol = table[usize::from(rank) % table.len()];
                }
                for lane in open {
                    group[lane] = *escapes.next().ok_or("has too few escapes")?;
                }
            }
        }
        if streams.iter().any(|s| !s.finished()) {
            return Err("has a stream that is too long");
        }
        if escapes.next().is_some() {
            return Err("has too many escapes");
        }
        Ok(())
    }
}

/// Bits, least significant first.
struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> BitReader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn next(&mut self) -> Option<bool> {
        let byte = *self.bytes.get(self.at / 8)?;
        let bit = byte >> (self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    /// Whether all bytes were reached and the bits behind the last one are zero.
    fn finished(&self) -> bool {
        self.at.div_ceil(8) == self.bytes.len()
            && self.bytes.last().is_none_or(|&last| self.at % 8 == 0 || last >> (self.at % 8) == 0)
    }
}
