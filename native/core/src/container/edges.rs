//! Fractals at the edges of a weight, stored without what lies outside of it: first the groups that are inside with all four of
//! their places along k, then what is inside of the group behind them.
//!
//! A decoder reads whole fractals: [`restore`] puts zeros where nothing is stored, which are the root fields of rank 0.

use crate::geometry::{FRACTAL_K, GROUP, GROUP_K, Geometry, PANEL, TileShape};
use std::ops::Range;

/// What of a fractal is inside of the weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Inside {
    columns: usize,
    /// Whole groups along k.
    groups: usize,
    /// Places along k in the group behind them.
    rest: usize,
    root_bits: usize,
}

/// Lanes with so many bits of root fields each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lanes {
    lanes: usize,
    bits: usize,
}

/// Root fields of some lanes: so many bits of one byte of theirs, packed. Lane i is at byte i mod `bytes`.
#[derive(Debug, Clone)]
struct Row {
    /// Which of the R bytes.
    byte: usize,
    /// Where in it the bits begin, and how many they are.
    from: usize,
    width: usize,
    /// Where they are stored, from the fractal's begin on.
    stored: Range<usize>,
}

/// The most rows that a fractal has: its root fields are of 8 bits at most, so there are eight whole bytes, or fewer and three
/// parts of one.
const MOST_ROWS: usize = 10;

/// The rows of a fractal.
type Rows = [Option<Row>; MOST_ROWS];

impl Inside {
    fn of(columns: usize, depth: usize, root_bits: usize) -> Self {
        Self { columns, groups: depth / GROUP_K, rest: depth % GROUP_K, root_bits }
    }

    /// The whole groups.
    fn whole(self) -> Lanes {
        Lanes { lanes: GROUP_K * self.columns, bits: self.groups * self.root_bits }
    }

    /// The group behind them: those of its lanes that are inside, one behind the other.
    fn behind(self) -> Lanes {
        Lanes { lanes: self.rest * self.columns, bits: if self.rest == 0 { 0 } else { self.root_bits } }
    }

    /// Bytes that it is stored in.
    fn bytes(self) -> usize {
        self.whole().bytes() + self.behind().bytes()
    }

    /// Where the lanes of the group behind are among all lanes, and the byte and bit where their root fields begin.
    fn places(self) -> (impl Iterator<Item = usize>, usize, usize) {
        let lanes = (0..self.columns).flat_map(move |column| (0..self.rest).map(move |at| column * GROUP_K + at));
        let bit = self.groups * self.root_bits;
        (lanes, bit / 8, bit % 8)
    }

    /// The root fields of the group behind, a byte each; what follows the last is not specified.
    fn taken(self, rows: &[u8]) -> [u8; GROUP] {
        let mut fields = [0; GROUP];
        let (lanes, byte, bit) = self.places();
        for (field, lane) in fields.iter_mut().zip(lanes) {
            let low = u16::from(rows[byte * GROUP + lane]);
            // There is no further byte where the field ends in this one.
            let high = rows.get((byte + 1) * GROUP + lane).map_or(0, |&high| u16::from(high));
            *field = ((low | high << 8) >> bit) as u8 & (0xff >> (8 - self.root_bits));
        }
        fields
    }

    /// The inverse of [`Self::taken`]: puts the fields into rows that hold zeros there.
    fn put(self, fields: &[u8; GROUP], rows: &mut [u8]) {
        let (lanes, byte, bit) = self.places();
        for (field, lane) in fields.iter().zip(lanes) {
            let field = u16::from(*field) << bit;
            rows[byte * GROUP + lane] |= field as u8;
            if bit + self.root_bits > 8 {
                rows[(byte + 1) * GROUP + lane] |= (field >> 8) as u8;
            }
        }
    }
}

impl Lanes {
    /// Whole bytes first, then four bits, two and one of what is left.
    fn rows(self) -> impl Iterator<Item = Row> {
        let (whole, rest) = (self.bits / 8, self.bits % 8);
        let parts = [4, 2, 1].into_iter().filter(move |width| rest & width != 0);
        let (mut from, mut at) = (0, 0);
        let widths = std::iter::repeat_n(8, whole).chain(parts);
        widths.enumerate().map(move |(number, width)| {
            let bytes = (self.lanes * width).div_ceil(8);
            let row = Row { byte: number.min(whole), from, width, stored: at..at + bytes };
            at += bytes;
            from = if width == 8 { 0 } else { from + width };
            row
        })
    }

