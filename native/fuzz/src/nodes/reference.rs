//! What the definitions of the operators give for a node that was accepted: shape, bytes of an element, elements as bits.

use std::ffi::CStr;

use mcd_core::{Activation, Elementwise, Epilogue, MatmulCall, Operands, ScalarOrPerColumn, WeightType, ZeroPoint};
use mcd_testkit::onnxruntime::Node;
use mcd_testkit::product::{expected, sums};
use mcd_testkit::ways::Element;

use super::subject::{INT8, INT64, UINT8, Weight, tensor};

type Output = (Vec<i64>, usize, Vec<u32>);

fn number(node: &Node, name: &CStr) -> Option<i64> {
    node.numbers.iter().find(|(other, _)| *other == name).map(|(_, number)| *number)
}

fn list<'n>(node: &'n Node, name: &CStr) -> Option<&'n [i64]> {
    let found = node.lists.iter().find(|(other, _)| *other == name)?;
    Some(&found.1[..]).filter(|list| !list.is_empty())
}

fn floats_of(node: &Node, index: usize) -> Option<Vec<f32>> {
    let of = tensor(node, index)?;
    Some(of.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four"))).collect())
}

/// The shape that is declared, which is empty where there is one element and no dimension.
fn shape(node: &Node) -> Vec<i64> {
    list(node, c"shape").unwrap_or_default().to_vec()
}

/// Numbers of one byte, or of four.
fn integers(node: &Node, index: usize) -> Option<Vec<i32>> {
    let of = tensor(node, index)?;
    Some(match of.element {
        INT8 => of.data().iter().map(|&b| i32::from(b as i8)).collect(),
        UINT8 => of.data().iter().map(|&b| i32::from(b)).collect(),
        _ => of.data().chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().expect("four"))).collect(),
    })
}

/// The value of place `i`, where there may be one for all.
fn at<T: Copy>(values: &[T], i: usize) -> T {
    values[if values.len() == 1 { 0 } else { i }]
}

fn value(weight: &Weight, place: usize) -> i32 {
    let byte = weight.w[place];
    if weight.kind == WeightType::U8 { i32::from(byte) } else { i32::from(byte as i8) }
}

pub fn weight(node: &Node, weight: &Weight) -> Output {
    let (n, k) = (weight.n, weight.k);
    let rows = number(node, c"transposed") == Some(1);
    let place = |i: usize| if rows { i } else { i % n * k + i / n };
    (shape(node), 1, (0..n * k).map(|i| u32::from(weight.w[place(i)])).collect())
}

pub fn floats(node: &Node, weight: &Weight) -> Output {
    let shape = shape(node);
    let axis = number(node, c"axis").map(|axis| if axis < 0 { axis + shape.len() as i64 } else { axis } as usize);
    let inner: usize = axis.map_or(1, |axis| shape[axis + 1..].iter().product::<i64>() as usize);
    let count = axis.map_or(1, |axis| shape[axis] as usize);
    let (scales, zeros) = (floats_of(node, 2).expect("it is required"), integers(node, 3).unwrap_or(vec![0]));
    let elements = (0..weight.w.len()).map(|i| {
        let along = i / inner % count;
        ((value(weight, i) - at(&zeros, along)) as f32 * at(&scales, along)).to_bits()
    });
    (shape, 4, elements.collect())
}

pub fn rows(node: &Node, weight: &Weight, scaled: bool) -> Output {
    let indices = tensor(node, 2).expect("it is required");
    let wide = indices.data().chunks_exact(if indices.element == INT64 { 8 } else { 4 });
    let read = |bytes: &[u8]| match bytes.len() {
        8 => i64::from_le_bytes(bytes.try_into().expect("eight")),
        _ => i64::from(i32::from_le_bytes(bytes.try_into().expect("four"))),
    };
    let row = |index: i64| (if index < 0 { index + weight.n as i64 } else { index }) as usize;
    let mut dims = indices.dims.clone();
    // Elements behind those of the shape are none of the tensor's.
    let count = dims.iter().product::<i64>() as usize;
    dims.push(weight.k as i64);
    // Where an overload for scales has none, as onnxruntime never lets it be, it is one.
    let (scales, zeros) = (floats_of(node, 3).unwrap_or(vec![1.0]), floats_of(node, 4).unwrap_or(vec![0.0]));
    let along_rows = number(node, c"axis") == Some(0);
    let mut elements = Vec::new();
    for row in wide.map(read).map(row).take(count) {
        for column in 0..weight.k {
            let place = row * weight.k + column;
            let along = if along_rows { row } else { column };
            elements.push(match scaled {
                false => u32::from(weight.w[place]),
                true => ((value(weight, place) as f32 - at(&zeros, along)) * at(&scales, along)).to_bits(),
            });
        }
    }
    (dims, if scaled { 4 } else { 1 }, elements)
}

