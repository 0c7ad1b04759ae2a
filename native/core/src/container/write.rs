//! Encoder of a whole weight.

use super::edges;
use super::header::Header;
use super::index::{self, ENTRY, Entry, Kind};
use super::layout::{ALIGN, Omissions};
use crate::codec::encode::EncodeTable;
use crate::codec::{Code, Histogram, Profile, WeightType};
use crate::error::Error;
use crate::geometry::{FRACTAL_K, GROUP, Geometry, PANEL, TileShape, Tiling};

/// A weight of shape (n, k) anywhere in memory: element (i, j) is `data[i * stride_n + j * stride_k]`.
#[derive(Debug, Clone, Copy)]
pub struct WeightView<'a> {
    data: &'a [u8],
    k: usize,
    n: usize,
    stride_k: usize,
    stride_n: usize,
    weight_type: WeightType,
}

impl<'a> WeightView<'a> {
    /// Checks that every element lies in `data`.
    pub fn new(
        data: &'a [u8],
        (n, k): (usize, usize),
        (stride_n, stride_k): (usize, usize),
        weight_type: WeightType,
    ) -> Result<Self, Error> {
        Geometry::new(k, n, Tiling::default())?;
        let last = (n - 1)
            .checked_mul(stride_n)
            .zip((k - 1).checked_mul(stride_k))
            .and_then(|(a, b)| a.checked_add(b))
            .ok_or(Error::Shape { n, k, reason: "its strides overflow" })?;
        if last >= data.len() {
            return Err(Error::Argument { what: "weight", expected: last + 1, found: data.len() });
        }
        Ok(Self { data, k, n, stride_k, stride_n, weight_type })
    }

    /// Counts of all symbols.
    pub fn histogram(&self) -> Histogram {
        let mut h = Histogram::default();
        if self.stride_k == 1 && self.stride_n == self.k || self.stride_n == 1 && self.stride_k == self.n {
            h.add(&self.data[..self.n * self.k]);
        } else if self.stride_n == 1 {
            (0..self.k).for_each(|j| h.add(&self.data[j * self.stride_k..][..self.n]));
        } else {
            let mut row = Vec::with_capacity(self.k);
            for i in 0..self.n {
                row.clear();
                row.extend((0..self.k).map(|j| self.data[i * self.stride_n + j * self.stride_k]));
                h.add(&row);
            }
        }
        h.flipped(self.weight_type.flip())
    }

    /// The symbols of a tile in kernel order, `pad` where the tile reaches over the edge.
    fn gather(&self, shape: &TileShape, pad: u8, out: &mut [u8]) {
        let flip = self.weight_type.flip();
        let mut groups = out.chunks_exact_mut(GROUP);
        for panel in shape.panel..shape.panel + shape.panels {
            let n0 = panel * PANEL;
            let columns = PANEL.min(self.n - n0);
            for k0 in (shape.fractal * FRACTAL_K..(shape.fractal + shape.fractals) * FRACTAL_K).step_by(4) {
                let group = groups.next().expect("out holds the tile");
                if columns < PANEL || k0 + 4 > self.k {
                    group.fill(pad);
                }
                let depth = 4.min(self.k.saturating_sub(k0));
                let at = n0 * self.stride_n + k0 * self.stride_k;
                if columns == PANEL && depth == 4 && self.stride_n == 1 {
                    // (k, n) in memory, as ONNX stores it: four rows of 16, interleaved.
                    let rows: [&[u8; PANEL]; 4] = std::array::from_fn(|j| {
                        self.data[at + j * self.stride_k..].first_chunk().expect("all columns exist")
                    });
                    for (i, quad) in group.chunks_exact_mut(4).enumerate() {
                        for (to, row) in quad.iter_mut().zip(rows) {
                            *to = row[i] ^ flip;
                        }
                    }
                    continue;
                }
                for j in 0..depth {
                    for i in 0..columns {
                        group[4 * i + j] = self.data[at + i * self.stride_n + j * self.stride_k] ^ flip;
                    }
                }
            }
        }
    }