    /// The same, without memory of their own.
    fn layout(self) -> Rows {
        let mut rows = self.rows();
        let layout = std::array::from_fn(|_| rows.next());
        debug_assert!(rows.next().is_none());
        layout
    }

    /// Bytes that they are stored in.
    fn bytes(self) -> usize {
        self.rows().map(|row| row.stored.len()).sum()
    }

    /// Appends theirs of some rows of root fields.
    fn cut(self, rows: &[u8], out: &mut Vec<u8>) {
        for Row { byte, from, width, stored } in self.rows() {
            let (start, bytes, mask) = (out.len(), stored.len(), 0xff >> (8 - width));
            out.resize(start + bytes, 0);
            let lanes = &rows[byte * GROUP..][..self.lanes];
            for (i, lanes) in lanes.chunks(bytes).enumerate() {
                for (to, lane) in out[start..].iter_mut().zip(lanes) {
                    *to |= (lane >> from & mask) << (i * width);
                }
            }
        }
    }
}

/// The fractals of a tile, panel by panel, as far as they are inside of the weight.
fn fractals(geometry: &Geometry, shape: &TileShape, root_bits: usize) -> impl Iterator<Item = Inside> {
    let (n, k) = (geometry.n(), geometry.k());
    let across = shape.fractal..shape.fractal + shape.fractals;
    (shape.panel..shape.panel + shape.panels).flat_map(move |panel| {
        let columns = PANEL.min(n - panel * PANEL);
        across.clone().map(move |fractal| Inside::of(columns, FRACTAL_K.min(k - fractal * FRACTAL_K), root_bits))
    })
}

/// Whether a tile reaches over an edge of the weight.
pub fn crosses(geometry: &Geometry, shape: &TileShape) -> bool {
    (shape.panel + shape.panels) * PANEL > geometry.n() || (shape.fractal + shape.fractals) * FRACTAL_K > geometry.k()
}

/// Bytes of the root fields of a tile that is cut.
pub fn stored_len(geometry: &Geometry, shape: &TileShape, root_bits: usize) -> usize {
    // At most four different fractals: inside, at one edge, at the other, at both.
    let inside = |panel: usize, fractal: usize| {
        let columns = PANEL.min(geometry.n() - panel * PANEL);
        Inside::of(columns, FRACTAL_K.min(geometry.k() - fractal * FRACTAL_K), root_bits).bytes()
    };
    let (last_panel, last) = (shape.panel + shape.panels - 1, shape.fractal + shape.fractals - 1);
    let of_a_panel = |panel| (shape.fractals - 1) * inside(panel, shape.fractal) + inside(panel, last);
    (shape.panels - 1) * of_a_panel(shape.panel) + of_a_panel(last_panel)
}

/// What is stored of the root fields of a tile, R rows of 64 bytes a fractal.
pub fn cut(roots: &[u8], geometry: &Geometry, shape: &TileShape, root_bits: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(roots.len());
    for (rows, inside) in roots.chunks_exact(root_bits * GROUP).zip(fractals(geometry, shape, root_bits)) {
        inside.whole().cut(rows, &mut out);
        inside.behind().cut(&inside.taken(rows), &mut out);
    }
    out
}