/// A dimension of a convolution: pixels in front of the image, and places of the kernel.
fn side(node: &Node, i: usize, size: i64) -> (i64, i64) {
    let kernel = list(node, c"kernel_shape").expect("it was accepted");
    let [stride, dilation] = [c"strides", c"dilations"].map(|name| list(node, name).map_or(1, |list| list[i]));
    let reach = (kernel[i] - 1) * dilation + 1;
    match number(node, c"same").unwrap_or(0) {
        0 => {
            let pads = list(node, c"pads").map_or((0, 0), |pads| (pads[i], pads[i + kernel.len()]));
            (pads.0, (size + pads.0 + pads.1 - reach) / stride + 1)
        }
        same => {
            let places = (size + stride - 1) / stride;
            let pads = ((places - 1) * stride + reach - size).max(0);
            (if same == 1 { pads / 2 } else { pads - pads / 2 }, places)
        }
    }
}

/// All indices of some dimensions, the last the fastest.
fn indices(dims: &[i64]) -> impl Iterator<Item = Vec<i64>> + '_ {
    (0..dims.iter().product::<i64>()).map(move |mut place| {
        let mut index = vec![0; dims.len()];
        for (at, size) in index.iter_mut().zip(dims).rev() {
            (*at, place) = (place % size, place / size);
        }
        index
    })
}

/// The pixels that the kernel sees, of one group of one image: a row for each place, the channels of a tap beside each other.
fn patches(
    node: &Node,
    (sizes, sides): (&[i64], &[(i64, i64)]),
    image: &[u8],
    channels: usize,
    beside: u8,
) -> Vec<u8> {
    let kernel = list(node, c"kernel_shape").expect("it was accepted");
    let step = |name, i: usize| list(node, name).map_or(1, |list| list[i]);
    let places: Vec<i64> = sides.iter().map(|side| side.1).collect();
    let pixels = sizes.iter().product::<i64>() as usize;
    let mut rows = Vec::new();
    for place in indices(&places) {
        for tap in indices(kernel) {
            let at = (0..kernel.len()).try_fold(0, |at, i| {
                let pixel = place[i] * step(c"strides", i) + tap[i] * step(c"dilations", i) - sides[i].0;
                (0..sizes[i]).contains(&pixel).then_some(at * sizes[i] + pixel)
            });
            rows.extend((0..channels).map(|c| at.map_or(beside, |at| image[c * pixels + at as usize])));
        }
    }
    rows
}

/// Each matrix of `rows` rows and `columns` columns, transposed. There may be none, of whatever size.
fn transposed<T: Copy>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    let matrix = |of: &[T]| (0..rows * columns).map(|at| of[at % rows * columns + at / rows]).collect::<Vec<_>>();
    values.chunks_exact(rows.saturating_mul(columns).max(1)).flat_map(matrix).collect()
}

/// Where channels are last, what the definition gives with channels second, with all in that order.
pub fn convolution(node: &Node, weight: &Weight, which: usize) -> Output {
    let x = tensor(node, 0).expect("it is required");
    let (mut dims, count) = (x.dims.clone(), x.dims.iter().product::<i64>() as usize);
    if number(node, c"channels_last") != Some(1) {
        return channels_second(node, weight, which, (&dims, x.data()));
    }
    dims[1..].rotate_right(1);
    let pixels = |dims: &[i64]| dims[2..].iter().fold(1, |size, &side| i64::saturating_mul(size, side)) as usize;
    // Elements behind those of the shape are none of the tensor's.
    let images = transposed(&x.data()[..count], pixels(&dims), dims[1] as usize);
    let (mut dims, width, elements) = channels_second(node, weight, which, (&dims, &images));
    let elements = transposed(&elements, dims[1] as usize, pixels(&dims));
    dims[1..].rotate_left(1);
    (dims, width, elements)
}

