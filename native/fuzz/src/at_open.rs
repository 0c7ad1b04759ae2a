//! Any metadata and data file of a model whose constants are restored at opening: an error, or the constants.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use mcd_core::{EncodedWeight, Profile, Tiling, WeightType, WeightView, encode, encode_packed};
use mcd_testkit::model_file::{function_with_data, with_metadata};

use crate::input::Input;
use crate::reach::reached;

/// A weight as it is stored, and its elements in the order of a matrix (n, k).
struct Weight {
    n: usize,
    k: usize,
    kind: WeightType,
    w: Vec<u8>,
    encoded: EncodedWeight,
}

fn weights() -> &'static [Weight] {
    static WEIGHTS: OnceLock<Vec<Weight>> = OnceLock::new();
    WEIGHTS.get_or_init(|| {
        [(20, 50, WeightType::I8), (16, 32, WeightType::U8), (33, 70, WeightType::I8), (1, 1, WeightType::U8)]
            .into_iter()
            .enumerate()
            .map(|(number, (n, k, kind))| {
                let w: Vec<u8> = (0..n * k).map(|i| (i * i / 7 % 13 + i % 5) as u8).collect();
                let view = WeightView::new(&w, (n, k), (k, 1), kind).expect("it fits");
                let encoded = match number % 2 {
                    0 => encode_packed(&view, Profile::Small, Tiling::default()),
                    _ => encode(&view, Profile::Balanced, Tiling::default()),
                };
                Weight { n, k, kind, w, encoded: encoded.expect("it encodes") }
            })
            .collect()
    })
}

/// Where the files of this process are.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = parent.join(format!("mcd-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder of this process's own");
        folder
    })
}

/// What the metadata says of a constant, and what it should become.
struct Constant {
    json: String,
    elements: Vec<u8>,
}

/// Puts a weight into the data file, and says where; `changed` tells whether anything was made wrong on the way.
fn constant(input: &mut Input<'_>, number: usize, data: &mut Vec<u8>, changed: &mut bool) -> Constant {
    let weight = &weights()[usize::from(input.byte()) % weights().len()];
    let (flags, what) = (input.byte(), input.byte());
    let mut place = |bytes: &[u8]| {
        data.resize(data.len() + usize::from(flags >> 4), 0xee);
        data.extend(bytes);
        [(data.len() - bytes.len()) as i64, bytes.len() as i64]
    };
    let mut numbers = [place(&weight.encoded.x2), place(&weight.encoded.compress_index)].concat();
    numbers.extend(weight.encoded.compress_info);
    let rows = flags & 1 != 0;
    numbers.push(i64::from(rows));
    let (n, k) = (weight.n as i64, weight.k as i64);
    let mut shape = match flags >> 1 & 3 {
        0 => vec![n, k],
        1 => vec![n * k],
        _ => vec![1, k, n],
    };
    let mut dtype = if weight.kind == WeightType::U8 { "uint8" } else { "int8" };
    match what {
        0..8 => numbers[usize::from(input.byte()) % 10] = input.number(),
        8..12 => shape.push(input.number()),
        12..16 => dtype = ["int8", "uint8", "float", "\\u0000"][usize::from(input.byte()) % 4],
        _ => {}
    }
    *changed |= what < 16;
    let [x2, x2_len, index, index_len, ..] = numbers[..] else { unreachable!("there are ten") };
    let info = &numbers[4..9];
    let json = format!(
        r#"{{"name":"w{number}","dtype":"{dtype}","shape":{shape:?},"compress_info":{info:?},"transposed":{},"x2":["w.x2",{x2},{x2_len}],"compress_index":["w.index",{index},{index_len}]}}"#,
        numbers[9]
    );
    let turned = |i: usize| weight.w[i % weight.n * weight.k + i / weight.n];
    let elements = if rows { weight.w.clone() } else { (0..weight.w.len()).map(turned).collect() };
    Constant { json, elements }
}

/// Runs one input.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let (count, name, mut changed) = (usize::from(input.byte() % 4), input.byte(), false);
    let mut stored = Vec::new();
    let constants: Vec<Constant> = (0..count).map(|i| constant(&mut input, i, &mut stored, &mut changed)).collect();
    let file = match name {
        0 => "../d.onnx_data",
        1 => "missing",
        2..64 => "", // inside of the model
        _ => "d.onnx_data",
    };
    changed |= name < 2;
    let list: Vec<&str> = constants.iter().map(|constant| &constant.json[..]).collect();
    let text = format!(r#"{{"data":"{file}","constants":[{}]}}"#, list.join(","));
    let mut model = with_metadata("mcd.at_open", &text);
    if file.is_empty() {
        model.extend(function_with_data("mcd_at_open_data", &stored));
        stored.clear();
    }
    // What is left changes bytes of either file, wherever.
    while !input.0.is_empty() {
        let (at, with) = (usize::from(input.word()), input.byte());
        let of = if at & 1 == 0 { &mut model } else { &mut stored };
        let place = (at >> 1).checked_rem(of.len());
        if let Some(place) = place.filter(|_| with != 0) {
            of[place] ^= with;
            changed = true;
        }
    }
    let path = folder().join("d.onnx");
    std::fs::write(&path, &model).expect("there is room");
    std::fs::write(folder().join("d.onnx_data"), &stored).expect("there is room");
    let restored = mcd_ort::restored_constants(&path);
    if changed {
        let _ = restored; // an error, or what another model says that is in order as well
        return;
    }
    let restored = restored.expect("nothing was changed");
    assert_eq!(restored.len(), constants.len());
    for (i, ((name, bytes), constant)) in restored.iter().zip(&constants).enumerate() {
        assert_eq!(*name, format!("w{i}"));
        assert!(*bytes == constant.elements, "constant {i} is not what was compressed");
    }
    reached();
}
