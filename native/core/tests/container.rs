//! Checks of header and index, one test each: checksums are right, one field is not.

use mcd_core::container::{OLDEST_VERSION, TAIL, VERSION, stream_of};
use mcd_core::{Error, Kernel, Profile, Serial, unpack};
use mcd_testkit::forge::{Fields, Forged, Tile, forge};

/// Bytes of a raw tile of the tests: one fractal.
const RAW: usize = 512;

/// A weight of `tiles` raw tiles of 16 x 32 along k, all checksums right.
fn weight(tiles: usize) -> Forged {
    let bytes: Vec<u8> = (0..tiles * RAW).map(|i| (i % 251) as u8).collect();
    let raw: Vec<Tile> = bytes.chunks(RAW).map(|tile| Tile::Raw(tile.to_vec())).collect();
    forge(&Fields { tiling: [1, 1], k: 32 * tiles, n: 16, ..Fields::default() }, &raw)
}

/// Has entry `t` be of a kind and begin there; its checksum is that of a raw tile, or of what is left before the tail.
fn point(weight: &mut Forged, t: usize, at: usize, kind: u32) {
    let end = (at + RAW).min(weight.x2.len() - TAIL);
    weight.index[8 * t..][..4].copy_from_slice(&((at / 64) as u32 * 4 + kind).to_le_bytes());
    weight.index[8 * t + 4..][..4].copy_from_slice(&crc32fast::hash(&weight.x2[at..end]).to_le_bytes());
}

/// The reason why a weight of two tiles is refused once it was changed so, its checksums being right.
fn refusal(change: impl FnOnce(&mut Forged)) -> String {
    let mut weight = weight(2);
    weight.parse().expect("intact before the change");
    change(&mut weight);
    weight.seal();
    weight.parse().expect_err("changed").to_string()
}

#[test]
fn tiles_out_of_order_are_refused() {
    let reason = refusal(|weight| point(weight, 0, 64 + 2 * RAW - 64, 1));
    assert!(reason.contains("out of order"), "{reason}");
}

#[test]
fn a_tile_that_begins_where_the_next_does_is_refused() {
    let reason = refusal(|weight| point(weight, 0, 64 + RAW, 1));
    assert!(reason.contains("out of order"), "{reason}");
}

#[test]
fn a_tile_inside_the_header_is_refused() {
    let reason = refusal(|weight| point(weight, 0, 0, 1));
    assert!(reason.contains("entry 0 points to 0"), "{reason}");
}

#[test]
fn a_raw_tile_of_another_length_is_refused() {
    let reason = refusal(|weight| point(weight, 1, 64 + RAW - 64, 1));
    assert!(reason.contains("entry 1 is raw"), "{reason}");
}

#[test]
fn a_coded_tile_without_a_code_is_refused() {
    let reason = refusal(|weight| point(weight, 1, 64 + RAW, 0));
    assert!(reason.contains("x2 has no code"), "{reason}");
}

#[test]
fn bytes_that_no_tile_uses_are_refused() {
    let reason = refusal(|weight| weight.index[..8].copy_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]));
    assert!(reason.contains("unused"), "{reason}");
}

#[test]
fn reserved_bytes_that_are_not_zero_are_refused() {
    for at in 49..64 {
        let reason = refusal(|weight| weight.x2[at] = 1);
        assert!(reason.contains("reserved bytes"), "{at}: {reason}");
    }
    let reason = refusal(|weight| (weight.x2[4], weight.x2[48]) = (OLDEST_VERSION, 1));
    assert!(reason.contains("reserved bytes"), "the older version leaves nothing out: {reason}");
}

#[test]
fn omissions_that_are_not_known_are_refused() {
    for bits in [4, 8, 0x80, 7] {
        let reason = refusal(|weight| weight.x2[48] = bits);
        assert!(reason.contains("leaves out"), "{bits}: {reason}");
    }
}