/// The inverse of [`cut`]: appends R rows of 64 bytes a fractal to `out`; `stored` has [`stored_len`] bytes.
pub fn restore(stored: &[u8], geometry: &Geometry, shape: &TileShape, root_bits: usize, out: &mut Vec<u8>) {
    let (end, row) = (shape.fractal + shape.fractals, root_bits * GROUP);
    let mut rest = stored;
    // Of the fractals that are cut, most are cut alike.
    let mut cut: Option<(Inside, [Rows; 2])> = None;
    for panel in shape.panel..shape.panel + shape.panels {
        let columns = PANEL.min(geometry.n() - panel * PANEL);
        let first_cut = if columns == PANEL { geometry.k() / FRACTAL_K } else { 0 }.clamp(shape.fractal, end);
        let (whole, behind) = rest.split_at((first_cut - shape.fractal) * row);
        out.extend_from_slice(whole);
        rest = behind;
        for fractal in first_cut..end {
            let inside = Inside::of(columns, FRACTAL_K.min(geometry.k() - fractal * FRACTAL_K), root_bits);
            if cut.as_ref().is_none_or(|(other, _)| *other != inside) {
                cut = Some((inside, [inside.whole().layout(), inside.behind().layout()]));
            }
            let (_, [whole, behind]) = cut.as_ref().expect("just made");
            let start = out.len();
            out.resize(start + row, 0);
            rest = restore_lanes(rest, inside.whole().lanes, whole, &mut out[start..]);
            if inside.rest > 0 {
                let mut fields = [0; GROUP];
                rest = restore_lanes(rest, inside.behind().lanes, behind, &mut fields);
                inside.put(&fields, &mut out[start..]);
            }
        }
    }
}

/// Puts rows of lanes, which `stored` begins with, into `out`, which holds zeros; what follows them.
fn restore_lanes<'a>(stored: &'a [u8], lanes: usize, rows: &Rows, out: &mut [u8]) -> &'a [u8] {
    let mut end = 0;
    for &Row { byte, from, width, stored: ref at } in rows.iter().flatten() {
        end = at.end;
        let (bytes, lanes) = (&stored[at.clone()], &mut out[byte * GROUP..][..lanes]);
        if width == 8 {
            lanes.copy_from_slice(bytes);
            continue;
        }
        for (i, lanes) in lanes.chunks_mut(bytes.len()).enumerate() {
            place_bits(bytes, i * width, width, lanes, from);
        }
    }
    &stored[end..]
}

/// Bytes of a word.
const WORD: usize = 8;

