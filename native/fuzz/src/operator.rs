//! Any attributes and inputs for the custom operator: an error, or the output that the definition gives.

use std::ffi::c_char;
use std::sync::OnceLock;

use half::f16;
use mcd_core::{
    Activation, Elementwise, EncodedWeight, Epilogue, MatmulCall, Operands, Profile, ScalarOrPerColumn, Tiling,
    WeightType, WeightView, ZeroPoint, encode,
};

use mcd_testkit::onnxruntime::{Node, NodeInput, Operator, Tensor, Version, register, size_of_element};
use mcd_testkit::product::{expected, sums};
use mcd_testkit::ways::{Element, float_bits, half_bits};

use crate::input::Input;
use crate::reach::reached;

const FLOAT: i32 = 1;
const UINT8: i32 = 2;
const INT8: i32 = 3;
const INT32: i32 = 6;
const FLOAT16: i32 = 10;
const INT64: i32 = 7;
const UINT64: i32 = 13;

// The operator's inputs, by position.
const X1: usize = 0;
const X2: usize = 1;
const INDEX: usize = 2;
const DEQ_SCALE: usize = 3;
const BIAS: usize = 4;
const X1_ZERO_POINT: usize = 6;
const W_ZERO_POINT: usize = 7;
const ADDEND: usize = 8;
const Y_ZERO_POINT: usize = 9;
const X1_SCALE: usize = 10;
const Y_SCALE: usize = 11;
const X1_SHAPE: usize = 12;
const Y_SHAPE: usize = 13;
const GATE: usize = 14;
const RESIDUAL: usize = 15;
const INPUTS: usize = 16;

/// Elements of a tensor at the most.
const LIMIT: usize = 1 << 14;

/// A weight that nodes begin with.
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
        [
            (1, 1, WeightType::I8, Profile::Fast),
            (40, 70, WeightType::I8, Profile::Balanced),
            (70, 40, WeightType::U8, Profile::Small),
            (130, 260, WeightType::I8, Profile::Fast),
        ]
        .into_iter()
        .map(|(n, k, kind, profile)| {
            let w: Vec<u8> = (0..n * k).map(|i| if i < 300 { 7 } else { (i * i / 7 % 13 + i % 5) as u8 }).collect();
            let view = WeightView::new(&w, (n, k), (k, 1), kind).expect("it fits");
            let encoded = encode(&view, profile, Tiling::default()).expect("it encodes");
            Weight { n, k, kind, w, encoded }
        })
        .collect()
    })
}

/// The overloads as onnxruntime 1.20 and 1.32 get to know them.
pub(crate) fn operators(newer: bool) -> &'static [Operator] {
    unsafe extern "system" fn old() -> *const c_char {
        c"1.20.1".as_ptr()
    }
    unsafe extern "system" fn new() -> *const c_char {
        c"1.32.0".as_ptr()
    }
    static OPERATORS: OnceLock<[Vec<Operator>; 2]> = OnceLock::new();
    // SAFETY: an entry point for onnxruntime; its operators live for good.
    let operators = |version: Version| unsafe { register(mcd_ort::RegisterCustomOps, version) };
    &OPERATORS.get_or_init(|| [operators(old), operators(new)])[usize::from(newer)]
}

