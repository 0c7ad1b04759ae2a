//! Whether a decoded weight serves for bytes that were read elsewhere.

use mcd_core::{EncodedWeight, Kernel, PrepareOptions, PreparedWeight, Profile, Residency, Tiling, WeightType};
use mcd_core::{WeightView, encode};
use mcd_testkit::Rng;
use mcd_testkit::content::Content;
use mcd_testkit::forge::{Fields, Tile, forge};

const N: usize = 200;
const K: usize = 300;

fn encoded(data: &[u8], profile: Profile, tiling: Tiling) -> EncodedWeight {
    encode(&WeightView::new(data, (N, K), (K, 1), WeightType::I8).unwrap(), profile, tiling).unwrap()
}

fn decoded(of: &EncodedWeight, residency: Residency) -> PreparedWeight {
    let options = PrepareOptions { residency, kernel: Kernel::best(), threads: 1 };
    PreparedWeight::new(&of.x2, &of.compress_index, &of.compress_info, options).unwrap()
}

fn serves(weight: &PreparedWeight, of: &EncodedWeight) -> Result<bool, mcd_core::Error> {
    let threads = [1, 3].map(|threads| weight.is_of(&of.x2, &of.compress_index, &of.compress_info, threads));
    let [one, three] = threads;
    assert_eq!(one, three);
    one
}

#[test]
fn a_weight_serves_for_the_same_content_and_no_other() {
    for content in [Content::Bell(20), Content::Noise, Content::Constant, Content::ExtremeRows, Content::Mixed] {
        let data = content.weight(N, K, &mut Rng::new(1));
        let of = encoded(&data, Profile::Balanced, Tiling::default());
        let weight = decoded(&of, Residency::Decoded);
        assert_eq!(serves(&weight, &of), Ok(true), "{content:?}");
        // However it is compressed, as long as the order of the symbols is the same.
        assert_eq!(serves(&weight, &encoded(&data, Profile::Small, Tiling::default())), Ok(true), "{content:?}");
        for at in [0, K - 1, N * K / 2, N * K - 1] {
            let mut other = data.clone();
            other[at] ^= 1;
            let other = encoded(&other, Profile::Balanced, Tiling::default());
            assert_eq!(serves(&weight, &other), Ok(false), "{content:?} {at}");
        }
        let compressed = decoded(&of, Residency::Compressed);
        assert_eq!(serves(&compressed, &of), Ok(false), "{content:?}");
    }
}

#[test]
fn another_shape_or_type_is_another_weight() {
    let [signed, unsigned, long] = [(false, 1), (true, 1), (false, 2)].map(|(unsigned, tiles)| {
        let fields = Fields { unsigned, tiling: [1, 1], k: 32 * tiles, n: 16, ..Fields::default() };
        forge(&fields, &vec![Tile::Constant(0); tiles])
    });
    let options = PrepareOptions { residency: Residency::Decoded, kernel: Kernel::best(), threads: 1 };
    let weight = PreparedWeight::new(&signed.x2, &signed.index, &signed.info, options).unwrap();
    for (other, serves) in [(&signed, true), (&unsigned, false), (&long, false)] {
        assert_eq!(weight.is_of(&other.x2, &other.index, &other.info, 1), Ok(serves));
    }
}

#[test]
fn damage_is_an_error_with_its_tile() {
    let data = Content::Bell(20).weight(N, K, &mut Rng::new(2));
    let mut of = encoded(&data, Profile::Balanced, Tiling::default());
    let weight = decoded(&of, Residency::Decoded);
    let middle = of.x2.len() / 2;
    of.x2[middle] ^= 16;
    let error = serves(&weight, &of).unwrap_err().to_string();
    assert!(error.contains("tile"), "{error}");
    of.x2.pop();
    assert!(serves(&weight, &of).is_err());
}