#[test]
fn other_versions_are_refused() {
    for version in [0, OLDEST_VERSION - 1, VERSION - 1, VERSION + 1, 0xff] {
        let reason = refusal(|weight| weight.x2[4] = version);
        assert!(reason.contains("reads versions 3 and 5"), "{version}: {reason}");
    }
    for version in [OLDEST_VERSION, VERSION] {
        let mut weight = weight(2);
        weight.x2[4] = version;
        weight.seal();
        weight.parse().expect("it leaves nothing out");
    }
}

#[test]
fn a_tail_that_is_left_out_is_not_looked_for() {
    let (mut short, mut whole) = (weight(2), weight(2));
    short.x2.truncate(short.x2.len() - TAIL);
    short.x2[48] = 2;
    short.seal();
    let parsed = short.parse().expect("all tiles are there");
    assert_eq!(parsed.version(), VERSION);
    let decoded = unpack(parsed, &short.x2, Kernel::by_name("scalar").unwrap(), &Serial).unwrap();
    let expected = unpack(whole.parse().unwrap(), &whole.x2, Kernel::by_name("scalar").unwrap(), &Serial);
    assert_eq!(Ok(decoded), expected);
    whole.x2[48] = 2;
    whole.seal();
    let reason = whole.parse().expect_err("64 bytes more than tiles").to_string();
    assert!(reason.contains("entry 1 is raw"), "{reason}");
}

#[test]
fn a_tail_that_is_not_zero_is_refused() {
    for behind in [1, TAIL] {
        let reason = refusal(|weight| {
            let at = weight.x2.len() - behind;
            weight.x2[at] = 1;
        });
        assert!(reason.contains("64 zero bytes"), "{behind}: {reason}");
    }
}

#[test]
fn a_changed_byte_of_a_tile_is_seen_when_the_tile_is_verified() {
    let mut weight = weight(2);
    let at = 64 + RAW;
    weight.x2[at] ^= 1;
    let parsed = weight.parse().unwrap();
    parsed.verify_tile(&weight.x2, 0).unwrap();
    let found = parsed.verify_tile(&weight.x2, 1);
    assert!(matches!(found, Err(Error::Checksum { .. })), "{found:?}");
    for kernel in Kernel::available() {
        let found = unpack(parsed.clone(), &weight.x2, kernel, &Serial);
        assert!(matches!(found, Err(Error::Checksum { .. })), "{kernel:?}: {found:?}");
    }
}

#[test]
fn parameters_of_a_code_without_root_bits_are_refused() {
    for at in [8, 9, 11] {
        assert!(!refusal(|weight| weight.x2[at] = 1).is_empty(), "byte {at}");
    }
}

#[test]
fn a_stream_ends_where_its_header_says() {
    let weight = weight(2);
    let longer = [weight.x2.as_slice(), &[7; 100]].concat();
    assert_eq!(stream_of(&longer), weight.x2);
    assert_eq!(stream_of(&weight.x2), weight.x2);
    assert_eq!(stream_of(&weight.x2[..300]), &weight.x2[..300], "shorter than it says: parsing tells");
    let mut other = longer.clone();
    other[0] = b'N';
    assert_eq!(stream_of(&other), other, "no stream of ours");
}

#[test]
fn what_is_told_of_a_weight_is_what_it_holds() {
    let weight = weight(3);
    let parsed = weight.parse().unwrap();
    assert_eq!(parsed.profile(), Profile::Fast);
    assert_eq!(parsed.version(), OLDEST_VERSION);
    assert_eq!(parsed.x2_len(), weight.x2.len());
    let stats = parsed.stats();
    assert_eq!((stats.coded_tiles, stats.raw_tiles, stats.constant_tiles), (0, 3, 0));
    assert_eq!(stats.payload_bytes, 3 * RAW);
    assert_eq!(stats.stored_bytes, weight.x2.len() + weight.index.len());
    let mut small = weight;
    small.x2[6] = 2;
    small.seal();
    assert_eq!(small.parse().unwrap().profile(), Profile::Small);
}