/// Runs one input.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let weight = &weights()[usize::from(input.byte()) % weights().len()];
    let mut form = usize::from(input.byte()) % 7;
    let newer = input.byte() % 4 != 0;
    let mut node = valid(&mut input, weight, form);
    for _ in 0..input.byte() % 5 {
        change(&mut input, &mut node, &mut form);
    }
    let operator = operators(newer)[form];
    let inferred = operator.infer(&node);
    let Ok(kernel) = operator.create(&node) else { return };
    let original = node.clone();
    for run in 0..2 {
        let Ok(output) = kernel.run(&node) else { return };
        let element = [INT32, FLOAT, FLOAT16, FLOAT16, UINT8, INT8, FLOAT][form];
        if let Some((inferred, dims)) = &inferred {
            let types = [DEQ_SCALE, Y_ZERO_POINT, Y_SCALE].map(|index| tensor(&original, index).map(|t| t.element));
            // An overload that onnxruntime would not have taken for these types has another output.
            if fits(form, types) {
                assert_eq!(*inferred, element);
            }
            let shape = |node: &Node| [X1, GATE, RESIDUAL].map(|index| tensor(node, index).map(|of| of.dims.clone()));
            let same =
                dims.len() == output.dims.len() && dims.iter().zip(&output.dims).all(|(a, b)| *a < 0 || a == b);
            assert!(same || shape(&node) != shape(&original), "{dims:?} was inferred, not {:?}", output.dims);
        }
        compare(&node, weight, form, &output, run == 0);
        reached();
        // Other values for the next run, in a tensor that was computed.
        let index = usize::from(input.byte()) % node.inputs.len();
        if let Some(computed) = node.inputs[index].as_mut().filter(|of| !of.constant) {
            change_tensor(&mut input, &mut computed.tensor);
        }
    }
}

/// Whether a node with these types of deq_scale, y_zero_point and y_scale is one of an overload.
fn fits(form: usize, types: [Option<i32>; 3]) -> bool {
    let zero = [Some(UINT8), Some(INT8)].contains(&types[1]);
    match form {
        0 => types == [None; 3],
        1 => types == [Some(FLOAT), None, None],
        2 => types == [Some(UINT64), None, None],
        3 => types == [Some(FLOAT16), None, None],
        4 => types == [Some(FLOAT), Some(UINT8), None],
        5 => types == [Some(FLOAT), Some(INT8), None],
        _ => types[0] == Some(FLOAT) && zero && types[2] == Some(FLOAT),
    }
}

fn tensor(node: &Node, index: usize) -> Option<&Tensor> {
    node.inputs.get(index)?.as_ref().map(|input| &input.tensor)
}

/// A node that is in order.
fn valid(input: &mut Input<'_>, weight: &Weight, form: usize) -> Node {
    let mut parts = Parts::read(input, weight, form);
    let dims = parts.activations();
    parts.weight();
    parts.scale();
    parts.columns();
    parts.scalars();
    let (x1_perm, y_perm) = (parts.x1_layout(), parts.y_layout());
    if form == 1 && y_perm.is_none() {
        parts.elementwise(&dims, input.byte());
    } else {
        input.byte();
    }
    let compress_info = Some(weight.encoded.compress_info.to_vec());
    let residency = parts.has(15).then(|| c"decoded".to_owned());
    let inputs = parts.inputs;
    Node { inputs, compress_info, x1_perm, y_perm, residency, ..Node::default() }
}

/// A node that is put together: which of its parts there are, and of what shapes, is what the input says.
struct Parts<'w> {
    weight: &'w Weight,
    form: usize,
    flags: u32,
    rows: usize,
    seed: u8,
    /// Whether activations are floats.
    dynamic: bool,
    inputs: Vec<Option<NodeInput>>,
}

fn float(value: f32) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

impl<'w> Parts<'w> {
    fn read(input: &mut Input<'_>, weight: &'w Weight, form: usize) -> Self {
        let flags = u32::from(input.word()) | u32::from(input.byte()) << 16;
        let (rows, seed) = (usize::from(input.byte() % 30), input.byte());
        let dynamic = flags & 1 != 0 && ![0, 2, 3].contains(&form);
        Self { weight, form, flags, rows, seed, dynamic, inputs: vec![None; INPUTS] }
    }

    fn has(&self, bit: u32) -> bool {
        self.flags >> bit & 1 != 0
    }

    fn noise(&self, count: usize) -> Vec<u8> {
        let factor = u32::from(self.seed) | 1;
        (0..count).map(|i| (i as u32 * 73 + i as u32 / 11).wrapping_mul(factor) as u8).collect()
    }

