//! What an encoder writes: the bytes that the description of the format gives, of any weight, wherever it lies in memory.

use mcd_core::codec::Order;
use mcd_core::container::OLDEST_VERSION;
use mcd_core::{
    EncodedWeight, Kernel, Profile, Serial, Tiling, WeightType, WeightView, encode, encode_packed, unpack,
};
use mcd_testkit::Rng;
use mcd_testkit::content::Content;
use mcd_testkit::forge::{Fields, Forged, Tile, forge, seal_header};

const CONTENTS: [Content; 5] =
    [Content::Bell(20), Content::Noise, Content::Constant, Content::ExtremeRows, Content::Mixed];
const PROFILES: [Profile; 3] = [Profile::Fast, Profile::Balanced, Profile::Small];
const TILING: Tiling = Tiling { k: 2, n: 2 };

fn view(data: &[u8], n: usize, k: usize) -> WeightView<'_> {
    WeightView::new(data, (n, k), (k, 1), WeightType::I8).unwrap()
}

/// The same tiles in a container that is put together apart from the encoder.
fn put_together(weight: &Forged, n: usize, k: usize, profile: u8) -> Forged {
    let parsed = weight.parse().unwrap();
    let (code, mask, ranks) = match parsed.code() {
        None => ([0; 3], 0, Vec::new()),
        Some(code) => {
            let parameters = [code.root_bits() as u8, code.step(), code.levels() as u8];
            match code.order() {
                Order::Distance(centre) => (parameters, *centre, Vec::new()),
                Order::Stored(stored) => (parameters, stored.mask(), stored.ranks().to_vec()),
            }
        }
    };
    let tiles = weight.tiles().into_iter().enumerate().map(|(t, (kind, bytes))| match kind {
        0 => Tile::Coded(weight.x2[bytes].to_vec()),
        1 => Tile::Raw(weight.x2[bytes].to_vec()),
        _ => Tile::Constant(weight.index[8 * t] >> 2 | weight.index[8 * t + 1] << 6),
    });
    let tiling = [TILING.k as u16, TILING.n as u16];
    let omissions = weight.x2[48];
    let fields = Fields { unsigned: false, code, mask, ranks, tiling, k, n, omissions };
    let mut forged = forge(&fields, &tiles.collect::<Vec<_>>());
    forged.x2[4] = if omissions == 0 { OLDEST_VERSION } else { forged.x2[4] };
    forged.x2[6] = profile;
    seal_header(&mut forged.x2);
    forged
}

#[test]
fn containers_are_as_the_format_describes_them() {
    for content in CONTENTS {
        for (n, k) in [(64, 128), (50, 100), (1, 70), (33, 1)] {
            let data = content.weight(n, k, &mut Rng::new(3));
            for (number, profile) in PROFILES.into_iter().enumerate() {
                let view = view(&data, n, k);
                for encoded in [encode(&view, profile, TILING), encode_packed(&view, profile, TILING)] {
                    let weight = Forged::from(encoded.unwrap());
                    let other = put_together(&weight, n, k, number as u8);
                    assert_eq!(weight.info, other.info);
                    assert!(weight.index == other.index, "{content:?} {n} {k} {profile:?}");
                    assert!(weight.x2 == other.x2, "{content:?} {n} {k} {profile:?}");
                }
            }
        }
    }
}

#[test]
fn what_is_packed_is_unpacked_by_every_kernel() {
    for content in CONTENTS {
        for (n, k) in [(1, 1), (33, 1), (48, 3), (64, 128), (50, 100), (16, 33), (17, 32), (130, 300)] {
            let data = content.weight(n, k, &mut Rng::new(4));
            for profile in PROFILES {
                let weight = Forged::from(encode_packed(&view(&data, n, k), profile, TILING).unwrap());
                if matches!(content, Content::Bell(_)) {
                    let len = weight.x2.len();
                    assert!(len <= 256 + n * k, "{n} {k} {profile:?}: {len} bytes: padding takes none");
                }
                for kernel in Kernel::available() {
                    let found = unpack(weight.parse().unwrap(), &weight.x2, kernel, &Serial).unwrap();
                    assert!(found == data, "{content:?} {n} {k} {profile:?} {kernel:?}");
                }
            }
        }
    }
}