/// Puts `width` bits of each byte, from `at` on, into the lanes, which hold zeros there, from bit `from` on.
fn place_bits(bytes: &[u8], at: usize, width: usize, lanes: &mut [u8], from: usize) {
    let mask = 0xff >> (8 - width);
    let (words, last) = bytes[..lanes.len()].as_chunks::<WORD>();
    let (lane_words, last_lanes) = lanes.as_chunks_mut::<WORD>();
    // Eight at a time: what a shift takes over from a neighbour is masked out.
    for (lanes, bytes) in lane_words.iter_mut().zip(words) {
        let bits = u64::from_le_bytes(*bytes) >> at & (u64::from(mask) * 0x0101_0101_0101_0101);
        *lanes = (u64::from_le_bytes(*lanes) | bits << from).to_le_bytes();
    }
    for (lane, byte) in last_lanes.iter_mut().zip(last) {
        *lane |= (byte >> at & mask) << from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Tiling;

    /// Root fields whose bits outside of the weight are zero, as an encoder has them.
    fn roots(geometry: &Geometry, shape: &TileShape, root_bits: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut roots = Vec::new();
        for Inside { columns, groups, rest, .. } in fractals(geometry, shape, root_bits) {
            for byte in 0..root_bits {
                roots.extend((0..GROUP).map(|lane| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let groups = groups + usize::from(lane % GROUP_K < rest);
                    let groups = if lane / GROUP_K < columns { groups } else { 0 };
                    let bits = (groups * root_bits).saturating_sub(8 * byte).min(8);
                    (state >> 24 & ((1 << bits) - 1)) as u8
                }));
            }
        }
        roots
    }

    #[test]
    fn the_tiles_that_cross_an_edge() {
        let found = |n, k| -> Vec<bool> {
            let geometry = Geometry::new(k, n, Tiling { k: 2, n: 2 }).unwrap();
            (0..geometry.tiles()).map(|t| crosses(&geometry, &geometry.tile(t))).collect()
        };
        assert_eq!(found(32, 64), [false]);
        assert_eq!(found(48, 32), [false; 2]);
        for (n, k) in [(31, 64), (32, 63), (1, 1)] {
            assert_eq!(found(n, k), [true], "{n} x {k}");
        }
        for (n, k) in [(33, 64), (32, 65)] {
            assert_eq!(found(n, k), [false, true], "{n} x {k}");
        }
    }

    #[test]
    fn whole_bytes_come_first_then_four_bits_two_and_one() {
        let rows: Vec<_> = Lanes { lanes: 20, bits: 31 }.rows().collect();
        let rows: Vec<_> = rows.into_iter().map(|row| (row.byte, row.from, row.width, row.stored)).collect();
        let whole = [(0, 0, 8, 0..20), (1, 0, 8, 20..40), (2, 0, 8, 40..60)];
        let parts = [(3, 0, 4, 60..70), (3, 4, 2, 70..75), (3, 6, 1, 75..78)];
        assert_eq!(rows, [whole, parts].concat());
        assert_eq!(Lanes { lanes: 20, bits: 31 }.bytes(), 78);
        let inside = Inside::of(5, 9, 6);
        assert_eq!((inside.whole(), inside.behind()), (Lanes { lanes: 20, bits: 12 }, Lanes { lanes: 5, bits: 6 }));
        assert_eq!(Inside::of(5, 8, 6).behind().bytes(), 0);
    }

    #[test]
    fn lanes_lie_side_by_side_in_a_byte() {
        // One weight of three bits in each of four lanes.
        let geometry = Geometry::new(4, 1, Tiling::default()).unwrap();
        let mut roots = vec![0; 3 * GROUP];
        roots[..4].copy_from_slice(&[0b101, 0b010, 0b111, 0b011]);
        // Bits 0 and 1 of all lanes, then bit 2.
        assert_eq!(cut(&roots, &geometry, &geometry.tile(0), 3), [0b11_11_10_01, 0b0101]);
        // Of six weights in two columns, two of each are whole groups; those behind lie side by side.
        let geometry = Geometry::new(6, 2, Tiling::default()).unwrap();
        roots[..8].copy_from_slice(&[0b101_001, 0b010_010, 0b011, 0b100, 0b111_101, 0b110_110, 0b111, 0b000]);
        let stored = cut(&roots, &geometry, &geometry.tile(0), 3);
        assert_eq!((stored.len(), &stored[3..]), (5, &[0b10_11_10_01, 0b1101][..]));
        // Twelve lanes of four bits: lane i is in byte i mod 6, above those that came before.
        let geometry = Geometry::new(4, 3, Tiling::default()).unwrap();
        let mut roots = vec![0; 4 * GROUP];
        (0..12).for_each(|lane| roots[lane] = lane as u8);
        assert_eq!(cut(&roots, &geometry, &geometry.tile(0), 4), [0x60, 0x71, 0x82, 0x93, 0xa4, 0xb5]);
    }

    #[test]
    fn what_is_cut_is_restored() {
        for (n, k) in [(1, 1), (16, 32), (17, 33), (5, 70), (47, 31), (16, 27), (33, 120), (15, 4), (300, 6)] {
            let geometry = Geometry::new(k, n, Tiling { k: 2, n: 2 }).unwrap();
            for (t, root_bits) in (0..geometry.tiles()).flat_map(|t| (1..=7).map(move |bits| (t, bits))) {
                let shape = geometry.tile(t);
                let roots = roots(&geometry, &shape, root_bits);
                let stored = cut(&roots, &geometry, &shape, root_bits);
                assert_eq!(
                    stored.len(),
                    stored_len(&geometry, &shape, root_bits),
                    "{n} x {k}, tile {t}, {root_bits} bits"
                );
                let mut restored = Vec::new();
                restore(&stored, &geometry, &shape, root_bits, &mut restored);
                assert_eq!(restored, roots, "{n} x {k}, tile {t}, {root_bits} bits");
            }
        }
    }

    #[test]
    fn a_fractal_of_six_groups_takes_thirty_bits_a_lane() {
        let geometry = Geometry::new(24, 16, Tiling::default()).unwrap();
        assert_eq!(stored_len(&geometry, &geometry.tile(0), 5), 3 * 64 + 32 + 16);
        // And of one weight more in each of 16 columns: 16 fields of five bits.
        let geometry = Geometry::new(25, 16, Tiling::default()).unwrap();
        assert_eq!(stored_len(&geometry, &geometry.tile(0), 5), 3 * 64 + 32 + 16 + 10);
    }
}