    fn set(&mut self, index: usize, element: i32, dims: &[i64], bytes: &[u8], constant: bool) {
        self.inputs[index] = Some(NodeInput { tensor: Tensor::new(element, dims, bytes), constant });
    }

    /// Floats of noise.
    fn floats(&self, count: usize, value: impl Fn(f32) -> f32) -> Vec<u8> {
        self.noise(count).iter().flat_map(|&noise| float(value(f32::from(noise)))).collect()
    }

    /// The type of activations that are not floats.
    fn x1_element(&self) -> i32 {
        [UINT8, INT8][usize::from(self.has(4))]
    }

    /// The activations; gives their shape.
    fn activations(&mut self) -> Vec<i64> {
        let (rows, k) = (self.rows as i64, self.weight.k as i64);
        let dims = match self.flags >> 1 & 3 {
            _ if rows == 1 && self.has(3) => vec![k],
            0 => vec![rows, k],
            1 => vec![1, rows, k],
            _ => vec![rows, 1, 1, k],
        };
        let count = self.rows * self.weight.k;
        match self.dynamic {
            true => self.set(X1, FLOAT, &dims, &self.floats(count, |v| v - 90.5), false),
            false => self.set(X1, self.x1_element(), &dims, &self.noise(count), false),
        }
        dims
    }

    fn weight(&mut self) {
        let EncodedWeight { x2, compress_index, .. } = &self.weight.encoded;
        self.set(X2, INT8, &[x2.len() as i64], x2, true);
        self.set(INDEX, INT8, &[compress_index.len() as i64], compress_index, true);
    }

    /// One value, or one a column.
    fn count(&self, per_column: u32) -> usize {
        if self.has(per_column) { self.weight.n } else { 1 }
    }

    fn scale(&mut self) {
        if self.form == 0 {
            return;
        }
        let count = self.count(5);
        let scales = (0..count).map(|j| 0.01 / (j + 1) as f32);
        let (element, bytes): (i32, Vec<u8>) = match self.form {
            2 => (UINT64, scales.flat_map(|s| u64::from(s.to_bits()).to_le_bytes()).collect()),
            3 => (FLOAT16, scales.flat_map(|s| f16::from_f32(s).to_le_bytes()).collect()),
            _ => (FLOAT, scales.flat_map(float).collect()),
        };
        self.set(DEQ_SCALE, element, &[count as i64], &bytes, self.has(6));
    }

    /// What else there is by column.
    fn columns(&mut self) {
        let n = self.weight.n;
        if self.has(7) {
            let bias: Vec<u8> = (0..n as i32).flat_map(|j| (j * 31 - 400).to_le_bytes()).collect();
            self.set(BIAS, INT32, &[n as i64], &bias, self.has(8));
        }
        let count = self.count(12);
        if self.has(11) {
            let element = if self.weight.kind == WeightType::U8 { UINT8 } else { INT8 };
            self.set(W_ZERO_POINT, element, &[count as i64], &self.noise(count), true);
        }
        if self.has(13) && (1..4).contains(&self.form) {
            let addend: Vec<u8> = (0..count).flat_map(|j| float(j as f32 * 0.7 - 3.0)).collect();
            self.set(ADDEND, FLOAT, &[count as i64], &addend, self.has(10));
        }
    }

    /// Zero points and scales of activations and result.
    fn scalars(&mut self) {
        let form = self.form;
        if self.has(9) && !self.dynamic {
            self.set(X1_ZERO_POINT, self.x1_element(), &[], &[self.seed], self.has(10));
        }
        if self.has(14) && form > 0 && !self.dynamic && form != 2 && form != 3 {
            self.set(X1_SCALE, FLOAT, &[], &float(0.37), self.has(8));
        }
        if form >= 4 {
            let element = if form == 4 || form == 6 && self.has(15) { UINT8 } else { INT8 };
            self.set(Y_ZERO_POINT, element, &[], &[self.seed / 2], self.has(10));
        }
        if form == 6 {
            self.set(Y_SCALE, FLOAT, &[], &float(0.21), self.has(6));
        }
    }

