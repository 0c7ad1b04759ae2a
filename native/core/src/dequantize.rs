//! Floats of weights: `(float(weight) - zero_point) * scale`, each step rounded by itself.
//!
//! These are the bits of DequantizeLinear, which subtracts integers, and those of Cast, Sub and Mul: the difference of two bytes
//! is exact in either way, and never a negative zero.

use std::mem::MaybeUninit;

use crate::codec::WeightType;

/// One value, or one for each column.
#[derive(Debug, Clone, Copy)]
pub enum Along<'a> {
    /// For all.
    Whole(f32),
    /// In order.
    Columns(&'a [f32]),
}

/// Makes floats of weights.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub fn dequantize(
    weights: &[u8],
    weight_type: WeightType,
    scale: Along<'_>,
    zero_point: Along<'_>,
    out: &mut [MaybeUninit<f32>],
) {
    match weight_type {
        WeightType::U8 => typed(weights, f32::from, scale, zero_point, out),
        WeightType::I8 => typed(weights, |weight| f32::from(weight.cast_signed()), scale, zero_point, out),
    }
}

#[inline(always)]
fn typed(
    weights: &[u8],
    float: impl Fn(u8) -> f32,
    scale: Along<'_>,
    zero_point: Along<'_>,
    out: &mut [MaybeUninit<f32>],
) {
    use Along::{Columns, Whole};
    let len = weights.len();
    assert_eq!(len, out.len(), "a float for each weight");
    match (scale, zero_point) {
        (Whole(scale), Whole(zero)) => each(weights, float, |_| scale, |_| zero, out),
        (Whole(scale), Columns(zero)) => each(weights, float, |_| scale, at(zero, len), out),
        (Columns(scale), Whole(zero)) => each(weights, float, at(scale, len), |_| zero, out),
        (Columns(scale), Columns(zero)) => each(weights, float, at(scale, len), at(zero, len), out),
    }
}

/// The values by column, which are as many as there are weights.
#[inline(always)]
fn at(values: &[f32], len: usize) -> impl Fn(usize) -> f32 {
    let values = &values[..len];
    move |i| values[i]
}

#[inline(always)]
fn each(
    weights: &[u8],
    float: impl Fn(u8) -> f32,
    scale: impl Fn(usize) -> f32,
    zero: impl Fn(usize) -> f32,
    out: &mut [MaybeUninit<f32>],
) {
    for (i, (to, &weight)) in out.iter_mut().zip(weights).enumerate() {
        to.write((float(weight) - zero(i)) * scale(i));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_by_the_formula() {
        let weights: Vec<u8> = (0..=255).collect();
        let values: Vec<f32> = (0..256).map(|i| i as f32 * 0.37 - 40.0).collect();
        for weight_type in [WeightType::U8, WeightType::I8] {
            for scale in [Along::Whole(0.1), Along::Columns(&values)] {
                for zero in [Along::Whole(-3.0), Along::Columns(&values)] {
                    let mut out = [MaybeUninit::new(f32::NAN); 256];
                    dequantize(&weights, weight_type, scale, zero, &mut out);
                    for (i, found) in out.into_iter().enumerate() {
                        let of = |along| match along {
                            Along::Whole(value) => value,
                            Along::Columns(values) => values[i],
                        };
                        let weight = if weight_type == WeightType::U8 { i as f32 } else { i as u8 as i8 as f32 };
                        let expected = (weight - of(zero)) * of(scale);
                        // SAFETY: it was initialised above.
                        assert_eq!(unsafe { found.assume_init() }.to_bits(), expected.to_bits(), "{i}");
                    }
                }
            }
        }
    }
}
