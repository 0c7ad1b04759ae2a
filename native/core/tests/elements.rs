//! Whole weights and rows of them, by every kernel, against the reference decoder.

use mcd_core::{
    CompressedWeight, Kernel, Layout, Parallel, Profile, Serial, Tiling, VerifiedWeight, WeightType, WeightView,
    encode, unpack,
};
use mcd_testkit::Rng;
use mcd_testkit::content::Content;
use mcd_testkit::pools::Dealt;
use std::mem::MaybeUninit;
use std::sync::Mutex;

/// Weights of many values, some tiles of one value, some of none that compresses.
fn weights(n: usize, k: usize) -> Vec<u8> {
    Content::Mixed.weight(n, k, &mut Rng::new((n * 1000 + k) as u64))
}

const TWO: Dealt = Dealt(2);

fn decompressed(weight: &VerifiedWeight, x2: &[u8], layout: Layout, pool: &dyn Parallel) -> Vec<u8> {
    let mut out = vec![MaybeUninit::new(0xa5); weight.n() * weight.k()];
    weight.bind(x2).unwrap().decompress(layout, &mut out, pool).unwrap();
    // SAFETY: all were initialised above.
    out.into_iter().map(|byte| unsafe { byte.assume_init() }).collect()
}

/// Cache lines are written where there are four panels, or two fractals: some of these have one or three more than that, and a
/// last group along k that is whole where the fractal is not.
const SHAPES: [(usize, usize); 12] = [
    (1, 1),
    (16, 32),
    (15, 31),
    (17, 33),
    (128, 256),
    (129, 257),
    (300, 100),
    (3, 1000),
    (700, 530),
    (80, 96),
    (112, 124),
    (66, 162),
];

#[test]
fn whole_weights_in_both_layouts() {
    for (n, k) in SHAPES {
        let w = weights(n, k);
        let transposed: Vec<u8> = (0..k * n).map(|at| w[at % n * k + at / n]).collect();
        for (weight_type, tiling) in [
            (WeightType::I8, Tiling::default()),
            (WeightType::U8, Tiling { k: 16, n: 1 }),
            (WeightType::I8, Tiling { k: 1, n: 3 }),
            (WeightType::U8, Tiling { k: 127, n: 1 }),
        ] {
            let view = WeightView::new(&w, (n, k), (k, 1), weight_type).unwrap();
            let encoded = encode(&view, Profile::Balanced, tiling).unwrap();
            let (x2, index, info) = (&encoded.x2, &encoded.compress_index, &encoded.compress_info);
            let parsed = CompressedWeight::parse(x2, index, info).unwrap();
            assert!(unpack(parsed, x2, Kernel::by_name("scalar").unwrap(), &TWO).unwrap() == w);
            for kernel in Kernel::available() {
                let weight = VerifiedWeight::new(x2, index, info, kernel, 2).unwrap();
                for pool in [&Serial as &dyn Parallel, &TWO] {
                    assert!(decompressed(&weight, x2, Layout::Nk, pool) == w, "{kernel:?} {n} {k} {tiling:?}");
                    assert!(
                        decompressed(&weight, x2, Layout::Kn, pool) == transposed,
                        "{kernel:?} {n} {k} {tiling:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn rows_in_any_order() {
    for (n, k) in SHAPES {
        let w = weights(n, k);
        let view = WeightView::new(&w, (n, k), (k, 1), WeightType::I8).unwrap();
        for tiling in [Tiling::default(), Tiling { k: 16, n: 1 }, Tiling { k: 2, n: 3 }] {
            let encoded = encode(&view, Profile::Small, tiling).unwrap();
            let x2 = &encoded.x2;
            for kernel in Kernel::available() {
                let (index, info) = (&encoded.compress_index, &encoded.compress_info);
                let weight = VerifiedWeight::new(x2, index, info, kernel, 1).unwrap();
                for count in [0, 1, 2, 9, 700] {
                    let rows: Vec<usize> = (0..count).map(|i| i * i * 37 % n).collect();
                    for pool in [&Serial as &dyn Parallel, &TWO] {
                        let found = Mutex::new((vec![0xa5; count * k], 0));
                        let sink = |part: mcd_core::RowPart<'_>| {
                            assert_eq!(part.row, rows[part.position]);
                            let (out, parts) = &mut *found.lock().unwrap();
                            out[part.position * k + part.column..][..part.weights.len()]
                                .copy_from_slice(part.weights);
                            *parts += part.weights.len();
                        };
                        weight.bind(x2).unwrap().gather(&rows, pool, &sink).unwrap();
                        let (out, parts) = found.into_inner().unwrap();
                        let expected: Vec<u8> = rows.iter().flat_map(|row| w[row * k..][..k].to_vec()).collect();
                        assert!(out == expected && parts == count * k, "{kernel:?} {n} {k} {tiling:?} {count}");
                    }
                }
                assert!(weight.bind(x2).unwrap().gather(&[0, n], &Serial, &|_| ()).is_err());
            }
        }
    }
}

#[test]
fn damage_is_found_before_the_first_use_and_does_no_harm_afterwards() {
    let (n, k) = (300, 530);
    let w = weights(n, k);
    let view = WeightView::new(&w, (n, k), (k, 1), WeightType::U8).unwrap();
    let encoded = encode(&view, Profile::Balanced, Tiling::default()).unwrap();
    let (index, info) = (&encoded.compress_index, &encoded.compress_info);
    for kernel in Kernel::available() {
        let weight = VerifiedWeight::new(&encoded.x2, index, info, kernel, 2).unwrap();
        for at in (0..encoded.x2.len()).step_by(997) {
            let mut x2 = encoded.x2.clone();
            x2[at] ^= 0x24;
            assert!(VerifiedWeight::new(&x2, index, info, kernel, 2).is_err(), "{kernel:?} {at}");
            let mut out = vec![MaybeUninit::uninit(); n * k];
            let bound = weight.bind(&x2).unwrap();
            let _ = bound.decompress(Layout::Nk, &mut out, &TWO);
            let _ = bound.gather(&[5, 299, 5], &TWO, &|part| assert!(part.column + part.weights.len() <= k));
        }
        let mut out = vec![MaybeUninit::uninit(); n * k];
        assert!(weight.bind(&encoded.x2[1..]).is_err());
        assert!(weight.bind(&encoded.x2).unwrap().decompress(Layout::Nk, &mut out[1..], &Serial).is_err());
        assert!(weight.bind(&encoded.x2[..64]).is_err());
    }
}
