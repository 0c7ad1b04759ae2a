//! Any weight, tiling and profile: what is encoded decodes to itself on every kernel, and every kernel, residency and
//! number of threads multiplies it to the bits that the definition gives.

use std::mem::MaybeUninit;

use mcd_core::quantize::{Quantizer, Range};
use mcd_core::{
    Activation, CompressedWeight, Elementwise, Epilogue, Kernel, MatmulCall, Parallel, PreparedWeight, Profile,
    ScalarOrPerColumn, Serial, SplitHeads, Tiling, WeightType, WeightView, ZeroPoint, encode, unpack,
};

use mcd_testkit::pools::Backwards;
use mcd_testkit::product::{expected, sums};
use mcd_testkit::ways::{Element, run, ways};

use crate::input::Input;
use crate::reached;

/// Runs one input.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.word();
    let tiling = Tiling { k: usize::from(input.byte() % 17), n: usize::from(input.byte() % 17) };
    let (k, n, m) = (input.size(140), input.size(72), input.size(16));
    let profile = [Profile::Fast, Profile::Balanced, Profile::Small][usize::from(input.byte()) % 3];
    let kind = if flags & 1 == 0 { WeightType::I8 } else { WeightType::U8 };
    let shape_of_values = input.byte();
    let (narrow, gap) = (u32::from(shape_of_values % 8), usize::from(input.byte() % 4));
    let (zeros, bias) = (input.take(8), input.take(8));
    let floats: Vec<f32> =
        input.take(16).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four"))).collect();
    let (at, step) = (usize::from(input.byte()), 1 + usize::from(input.byte()));
    let bytes = if input.0.is_empty() { &[1, 2, 3][..] } else { input.0 };

    // The weight as it lies in memory: rows or columns, with gaps.
    let strides = if flags & 2 == 0 { (k + gap, 1) } else { (1, n + gap) };
    let value = |i: usize| bytes[(i * step + i / bytes.len()) % bytes.len()];
    // Either the input's bytes as they are, or their sums around a centre, which real weights look like: those are
    // what ranks, continuation levels and escapes are for.
    let bell = |i: usize| {
        let mix = |salt: u32| (i as u32 ^ u32::from(value(i)) << 8).wrapping_mul(0x9e37_79b9 ^ salt << 7) >> 24;
        let sum: u32 = (1..5).map(mix).sum();
        ((sum as i32 - 510) >> narrow.clamp(1, 4)) as u8
    };
    let memory: Vec<u8> = (0..(n + gap) * (k + gap) + at)
        .map(|i| if shape_of_values & 8 == 0 { (value(i) as i8 >> narrow) as u8 } else { bell(i) })
        .collect();
    let view = WeightView::new(&memory[at..], (n, k), strides, kind).expect("it lies inside");
    let w: Vec<u8> = (0..n * k).map(|i| memory[at + i / k * strides.0 + i % k * strides.1]).collect();
    let Ok(encoded) = encode(&view, profile, tiling) else {
        assert!(tiling.k * tiling.n == 0 || tiling.k * tiling.n > 127);
        return;
    };
    let (x2, index, info) = (&encoded.x2, &encoded.compress_index, &encoded.compress_info);
    let parsed = CompressedWeight::parse(x2, index, info).expect("what is written is readable");
    if parsed.stats().coded_tiles > 0 {
        reached();
    }
    for kernel in Kernel::available() {
        assert!(unpack(parsed.clone(), x2, kernel, &Serial).as_ref() == Ok(&w), "{kernel:?} gives another weight");
    }

    let cycle = |of: &[u8], i: usize| of.get(i % of.len().max(1)).copied().unwrap_or(0);
    let x: Vec<u8> = (0..m * k).map(|i| cycle(bytes, i * 5 + i / 3).wrapping_add((i / k) as u8)).collect();
    let xi: Vec<i8> = x.iter().map(|&v| v as i8).collect();
    let w_zeros: Vec<i32> = (0..n)
        .map(|j| match kind {
            WeightType::I8 => i32::from(cycle(zeros, j) as i8),
            WeightType::U8 => i32::from(cycle(zeros, j)),
        })
        .collect();
    let biases: Vec<i32> = (0..n).map(|j| i32::from(cycle(bias, j)) << (cycle(bias, j + 1) % 25)).collect();
    let signed = flags & 4 == 0;
    // Floats, in heads or not, and the bytes that they are quantised to.
    let heads = [2, 3, 1].into_iter().find(|heads| k.is_multiple_of(*heads)).expect("1 divides everything");
    let split = (flags & 1 << 15 != 0).then_some(SplitHeads { heads, rows: m, columns: k / heads });
    let x_floats: Vec<f32> = (0..m * k)
        .map(|i| f32::from(xi[i]) * floats.get(i * 7 % floats.len().max(1)).copied().unwrap_or(0.5))
        .collect();
    let quantizer = Quantizer::from(Range::of(&x_floats));
    let mut quantized = vec![MaybeUninit::uninit(); m * k];
    let quantized: Vec<u8> = match split {
        None => quantizer.quantize(&x_floats, &mut quantized).to_vec(),
        Some(SplitHeads { heads, rows, columns }) => {
            let quantized = quantizer.quantize(&x_floats, &mut quantized);
            let place = |row: usize, head: usize| (head * rows + row) * columns;
            let places = (0..rows).flat_map(|row| (0..heads).map(move |head| place(row, head)));
            places.flat_map(|at| quantized[at..at + columns].to_vec()).collect()
        }
    };
    let call = MatmulCall {
        x: if signed { Activation::I8(&xi) } else { Activation::U8(&x) },
        m,
        x_zero_point: if signed { i32::from(cycle(zeros, 3) as i8) } else { i32::from(cycle(zeros, 3)) },
        x_scale: None,
        w_zero_point: match flags >> 3 & 3 {
            0 => ZeroPoint::None,
            1 => ZeroPoint::Scalar(w_zeros[0]),
            _ => ZeroPoint::PerColumn(&w_zeros),
        },
        bias: (flags & 32 != 0).then_some(&biases[..]),
        heads: None,
    };
    let columns: Vec<f32> = (0..n).map(|j| floats.get(j % floats.len().max(1)).copied().unwrap_or(0.5)).collect();
    let vector = |per_column: bool| {
        if per_column { ScalarOrPerColumn::PerColumn(&columns) } else { ScalarOrPerColumn::Scalar(columns[0]) }
    };
    let addend = (flags & 128 != 0).then(|| vector(flags & 256 != 0));
    let matrix = |step: usize| -> Vec<f32> {
        (0..m * n).map(|i| floats.get(i * step % floats.len().max(1)).copied().unwrap_or(i as f32 * 0.3)).collect()
    };
    let (gate, residual) = (matrix(1), matrix(3));
    let elementwise = Elementwise {
        gate: (flags >> 12 & 1 != 0).then_some(&gate[..]),
        residual: (flags >> 13 & 1 != 0).then_some(&residual[..]),
    };
    let zero_point = i32::from(cycle(zeros, 1));
    let dequantized = |scale, elementwise| Epilogue::Dequantize { scale, addend, elementwise };
    let wanted = |scale| match flags >> 9 & 7 {
        0 | 1 => (Element::I32, Epilogue::Sums),
        2 | 3 => (Element::F32, dequantized(scale, elementwise)),
        4 | 5 => (Element::F16, dequantized(scale, Elementwise::default())),
        6 => (Element::U8, Epilogue::Requantize { scale, zero_point }),
        _ => (Element::I8, Epilogue::Requantize { scale, zero_point: zero_point - 128 }),
    };
    let per_column = flags & 64 != 0;
    let scales: Vec<f32> = columns.iter().map(|scale| quantizer.scale * scale).collect();
    let (call, expected) = if flags & 1 << 14 == 0 {
        (call, expected(&sums(&w, kind, n, k, &call), n, wanted(vector(per_column))))
    } else {
        let bytes = MatmulCall { x: Activation::U8(&quantized), x_zero_point: quantizer.zero_point.into(), ..call };
        let scale =
            if per_column { ScalarOrPerColumn::PerColumn(&scales) } else { ScalarOrPerColumn::Scalar(scales[0]) };
        let floats = MatmulCall { x: Activation::F32(&x_floats, split), ..call };
        (floats, expected(&sums(&w, kind, n, k, &bytes), n, wanted(scale)))
    };
    let wanted = wanted(vector(per_column));
    let mut first: Option<Vec<u32>> = None;
    for options in ways() {
        let prepared = PreparedWeight::new(x2, index, info, options).expect("what is written is readable");
        for pool in [&Serial as &dyn Parallel, &Backwards(3)] {
            let out = run(&prepared, x2, &call, wanted, pool).expect("the operands fit");
            for (i, (out, expected)) in out.iter().zip(&expected).enumerate() {
                assert!(
                    expected == out,
                    "{options:?} with {} threads gives {out:08x} instead of {expected:08x} at {i}",
                    pool.threads()
                );
            }
            let first = first.get_or_insert_with(|| out.clone());
            assert!(*first == out, "{options:?} with {} threads differs", pool.threads());
        }
    }
}
