//! The fixed part of `x2`.

use super::layout::{ALIGN, Omissions};
use crate::codec::{Code, Order, Profile, Stored, WeightType};
use crate::error::Error;
use crate::geometry::{Geometry, Tiling};
use std::ops::Range;

/// The newest version of the format: what it can leave out, the other stores.
pub const VERSION: u8 = 5;
/// The other version that is read; what leaves out nothing is still written as this.
pub const OLDEST_VERSION: u8 = 3;
const MAGIC: [u8; 4] = *b"MCDW";
/// Fixed fields; the rank table follows, then zeros up to the first multiple of 64.
const FIXED: usize = 64;
/// Where its own checksum is.
const CHECKSUM: Range<usize> = 44..48;
/// Where the newest version says what is left out.
const OMISSIONS: usize = 48;

/// What the header declares, checked against itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub weight_type: WeightType,
    pub profile: Profile,
    pub geometry: Geometry,
    /// `None` when no tile is coded.
    pub code: Option<Code>,
    /// What is not stored.
    pub omissions: Omissions,
    /// Bytes of `x2`.
    pub total: usize,
    pub index_crc: u32,
}

impl Header {
    /// Bytes up to the first tile.
    pub fn len(&self) -> usize {
        (FIXED + self.code.as_ref().map_or(0, |c| c.order().stored_bytes())).next_multiple_of(ALIGN)
    }

