//! Encoder of one tile.

use super::code::Code;
use crate::geometry::{FRACTAL, GROUP};

/// What the encoder knows of each symbol.
pub struct EncodeTable {
    /// Root field.
    root: [u8; 256],
    /// 0: ends with the root field; 1 + u: continued by u ones (u = D: escape).
    class: [u8; 256],
    /// The escape's byte.
    excess: [u8; 256],
    root_bits: usize,
    levels: usize,
}

impl EncodeTable {
    /// Derives the table of `code`.
    pub fn new(code: &Code) -> Self {
        let (direct, step) = (usize::from(code.direct()), usize::from(code.step()));
        let mut table = Self {
            root: [0; 256],
            class: [0; 256],
            excess: [0; 256],
            root_bits: code.root_bits(),
            levels: code.levels(),
        };
        // From the last on: where two ranks have one symbol, it takes the lower.
        for (rank, &symbol) in code.table().iter().enumerate().rev() {
            let (root, class) = match rank.checked_sub(direct) {
                None => (rank, 0),
                Some(rest) if rank < code.capacity() => (direct + rest % step, 1 + rest / step),
                Some(_) => (direct, 1 + code.levels()),
            };
            let symbol = usize::from(symbol);
            table.root[symbol] = code.root_field(root as u8);
            table.class[symbol] = class as u8;
            table.excess[symbol] = code.sum(root as u8, rank as u8).wrapping_sub(code.escape_base());
        }
        table
    }

    /// Encodes `symbols`, whole fractals in kernel order: docs/reference/format.md, "Coded tile".
    pub fn encode(&self, symbols: &[u8]) -> Vec<u8> {
        let row = self.root_bits * GROUP;
        let mut bytes = vec![0u8; symbols.len() / FRACTAL * row];
        for (fractal, rows) in symbols.chunks_exact(FRACTAL).zip(bytes.chunks_exact_mut(row)) {
            let mut fields = [0u64; GROUP];
            for (g, group) in fractal.chunks_exact(GROUP).enumerate() {
                for (field, &s) in fields.iter_mut().zip(group) {
                    *field |= u64::from(self.root[usize::from(s)]) << (g * self.root_bits);
                }
            }
            for (b, row) in rows.chunks_exact_mut(GROUP).enumerate() {
                for (byte, field) in row.iter_mut().zip(&fields) {
                    *byte = (field >> (8 * b)) as u8;
                }
            }
        }
        let mut open = vec![0; symbols.len()];
        let mut count = keep(symbols, |s| self.class[usize::from(s)] > 0, &mut open);
        let total = u16::try_from(count).expect("a tile has fewer than 65536 weights");
        bytes.extend_from_slice(&total.to_le_bytes());
        let mut next = vec![0; count];
        for d in 0..self.levels {
            let goes_on = |s: u8| usize::from(self.class[usize::from(s)]) > d + 1;
            for eight in open[..count].chunks(8) {
                bytes.push(eight.iter().enumerate().fold(0, |byte, (i, &s)| byte | u8::from(goes_on(s)) << i));
            }
            count = keep(&open[..count], goes_on, &mut next);
            std::mem::swap(&mut open, &mut next);
        }
        bytes.extend(open[..count].iter().map(|&s| self.excess[usize::from(s)]));
        bytes
    }
}

/// Copies the symbols that `wanted` admits to the front of `out`, which is as long as `from` at least; their number.
/// Every symbol is written and the position moves or not: a branch would be guessed wrong too often.
fn keep(from: &[u8], wanted: impl Fn(u8) -> bool, out: &mut [u8]) -> usize {
    let out = &mut out[..from.len()];
    let mut count = 0;
    for &s in from {
        out[count] = s;
        count += usize::from(wanted(s));
    }
    count
}