fn channels_second(node: &Node, weight: &Weight, which: usize, (given, x): (&[i64], &[u8])) -> Output {
    let (n, k) = (weight.n, weight.k);
    let groups = number(node, c"group").unwrap_or(1) as usize;
    let sides: Vec<(i64, i64)> = given[2..].iter().enumerate().map(|(i, &size)| side(node, i, size)).collect();
    let mut dims = vec![given[0], n as i64];
    dims.extend(sides.iter().map(|side| side.1));
    let width = if which < 2 { 4 } else { 1 };
    if dims.contains(&0) {
        return (dims, width, Vec::new());
    }
    let (per_group, channels) = (n / groups, given[1] as usize / groups);
    let image = channels * given[2..].iter().product::<i64>() as usize;
    let zero = integers(node, 5).map_or(0, |zeros| zeros[0]);
    let mut elements = Vec::new();
    for part in 0..given[0] as usize * groups {
        let rows = patches(node, (&given[2..], &sides), &x[part * image..], channels, zero as u8);
        let first = part % groups * per_group;
        let w = &weight.w[first * k..][..per_group * k];
        let results = group(node, (w, weight.kind, first, per_group, k), &rows, which);
        let m = rows.len() / k;
        elements.extend(
            (0..per_group * m).map(|i| results[i % m * per_group + i / m] & if width == 1 { 255 } else { !0 }),
        );
    }
    (dims, width, elements)
}

/// The results of one group of columns for some rows.
fn group(
    node: &Node,
    (w, kind, first, n, k): (&[u8], WeightType, usize, usize, usize),
    rows: &[u8],
    which: usize,
) -> Vec<u32> {
    let signed: Vec<i8> = rows.iter().map(|&b| b as i8).collect();
    let columns = |values: Vec<f32>| -> Vec<f32> { (first..first + n).map(|j| at(&values, j)).collect() };
    let zeros: Vec<i32> = match integers(node, 6) {
        None => vec![0; n],
        Some(zeros) => (first..first + n).map(|j| at(&zeros, j)).collect(),
    };
    let bias: Option<Vec<i32>> = integers(node, 4).map(|bias| bias[first..first + n].to_vec());
    let x = if tensor(node, 0).is_some_and(|x| x.element == INT8) {
        Activation::I8(&signed)
    } else {
        Activation::U8(rows)
    };
    let call = MatmulCall {
        x,
        m: rows.len() / k,
        operands: Operands {
            x_zero_point: integers(node, 5).map_or(0, |zeros| zeros[0]),
            x_scale: None,
            w_zero_point: ZeroPoint::PerColumn(&zeros),
            bias: bias.as_deref(),
        },
        heads: None,
    };
    let factor = floats_of(node, 9).map_or(1.0, |values| values[0]);
    let scales =
        floats_of(node, 3).map_or(vec![1.0; n], |scales| columns(scales.iter().map(|s| factor * s).collect()));
    let addend = floats_of(node, 7).map(columns);
    let (scale, addend) =
        (ScalarOrPerColumn::PerColumn(&scales), addend.as_deref().map(ScalarOrPerColumn::PerColumn));
    // Where bytes come out; it may be anything where they do not, and is not looked at.
    let zero_point = if which < 2 { 0 } else { integers(node, 8).map_or(0, |zeros| zeros[0]) };
    let wanted = match which {
        0 => (Element::I32, Epilogue::Sums),
        1 => (Element::F32, Epilogue::Dequantize { scale, addend, elementwise: Elementwise::default() }),
        2 => (Element::U8, Epilogue::Requantize { scale, zero_point }),
        _ => (Element::I8, Epilogue::Requantize { scale, zero_point }),
    };
    expected(&sums(w, kind, n, k, &call), n, wanted)
}
