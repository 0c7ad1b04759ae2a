//! The three tensors, put together as docs/reference/format.md has them, around any tiles, with checksums that are right.
//!
//! Written apart from the encoder, which only makes what is well-formed.

use std::ops::Range;

use crc32fast::hash;
use mcd_core::container::VERSION;
use mcd_core::{CompressedWeight, EncodedWeight, Error};

/// Bytes of the fixed part of the header.
pub const FIXED: usize = 64;

/// The header's fields up to the ranks.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    /// 1 for uint8.
    pub unsigned: bool,
    /// R, A, D.
    pub code: [u8; 3],
    /// M, or Z where there are no ranks.
    pub mask: u8,
    /// C symbols.
    pub ranks: Vec<u8>,
    /// Fractals along k and n.
    pub tiling: [u16; 2],
    /// Shape.
    pub k: usize,
    /// Shape.
    pub n: usize,
    /// What is left out: 1 for edges, 2 for the tail and the padding of the last tile.
    pub omissions: u8,
}

/// A tile.
#[derive(Debug, Clone)]
pub enum Tile {
    /// Kind 0; padded to a multiple of 64.
    Coded(Vec<u8>),
    /// Kind 1, likewise.
    Raw(Vec<u8>),
    /// Kind 2.
    Constant(u8),
}

/// `x2`, `compress_index`, `compress_info`.
#[derive(Debug, Clone)]
pub struct Forged {
    /// `x2`
    pub x2: Vec<u8>,
    /// `compress_index`
    pub index: Vec<u8>,
    /// `compress_info`
    pub info: [i64; 5],
}

impl From<EncodedWeight> for Forged {
    /// What an encoder has written, to be changed.
    fn from(encoded: EncodedWeight) -> Self {
        Self { x2: encoded.x2, index: encoded.compress_index, info: encoded.compress_info }
    }
}

impl Forged {
    /// As a reader finds it.
    pub fn parse(&self) -> Result<CompressedWeight, Error> {
        CompressedWeight::parse(&self.x2, &self.index, &self.info)
    }

    /// Kind and bytes of each tile, none where it is constant.
    pub fn tiles(&self) -> Vec<(u32, Range<usize>)> {
        let word = |entry: &[u8]| u32::from_le_bytes(entry[..4].try_into().expect("four bytes"));
        let entries: Vec<u32> = self.index.chunks_exact(8).map(word).collect();
        let start = |entry: u32| (entry >> 2) as usize * 64;
        let tail = if self.x2[48] & 2 == 0 { 64 } else { 0 };
        let mut end = self.x2.len() - tail;
        let mut tiles: Vec<_> = entries
            .into_iter()
            .rev()
            .map(|entry| match entry & 3 {
                2 => (2, 0..0),
                kind => (kind, start(entry)..std::mem::replace(&mut end, start(entry))),
            })
            .collect();
        tiles.reverse();
        tiles
    }

    /// Sets all checksums anew: of tiles, index and header; and the length.
    pub fn seal_all(&mut self) {
        for (t, (_, bytes)) in self.tiles().into_iter().enumerate().filter(|(_, (kind, _))| *kind != 2) {
            self.index[8 * t + 4..][..4].copy_from_slice(&hash(&self.x2[bytes]).to_le_bytes());
        }
        self.seal();
    }

    /// Sets checksums of index and header anew, and the length.
    pub fn seal(&mut self) {
        seal(&mut self.x2, &self.index);
    }
}

/// Writes header, tiles, index.
pub fn forge(fields: &Fields, tiles: &[Tile]) -> Forged {
    let mut x2 = vec![0; (FIXED + fields.ranks.len()).next_multiple_of(64)];
    x2[..4].copy_from_slice(b"MCDW");
    x2[4] = VERSION;
    x2[5] = u8::from(fields.unsigned);
    x2[7..10].copy_from_slice(&fields.code);
    x2[10] = fields.ranks.len() as u8;
    x2[11] = fields.mask;
    x2[12..14].copy_from_slice(&fields.tiling[0].to_le_bytes());
    x2[14..16].copy_from_slice(&fields.tiling[1].to_le_bytes());
    x2[16..24].copy_from_slice(&(fields.k as u64).to_le_bytes());
    x2[24..32].copy_from_slice(&(fields.n as u64).to_le_bytes());
    x2[48] = fields.omissions;
    x2[FIXED..FIXED + fields.ranks.len()].copy_from_slice(&fields.ranks);
    let mut index = Vec::new();
    let without_tail = fields.omissions & 2 != 0;
    let last = tiles.iter().rposition(|tile| !matches!(tile, Tile::Constant(_)));
    for (number, tile) in tiles.iter().enumerate() {
        let at = x2.len();
        let (kind, bytes) = match tile {
            Tile::Coded(bytes) => (0, bytes),
            Tile::Raw(bytes) => (1, bytes),
            Tile::Constant(symbol) => {
                index.extend((u32::from(*symbol) << 2 | 2).to_le_bytes());
                index.extend([0; 4]);
                continue;
            }
        };
        x2.extend_from_slice(bytes);
        if !(without_tail && last == Some(number)) {
            x2.resize(x2.len().next_multiple_of(64), 0);
        }
        index.extend(((at / 64) as u32 * 4 + kind).to_le_bytes());
        index.extend(hash(&x2[at..]).to_le_bytes());
    }
    x2.resize(x2.len() + if without_tail { 0 } else { 64 }, 0);
    seal(&mut x2, &index);
    let info = [i64::from(fields.tiling[0]), i64::from(fields.tiling[1]), fields.k as i64, fields.n as i64, 1];
    Forged { x2, index, info }
}

/// Sets length and checksums of a header that is there in full.
pub fn seal(x2: &mut [u8], index: &[u8]) {
    let total = x2.len() as u64;
    x2[32..40].copy_from_slice(&total.to_le_bytes());
    x2[40..44].copy_from_slice(&hash(index).to_le_bytes());
    seal_header(x2);
}

/// Sets the header's own checksum, if the header is there in full.
pub fn seal_header(x2: &mut [u8]) {
    let end = (FIXED + x2.get(10).copied().map_or(0, usize::from)).next_multiple_of(64);
    if let Some(header) = x2.get_mut(..end) {
        header[44..48].fill(0);
        let crc = hash(header);
        header[44..48].copy_from_slice(&crc.to_le_bytes());
    }
}