    /// The version that says all of this.
    pub fn version(&self) -> u8 {
        if self.omissions == Omissions::default() { OLDEST_VERSION } else { VERSION }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut b = vec![0u8; self.len()];
        b[0..4].copy_from_slice(&MAGIC);
        b[4] = self.version();
        b[5] = match self.weight_type {
            WeightType::I8 => 0,
            WeightType::U8 => 1,
        };
        b[6] = self.profile as u8;
        if let Some(code) = &self.code {
            b[7] = code.root_bits() as u8;
            b[8] = code.step();
            b[9] = code.levels() as u8;
            match code.order() {
                Order::Distance(centre) => b[11] = *centre,
                Order::Stored(stored) => {
                    let ranks = stored.ranks();
                    b[10] = ranks.len() as u8;
                    b[11] = stored.mask();
                    b[FIXED..FIXED + ranks.len()].copy_from_slice(ranks);
                }
            }
        }
        let tiling = self.geometry.tiling();
        b[12..14].copy_from_slice(&(tiling.k as u16).to_le_bytes());
        b[14..16].copy_from_slice(&(tiling.n as u16).to_le_bytes());
        b[16..24].copy_from_slice(&(self.geometry.k() as u64).to_le_bytes());
        b[24..32].copy_from_slice(&(self.geometry.n() as u64).to_le_bytes());
        b[32..40].copy_from_slice(&(self.total as u64).to_le_bytes());
        b[40..44].copy_from_slice(&self.index_crc.to_le_bytes());
        b[OMISSIONS] = self.omissions.bits();
        let crc = crc32fast::hash(&b);
        b[CHECKSUM].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Parses the header at the start of `x2`; checks magic, version, checksum and every field.
    pub fn parse(x2: &[u8]) -> Result<Self, Error> {
        let short = |expected| Error::Length { expected, found: x2.len() };
        let bytes = checked_bytes(x2)?;
        let fixed: &[u8; FIXED] = bytes.first_chunk().expect("a header has them");
        let (len, count) = (bytes.len(), usize::from(fixed[10]));
        let bad = |what: &str| Err(Error::Header(what.into()));
        let reserved = if fixed[4] == OLDEST_VERSION { OMISSIONS } else { OMISSIONS + 1 };
        if fixed[reserved..].iter().any(|&b| b != 0) || bytes[FIXED + count..].iter().any(|&b| b != 0) {
            return bad("reserved bytes are not zero");
        }
        let Some(omissions) = Omissions::from_bits(fixed[OMISSIONS]) else {
            return bad("it leaves out what this build does not know");
        };
        let weight_type = match fixed[5] {
            0 => WeightType::I8,
            1 => WeightType::U8,
            _ => return bad("unknown weight type"),
        };
        let profile = match fixed[6] {
            0 => Profile::Fast,
            1 => Profile::Balanced,
            2 => Profile::Small,
            _ => return bad("unknown profile"),
        };
        let tiling = Tiling { k: usize::from(u16_at(fixed, 12)), n: usize::from(u16_at(fixed, 14)) };
        let geometry = Geometry::new(size_at(fixed, 16)?, size_at(fixed, 24)?, tiling)?;
        let code = match (fixed[7], count) {
            (0, 0) if fixed[8] == 0 && fixed[9] == 0 && fixed[11] == 0 => None,
            (_, count) => {
                let order = match count {
                    0 => Order::Distance(fixed[11]),
                    _ => Order::Stored(Stored::new(bytes[FIXED..FIXED + count].to_vec(), fixed[11])?),
                };
                Some(Code::new(fixed[7], fixed[8], fixed[9], order)?)
            }
        };
        let (total, index_crc) = (size_at(fixed, 32)?, u32_at(fixed, 40));
        let header = Self { weight_type, profile, geometry, code, omissions, total, index_crc };
        if header.total != x2.len() {
            return Err(short(header.total));
        }
        let tail = omissions.tail_len();
        if x2.len() < len + tail || x2[x2.len() - tail..].iter().any(|&b| b != 0) {
            return bad("x2 does not end in 64 zero bytes");
        }
        Ok(header)
    }
}

/// The bytes of the header at the start of `x2`, whose magic, version and checksum are as they must be.
fn checked_bytes(x2: &[u8]) -> Result<&[u8], Error> {
    let first = |len| x2.get(..len).ok_or(Error::Length { expected: len, found: x2.len() });
    let magic: [u8; 4] = x2.first_chunk().copied().ok_or(Error::Length { expected: FIXED, found: x2.len() })?;
    if magic != MAGIC {
        return Err(Error::Magic(magic));
    }
    let fixed: &[u8; FIXED] = first(FIXED)?.try_into().expect("64 bytes");
    if ![OLDEST_VERSION, VERSION].contains(&fixed[4]) {
        return Err(Error::Version { found: fixed[4], oldest: OLDEST_VERSION, newest: VERSION });
    }
    let bytes = first((FIXED + usize::from(fixed[10])).next_multiple_of(ALIGN))?;
    let stored = u32_at(fixed, CHECKSUM.start);
    // The checksum is that of the header with zeros in its own place.
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CHECKSUM.start]);
    hasher.update(&[0; CHECKSUM.end - CHECKSUM.start]);
    hasher.update(&bytes[CHECKSUM.end..]);
    let found = hasher.finalize();
    if found != stored {
        return Err(Error::Checksum { part: "the header of x2".into(), expected: stored, found });
    }
    Ok(bytes)
}

/// The part of `x2` that is the stream: its header says how long it is. Loaders hand it over in a buffer made for any
/// stream, whose rest nobody has written. Bytes without a header, or shorter than it says, stay as they are: parsing
/// them tells what is wrong.
pub fn stream_of(x2: &[u8]) -> &[u8] {
    let Some(fixed) = x2.first_chunk::<FIXED>().filter(|fixed| fixed[..4] == MAGIC) else { return x2 };
    size_at(fixed, 32).ok().and_then(|total| x2.get(..total)).unwrap_or(x2)
}

fn u16_at(b: &[u8; FIXED], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

fn u32_at(b: &[u8; FIXED], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn size_at(b: &[u8; FIXED], at: usize) -> Result<usize, Error> {
    let value = u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"));
    usize::try_from(value).map_err(|_| Error::Header(format!("size {value} is too large for this machine")))
}
