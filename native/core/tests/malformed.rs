//! Streams whose checksums are right and whose content no encoder writes: every kernel refuses them, for one reason.

use mcd_core::{Error, PreparedWeight, Profile, Serial, Tiling, WeightType, WeightView, encode, unpack};
use mcd_testkit::forge::Forged;
use mcd_testkit::ways::ways;

/// A weight of one coded tile, whose levels end within a byte.
fn weight() -> Forged {
    let w: Vec<u8> = (0..16 * 64)
        .map(|i: usize| (i * i % 7 * (i % 5) / 2 + usize::from(i.is_multiple_of(97)) * 90) as u8)
        .collect();
    let view = WeightView::new(&w, (16, 64), (64, 1), WeightType::I8).unwrap();
    encode(&view, Profile::Balanced, Tiling::default()).unwrap().into()
}

/// Where the continuations of the tile begin, and how many bytes of `x2` precede the tail.
fn continuations(weight: &Forged) -> (usize, usize) {
    let ranks = usize::from(weight.x2[10]);
    ((64 + ranks).next_multiple_of(64) + 2 * 64 * usize::from(weight.x2[7]), weight.x2.len() - 64)
}

/// The one reason that all kernels give.
fn refusal(weight: &Forged) -> &'static str {
    let Forged { x2, index, info } = weight;
    let parsed = weight.parse().unwrap();
    let mut reasons = Vec::new();
    for options in ways() {
        reasons.push(unpack(parsed.clone(), x2, options.kernel, &Serial).unwrap_err());
        reasons.push(PreparedWeight::new(x2, index, info, options).unwrap_err());
    }
    assert!(reasons.iter().all(|r| *r == reasons[0]), "{reasons:?}");
    match reasons[0] {
        Error::Tile { tile: 0, reason } => reason,
        ref other => panic!("{other}"),
    }
}

#[test]
fn padding_that_is_not_zero_is_refused() {
    let mut weight = weight();
    let (_, end) = continuations(&weight);
    assert_eq!(weight.x2[end - 1], 0, "the tile should have padding");
    weight.x2[end - 1] = 1;
    weight.seal_all();
    assert!(refusal(&weight).contains("padding"));
}

#[test]
fn ones_behind_a_level_are_refused() {
    let mut weight = weight();
    let (start, _) = continuations(&weight);
    let open = usize::from(u16::from_le_bytes([weight.x2[start], weight.x2[start + 1]]));
    assert!(weight.x2[9] > 0 && open % 8 != 0, "the first level should end within a byte: {open}");
    weight.x2[start + 2 + open / 8] |= 0x80;
    weight.seal_all();
    assert!(refusal(&weight).contains("behind the end of a level"));
}

#[test]
fn another_number_of_continued_weights_is_refused() {
    for change in [1_u8, 0x40] {
        let mut weight = weight();
        let (start, _) = continuations(&weight);
        weight.x2[start] ^= change;
        weight.seal_all();
        refusal(&weight);
    }
}

#[test]
fn a_tile_without_room_for_its_parts_is_refused() {
    let mut weight = weight();
    let (start, _) = continuations(&weight);
    weight.x2[start..start + 2].fill(0xff);
    weight.seal_all();
    assert!(refusal(&weight).contains("ends within"));
}
