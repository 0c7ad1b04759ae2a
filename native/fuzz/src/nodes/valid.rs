//! Nodes that are in order.

use mcd_testkit::onnxruntime::{Node, NodeInput, Tensor};

use super::subject::{FLOAT, Form, INT8, INT32, INT64, UINT8, Weight};
use crate::input::Input;

fn tensor(element: i32, dims: &[i64], bytes: &[u8], constant: bool) -> Option<NodeInput> {
    Some(NodeInput { tensor: Tensor::new(element, dims, bytes), constant })
}

/// Floats around zero.
fn floats(count: usize, seed: u8) -> Vec<u8> {
    let value = |i: usize| ((i * 37 + usize::from(seed)) % 101) as f32 * 0.013 - 0.5;
    (0..count).flat_map(|i| value(i).to_le_bytes()).collect()
}

fn noise(count: usize, seed: u8) -> Vec<u8> {
    (0..count).map(|i| (i as u32 * 73 + i as u32 / 11).wrapping_mul(u32::from(seed) | 1) as u8).collect()
}

/// A node of a form with this weight.
pub fn node(input: &mut Input<'_>, weight: &Weight, form: Form) -> Node {
    let bytes = |bytes: &[u8]| tensor(INT8, &[bytes.len() as i64], bytes, true);
    let stored = vec![bytes(&weight.encoded.x2), bytes(&weight.encoded.compress_index)];
    let mut node = Node { compress_info: Some(weight.encoded.compress_info.to_vec()), ..Node::default() };
    let flags = input.word();
    if flags & 1 != 0 {
        node.residency = Some([c"compressed", c"decoded"][usize::from(flags >> 1 & 1)].to_owned());
    }
    if flags & 4 != 0 {
        node.entries.push((c"mcd.verify", c"use".to_owned()));
    }
    match form {
        Form::Weight | Form::Floats => constant(input, weight, form, flags, &mut node, stored),
        Form::Rows(short, scaled) => rows(input, weight, (short, scaled), flags, &mut node, stored),
        Form::Convolution(which) => convolution(input, weight, which, flags, &mut node, stored),
    }
    node
}

fn constant(
    input: &mut Input<'_>,
    weight: &Weight,
    form: Form,
    flags: u16,
    node: &mut Node,
    stored: Vec<Option<NodeInput>>,
) {
    let (n, k) = (weight.n as i64, weight.k as i64);
    node.numbers.push((c"dtype", i64::from(weight.element())));
    let shape = match flags >> 3 & 3 {
        0 => vec![n, k],
        1 => vec![n * k],
        2 => vec![1, n, 1, k],
        _ => vec![k, n],
    };
    node.inputs = stored;
    if form == Form::Weight {
        node.numbers.push((c"transposed", i64::from(flags >> 5 & 1)));
    } else {
        let axis = i64::from(flags >> 6 & 7) - 4;
        let place = if axis < 0 { axis + shape.len() as i64 } else { axis };
        let along = usize::try_from(place).ok().and_then(|place| shape.get(place));
        let count = along.filter(|_| flags & 1 << 9 != 0).map_or(1, |&size| size as usize);
        if count > 1 {
            node.numbers.push((c"axis", axis));
        }
        let seed = input.byte();
        node.inputs.push(tensor(FLOAT, &[count as i64], &floats(count, seed), flags & 1 << 10 != 0));
        if flags & 1 << 11 != 0 {
            node.inputs.push(tensor(weight.element(), &[count as i64], &noise(count, seed), flags & 1 << 12 != 0));
        }
    }
    node.lists.push((c"shape", shape));
}