    /// Activations in heads; gives the order of their dimensions.
    fn x1_layout(&mut self) -> Option<Vec<i64>> {
        if !self.dynamic || !self.has(16) {
            return None;
        }
        let (rows, k) = (self.rows as i64, self.weight.k as i64);
        // A batch of one, with a head that is as wide as the weight is long, or heads of one column.
        let (heads, size) = if self.has(17) { (1, k) } else { (k, 1) };
        self.inputs[X1].as_mut().expect("it was set").tensor.dims = vec![1, heads, rows, size];
        let shape = [rows, k].map(i64::to_le_bytes).concat();
        self.set(X1_SHAPE, INT64, &[2], &shape, self.has(18));
        Some(vec![0, 2, 1, 3])
    }

    /// A result in heads; gives the order of its dimensions.
    fn y_layout(&mut self) -> Option<Vec<i64>> {
        if !self.has(19) {
            return None;
        }
        let (n, rows) = (self.weight.n, self.rows);
        let mut heads = [1, 2, 5, n].into_iter().filter(|heads| n.is_multiple_of(*heads));
        let heads = heads.nth(usize::from(self.has(20))).unwrap_or(1);
        let batch = if self.has(21) && rows % 2 == 0 && rows > 0 { 2 } else { 1 };
        let shape = [batch, rows / batch, heads, n / heads].map(|size| (size as i64).to_le_bytes()).concat();
        self.set(Y_SHAPE, INT64, &[4], &shape, self.has(22));
        Some(if self.has(23) { vec![0, 2, 1, 3] } else { vec![0, 2, 3, 1] })
    }

    /// Gate and residual, of the result's shape or to be broadcast with it; `dims` are those of the activations.
    fn elementwise(&mut self, dims: &[i64], beside: u8) {
        let (rows, n) = (self.rows as i64, self.weight.n as i64);
        for (index, which) in [(GATE, beside), (RESIDUAL, beside >> 4)] {
            if which & 1 == 0 {
                continue;
            }
            let dims = match which >> 1 & 7 {
                0 => vec![],
                1 => vec![n],
                2 => vec![2, 1, 1, 1],
                3 => vec![rows, 1],
                _ if self.has(16) && self.dynamic => vec![rows, n],
                _ => dims[..dims.len() - 1].iter().copied().chain([n]).collect(),
            };
            let values = self.floats(dims.iter().product::<i64>() as usize, |v| v * 0.3 - 31.0);
            self.set(index, FLOAT, &dims, &values, self.has(6));
        }
    }
}

/// Changes a node in one respect.
fn change(input: &mut Input<'_>, node: &mut Node, form: &mut usize) {
    let index = usize::from(input.byte()) % INPUTS;
    node.inputs.resize(node.inputs.len().max(INPUTS), None);
    match input.byte() % 13 {
        0 => node.inputs[index] = None,
        1 => {
            let constant = input.byte().is_multiple_of(2);
            let mut tensor = Tensor::new(i32::from(input.byte() % 17), &[], &[]);
            change_tensor(input, &mut tensor);
            node.inputs[index] = Some(NodeInput { tensor, constant });
        }
        2..=5 => {
            if let Some(of) = &mut node.inputs[index] {
                change_tensor(input, &mut of.tensor);
            }
        }
        6 => {
            if let Some(of) = &mut node.inputs[index] {
                of.constant = !of.constant;
            }
        }
        7 => match (&mut node.compress_info, input.byte() % 4) {
            (info, 0) => *info = None,
            (Some(info), 1) => drop(info.pop()),
            (Some(info), 2) => info.push(input.number()),
            (Some(info), _) if !info.is_empty() => {
                let at = usize::from(input.byte()) % info.len();
                info[at] = input.number();
            }
            _ => {}
        },
        8 => node.offset_x = Some(input.number()),
        9 => node.output_type = Some(input.number()),
        10 => {
            let text = [c"decoded", c"compressed", c"cpu", c"", c"no\xff"][usize::from(input.byte()) % 5].to_owned();
            let entry = if input.byte().is_multiple_of(2) { &mut node.residency } else { &mut node.device };
            *entry = Some(text);
        }
        11 => {
            let perm = if input.byte().is_multiple_of(2) { &mut node.x1_perm } else { &mut node.y_perm };
            match (perm, input.byte() % 4) {
                (perm @ None, _) => *perm = Some((0..4).map(|_| input.number()).collect()),
                (perm, 0) => *perm = None,
                (Some(perm), 1) => drop(perm.pop()),
                (Some(perm), 2) => perm.push(input.number()),
                (Some(perm), _) if !perm.is_empty() => {
                    let at = usize::from(input.byte()) % perm.len();
                    perm[at] = input.number();
                }
                _ => {}
            }
        }
        _ => match input.byte() % 3 {
            0 => *form = usize::from(input.byte()) % 7,
            1 => node.inputs.truncate(index.max(3)),
            _ => node.inputs.resize(INPUTS + 2, None),
        },
    }
}