/// Bits of what is left out.
fn omissions(encoded: EncodedWeight) -> u8 {
    encoded.x2[48]
}

#[test]
fn edges_are_left_out_where_that_saves_a_28th() {
    // 336 of 9392 weights, and 320 of 9408.
    for (n, k, left_out) in [(16, 587, 1), (16, 588, 0), (15, 32, 1), (16, 31, 0), (64, 128, 0)] {
        let data = Content::Bell(20).weight(n, k, &mut Rng::new(5));
        let encoded = encode(&view(&data, n, k), Profile::Balanced, Tiling::default()).unwrap();
        assert_eq!(omissions(encoded), left_out, "{n} x {k}");
    }
    for (n, k, left_out) in [(16, 32, 2), (15, 32, 3), (16, 31, 3), (1600, 31, 3)] {
        let data = Content::Bell(20).weight(n, k, &mut Rng::new(5));
        let packed = encode_packed(&view(&data, n, k), Profile::Balanced, Tiling::default()).unwrap();
        assert_eq!(omissions(packed), left_out, "{n} x {k}");
    }
}

/// Rows or columns side by side, with gaps between them, one row again and again.
#[test]
fn a_weight_lies_anywhere_in_memory() {
    let data = Content::Bell(20).weight(90, 90, &mut Rng::new(6));
    for (n, k) in [(40, 50), (50, 40), (17, 1), (1, 17), (40, 40), (16, 36)] {
        let dense = [(k, 1), (1, n)];
        let apart = [(k + 3, 1), (1, n + 3), (2 * k, 2), (2, 2 * n), (k, 2), (2, n)];
        let again = [(0, 1), (1, 0), (1, 1), (1, k), (k, 0), (0, n)];
        for strides in [dense.as_slice(), &apart, &again].concat() {
            let at = |i: usize, j: usize| data[i * strides.0 + j * strides.1];
            let plain: Vec<u8> = (0..n * k).map(|e| at(e / k, e % k)).collect();
            for weight_type in [WeightType::I8, WeightType::U8] {
                let strided = WeightView::new(&data, (n, k), strides, weight_type).unwrap();
                let dense = WeightView::new(&plain, (n, k), (k, 1), weight_type).unwrap();
                let counts = |view: &WeightView<'_>| view.histogram();
                let mut expected = [0; 256];
                plain.iter().for_each(|w| expected[usize::from(w ^ weight_type.flip())] += 1);
                assert_eq!(*counts(&strided).counts(), expected, "{n} x {k}, {strides:?}");
                let encoded = |view| encode(view, Profile::Balanced, TILING).unwrap();
                assert!(encoded(&strided) == encoded(&dense), "{n} x {k}, {strides:?}");
            }
        }
    }
}

#[test]
fn a_view_ends_within_its_data() {
    let view = |len, shape, strides| WeightView::new(&vec![0; len], shape, strides, WeightType::I8).map(|_| ());
    for (len, shape, strides) in [(6, (2, 3), (3, 1)), (6, (2, 3), (1, 2)), (11, (2, 3), (5, 2)), (1, (9, 9), (0, 0))]
    {
        assert_eq!(view(len, shape, strides), Ok(()), "{len} {shape:?} {strides:?}");
    }
    for (len, shape, strides) in [(5, (2, 3), (3, 1)), (10, (2, 3), (5, 3)), (9, (2, 3), (5, 2)), (0, (1, 1), (1, 1))]
    {
        view(len, shape, strides).expect_err("too short");
    }
    let reason = view(5, (2, 3), (3, 1)).expect_err("too short");
    assert!(matches!(reason, mcd_core::Error::Argument { expected: 6, found: 5, .. }), "{reason}");
    for strides in [(usize::MAX, 1), (1, usize::MAX), (usize::MAX, 0), (usize::MAX / 2, usize::MAX / 3 + 1)] {
        view(10, (3, 3), strides).expect_err("its strides overflow");
    }
}
