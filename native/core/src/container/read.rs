//! Parsing and checking of the three tensors.

use super::edges;
use super::header::Header;
use super::index::{ENTRY, Entry, Kind};
use super::layout::{ALIGN, TAIL};
use crate::codec::decode::CodedTile;
use crate::codec::{Code, Profile, WeightType};
use crate::error::{Error, collected, with_room};
use crate::geometry::{FRACTAL_K, GROUP, Geometry, PANEL};
use std::ops::Range;

/// What a weight is decoded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded {
    /// Its elements.
    Plain,
    /// What kernels multiply by: whole fractals.
    Fractals,
}

impl Decoded {
    /// Bytes of a weight with this `compress_info`.
    pub fn bytes(self, info: &[i64]) -> u64 {
        let (k, n) = dims(info);
        let up = |dim: u64, unit: usize| dim.div_ceil(unit as u64).saturating_mul(unit as u64);
        match self {
            Self::Plain => k.saturating_mul(n),
            Self::Fractals => up(k, FRACTAL_K).saturating_mul(up(n, PANEL)),
        }
    }

    /// Bytes of what says how kernels multiply by it: for each panel a list, with two bytes for each four groups.
    fn steps(self, info: &[i64]) -> u64 {
        const LIST: u64 = 96;
        match self {
            Self::Plain => 0,
            Self::Fractals => {
                let lists = dims(info).1.div_ceil(PANEL as u64).saturating_mul(LIST);
                lists.saturating_add(self.bytes(info) / (4 * GROUP as u64) * 2)
            }
        }
    }
}

/// k and n, as `compress_info` declares them; 0 for what it does not.
fn dims(info: &[i64]) -> (u64, u64) {
    let dim = |at: usize| info.get(at).map_or(0, |&dim| u64::try_from(dim).unwrap_or(0));
    (dim(2), dim(3))
}