/// Changes a tensor in one respect.
pub(crate) fn change_tensor(input: &mut Input<'_>, tensor: &mut Tensor) {
    let rank = tensor.dims.len();
    match input.byte() % 8 {
        0 => tensor.element = input.number() as i32,
        1 => tensor.element = [FLOAT, UINT8, INT8, INT32, FLOAT16, UINT64][usize::from(input.byte()) % 6],
        2 => tensor.dims.push(input.number()),
        3 => drop(tensor.dims.pop()),
        4 if rank > 0 => tensor.dims[usize::from(input.byte()) % rank] = input.number(),
        5 if rank > 0 => tensor.dims.insert(usize::from(input.byte()) % rank, 1),
        6 if !tensor.data().is_empty() => {
            let at = tensor.gap + usize::from(input.word()) % tensor.data().len();
            tensor.bytes[at] = input.byte();
        }
        _ => {
            let data = tensor.data().to_vec();
            tensor.gap = usize::from(input.byte() % 9);
            tensor.bytes = [&vec![0; tensor.gap][..], &data].concat().into();
        }
    }
    tensor.fit(LIMIT);
}

/// The output as it was before it was brought into another order.
fn in_rows(node: &Node, form: usize, output: &Tensor) -> Tensor {
    let Some(perm) = node.y_perm.as_deref().filter(|_| tensor(node, Y_SHAPE).is_some()) else {
        return output.clone();
    };
    let size: Vec<usize> = output.dims.iter().map(|&size| size as usize).collect();
    let width = [4, 4, 2, 2, 1, 1, 4][form];
    let mut bytes = vec![0; output.data().len()];
    let mut from = [0; 4];
    perm.iter().zip(&size).for_each(|(&to, &size)| from[to as usize] = size);
    for (at, element) in output.data().chunks_exact(width).take(size.iter().product()).enumerate() {
        let place = [
            at / (size[1] * size[2] * size[3]),
            at / (size[2] * size[3]) % size[1],
            at / size[3] % size[2],
            at % size[3],
        ];
        let mut index = [0; 4];
        perm.iter().zip(place).for_each(|(&to, place)| index[to as usize] = place);
        let row = ((index[0] * from[1] + index[1]) * from[2] + index[2]) * from[3] + index[3];
        bytes[row * width..][..width].copy_from_slice(element);
    }
    Tensor::new(output.element, &output.dims, &bytes)
}

