//! The three tensors, put together as docs/reference/format.md has them, around any tiles, with checksums that are right.
//!
//! Written apart from the encoder, which only makes what is well-formed.

use mcd_core::container::VERSION;

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
pub struct Forged {
    pub x2: Vec<u8>,
    pub index: Vec<u8>,
    pub info: [i64; 5],
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
    x2[FIXED..FIXED + fields.ranks.len()].copy_from_slice(&fields.ranks);
    let mut index = Vec::new();
    for tile in tiles {
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
        x2.resize(x2.len().next_multiple_of(64), 0);
        index.extend(((at / 64) as u32 * 4 + kind).to_le_bytes());
        index.extend(crc32(&x2[at..]).to_le_bytes());
    }
    x2.resize(x2.len() + 64, 0);
    seal(&mut x2, &index);
    let info = [i64::from(fields.tiling[0]), i64::from(fields.tiling[1]), fields.k as i64, fields.n as i64, 1];
    Forged { x2, index, info }
}

/// Sets length and checksums of a header that is there in full.
pub fn seal(x2: &mut [u8], index: &[u8]) {
    let total = x2.len() as u64;
    x2[32..40].copy_from_slice(&total.to_le_bytes());
    x2[40..44].copy_from_slice(&crc32(index).to_le_bytes());
    seal_header(x2);
}

/// Sets the header's own checksum, if the header is there in full.
pub fn seal_header(x2: &mut [u8]) {
    let end = (FIXED + x2.get(10).copied().map_or(0, usize::from)).next_multiple_of(64);
    if let Some(header) = x2.get_mut(..end) {
        header[44..48].fill(0);
        let crc = crc32(header);
        header[44..48].copy_from_slice(&crc.to_le_bytes());
    }
}

/// CRC-32 as zlib has it.
pub fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let (mut c, mut bit) = (i as u32, 0);
            while bit < 8 {
                c = if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 };
                bit += 1;
            }
            table[i] = c;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |c, &b| TABLE[usize::from(c as u8 ^ b)] ^ c >> 8)
}
