//! Any bytes for header, index and shape: an error or a weight whose tiles lie in its bytes.

use mcd_core::CompressedWeight;
use mcd_core::container::{EncodedWeight, Tile, VERSION};

use mcd_testkit::forge::seal_header;

use crate::input::Input;
use crate::reach::reached;

/// Runs one input: flags, the length of `x2` in 64 bytes and what is over, `x2`, `compress_index`.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let len = usize::from(input.word());
    let mut x2 = input.take(len).to_vec();
    let index = input.0;
    if x2.len() >= 64 {
        if flags & 1 == 0 {
            x2[..4].copy_from_slice(b"MCDW");
            x2[4] = VERSION;
        }
        if flags & 2 == 0 {
            let total = (x2.len() as u64).to_le_bytes();
            x2[32..40].copy_from_slice(&total);
        }
        if flags & 4 == 0 {
            x2[40..44].copy_from_slice(&crc32fast::hash(index).to_le_bytes());
        }
        if flags & 8 == 0 {
            seal_header(&mut x2);
        }
    }
    let mut info = [0, 0, 0, 0, 1];
    if let Some(header) = x2.get(12..32) {
        info[0] = i64::from(u16::from_le_bytes([header[0], header[1]]));
        info[1] = i64::from(u16::from_le_bytes([header[2], header[3]]));
        for (value, bytes) in info[2..4].iter_mut().zip(header[4..].chunks_exact(8)) {
            *value = i64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        }
    }
    if flags & 16 != 0 {
        info[usize::from(flags >> 5) % 5] ^= 1;
    }
    let given = &info[..if flags & 32 != 0 && flags & 16 == 0 { 4 } else { 5 }];
    let Ok(weight) = CompressedWeight::parse(&x2, index, given) else { return };
    reached();

    let geometry = weight.geometry();
    assert_eq!((geometry.k() as i64, geometry.n() as i64), (info[2], info[3]));
    assert_eq!(geometry.tiles() * 8, index.len());
    assert_eq!(weight.x2_len(), x2.len());
    let stats = weight.stats();
    assert_eq!(stats.coded_tiles + stats.raw_tiles + stats.constant_tiles, geometry.tiles());
    assert_eq!(stats.stored_bytes, x2.len() + index.len());
    assert!(stats.payload_bytes + 64 <= x2.len());
    let mut room = Vec::new();
    for t in 0..geometry.tiles() {
        let weights = geometry.tile(t).weights();
        match weight.tile(&x2, t, &mut room) {
            Ok(Tile::Raw(raw)) => assert_eq!(raw.len(), weights),
            Ok(Tile::Coded(tile)) => assert!(tile.len + 64 <= tile.rest.len() && tile.roots.len() < weights),
            Ok(Tile::Constant(_)) => assert_eq!(weight.verify_tile(&x2, t), Ok(Vec::new())),
            Err(_) => {}
        }
        let _ = weight.verify_tile(&x2, t);
        assert!(weight.tile(&x2[..x2.len() - 1], t, &mut room).is_err());
    }
}

/// The input that holds this weight.
pub fn input(encoded: &EncodedWeight) -> Vec<u8> {
    let mut out = vec![0];
    out.extend(u16::try_from(encoded.x2.len()).expect("a small weight").to_le_bytes());
    out.extend(&encoded.x2);
    out.extend(&encoded.compress_index);
    out
}