/// Bytes that loading a weight takes at the most, and 1 MiB more, beside its own tensors: what is known before any of it is
/// read but the length of its index and what `compress_info` declares. With what it is decoded to, if it is.
pub fn memory_needed(index_len: usize, info: &[i64], decoded: Option<Decoded>) -> u64 {
    let (k, n) = dims(info);
    // The table of tiles with their counts; a row of activations; column sums, of strips and of all.
    let tables = [(index_len as u64, 8), (k, 2), (n, 16)];
    let tables = tables.into_iter().map(|(count, bytes)| count.saturating_mul(bytes)).fold(0, u64::saturating_add);
    let decoded = decoded.map_or(0, |decoded| decoded.bytes(info).saturating_add(decoded.steps(info)));
    tables.saturating_add(decoded)
}

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
        let end = x2.len() - header.omissions.tail_len();
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
    /// Version of the format that it is written in.
    pub fn version(&self) -> u8 {
        self.header.version()
    }
    /// Length that `x2` must have.
    pub fn x2_len(&self) -> usize {
        self.header.total
    }

    /// Tile `t` cut into its parts, its checksum not yet checked. `x2` must be as long as when parsed. What is not stored as
    /// kernels read it is put together in `room`.
    pub fn tile<'a>(&'a self, x2: &'a [u8], t: usize, room: &'a mut Vec<u8>) -> Result<Tile<'a>, Error> {
        let extent = self.extent(x2, t)?;
        match self.entries[t].kind {
            Kind::Constant(symbol) => return Ok(Tile::Constant(symbol)),
            Kind::Raw => return Ok(Tile::Raw(&x2[extent])),
            Kind::Coded => {}
        }
        let (code, shape) = (self.header.code.as_ref().expect("checked by parse"), self.header.geometry.tile(t));
        let (whole, stored) = self.root_bytes(t, code);
        let end = extent.end;
        let CodedTile { mut roots, mut rest, len, .. } =
            CodedTile::parse(x2, extent.start, end, stored).map_err(|reason| Error::Tile { tile: t, reason })?;
        let (cut, short) = (stored != whole, x2.len() - end < TAIL);
        if cut || short {
            room.clear();
            let bytes = if cut { whole } else { 0 } + if short { len + TAIL } else { 0 };
            room.try_reserve(bytes).map_err(|_| Error::Memory { what: "a tile", bytes })?;
            if cut {
                edges::restore(roots, &self.header.geometry, &shape, code.root_bits(), room);
            }
            let at = room.len();
            if short {
                room.extend_from_slice(&rest[..len]);
                room.resize(at + len + TAIL, 0);
            }
            let (restored, behind) = room.split_at(at);
            roots = if cut { restored } else { roots };
            rest = if short { behind } else { rest };
        }
        let counts = self.counts.chunks_exact(self.counts_of_a_tile()).nth(t);
        Ok(Tile::Coded(CodedTile { roots, rest, len, counts }))
    }

    /// The symbols of tile `t` if they are stored as they are.
    pub(crate) fn raw_tile<'a>(&self, x2: &'a [u8], t: usize) -> Result<Option<&'a [u8]>, Error> {
        let extent = self.extent(x2, t)?;
        Ok((self.entries[t].kind == Kind::Raw).then(|| &x2[extent]))
    }

    /// The bytes of tile `t`; none where `x2` is not as long as when it was parsed.
    pub(crate) fn stored_tile<'a>(&self, x2: &'a [u8], t: usize) -> &'a [u8] {
        self.extent(x2, t).map_or(&[], |extent| &x2[extent])
    }

    /// Where tile `t` is in bytes that are as many as those that were parsed.
    fn extent(&self, x2: &[u8], t: usize) -> Result<Range<usize>, Error> {
        if x2.len() != self.header.total {
            return Err(Error::Length { expected: self.header.total, found: x2.len() });
        }
        Ok(self.extents[t].clone())
    }

    /// Bytes of the root fields of tile `t`: as kernels read them, and as they are stored.
    fn root_bytes(&self, t: usize, code: &Code) -> (usize, usize) {
        let (geometry, root_bits) = (&self.header.geometry, code.root_bits());
        let shape = geometry.tile(t);
        let whole = shape.panels * shape.fractals * root_bits * GROUP;
        let cut = self.header.omissions.edges && edges::crosses(geometry, &shape);
        (whole, if cut { edges::stored_len(geometry, &shape, root_bits) } else { whole })
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
        let (Kind::Coded, Some(code)) = (entry.kind, self.code()) else { return Ok(Vec::new()) };
        let extent = self.extent(x2, t)?;
        let tile = CodedTile::parse(x2, extent.start, extent.end, self.root_bytes(t, code).1);
        tile.and_then(|tile| tile.check(code)).map_err(|reason| Error::Tile { tile: t, reason })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{EncodedWeight, WeightView, encode, encode_packed};
    use crate::geometry::{FRACTAL, Tiling};

    const TILING: Tiling = Tiling { k: 1, n: 1 };

    /// Of shape (n, k), along k: tiles of all values, and narrow ones, the first of which in the second panel is of one value.
    fn weight(n: usize, k: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut random = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % below
        };
        let element = |at: usize| match (at / k / PANEL, at % k / FRACTAL_K) {
            (_, 0) => random(256) as u8,
            (1, 1) => 7,
            _ => (random(9) + random(9) + random(9)) as u8,
        };
        (0..n * k).map(element).collect()
    }

    type Encode = fn(&WeightView<'_>, Profile, Tiling) -> Result<EncodedWeight, Error>;

    fn encoded(n: usize, k: usize, encode: Encode) -> (CompressedWeight, Vec<u8>) {
        let data = weight(n, k);
        let view = WeightView::new(&data, (n, k), (k, 1), WeightType::I8).unwrap();
        let EncodedWeight { x2, compress_index, compress_info } = encode(&view, Profile::Balanced, TILING).unwrap();
        (CompressedWeight::parse(&x2, &compress_index, &compress_info).unwrap(), x2)
    }

    #[test]
    fn where_each_tile_is_stored() {
        let (weight, x2) = encoded(2 * PANEL, 3 * FRACTAL_K, encode);
        let kinds: Vec<Kind> = weight.entries.iter().map(|entry| entry.kind).collect();
        let (coded, constant) = (Kind::Coded, Kind::Constant(7 ^ 0x80));
        assert_eq!(kinds, [Kind::Raw, coded, coded, Kind::Raw, constant, coded]);
        let stored: Vec<&[u8]> = (0..6).map(|t| weight.stored_tile(&x2, t)).collect();
        assert_eq!(stored.concat(), x2[weight.header.len()..x2.len() - TAIL]);
        assert_eq!((stored[0].len(), stored[3].len(), stored[4].len()), (FRACTAL, FRACTAL, 0));
        for (t, stored) in stored.into_iter().enumerate() {
            assert_eq!(weight.raw_tile(&x2, t), Ok((t % 3 == 0).then_some(stored)), "tile {t}");
        }
        assert!(weight.raw_tile(&x2[1..], 0).is_err());
        assert_eq!(weight.stored_tile(&x2[1..], 0), []);
    }

    #[test]
    fn counts_that_are_remembered_come_with_each_tile() {
        let (mut weight, x2) = encoded(2 * PANEL, 3 * FRACTAL_K, encode);
        let counts: Vec<Vec<u16>> = (0..6).map(|t| weight.verify_tile(&x2, t).unwrap()).collect();
        let none = vec![0; weight.counts_of_a_tile()];
        weight.remember_counts(
            counts.iter().flat_map(|each| if each.is_empty() { &none } else { each }).copied().collect(),
        );
        for t in [1, 2, 5] {
            let mut room = Vec::new();
            let Tile::Coded(tile) = weight.tile(&x2, t, &mut room).unwrap() else { panic!("tile {t} is coded") };
            assert_eq!(tile.counts, Some(counts[t].as_slice()), "tile {t}");
        }
    }

    /// Kernels load 64 bytes at once, from the last byte of a tile too.
    #[test]
    fn each_tile_has_64_bytes_behind_it_and_is_copied_only_where_it_must_be() {
        for (n, k) in [(PANEL, 5 * FRACTAL_K), (PANEL - 1, 5 * FRACTAL_K), (2 * PANEL, 5 * FRACTAL_K - 1)] {
            for encode in [encode, encode_packed] as [Encode; 2] {
                let (weight, x2) = encoded(n, k, encode);
                for t in (0..weight.entries.len()).filter(|&t| weight.entries[t].kind == Kind::Coded) {
                    check(&weight, &x2, t);
                }
            }
        }
    }

    fn check(weight: &CompressedWeight, x2: &[u8], t: usize) {
        let code = weight.code().unwrap();
        let (stored, (whole, roots_stored)) = (weight.stored_tile(x2, t), weight.root_bytes(t, code));
        let mut room = vec![0xa5; 10];
        let at = room.as_ptr_range();
        let Tile::Coded(CodedTile { roots, rest, len, counts }) = weight.tile(x2, t, &mut room).unwrap() else {
            panic!("tile {t} is coded");
        };
        assert_eq!((roots.len(), len, counts), (whole, stored.len() - roots_stored, None), "tile {t}");
        assert_eq!(rest[..len], stored[roots_stored..], "tile {t}");
        assert!(rest.len() >= len + TAIL, "tile {t}: {} bytes behind it", rest.len() - len);
        let inside = |part: &[u8]| x2.as_ptr_range().contains(&part.as_ptr());
        let (cut, short) = (!inside(roots), !inside(rest));
        assert_eq!(cut, whole != roots_stored, "tile {t}");
        let behind = x2.as_ptr_range().end as usize - stored.as_ptr_range().end as usize;
        assert_eq!(short, behind < TAIL, "tile {t}: {behind} bytes behind it");
        if short {
            assert_eq!(rest[len..], [0; TAIL], "tile {t}");
        }
        let parts = CodedTile { roots, rest, len, counts }.starts(code.levels(), FRACTAL).expect("it is whole");
        let (begin, escapes) = parts[code.levels()];
        if behind == 0 {
            assert_eq!(len, begin + escapes, "tile {t}: the last has no padding where the tail is left out");
        }
        let copied = if cut { whole } else { 0 } + if short { len + TAIL } else { 0 };
        if copied > 0 {
            assert_eq!(room.len(), copied, "tile {t}");
            assert!(room.capacity() <= 2 * copied.max(10), "tile {t}: {} bytes for {copied}", room.capacity());
        } else {
            assert_eq!(room.as_ptr_range(), at, "tile {t}: nothing is put together");
        }
    }
}
