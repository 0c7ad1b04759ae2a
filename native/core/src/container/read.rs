//! Parsing and checking of the three tensors.

use super::header::Header;
use super::index::{ENTRY, Entry, Kind};
use super::layout::{ALIGN, TAIL};
use crate::codec::decode::CodedTile;
use crate::codec::{Code, Profile, WeightType};
use crate::error::{Error, collected, with_room};
use crate::geometry::Geometry;
use std::ops::Range;

/// A tile as the kernels take it.
#[derive(Debug, Clone, Copy)]
pub enum Tile<'a> {
    /// Root fields and continuations.
    Coded(CodedTile<'a>),
    /// Symbols in kernel order.
    Raw(&'a [u8]),
    /// Every symbol.
    Constant(u8),
}

/// Header and tile table of a weight, checked; the bytes of `x2` stay with the caller.
#[derive(Debug, Clone)]
pub struct CompressedWeight {
    header: Header,
    entries: Vec<Entry>,
    /// Extent of each tile in `x2`; empty for constants.
    extents: Vec<Range<usize>>,
    /// Entries of each level, and escapes, of all tiles, where they were counted.
    counts: Vec<u16>,
}

/// What `inspect` tells of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Tiles that are coded, narrow and wide.
    pub coded_tiles: usize,
    /// Tiles stored as they are.
    pub raw_tiles: usize,
    /// Tiles of one value.
    pub constant_tiles: usize,
    /// Bytes of all tiles, alignment included.
    pub payload_bytes: usize,
    /// Bytes of `x2` and `compress_index`.
    pub stored_bytes: usize,
}

impl CompressedWeight {
    /// Checks header and index against `x2` and each other; tiles must follow one another without gap. The tiles'
    /// own bytes are checked by [`Self::verify_tile`].
    pub fn parse(x2: &[u8], compress_index: &[u8], compress_info: &[i64]) -> Result<Self, Error> {
        let header = Header::parse(x2)?;
        let geometry = header.geometry;
        let tiling = geometry.tiling();
        let expected = [tiling.k, tiling.n, geometry.k(), geometry.n(), 1].map(|v| v as i64);
        if compress_info.is_empty() {
            // Where an attribute is of another type, its readers have no numbers to give.
            return Err(Error::Info(format!("is missing, empty, or no list of integers; x2 holds {expected:?}")));
        }
        if compress_info != expected {
            return Err(Error::Info(format!("is {compress_info:?}, but x2 holds {expected:?}")));
        }
        if compress_index.len() != geometry.tiles() * ENTRY {
            return Err(Error::Index(format!(
                "has {} bytes where {} tiles need {}",
                compress_index.len(),
                geometry.tiles(),
                geometry.tiles() * ENTRY
            )));
        }
        let found = crc32fast::hash(compress_index);
        if found != header.index_crc {
            return Err(Error::Checksum { part: "compress_index".into(), expected: header.index_crc, found });
        }
        let entries = compress_index.as_chunks::<ENTRY>().0.iter().enumerate().map(|(t, bytes)| {
            Entry::from_bytes(*bytes).ok_or_else(|| Error::Index(format!("entry {t} is malformed")))
        });
        let entries = collected(entries, "the entries of compress_index")?;
        let end = x2.len() - TAIL;
        // From the last tile back: each stored tile ends where the next one begins.
        let mut extents = with_room(entries.len(), "the extents of tiles")?;
        extents.resize(entries.len(), 0..0);
        let mut next = end;
        for (t, entry) in entries.iter().enumerate().rev() {
            if matches!(entry.kind, Kind::Constant(_)) {
                continue;
            }
            let start = entry.offset as usize;
            if start >= next || start < header.len() {
                return Err(Error::Index(format!(
                    "entry {t} points to {start}: offset out of range or out of order"
                )));
            }
            if entry.kind == Kind::Coded && header.code.is_none() {
                return Err(Error::Index(format!("entry {t} is coded, but x2 has no code")));
            }
            if entry.kind == Kind::Raw && next - start != geometry.tile(t).weights() {
                return Err(Error::Index(format!("entry {t} is raw, but its extent is {} bytes", next - start)));
            }
            extents[t] = start..next;
            next = start;
        }
        if next != header.len() {
            return Err(Error::Index(format!("leaves {} bytes unused", next - header.len())));
        }
        debug_assert!(extents.iter().all(|e| e.start % ALIGN == 0));
        Ok(Self { header, entries, extents, counts: Vec::new() })
    }

