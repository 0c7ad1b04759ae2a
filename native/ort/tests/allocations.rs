//! Every allocation that a session makes of a file's sizes may fail: an error that says so, and never the end of the process.

use std::ffi::{CStr, c_char};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use mcd_core::{EncodedWeight, Profile, Tiling, WeightType, WeightView, encode_packed};
use mcd_testkit::Rng;
use mcd_testkit::failing::{Failing, each_request_refused, unrefused};
use mcd_testkit::model_file::with_metadata;
use mcd_testkit::onnxruntime::{Node, NodeInput, Operator, Tensor, register};

#[global_allocator]
static ALLOCATOR: Failing = Failing;

const FLOAT: i32 = 1;
const UINT8: i32 = 2;
const INT8: i32 = 3;
const INT32: i32 = 6;
const INT64: i32 = 7;
const FLOAT16: i32 = 10;

unsafe extern "system" fn version() -> *const c_char {
    c"1.32.0".as_ptr()
}

/// The overloads of an operator.
fn overloads(name: &CStr) -> Vec<Operator> {
    static ALL: OnceLock<Vec<Operator>> = OnceLock::new();
    // SAFETY: an entry point for onnxruntime; its operators live for good.
    let all = ALL.get_or_init(|| unsafe { register(mcd_ort::RegisterCustomOps, version) });
    all.iter().copied().filter(|operator| operator.name() == name).collect()
}

fn weight(n: usize, k: usize) -> EncodedWeight {
    let mut rng = Rng::new(7);
    let w: Vec<u8> = (0..n * k).map(|_| (0..4).map(|_| rng.below(9)).sum::<usize>() as u8).collect();
    let view = WeightView::new(&w, (n, k), (k, 1), WeightType::I8).unwrap();
    encode_packed(&view, Profile::Balanced, Tiling::default()).unwrap()
}

fn input(element: i32, dims: &[i64], bytes: &[u8], constant: bool) -> Option<NodeInput> {
    Some(NodeInput { tensor: Tensor::new(element, dims, bytes), constant })
}

/// The two tensors of a weight.
fn stored(weight: &EncodedWeight) -> [Option<NodeInput>; 2] {
    let bytes = |bytes: &[u8]| input(INT8, &[bytes.len() as i64], bytes, true);
    [bytes(&weight.x2), bytes(&weight.compress_index)]
}

fn floats(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| (i as f32 * 0.01).to_le_bytes()).collect()
}

/// Creates a node and runs it twice, while each request in turn is refused, in each residency.
fn check(what: &str, operator: Operator, node: &Node) {
    for residency in [c"auto", c"compressed", c"decoded"] {
        let node = &Node { residency: Some(residency.to_owned()), ..node.clone() };
        let count = each_request_refused(&format!("{what} {residency:?}"), || {
            let kernel = operator.create(node)?;
            let first = kernel.run(node)?;
            let again = kernel.run(node)?;
            unrefused(|| assert_eq!(first.data(), again.data()));
            Ok(unrefused(|| first.data().to_vec()))
        });
        assert!(count > 2, "{what} {residency:?} allocates {count} times");
    }
}

#[test]
fn multiplications() {
    let operators = overloads(c"MatmulCompressDequant");
    let (n, k, m) = (600, 700, 40);
    let weight = weight(n, k);
    let [x2, index] = stored(&weight);
    let compress_info = Some(weight.compress_info.to_vec());
    let x: Vec<u8> = (0..m * k).map(|i| (i * 31 % 251) as u8).collect();
    let zeros = input(INT8, &[n as i64], &(0..n).map(|j| j as u8 % 5).collect::<Vec<_>>(), true);
    let bias = input(INT32, &[n as i64], &[3; 600 * 4], true);
    // From bytes to floats, with an operand a column, of a type that has to be converted; and the same not aligned.
    let halves: Vec<u8> = (0..n as u16).flat_map(|j| (0x3000 + j).to_le_bytes()).collect();
    let mut inputs = vec![input(UINT8, &[m as i64, k as i64], &x, false), x2.clone(), index.clone()];
    inputs.extend([input(FLOAT16, &[n as i64], &halves, false), bias, None, None, zeros]);
    check(
        "half",
        operators[3],
        &Node { inputs: inputs.clone(), compress_info: compress_info.clone(), ..Node::default() },
    );
    let mut scales = input(FLOAT, &[n as i64], &floats(n), true).unwrap();
    scales.tensor.gap = 1;
    scales.tensor.bytes = [&[0][..], &floats(n)].concat().into();
    inputs[3] = Some(scales);
    check(
        "float",
        operators[1],
        &Node { inputs: inputs.clone(), compress_info: compress_info.clone(), ..Node::default() },
    );
    // Floats that are quantised, made bytes and floats again, in another order.
    let (activations, shape) = (floats(m * k), [1, m as i64, 30, 20].map(i64::to_le_bytes).concat());
    let mut inputs = vec![input(FLOAT, &[m as i64, k as i64], &activations, false), x2, index];
    inputs.extend([input(FLOAT, &[n as i64], &floats(n), true), None, None, None, None, None]);
    inputs.push(input(UINT8, &[], &[9], true));
    inputs.extend([None, input(FLOAT, &[], &0.5_f32.to_le_bytes(), true), None, input(INT64, &[4], &shape, false)]);
    let node = Node { inputs, compress_info, y_perm: Some(vec![0, 2, 3, 1]), ..Node::default() };
    check("dequantized", operators[6], &node);
}