    /// Whether all weights of a tile equal `first`.
    fn is_constant(&self, shape: &TileShape, first: u8) -> bool {
        let rows = shape.panel * PANEL..((shape.panel + shape.panels) * PANEL).min(self.n);
        let columns = shape.fractal * FRACTAL_K..((shape.fractal + shape.fractals) * FRACTAL_K).min(self.k);
        rows.into_iter().all(|i| columns.clone().all(|j| self.data[i * self.stride_n + j * self.stride_k] == first))
    }
}

/// The three tensors of an encoded weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedWeight {
    /// Header, tiles, tail.
    pub x2: Vec<u8>,
    /// 8 bytes a tile.
    pub compress_index: Vec<u8>,
    /// [tilingK, tilingN, k, n, 1].
    pub compress_info: [i64; 5],
}

/// Of a weight that is decoded at every use, edges are cut where they are at least one part in so many of it: a decoder puts
/// tiles there together again, which takes a copy of them: a product of one row took 1.2 times as long where k and n were 1000.
const EDGES_FROM: usize = 28;

/// Encodes a weight. The output depends on nothing but the arguments.
pub fn encode(weight: &WeightView<'_>, profile: Profile, tiling: Tiling) -> Result<EncodedWeight, Error> {
    let geometry = Geometry::new(weight.k, weight.n, tiling)?;
    let (used, stored) = (weight.n * weight.k, geometry.padded_n() * geometry.padded_k());
    let edges = stored - used >= used.div_ceil(EDGES_FROM);
    Encoder::new(weight, profile, profile, geometry, Omissions { edges, tail: false }).encode()
}

/// Encodes a weight that is decoded once, when a model is opened, into as few bytes as can be.
pub fn encode_packed(weight: &WeightView<'_>, profile: Profile, tiling: Tiling) -> Result<EncodedWeight, Error> {
    let geometry = Geometry::new(weight.k, weight.n, tiling)?;
    let edges = geometry.padded_n() != weight.n || geometry.padded_k() != weight.k;
    Encoder::new(weight, profile, Profile::Small, geometry, Omissions { edges, tail: true }).encode()
}

/// What is written of a weight so far.
struct Encoder<'a> {
    weight: &'a WeightView<'a>,
    header: Header,
    table: Option<EncodeTable>,
    x2: Vec<u8>,
    index: Vec<u8>,
    any_coded: bool,
    /// Zeros behind the last tile that is stored.
    padding: usize,
}

impl<'a> Encoder<'a> {
    /// With the code that `chosen_as` has; the header says `profile`.
    fn new(
        weight: &'a WeightView<'a>,
        profile: Profile,
        chosen_as: Profile,
        geometry: Geometry,
        omissions: Omissions,
    ) -> Self {
        let choose = if omissions.edges { Code::choose_for_edges } else { Code::choose };
        let code = choose(&weight.histogram(), chosen_as);
        let table = code.as_ref().map(EncodeTable::new);
        let weight_type = weight.weight_type;
        let header = Header { weight_type, profile, geometry, code, omissions, total: 0, index_crc: 0 };
        let x2 = vec![0; header.len()];
        let index = Vec::with_capacity(geometry.tiles() * ENTRY);
        Self { weight, header, table, x2, index, any_coded: false, padding: 0 }
    }

    fn encode(mut self) -> Result<EncodedWeight, Error> {
        let mut symbols = Vec::new();
        for t in 0..self.header.geometry.tiles() {
            let entry = self.tile(&self.header.geometry.tile(t), &mut symbols)?;
            self.index.extend_from_slice(&entry.to_bytes());
        }
        if self.header.omissions.tail {
            self.drop_padding();
        }
        let Self { mut header, x2, index, any_coded, .. } = self;
        if any_coded || header.code.is_none() {
            return Ok(sealed(header, x2, index));
        }
        // All tiles are raw or constant: the table would be dead weight, and it moves the tiles.
        header.code = None;
        finish_without_code(header, x2, index)
    }