fn rows(
    input: &mut Input<'_>,
    weight: &Weight,
    (short, scaled): (bool, bool),
    flags: u16,
    node: &mut Node,
    stored: Vec<Option<NodeInput>>,
) {
    let (n, k) = (weight.n, weight.k);
    let count = usize::from(input.byte() % 20);
    let index = |input: &mut Input<'_>| (usize::from(input.word()) % (2 * n)) as i64 - n as i64;
    let indices: Vec<i64> = (0..count).map(|_| index(input)).collect();
    let bytes: Vec<u8> = match short {
        true => indices.iter().flat_map(|&index| (index as i32).to_le_bytes()).collect(),
        false => indices.iter().flat_map(|&index| index.to_le_bytes()).collect(),
    };
    let dims = if flags & 8 == 0 { vec![count as i64] } else { vec![1, count as i64, 1] };
    node.inputs = stored;
    node.inputs.push(tensor(if short { INT32 } else { INT64 }, &dims, &bytes, flags & 16 != 0));
    node.numbers.push((c"dtype", i64::from(weight.element())));
    if scaled {
        let along_rows = flags & 32 != 0;
        node.numbers.push((c"axis", i64::from(!along_rows)));
        let of = |several: bool| {
            if !several {
                1
            } else if along_rows {
                n
            } else {
                k
            }
        };
        let (scales, zeros, seed) = (of(flags & 64 != 0), of(flags & 128 != 0), input.byte());
        node.inputs.push(tensor(FLOAT, &[scales as i64], &floats(scales, seed), flags & 256 != 0));
        if flags & 512 != 0 {
            node.inputs.push(tensor(FLOAT, &[zeros as i64], &floats(zeros, seed / 2), flags & 1024 != 0));
        }
    }
}

fn convolution(
    input: &mut Input<'_>,
    weight: &Weight,
    which: usize,
    flags: u16,
    node: &mut Node,
    mut stored: Vec<Option<NodeInput>>,
) {
    let (n, k) = (weight.n, weight.k);
    let kernels: [&[i64]; 8] = [&[1], &[2], &[3], &[3, 3], &[2, 3], &[1, 1], &[2, 1, 3], &[4]];
    let taps = |kernel: &[i64]| kernel.iter().product::<i64>() as usize;
    let fitting: Vec<_> = kernels.iter().filter(|kernel| k.is_multiple_of(taps(kernel))).collect();
    let kernel = fitting[usize::from(input.byte()) % fitting.len()].to_vec();
    let rank = kernel.len();
    // Several groups have whole strips of tiles each.
    let groups = if n == 256 && flags & 8 != 0 { 2 } else { 1 };
    let channels = k / taps(&kernel) * groups;
    let small = |input: &mut Input<'_>, most: u8, least: i64| i64::from(input.byte() % most) + least;
    let mut dims = vec![small(input, 3, 0), channels as i64];
    dims.extend((0..rank).map(|_| small(input, 7, 1)));
    let (x1, seed) = (if flags & 16 == 0 { UINT8 } else { INT8 }, input.byte());
    node.lists.push((c"kernel_shape", kernel));
    node.lists.push((c"strides", (0..rank).map(|_| small(input, 3, 1)).collect()));
    node.lists.push((c"dilations", (0..rank).map(|_| small(input, 2, 1)).collect()));
    match flags >> 5 & 3 {
        0 => {}
        1 => node.numbers.push((c"same", small(input, 2, 1))),
        _ => node.lists.push((c"pads", (0..2 * rank).map(|_| small(input, 3, 0)).collect())),
    }
    node.numbers.push((c"group", groups as i64));
    if input.byte() & 1 != 0 {
        node.numbers.push((c"channels_last", 1));
        dims[1..].rotate_left(1);
    }
    node.inputs = vec![tensor(x1, &dims, &noise(dims.iter().product::<i64>() as usize, seed), false)];
    node.inputs.append(&mut stored);
    node.inputs.resize(10, None);
    let has = |bit: u32| flags >> bit & 1 != 0;
    let columns = |several: bool| if several { n } else { 1 };
    if which > 0 {
        let count = columns(has(7));
        node.inputs[3] = tensor(FLOAT, &[count as i64], &floats(count, seed), has(8));
        node.inputs[9] = has(9).then(|| tensor(FLOAT, &[], &0.37_f32.to_le_bytes(), has(8))).flatten();
    }
    if has(10) {
        let bias: Vec<u8> = (0..n as i32).flat_map(|j| (j * 31 - 400).to_le_bytes()).collect();
        node.inputs[4] = tensor(INT32, &[n as i64], &bias, has(8));
    }
    node.inputs[5] = has(11).then(|| tensor(x1, &[], &[seed], has(12))).flatten();
    if has(13) {
        let count = columns(has(14));
        node.inputs[6] = tensor(weight.element(), &[count as i64], &noise(count, seed), true);
    }
    if which == 1 && has(15) {
        node.inputs[7] = tensor(FLOAT, &[n as i64], &floats(n, seed), true);
    }
    if which >= 2 {
        node.inputs[8] = tensor(if which == 2 { UINT8 } else { INT8 }, &[], &[seed / 2], has(12));
    }
}
