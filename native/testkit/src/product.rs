//! The multiplication as its definition has it: what every kernel must give.

use crate::ways::{Element, Wanted, float_bits, half_bits};
use mcd_core::{Activation, Elementwise, Epilogue, MatmulCall, ScalarOrPerColumn, WeightType, ZeroPoint};

/// How the products of neighbours along k are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// As they are.
    AreExact,
    /// With saturation to 16 bits, where uint8 activations meet int8 weights.
    Saturate,
}

/// The integer sums of the weight (n, k).
pub fn sums(w: &[u8], of: WeightType, n: usize, k: usize, call: &MatmulCall<'_>) -> Vec<i32> {
    sums_of(Pairs::AreExact, w, of, (n, k), call)
}

/// As [`sums`], with pairs as they are said to be.
pub fn sums_of(pairs: Pairs, w: &[u8], of: WeightType, (n, k): (usize, usize), call: &MatmulCall<'_>) -> Vec<i32> {
    let w: Vec<i32> = w
        .iter()
        .map(|&w| match of {
            WeightType::I8 => i32::from(w as i8),
            WeightType::U8 => i32::from(w),
        })
        .collect();
    let x: Vec<i32> = match call.x {
        Activation::U8(x) => x.iter().map(|&x| i32::from(x)).collect(),
        Activation::I8(x) => x.iter().map(|&x| i32::from(x)).collect(),
        Activation::F32(..) | Activation::Rows(_) => unreachable!("activations are quantised here"),
    };
    let saturates = pairs == Pairs::Saturate && of == WeightType::I8 && matches!(call.x, Activation::U8(_));
    let pair = |sum: i32| if saturates { sum.clamp(i16::MIN.into(), i16::MAX.into()) } else { sum };
    let mut out = Vec::with_capacity(call.m * n);
    for row in x.chunks_exact(k) {
        for (j, column) in w.chunks_exact(k).enumerate() {
            let zero = match call.operands.w_zero_point {
                ZeroPoint::None => 0,
                ZeroPoint::Scalar(z) => z,
                ZeroPoint::PerColumn(z) => z[j],
            };
            let x_zero = call.operands.x_zero_point;
            let mut sum = call.operands.bias.map_or(0, |b| b[j]);
            for (x, w) in row.chunks(2).zip(column.chunks(2)) {
                sum = sum.wrapping_add(pair(x.iter().zip(w).map(|(x, w)| x * w).sum()));
                // What zero points take away is exact.
                let taken: i32 = x.iter().zip(w).map(|(x, w)| x * zero + x_zero * (w - zero)).sum();
                sum = sum.wrapping_sub(taken);
            }
            out.push(sum);
        }
    }
    out
}

/// What [`run`](crate::ways::run) must give for these sums.
pub fn expected(sums: &[i32], n: usize, (element, epilogue): Wanted<'_>) -> Vec<u32> {
    let at = |values: ScalarOrPerColumn<'_>, i: usize| match values {
        ScalarOrPerColumn::Scalar(v) => v,
        ScalarOrPerColumn::PerColumn(v) => v[i % n],
    };
    let float = |i: usize| {
        let product = sums[i] as f32 * at(epilogue.scale(), i);
        let mut value = epilogue.addend().map_or(product, |addend| product + at(addend, i));
        let Elementwise { gate, residual } = epilogue.elementwise();
        if let Some(gate) = gate {
            value *= gate[i];
        }
        if let Some(residual) = residual {
            value += residual[i];
        }
        value
    };
    let rounded = |i: usize, low: i32, high: i32| {
        let Epilogue::Requantize { zero_point, .. } = epilogue else { panic!("bytes are requantised") };
        let value = float(i).round_ties_even();
        // NaN becomes the lowest value, as in onnxruntime.
        if value.is_nan() {
            return low as u32;
        }
        (f64::from(value) + f64::from(zero_point)).clamp(low.into(), high.into()) as i32 as u32
    };
    (0..sums.len())
        .map(|i| match element {
            Element::I32 => sums[i] as u32,
            Element::F32 => float_bits(float(i)),
            Element::F16 => half_bits(half::f16::from_f32(float(i))),
            Element::U8 => rounded(i, 0, 255),
            Element::I8 => rounded(i, -128, 127),
        })
        .collect()
}