    /// Appends a tile.
    fn tile(&mut self, shape: &TileShape, symbols: &mut Vec<u8>) -> Result<Entry, Error> {
        let weight = self.weight;
        let first = weight.data[shape.panel * PANEL * weight.stride_n + shape.fractal * FRACTAL_K * weight.stride_k];
        if weight.is_constant(shape, first) {
            return Ok(Entry { kind: Kind::Constant(first ^ weight.weight_type.flip()), offset: 0, crc: 0 });
        }
        let pad = self.header.code.as_ref().map_or(0, |c| c.order().first());
        symbols.resize(shape.weights(), 0);
        weight.gather(shape, pad, symbols);
        let offset = self.x2.len();
        if !index::holds(offset as u64) {
            return Err(Error::Shape { n: weight.n, k: weight.k, reason: "its stream exceeds 64 GiB" });
        }
        let coded = self.coded(shape, symbols).filter(|coded| coded.len() < symbols.len());
        self.any_coded |= coded.is_some();
        let kind = if coded.is_some() { Kind::Coded } else { Kind::Raw };
        self.x2.extend_from_slice(coded.as_deref().unwrap_or(symbols));
        let end = self.x2.len();
        self.x2.resize(end.next_multiple_of(ALIGN), 0);
        self.padding = self.x2.len() - end;
        Ok(Entry { kind, offset: offset as u64, crc: crc32fast::hash(&self.x2[offset..]) })
    }

    /// A coded tile, without what lies outside of the weight if that is to be left out.
    fn coded(&self, shape: &TileShape, symbols: &[u8]) -> Option<Vec<u8>> {
        let coded = self.table.as_ref()?.encode(symbols);
        let (geometry, root_bits) = (&self.header.geometry, self.header.code.as_ref()?.root_bits());
        if !self.header.omissions.edges || !edges::crosses(geometry, shape) {
            return Some(coded);
        }
        let (roots, rest) = coded.split_at(shape.panels * shape.fractals * root_bits * GROUP);
        let mut cut = edges::cut(roots, geometry, shape, root_bits);
        cut.extend_from_slice(rest);
        Some(cut)
    }

    /// Takes the padding of the last tile away.
    fn drop_padding(&mut self) {
        self.x2.truncate(self.x2.len() - self.padding);
        let entries = self.index.chunks_exact_mut(ENTRY).rev();
        let mut stored = entries.filter_map(|bytes| {
            let entry = Entry::from_bytes((&*bytes).try_into().expect("eight bytes")).expect("just written");
            (!matches!(entry.kind, Kind::Constant(_))).then_some((bytes, entry))
        });
        if let Some((bytes, entry)) = stored.next() {
            let crc = crc32fast::hash(&self.x2[entry.offset as usize..]);
            bytes.copy_from_slice(&Entry { crc, ..entry }.to_bytes());
        }
    }
}

/// Moves the tiles up to where the shorter header ends.
fn finish_without_code(header: Header, mut x2: Vec<u8>, mut index: Vec<u8>) -> Result<EncodedWeight, Error> {
    let old = index
        .chunks_exact(ENTRY)
        .filter_map(|b| Entry::from_bytes(b.try_into().expect("eight bytes")))
        .find(|e| !matches!(e.kind, Kind::Constant(_)))
        .map_or(x2.len(), |e| e.offset as usize);
    x2.drain(header.len()..old);
    for bytes in index.chunks_exact_mut(ENTRY) {
        let mut entry = Entry::from_bytes((&*bytes).try_into().expect("eight bytes")).expect("just written");
        if entry.offset > 0 {
            entry.offset = entry.offset - old as u64 + header.len() as u64;
        }
        bytes.copy_from_slice(&entry.to_bytes());
    }
    Ok(sealed(header, x2, index))
}

fn sealed(mut header: Header, mut x2: Vec<u8>, compress_index: Vec<u8>) -> EncodedWeight {
    x2.resize(x2.len() + header.omissions.tail_len(), 0);
    header.total = x2.len();
    header.index_crc = crc32fast::hash(&compress_index);
    x2[..header.len()].copy_from_slice(&header.to_bytes());
    let Tiling { k, n } = header.geometry.tiling();
    let info = [k, n, header.geometry.k(), header.geometry.n(), 1].map(|v| v as i64);
    EncodedWeight { x2, compress_index, compress_info: info }
}