#[test]
fn constants() {
    let (n, k) = (600, 700);
    let weight = weight(n, k);
    let [x2, index] = stored(&weight);
    let compress_info = Some(weight.compress_info.to_vec());
    let node = Node {
        compress_info,
        numbers: vec![(c"dtype", 3)],
        lists: vec![(c"shape", vec![20, 30, 700])],
        ..Node::default()
    };
    let plain = Node { inputs: vec![x2.clone(), index.clone()], ..node.clone() };
    check("DecompressWeight", overloads(c"DecompressWeight")[0], &plain);

    let zeros = input(INT8, &[700], &[3; 700], true);
    let mut floating = Node { inputs: vec![x2, index, input(FLOAT, &[700], &floats(700), true), zeros], ..node };
    floating.numbers.push((c"axis", -1));
    check("DecompressDequant", overloads(c"DecompressDequant")[0], &floating);
}

#[test]
fn look_ups() {
    let (n, k) = (2000, 100);
    let weight = weight(n, k);
    let [x2, index] = stored(&weight);
    let rows: Vec<u8> = (0..600_i64).flat_map(|i| (i * 7 % n as i64 - 9).to_le_bytes()).collect();
    let node = Node {
        inputs: vec![x2, index, input(INT64, &[600], &rows, false), input(FLOAT, &[100], &floats(100), true)],
        compress_info: Some(weight.compress_info.to_vec()),
        numbers: vec![(c"dtype", 3)],
        ..Node::default()
    };
    check("dequantized rows", overloads(c"GatherCompressDequant")[2], &node);
    let plain = Node { inputs: node.inputs[..3].to_vec(), ..node };
    check("rows", overloads(c"GatherCompressDequant")[0], &plain);
}

#[test]
fn convolutions() {
    let (n, channels, side) = (96, 32, 20_usize);
    let weight = weight(n, channels * 9);
    let [x2, index] = stored(&weight);
    let x: Vec<u8> = (0..channels * side * side).map(|i| (i * 31 % 251) as u8).collect();
    let dims = [1, channels as i64, side as i64, side as i64];
    let node = Node {
        inputs: vec![input(UINT8, &dims, &x, false), x2, index, input(FLOAT, &[n as i64], &floats(n), true)],
        compress_info: Some(weight.compress_info.to_vec()),
        lists: vec![(c"kernel_shape", vec![3, 3]), (c"pads", vec![1; 4])],
        ..Node::default()
    };
    check("convolution", overloads(c"ConvCompressDequant")[1], &node);
}

/// A model file whose metadata names a constant of the data file beside it.
fn model_with_constant(weight: &EncodedWeight, transposed: u8) -> PathBuf {
    let name = format!("constant{transposed}.onnx");
    let model = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
    let (x2, index) = (weight.x2.len(), weight.compress_index.len());
    let constant = format!(
        r#"{{"name":"w","dtype":"int8","shape":[700,600],"compress_info":{:?},"transposed":{transposed},"x2":["x",0,{x2}],"compress_index":["i",{x2},{index}]}}"#,
        weight.compress_info
    );
    let text = format!(r#"{{"data":"{name}_data","constants":[{constant}]}}"#);
    fs::write(&model, with_metadata("mcd.at_open", &text)).unwrap();
    fs::write(model.with_file_name(format!("{name}_data")), [&weight.x2[..], &weight.compress_index].concat())
        .unwrap();
    model
}

#[test]
fn a_constant_at_opening() {
    let weight = weight(600, 700);
    for transposed in [0, 1] {
        let model = model_with_constant(&weight, transposed);
        let count = each_request_refused("a constant at opening", || mcd_ort::restored_constants(&model));
        assert!(count > 3, "it takes {count} requests");
    }
}