/// A float result that is multiplied with another tensor, or added to it, as ONNX broadcasts.
fn met((dims, results): (&[i64], &[u32]), other: &Tensor, multiplied: bool) -> (Vec<i64>, Vec<u32>) {
    let rank = dims.len().max(other.dims.len());
    let size = |of: &[i64], i: usize| if i + of.len() < rank { 1 } else { of[i + of.len() - rank] };
    let made: Vec<i64> = (0..rank)
        .map(|i| match (size(dims, i), size(&other.dims, i)) {
            (1, size) | (size, 1) => size,
            (one, other) => {
                assert_eq!(one, other, "what does not broadcast is refused");
                one
            }
        })
        .collect();
    let place = |of: &[i64], at: usize| {
        let (mut at, mut place, mut distance) = (at, 0, 1);
        for i in (0..rank).rev() {
            let (index, own) = (at % made[i] as usize, size(of, i) as usize);
            place += if own == 1 { 0 } else { index * distance };
            distance *= own;
            at /= made[i] as usize;
        }
        place
    };
    let values = other.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four")));
    let values: Vec<f32> = values.collect();
    let results = (0..made.iter().product::<i64>() as usize)
        .map(|at| {
            let (ours, theirs) = (f32::from_bits(results[place(dims, at)]), values[place(&other.dims, at)]);
            float_bits(if multiplied { ours * theirs } else { ours + theirs })
        })
        .collect();
    (made, results)
}

/// Holds an output against the definition.
fn compare(node: &Node, weight: &Weight, form: usize, output: &Tensor, first: bool) {
    let (n, k) = (weight.n, weight.k);
    let held = |index| tensor(node, index).map(Tensor::data);
    let unchanged = held(X2) == Some(&weight.encoded.x2)
        && held(INDEX) == Some(&weight.encoded.compress_index)
        && node.compress_info.as_deref() == Some(&weight.encoded.compress_info[..]);
    if !unchanged {
        // One that is no initializer is verified as a whole at the first run; what it is later is only held to be safe.
        assert!(!first, "a weight that was changed is run");
        return;
    }
    let x = tensor(node, X1).expect("it was run");
    let m = x.dims.iter().product::<i64>() as usize / k;
    let beside = [GATE, RESIDUAL].map(|index| tensor(node, index));
    if beside.iter().all(Option::is_none) {
        assert_eq!(output.dims.iter().product::<i64>() as usize, m * n);
    }
    if m == 0 || x.element == FLOAT {
        return; // nothing, or quantised by the node: tests against onnxruntime hold that
    }
    if beside.iter().flatten().any(|of| of.dims.contains(&0)) {
        // Then there is nothing to compute, and what would be wrong with other inputs is not seen.
        assert!(output.bytes.is_empty());
        return;
    }
    let mut results = products(node, weight, form, m);
    let mut dims = x.dims.clone();
    *dims.last_mut().expect("it was run") = n as i64;
    for (index, beside) in beside.into_iter().enumerate().filter_map(|(i, of)| Some((i, of?))) {
        (dims, results) = met((&dims, &results), beside, index == 0);
        assert!(node.y_perm.is_none(), "a {index} and a y_perm");
    }
    if node.y_perm.is_none() {
        assert_eq!(output.dims, dims);
    }
    compare_elements(node, form, &in_rows(node, form, output), &results);
}

/// The elements of an input as integers; none where an overload has no use for the type, and does not read it.
fn integers(node: &Node, index: usize) -> Option<Vec<i32>> {
    let of = tensor(node, index)?;
    match of.element {
        INT32 => Some(of.data().chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().expect("four"))).collect()),
        INT8 => Some(of.data().iter().map(|&b| i32::from(b as i8)).collect()),
        UINT8 => Some(of.data().iter().map(|&b| i32::from(b)).collect()),
        _ => None,
    }
}

/// As [`integers`], of floats.
fn floats(node: &Node, index: usize) -> Option<Vec<f32>> {
    let of = tensor(node, index)?;
    let value = match of.element {
        FLOAT => |b: &[u8]| f32::from_le_bytes(b.try_into().expect("four")),
        FLOAT16 => |b: &[u8]| f16::from_le_bytes(b.try_into().expect("two")).to_f32(),
        UINT64 => |b: &[u8]| f32::from_bits(u32::from_le_bytes(b[..4].try_into().expect("four"))),
        _ => return None,
    };
    Some(of.data().chunks_exact(size_of_element(of.element)).map(value).collect())
}

