//! Any payload under a header and an index that are right: every kernel decodes it to the same weight, or refuses it
//! for the same reason, and multiplies as the decoded weight does.

use mcd_core::{
    Activation, EncodedWeight, Epilogue, Kernel, MatmulCall, Operands, PreparedWeight, Residency, Serial, WeightType,
    ZeroPoint, unpack,
};

use mcd_testkit::forge::{Fields, Forged, Tile, forge};
use mcd_testkit::product::sums;
use mcd_testkit::ways::{Element, run, ways};

use crate::input::Input;
use crate::reach::reached;

/// Masks of codes, none and those that encoders use, or centres; and another one.
const EXTRAS: [u8; 4] = [0, 0x40, 0x80, 0x2b];

/// Runs one input.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let Some(fields) = fields(&mut input) else { return };
    let (m, flips) = (1 + usize::from(input.byte() % 20), [input.word(), input.word()]);
    let forged = forge(&fields, &tiles(&fields, &mut input));
    let Ok(weight) = forged.parse() else { return };

    let scalar = Kernel::by_name("scalar").expect("it is everywhere");
    let decoded = unpack(weight.clone(), &forged.x2, scalar, &Serial);
    for kernel in Kernel::available() {
        assert_eq!(unpack(weight.clone(), &forged.x2, kernel, &Serial), decoded, "{kernel:?} decodes otherwise");
    }
    let (n, k) = (fields.n, fields.k);
    let x: Vec<u8> = (0..m * k).map(|i| (i * 37 + i / 7) as u8 ^ data[i % data.len()]).collect();
    let call = MatmulCall {
        x: Activation::U8(&x),
        m,
        operands: Operands {
            x_zero_point: i32::from(flips[0] as u8),
            x_scale: None,
            w_zero_point: ZeroPoint::None,
            bias: None,
        },
        heads: None,
    };
    let kind = if fields.unsigned { WeightType::U8 } else { WeightType::I8 };
    if decoded.is_ok() {
        reached();
    }
    let expected = decoded.as_ref().ok().map(|w| sums(w, kind, n, k, &call));
    let mut others = Vec::new();
    for options in ways() {
        let prepared = PreparedWeight::new(&forged.x2, &forged.index, &forged.info, options);
        let (prepared, expected) = match (prepared, &expected) {
            (Ok(prepared), Some(expected)) => (prepared, expected),
            (Err(error), None) => {
                assert_eq!(Some(&error), decoded.as_ref().err(), "{options:?} refuses for another reason");
                continue;
            }
            (prepared, _) => panic!("{options:?} differs: {:?}, but {:?}", prepared.err(), decoded.as_ref().err()),
        };
        let out = run(&prepared, &forged.x2, &call, (Element::I32, Epilogue::Sums), &Serial).expect("it was checked");
        assert!(out.iter().zip(expected).all(|(&a, &b)| a == b as u32), "{options:?} multiplies otherwise");
        if options.residency == Residency::Compressed {
            let out = run(&prepared, &changed(&forged, flips), &call, (Element::I32, Epilogue::Sums), &Serial);
            others.extend(out.ok().map(|out| (options, out)));
        }
    }
    // Bytes that changed after the check: no kernel leaves its memory, and those that see nothing agree.
    for pair in others.windows(2) {
        assert!(pair[0].1 == pair[1].1, "{:?} and {:?} differ on changed bytes", pair[0].0, pair[1].0);
    }
}

/// The input that makes this weight, if it is small enough. What it leaves out, inputs of this target cannot say.
pub fn input(encoded: &EncodedWeight) -> Vec<u8> {
    let mut out = header(encoded);
    out.extend([2, 100, 0, 5, 0]);
    out.extend(stored(encoded));
    out
}

/// The part of an input that [`fields`] reads.
pub(crate) fn header(encoded: &EncodedWeight) -> Vec<u8> {
    let x2 = &encoded.x2;
    let count = usize::from(x2[10]);
    let extra = EXTRAS.iter().position(|&extra| extra == x2[11]).unwrap_or(0);
    let mut out = vec![x2[5] | (extra as u8) << 1, x2[7], x2[8], x2[9], x2[10]];
    out.extend(&x2[64..64 + count]);
    out.extend([x2[12], x2[14]]);
    out.extend(((encoded.compress_info[2] - 1) as u16).to_le_bytes());
    out.extend(((encoded.compress_info[3] - 1) as u16).to_le_bytes());
    out
}

/// The part of an input that [`tiles`] reads.
pub(crate) fn stored(encoded: &EncodedWeight) -> Vec<u8> {
    let mut out = Vec::new();
    let forged = Forged::from(encoded.clone());
    for (t, (kind, bytes)) in forged.tiles().into_iter().enumerate() {
        match kind {
            0 => out.extend([0, (bytes.len().div_ceil(64) - 1) as u8]),
            1 => out.push(1),
            _ => out.extend([2, encoded.compress_index[8 * t] >> 2]),
        }
        let padding = if kind == 0 { bytes.len().next_multiple_of(64) - bytes.len() } else { 0 };
        out.extend(&forged.x2[bytes]);
        out.extend(std::iter::repeat_n(0, padding));
    }
    out
}

/// A header, and nothing left out.
pub(crate) fn fields(input: &mut Input<'_>) -> Option<Fields> {
    let first = input.byte();
    let (unsigned, mask) = (first & 1 == 1, EXTRAS[usize::from(first >> 1 & 3)]);
    let code = [input.byte(), input.byte(), input.byte()];
    let count = usize::from(input.byte());
    let mut ranks = Vec::new();
    for &symbol in input.take(count) {
        if ranks.len() < 128 && !ranks.contains(&symbol) && !ranks.contains(&(symbol ^ mask)) {
            ranks.push(symbol);
        }
    }
    let tiling = [1 + u16::from(input.byte().wrapping_sub(1)) % 16, 1 + u16::from(input.byte().wrapping_sub(1)) % 16];
    let (k, n) = (input.size(300), input.size(80));
    (tiling[0] * tiling[1] <= 127).then_some(Fields { unsigned, code, mask, ranks, tiling, k, n, omissions: 0 })
}

/// Its tiles, of lengths that the input says.
pub(crate) fn tiles(fields: &Fields, input: &mut Input<'_>) -> Vec<Tile> {
    let [tk, tn] = fields.tiling.map(usize::from);
    let (fractals, panels) = (fields.k.div_ceil(32), fields.n.div_ceil(16));
    let mut tiles = Vec::new();
    for p in (0..panels).step_by(tn) {
        for f in (0..fractals).step_by(tk) {
            let weights = tn.min(panels - p) * tk.min(fractals - f) * 512;
            let mut padded = |len: usize| {
                let mut bytes = input.take(len).to_vec();
                bytes.resize(len, 0);
                bytes
            };
            tiles.push(match padded(1)[0] % 3 {
                0 if fields.code[0] != 0 => {
                    let units = usize::from(padded(1)[0]) + 1;
                    Tile::Coded(padded(units * 64))
                }
                1 => Tile::Raw(padded(weights)),
                _ => Tile::Constant(padded(1)[0]),
            });
        }
    }
    tiles
}

/// `x2` with two bytes of its tiles changed.
fn changed(forged: &Forged, flips: [u16; 2]) -> Vec<u8> {
    let mut x2 = forged.x2.clone();
    let start = (64 + usize::from(x2[10])).next_multiple_of(64);
    let len = x2.len() - 64 - start;
    for flip in flips {
        if let Some(at) = usize::from(flip).checked_rem(len) {
            x2[start + at] ^= (flip >> 8) as u8 | 1;
        }
    }
    x2
}
