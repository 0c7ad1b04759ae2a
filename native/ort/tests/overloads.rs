//! Nodes that onnxruntime would not have given to an overload: it tells a custom operator less than it knows, so binding checks.

use std::ffi::c_char;
use std::sync::OnceLock;

use mcd_core::{Profile, Tiling, WeightType, WeightView, encode};
use mcd_testkit::onnxruntime::{Node, NodeInput, Operator, Tensor, register};

const FLOAT: i32 = 1;
const UINT8: i32 = 2;
const INT8: i32 = 3;

// Inputs of MatmulCompressDequant, by position.
const X1: usize = 0;
const X2: usize = 1;
const INDEX: usize = 2;
const DEQ_SCALE: usize = 3;
const Y_ZERO_POINT: usize = 9;
const Y_SCALE: usize = 11;
const INPUTS: usize = 16;

/// The overloads of MatmulCompressDequant, in their order: told once to a process.
fn overloads() -> &'static [Operator] {
    unsafe extern "system" fn version() -> *const c_char {
        c"1.32.0".as_ptr()
    }
    static OVERLOADS: OnceLock<Vec<Operator>> = OnceLock::new();
    // SAFETY: an entry point for onnxruntime; its operators live for good.
    OVERLOADS.get_or_init(|| unsafe { register(mcd_ort::RegisterCustomOps, version) })
}

/// A product of one row by two columns of eight, with these scalars beside it.
fn node(scalars: &[(usize, i32)]) -> Node {
    let view = WeightView::new(&[1; 16], (2, 8), (8, 1), WeightType::I8).unwrap();
    let encoded = encode(&view, Profile::Fast, Tiling::default()).unwrap();
    let mut inputs: Vec<Option<NodeInput>> = vec![None; INPUTS];
    let mut set = |at: usize, element, dims: &[i64], bytes: &[u8], constant| {
        inputs[at] = Some(NodeInput { tensor: Tensor::new(element, dims, bytes), constant });
    };
    set(X1, UINT8, &[1, 8], &[3; 8], false);
    set(X2, INT8, &[encoded.x2.len() as i64], &encoded.x2, true);
    set(INDEX, INT8, &[encoded.compress_index.len() as i64], &encoded.compress_index, true);
    for &(at, element) in scalars {
        let bytes = if element == FLOAT { 0.5_f32.to_le_bytes().to_vec() } else { vec![7] };
        set(at, element, &[], &bytes, true);
    }
    Node {
        inputs,
        compress_info: Some(encoded.compress_info.to_vec()),
        offset_x: None,
        output_type: None,
        x1_perm: None,
        y_perm: None,
        residency: None,
        device: None,
        entries: Default::default(),
        lists: Default::default(),
        numbers: Default::default(),
    }
}

#[test]
fn a_result_that_is_made_float_again_has_a_zero_point() {
    let form = overloads()[6];
    let whole = [(DEQ_SCALE, FLOAT), (Y_ZERO_POINT, INT8), (Y_SCALE, FLOAT)];
    let output = form.create(&node(&whole)).unwrap().run(&node(&whole)).unwrap();
    // 24 · 0.5 + 7 as a byte, and (19 − 7) · 0.5 of that.
    assert_eq!(output.data(), [6.0_f32; 2].map(f32::to_le_bytes).concat());
    for lacks in [&whole[..1], &[whole[0], whole[2]]] {
        let Err(error) = form.create(&node(lacks)) else { panic!("it is accepted") };
        assert!(error.contains("y_zero_point"), "{error}");
    }
}

#[test]
fn a_float_result_ignores_a_zero_point_of_any_type() {
    let form = overloads()[1];
    for element in [INT8, UINT8] {
        let node = node(&[(DEQ_SCALE, FLOAT), (Y_ZERO_POINT, element)]);
        let output = form.create(&node).unwrap().run(&node).unwrap();
        assert_eq!(output.data(), [12.0_f32; 2].map(f32::to_le_bytes).concat());
    }
}
