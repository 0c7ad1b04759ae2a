//! Streams whose checksums are right and whose content no encoder writes: every kernel refuses them, for one reason.

use mcd_core::{
    CompressedWeight, EncodedWeight, Error, Kernel, PrepareOptions, PreparedWeight, Profile, Residency, Serial,
    Tiling, WeightType, WeightView, encode, unpack,
};

/// A weight of one coded tile, whose levels end within a byte.
fn weight() -> EncodedWeight {
    let w: Vec<u8> = (0..16 * 64)
        .map(|i: usize| (i * i % 7 * (i % 5) / 2 + usize::from(i.is_multiple_of(97)) * 90) as u8)
        .collect();
    let view = WeightView::new(&w, (16, 64), (64, 1), WeightType::I8).unwrap();
    encode(&view, Profile::Balanced, Tiling::default()).unwrap()
}

/// Where the continuations of the tile begin, and how many bytes of `x2` precede the tail.
fn continuations(weight: &EncodedWeight) -> (usize, usize) {
    let ranks = usize::from(weight.x2[10]);
    ((64 + ranks).next_multiple_of(64) + 2 * 64 * usize::from(weight.x2[7]), weight.x2.len() - 64)
}

/// Sets the checksums anew.
fn seal(weight: &mut EncodedWeight) {
    let start = (64 + usize::from(weight.x2[10])).next_multiple_of(64);
    let end = weight.x2.len() - 64;
    let tile = crc32fast::hash(&weight.x2[start..end]).to_le_bytes();
    weight.compress_index[4..].copy_from_slice(&tile);
    let index = crc32fast::hash(&weight.compress_index).to_le_bytes();
    weight.x2[40..44].copy_from_slice(&index);
    weight.x2[44..48].fill(0);
    let header = crc32fast::hash(&weight.x2[..start]).to_le_bytes();
    weight.x2[44..48].copy_from_slice(&header);
}

/// The one reason that all kernels give.
fn refusal(weight: &EncodedWeight) -> &'static str {
    let EncodedWeight { x2, compress_index, compress_info } = weight;
    let parsed = CompressedWeight::parse(x2, compress_index, compress_info).unwrap();
    let mut reasons = Vec::new();
    for kernel in Kernel::available() {
        reasons.push(unpack(parsed.clone(), x2, kernel, &Serial).unwrap_err());
        for residency in [Residency::Compressed, Residency::Decoded] {
            let options = PrepareOptions { residency, kernel, threads: 1 };
            reasons.push(PreparedWeight::new(x2, compress_index, compress_info, options).unwrap_err());
        }
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
    seal(&mut weight);
    assert!(refusal(&weight).contains("padding"));
}

#[test]
fn ones_behind_a_level_are_refused() {
    let mut weight = weight();
    let (start, _) = continuations(&weight);
    let open = usize::from(u16::from_le_bytes([weight.x2[start], weight.x2[start + 1]]));
    assert!(weight.x2[9] > 0 && open % 8 != 0, "the first level should end within a byte: {open}");
    weight.x2[start + 2 + open / 8] |= 0x80;
    seal(&mut weight);
    assert!(refusal(&weight).contains("behind the end of a level"));
}

#[test]
fn another_number_of_continued_weights_is_refused() {
    for change in [1_u8, 0x40] {
        let mut weight = weight();
        let (start, _) = continuations(&weight);
        weight.x2[start] ^= change;
        seal(&mut weight);
        refusal(&weight);
    }
}

#[test]
fn a_tile_without_room_for_its_parts_is_refused() {
    let mut weight = weight();
    let (start, _) = continuations(&weight);
    weight.x2[start..start + 2].fill(0xff);
    seal(&mut weight);
    assert!(refusal(&weight).contains("ends within"));
}
