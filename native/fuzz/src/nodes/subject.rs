//! The weights and the operators that nodes are made of.

use std::ffi::CStr;
use std::sync::OnceLock;

use mcd_core::{EncodedWeight, Profile, Tiling, WeightType, WeightView, encode, encode_packed};
use mcd_testkit::onnxruntime::{Node, Tensor};

pub const FLOAT: i32 = 1;
pub const UINT8: i32 = 2;
pub const INT8: i32 = 3;
pub const INT32: i32 = 6;
pub const INT64: i32 = 7;

/// A weight that nodes begin with.
pub struct Weight {
    pub n: usize,
    pub k: usize,
    pub kind: WeightType,
    pub w: Vec<u8>,
    pub encoded: EncodedWeight,
}

impl Weight {
    /// ONNX's number of its type.
    pub fn element(&self) -> i32 {
        if self.kind == WeightType::U8 { UINT8 } else { INT8 }
    }
}

pub fn weights() -> &'static [Weight] {
    static WEIGHTS: OnceLock<Vec<Weight>> = OnceLock::new();
    WEIGHTS.get_or_init(|| {
        [
            (1, 1, WeightType::I8, Profile::Fast),
            (40, 36, WeightType::I8, Profile::Balanced),
            (70, 40, WeightType::U8, Profile::Small),
            (32, 288, WeightType::I8, Profile::Fast),
            (256, 18, WeightType::U8, Profile::Fast),
        ]
        .into_iter()
        .enumerate()
        .map(|(number, (n, k, kind, profile))| {
            let w: Vec<u8> = (0..n * k).map(|i| if i < 300 { 7 } else { (i * i / 7 % 13 + i % 5) as u8 }).collect();
            let view = WeightView::new(&w, (n, k), (k, 1), kind).expect("it fits");
            // What leaves out edges and tail, and what does not.
            let encoded = match number % 2 {
                0 => encode(&view, profile, Tiling::default()),
                _ => encode_packed(&view, profile, Tiling { k: 2, n: 1 }),
            };
            Weight { n, k, kind, w, encoded: encoded.expect("it encodes") }
        })
        .collect()
    })
}

/// The operators, with the place of the overload among those of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Weight,
    Floats,
    /// int32 indices; and a scale.
    Rows(bool, bool),
    /// What becomes of the sums: as they are, floats, uint8, int8.
    Convolution(usize),
}

impl Form {
    pub const ALL: [Self; 10] = [
        Self::Weight,
        Self::Floats,
        Self::Rows(false, false),
        Self::Rows(true, false),
        Self::Rows(false, true),
        Self::Rows(true, true),
        Self::Convolution(0),
        Self::Convolution(1),
        Self::Convolution(2),
        Self::Convolution(3),
    ];

    pub fn overload(self) -> (&'static CStr, usize) {
        match self {
            Self::Weight => (c"DecompressWeight", 0),
            Self::Floats => (c"DecompressDequant", 0),
            Self::Rows(short, scaled) => (c"GatherCompressDequant", usize::from(short) + 2 * usize::from(scaled)),
            Self::Convolution(which) => (c"ConvCompressDequant", which),
        }
    }
}

/// A tensor of a node.
pub fn tensor(node: &Node, index: usize) -> Option<&Tensor> {
    node.inputs.get(index)?.as_ref().map(|input| &input.tensor)
}
