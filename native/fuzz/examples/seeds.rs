//! Writes inputs to start from: `cargo run --no-default-features --example seeds`, for a corpus that is to be grown anew.

use std::path::Path;

use mcd_core::{Profile, Tiling, WeightType, WeightView, encode, encode_packed};
use mcd_testkit::Rng;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let shapes = [(1, 1), (16, 32), (17, 33), (33, 70), (80, 100), (48, 300)];
    let tilings = [Tiling::default(), Tiling { k: 1, n: 1 }, Tiling { k: 3, n: 2 }];
    let mut number = 0;
    for (n, k) in shapes {
        for width in [1, 3, 6, 12, 40] {
            for profile in [Profile::Fast, Profile::Balanced, Profile::Small] {
                number += 1;
                let tiling = tilings[number % 3];
                let mut rng = Rng::new(number as u64);
                let mut bell = || ((0..4).map(|_| rng.below(2 * width + 1)).sum::<usize>() / 2) as u8;
                let w: Vec<u8> = (0..n * k).map(|i| if i < 600 && width == 3 { 9 } else { bell() }).collect();
                let kind = if number % 2 == 0 { WeightType::I8 } else { WeightType::U8 };
                let view = WeightView::new(&w, (n, k), (k, 1), kind).expect("it fits");
                let encoded = encode(&view, profile, tiling).expect("it encodes");
                if encoded.x2.len() > 6000 {
                    continue;
                }
                let packed = encode_packed(&view, profile, tiling).expect("it encodes");
                let elements = if number % 3 == 0 { &encoded } else { &packed };
                for (target, bytes) in [
                    ("decoder", mcd_fuzz::decoder::input(&encoded)),
                    ("elements", mcd_fuzz::elements::input(elements)),
                    ("parser", mcd_fuzz::parser::input(if number % 2 == 0 { &encoded } else { &packed })),
                ] {
                    std::fs::create_dir_all(corpus.join(target))?;
                    std::fs::write(corpus.join(target).join(format!("seed{number:03}")), bytes)?;
                }
            }
        }
    }
    // Targets that make what they check of a few numbers: any bytes do.
    for target in ["at_open", "nodes"] {
        let mut rng = Rng::new(3);
        for number in 0..300 {
            let mut bytes: Vec<u8> = (0..8 + rng.below(50)).map(|_| rng.next() as u8).collect();
            if target == "at_open" && number % 3 > 0 {
                bytes.truncate(2 + usize::from(bytes[0] % 4) * 3); // nothing is left that changes a file
            }
            std::fs::create_dir_all(corpus.join(target))?;
            std::fs::write(corpus.join(target).join(format!("seed{number:03}")), bytes)?;
        }
    }
    Ok(())
}