    /// Shape and tiling.
    pub fn geometry(&self) -> &Geometry {
        &self.header.geometry
    }
    /// Type of the weights.
    pub fn weight_type(&self) -> WeightType {
        self.header.weight_type
    }
    /// Profile asked for when it was encoded.
    pub fn profile(&self) -> Profile {
        self.header.profile
    }
    /// The code, unless all tiles are raw or constant.
    pub fn code(&self) -> Option<&Code> {
        self.header.code.as_ref()
    }
    /// Length that `x2` must have.
    pub fn x2_len(&self) -> usize {
        self.header.total
    }

    /// Tile `t` cut into its parts, its checksum not yet checked. `x2` must be as long as when parsed.
    pub fn tile<'a>(&'a self, x2: &'a [u8], t: usize) -> Result<Tile<'a>, Error> {
        if x2.len() != self.header.total {
            return Err(Error::Length { expected: self.header.total, found: x2.len() });
        }
        let extent = self.extents[t].clone();
        match self.entries[t].kind {
            Kind::Constant(symbol) => return Ok(Tile::Constant(symbol)),
            Kind::Raw => return Ok(Tile::Raw(&x2[extent])),
            Kind::Coded => {}
        }
        let code = self.header.code.as_ref().expect("checked by parse");
        let shape = self.header.geometry.tile(t);
        let counts = self.counts.chunks_exact(self.counts_of_a_tile()).nth(t);
        CodedTile::parse(x2, extent.start, extent.end, code, shape.panels * shape.fractals)
            .map(|tile| Tile::Coded(CodedTile { counts, ..tile }))
            .map_err(|reason| Error::Tile { tile: t, reason })
    }

    /// How many counts [`Self::verify_tile`] gives for a coded tile.
    pub(crate) fn counts_of_a_tile(&self) -> usize {
        self.code().map_or(0, Code::levels) + 1
    }

    /// Remembers what [`Self::verify_tile`] gave for all tiles, one after another, and anything for those that are not coded:
    /// decoders need not count again.
    pub(crate) fn remember_counts(&mut self, counts: Vec<u16>) {
        self.counts = counts;
    }

    /// Checks the checksum of tile `t`, and of a coded one that it is laid out as an encoder would: what kernels pass over,
    /// such as its padding, is seen here. Gives the number of entries of each of its levels, and of its escapes; none of others.
    pub fn verify_tile(&self, x2: &[u8], t: usize) -> Result<Vec<u16>, Error> {
        let entry = &self.entries[t];
        if matches!(entry.kind, Kind::Constant(_)) {
            return Ok(Vec::new());
        }
        let found = x2.get(self.extents[t].clone()).map(crc32fast::hash);
        let found = found.ok_or(Error::Length { expected: self.header.total, found: x2.len() })?;
        if found != entry.crc {
            return Err(Error::Checksum { part: format!("tile {t}"), expected: entry.crc, found });
        }
        match (self.tile(x2, t)?, self.code()) {
            (Tile::Coded(tile), Some(code)) => tile.check(code).map_err(|reason| Error::Tile { tile: t, reason }),
            _ => Ok(Vec::new()),
        }
    }

    /// Sizes and tile counts.
    pub fn stats(&self) -> Stats {
        let count = |f: fn(&Kind) -> bool| self.entries.iter().filter(|e| f(&e.kind)).count();
        Stats {
            coded_tiles: count(|k| matches!(k, Kind::Coded)),
            raw_tiles: count(|k| matches!(k, Kind::Raw)),
            constant_tiles: count(|k| matches!(k, Kind::Constant(_))),
            payload_bytes: self.extents.iter().map(ExactSizeIterator::len).sum(),
            stored_bytes: self.header.total + self.entries.len() * ENTRY,
        }
    }
}
