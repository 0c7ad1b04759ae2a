//! How many weights of a tile may be continued: never more than the tile has, since kernels keep a byte for each of them.

use mcd_core::codec::MAX_LEVELS;
use mcd_core::codec::decode::CodedTile;
use mcd_core::{PreparedWeight, Serial, unpack};
use mcd_testkit::forge::{Fields, Forged, Tile, forge};
use mcd_testkit::ways::ways;

/// What a tile of the tests holds.
const WEIGHTS: usize = 512;

/// Continuations of one level: a count, a bit for each entry of which the first `ones` are set, as many escapes, then padding
/// and the 64 bytes that follow every tile. Gives the tile's length as well.
fn continuations(entries: usize, ones: usize) -> (Vec<u8>, usize) {
    let mut rest = u16::try_from(entries).unwrap().to_le_bytes().to_vec();
    rest.extend((0..entries.div_ceil(8)).map(|byte| match ones.saturating_sub(byte * 8) {
        left @ 0..8 => (1_u8 << left) - 1,
        _ => 0xff,
    }));
    rest.resize(rest.len() + ones, 1);
    let len = rest.len().next_multiple_of(64);
    rest.resize(len + 64, 0);
    (rest, len)
}

/// Whether the parts of such a tile are cut, counted and with counts that are remembered; both must say the same.
fn is_cut(entries: usize, ones: usize) -> bool {
    let (rest, len) = continuations(entries, ones);
    let counts = [entries, ones].map(|count| u16::try_from(count).unwrap());
    let tile = CodedTile { roots: &[], rest: &rest, len, counts: None };
    let counted = tile.starts(1, WEIGHTS);
    let remembered = CodedTile { counts: Some(&counts), ..tile }.starts(1, WEIGHTS);
    assert_eq!(counted, remembered, "{entries} entries, {ones} ones");
    counted.is_some()
}

#[test]
fn as_many_as_the_tile_has_are_taken() {
    for (entries, ones) in [(0, 0), (1, 1), (WEIGHTS, 0), (WEIGHTS, WEIGHTS)] {
        assert!(is_cut(entries, ones), "{entries} entries, {ones} ones");
    }
}

#[test]
fn more_entries_than_weights_are_refused() {
    for entries in [WEIGHTS + 1, WEIGHTS + 8, 2 * WEIGHTS, usize::from(u16::MAX)] {
        assert!(!is_cut(entries, 0), "{entries} entries");
    }
}

/// Without a level, all that is continued escapes.
#[test]
fn more_escapes_than_weights_are_refused() {
    for (escapes, taken) in [(WEIGHTS, true), (WEIGHTS + 1, false), (4 * WEIGHTS, false)] {
        let mut rest = u16::try_from(escapes).unwrap().to_le_bytes().to_vec();
        rest.resize(2 + escapes, 1);
        let len = rest.len().next_multiple_of(64);
        rest.resize(len + 64, 0);
        let tile = CodedTile { roots: &[], rest: &rest, len, counts: None };
        assert_eq!(tile.starts(0, WEIGHTS).is_some(), taken, "{escapes} escapes");
    }
}

#[test]
fn as_many_levels_as_a_code_can_have_are_cut() {
    let rest = [0; 128];
    let tile = CodedTile { roots: &[], rest: &rest, len: 64, counts: None };
    let starts = tile.starts(MAX_LEVELS, WEIGHTS).expect("nothing is continued");
    assert_eq!(starts.get(MAX_LEVELS), Some(&(2, 0)));
}

/// Counts that are remembered may be of a file that has changed since: the parts have to fill the tile, to less than 64 bytes.
#[test]
fn parts_that_do_not_fill_the_tile_are_refused() {
    let (rest, len) = continuations(WEIGHTS, 3);
    assert_eq!(len, 128);
    for (len, taken) in [(len, true), (2 + WEIGHTS / 8 + 3, true), (2 + WEIGHTS / 8 + 2, false), (len + 64, false)] {
        let tile = CodedTile { roots: &[], rest: &rest, len, counts: None };
        assert_eq!(tile.starts(1, WEIGHTS).is_some(), taken, "{len} bytes");
    }
    // Nothing behind the level, not even padding.
    let (rest, _) = continuations(WEIGHTS, 0);
    let tile = CodedTile { roots: &[], rest: &rest, len: 2 + WEIGHTS / 8, counts: None };
    assert!(tile.starts(1, WEIGHTS).is_some());
}

#[test]
fn a_level_is_read_without_what_lies_behind_it() {
    let rest: Vec<u8> = (0..=255).rev().collect();
    let tile = CodedTile { roots: &[], rest: &rest, len: 128, counts: None };
    for (start, entries) in [(3_usize, 0_usize), (3, 1), (2, 63), (2, 64), (5, 65), (7, 200)] {
        let bit = |entry: usize| u64::from(rest[start + entry / 8] >> (entry % 8) & 1) << (entry % 64);
        let mut expected = vec![0; entries.div_ceil(64)];
        (0..entries).for_each(|entry| expected[entry / 64] |= bit(entry));
        assert_eq!(tile.words((start, entries)).collect::<Vec<_>>(), expected, "{entries} entries from {start}");
    }
}

#[test]
fn a_tile_holds_its_root_fields() {
    let x2 = [0; 192];
    for (start, end, roots, taken) in
        [(0, 64, 64, true), (0, 63, 64, false), (64, 128, 0, true), (64, 128, 65, false)]
    {
        let tile = CodedTile::parse(&x2, start, end, roots);
        assert_eq!(tile.is_ok(), taken, "{start}..{end}, {roots} bytes of root fields");
        if let Ok(tile) = tile {
            assert_eq!(
                (tile.roots.len(), tile.rest.len(), tile.len),
                (roots, 192 - start - roots, end - start - roots)
            );
        }
    }
}

#[test]
fn less_than_64_bytes_are_padding() {
    let tile = CodedTile { roots: &[], rest: &[0; 192], len: 128, counts: None };
    for (used, taken) in [(64, false), (65, true), (128, true), (129, false)] {
        assert_eq!(tile.ends_at(used), taken, "{used} bytes are used");
    }
}

/// More entries than weights in a whole weight: every kernel refuses it, at loading and when it unpacks.
#[test]
fn a_weight_with_such_a_tile_is_refused_by_every_kernel() {
    for entries in [WEIGHTS + 1, 2 * WEIGHTS, 16 * WEIGHTS, usize::from(u16::MAX)] {
        let weight = weight(entries);
        let parsed = weight.parse().unwrap();
        let Forged { x2, index, info } = weight;
        for options in ways() {
            unpack(parsed.clone(), &x2, options.kernel, &Serial).unwrap_err();
            PreparedWeight::new(&x2, &index, &info, options).unwrap_err();
        }
    }
}

/// A weight of 16 x 32 in one coded tile (R = 4, A = 4, D = 1, ranks by distance) whose root fields are zero and whose one level
/// has this many entries, all checksums right.
fn weight(entries: usize) -> Forged {
    let (rest, len) = continuations(entries, 0);
    // 4 rows of 64 bytes for one fractal.
    let tile = Tile::Coded([&[0; 4 * 64], &rest[..len]].concat());
    forge(&Fields { code: [4, 4, 1], tiling: [1, 1], k: 32, n: 16, ..Fields::default() }, &[tile])
}