fn scalar(node: &Node, index: usize) -> i32 {
    integers(node, index).map_or(0, |values| values[0])
}

/// Zero point of the result; other forms do not read it: onnxruntime takes another overload where it is there.
fn y_zero_point(node: &Node, form: usize) -> i32 {
    if form >= 4 { scalar(node, Y_ZERO_POINT) } else { 0 }
}

/// What the definition gives for the products, before gate and residual.
fn products(node: &Node, weight: &Weight, form: usize, m: usize) -> Vec<u32> {
    let (n, x) = (weight.n, tensor(node, X1).expect("it was run"));
    let signed: Vec<i8> = x.data().iter().map(|&b| b as i8).collect();
    let (w_zeros, bias) = (integers(node, W_ZERO_POINT), integers(node, BIAS));
    let operands = Operands {
        x_zero_point: scalar(node, X1_ZERO_POINT),
        x_scale: None,
        w_zero_point: match &w_zeros {
            None => ZeroPoint::None,
            Some(zeros) if zeros.len() == 1 => ZeroPoint::Scalar(zeros[0]),
            Some(zeros) => ZeroPoint::PerColumn(zeros),
        },
        bias: bias.as_deref(),
    };
    let values = if x.element == INT8 { Activation::I8(&signed) } else { Activation::U8(x.data()) };
    let sums = sums(&weight.w, weight.kind, n, weight.k, &MatmulCall { x: values, m, operands, heads: None });
    let vector = |values: Vec<f32>| -> Vec<f32> { (0..n).map(|j| values[j % values.len()]).collect() };
    let factor = floats(node, X1_SCALE).map(|values| values[0]);
    let scaled = |scale| factor.map_or(scale, |factor| factor * scale);
    let scales = floats(node, DEQ_SCALE).map(|scales| scales.into_iter().map(scaled).collect());
    let (scales, addends) = (scales.map_or(vec![1.0; n], vector), floats(node, ADDEND).map(vector));
    let (scale, addend) =
        (ScalarOrPerColumn::PerColumn(&scales), addends.as_deref().map(ScalarOrPerColumn::PerColumn));
    let unsigned = tensor(node, Y_ZERO_POINT).is_some_and(|of| of.element == UINT8);
    let dequantized = Epilogue::Dequantize { scale, addend, elementwise: Elementwise::default() };
    let requantized = Epilogue::Requantize { scale, zero_point: y_zero_point(node, form) };
    let wanted = match form {
        0 => (Element::I32, Epilogue::Sums),
        1 => (Element::F32, dequantized),
        2 | 3 => (Element::F16, dequantized),
        4 => (Element::U8, requantized),
        6 if unsigned => (Element::U8, requantized),
        _ => (Element::I8, requantized),
    };
    expected(&sums, n, wanted)
}

/// Holds the elements of an output, row by row, against the results as the core's tests write them.
fn compare_elements(node: &Node, form: usize, output: &Tensor, results: &[u32]) {
    let zero = y_zero_point(node, form);
    let y_scale = floats(node, Y_SCALE).filter(|_| form == 6).map_or(1.0, |values| values[0]);
    for (i, &expected) in results.iter().enumerate() {
        let bytes = |width: usize| &output.bytes[i * width..(i + 1) * width];
        let word = |width: usize| bytes(width).iter().rev().fold(0_u32, |word, &b| word << 8 | u32::from(b));
        let (found, expected) = match form {
            0 => (word(4), expected),
            1 => (float_bits(f32::from_bits(word(4))), expected),
            2 | 3 => (half_bits(f16::from_bits(word(2) as u16)), expected),
            4 => (word(1), expected),
            5 => (word(1) as i8 as u32, expected),
            _ => {
                let value = (expected as i32 - zero) as f32 * y_scale;
                (float_bits(f32::from_bits(word(4))), float_bits(value))
            }
        };
        assert_eq!(found, expected, "element {i}, form {form}, {:?}", output.dims);
    }
}
