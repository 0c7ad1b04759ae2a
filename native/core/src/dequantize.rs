//! Floats of weights: `(float(weight) - zero_point) * scale`, each step rounded by itself.
//!
//! These are the bits of DequantizeLinear, which subtracts integers, and those of Cast, Sub and Mul: the difference of two bytes
//! is exact in either way, and never a negative zero.

use std::mem::MaybeUninit;

use crate::codec::WeightType;
use crate::error::Error;

/// Elements of a channel below which it is made floats of in vectors that reach into the next one.
const SHORT: usize = 64;

/// Elements of such a vector.
const VECTOR: usize = 8;

/// One value, or one for each column.
#[derive(Debug, Clone, Copy)]
pub enum Along<'a> {
    /// For all.
    Whole(f32),
    /// In order.
    Columns(&'a [f32]),
}

impl Along<'_> {
    /// That of a channel.
    #[inline(always)]
    fn of(self, channel: usize) -> f32 {
        match self {
            Self::Columns(values) => values[channel],
            Self::Whole(value) => value,
        }
    }
}

/// Scales and zero points along an axis of a tensor. Element `i` has those of channel `i / inner % count`.
#[derive(Debug, Clone, Copy)]
pub struct Channels<'a> {
    /// Elements with the same index along the axis that follow each other.
    pub inner: usize,
    /// The size of the axis.
    pub count: usize,
    /// As many as the axis is long, or one for all.
    pub scale: Along<'a>,
    /// As the scale.
    pub zero_point: Along<'a>,
}

impl<'a> Channels<'a> {
    /// Of rows that have a column for each value.
    pub fn of_columns(count: usize, scale: Along<'a>, zero_point: Along<'a>) -> Self {
        Self { inner: 1, count, scale, zero_point }
    }

    /// # Errors
    /// If there are none, or values are not as many.
    pub fn check(&self) -> Result<(), Error> {
        let found = [self.scale, self.zero_point].into_iter().find_map(|along| match along {
            Along::Columns(values) if values.len() != self.count => Some(values.len()),
            _ => None,
        });
        match found {
            None if self.inner > 0 && self.count > 0 => Ok(()),
            _ => Err(Error::Argument { what: "scales", expected: self.count, found: found.unwrap_or(0) }),
        }
    }
}

/// Makes floats of the elements of a tensor from `at` on.
///
/// # Panics
/// If the lengths differ, or [`Channels::check`] refuses the channels.
#[inline(always)]
pub fn dequantize(
    weights: &[u8],
    weight_type: WeightType,
    channels: Channels<'_>,
    at: usize,
    out: &mut [MaybeUninit<f32>],
) {
    match weight_type {
        WeightType::U8 => typed(weights, f32::from, channels, at, out),
        WeightType::I8 => typed(weights, |weight| f32::from(weight.cast_signed()), channels, at, out),
    }
}

#[inline(always)]
fn typed(
    weights: &[u8],
    float: impl Fn(u8) -> f32 + Copy,
    channels: Channels<'_>,
    at: usize,
    out: &mut [MaybeUninit<f32>],
) {
    use Along::Whole;
    assert_eq!(weights.len(), out.len(), "a float for each weight");
    match (channels.scale, channels.zero_point, channels.inner) {
        (Whole(scale), Whole(zero), _) => each(weights, float, |_| scale, |_| zero, out),
        (.., 1) => by_columns(weights, float, channels, at, out),
        _ => by_channels(weights, float, channels, at, out),
    }
}

/// Where each element has another channel than the one before.
#[inline(always)]
fn by_columns(
    mut weights: &[u8],
    float: impl Fn(u8) -> f32 + Copy,
    Channels { count, scale, zero_point, .. }: Channels<'_>,
    at: usize,
    mut out: &mut [MaybeUninit<f32>],
) {
    use Along::{Columns, Whole};
    let mut channel = at % count;
    while !weights.is_empty() {
        let len = weights.len().min(count - channel);
        let ((now, later), (to, rest)) = (weights.split_at(len), out.split_at_mut(len));
        match (scale, zero_point) {
            (Whole(scale), Whole(zero)) => each(now, float, |_| scale, |_| zero, to),
            (Whole(scale), Columns(zeros)) => each(now, float, |_| scale, from(zeros, channel, len), to),
            (Columns(scales), Whole(zero)) => each(now, float, from(scales, channel, len), |_| zero, to),
            (Columns(scales), Columns(zeros)) => {
                each(now, float, from(scales, channel, len), from(zeros, channel, len), to);
            }
        }
        (weights, out, channel) = (later, rest, 0);
    }
}

/// Where several elements of a channel follow each other.
#[inline(always)]
fn by_channels(
    mut weights: &[u8],
    float: impl Fn(u8) -> f32 + Copy,
    Channels { inner, count, scale, zero_point }: Channels<'_>,
    at: usize,
    mut out: &mut [MaybeUninit<f32>],
) {
    let (mut channel, mut len) = (at / inner % count, inner - at % inner);
    while !weights.is_empty() {
        len = len.min(weights.len());
        let (scale, zero) = (scale.of(channel), zero_point.of(channel));
        let vectors = len.next_multiple_of(VECTOR);
        if inner < SHORT && vectors <= weights.len() {
            // What is beyond the channel is written again.
            let (weights, _) = weights[..vectors].as_chunks::<VECTOR>();
            let (out, _) = out[..vectors].as_chunks_mut::<VECTOR>();
            for (weights, out) in weights.iter().zip(out) {
                each(weights, float, |_| scale, |_| zero, out);
            }
        } else {
            each(&weights[..len], float, |_| scale, |_| zero, &mut out[..len]);
        }
        (weights, out) = (&weights[len..], &mut out[len..]);
        (channel, len) = (if channel + 1 == count { 0 } else { channel + 1 }, inner);
    }
}

/// Some of the values, which are as many as there are weights.
#[inline(always)]
fn from(values: &[f32], first: usize, len: usize) -> impl Fn(usize) -> f32 {
    let values = &values[first..][..len];
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
    use crate::dispatch::Kernel;

    #[test]
    fn every_byte_by_the_formula() {
        let weights: Vec<u8> = (0..=255).collect();
        let values: Vec<f32> = (0..256).map(|i| i as f32 * 0.37 - 40.0).collect();
        for weight_type in [WeightType::U8, WeightType::I8] {
            for scale in [Along::Whole(0.1), Along::Columns(&values)] {
                for zero in [Along::Whole(-3.0), Along::Columns(&values)] {
                    let mut out = [MaybeUninit::new(f32::NAN); 256];
                    let channels = Channels { inner: 1, count: 256, scale, zero_point: zero };
                    dequantize(&weights, weight_type, channels, 0, &mut out);
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

    #[test]
    fn channels_of_every_length_from_every_place() {
        let weights: Vec<u8> = (0..600).map(|i| (i * 37 % 251) as u8).collect();
        let values: Vec<f32> = (0..300).map(|i| i as f32 * 0.37 - 40.0).collect();
        for (inner, count) in
            [(1, 300), (2, 300), (3, 7), (7, 5), (8, 9), (9, 40), (63, 4), (64, 4), (65, 3), (900, 2)]
        {
            for (at, len) in
                [(0, 600), (1, 599), (inner - 1, 70), (inner * count - 1, 65), (inner, 5), (3 * inner, 0)]
            {
                let (scale, zero_point) = (Along::Columns(&values[..count]), Along::Whole(3.0));
                for (scale, zero_point) in [(scale, zero_point), (zero_point, scale), (scale, scale)] {
                    let channels = Channels { inner, count, scale, zero_point };
                    let value = |along, i| match along {
                        Along::Whole(value) => value,
                        Along::Columns(values) => values[i / inner % count],
                    };
                    let expected = weights[..len].iter().zip(at..).map(|(weight, i)| {
                        ((f32::from(weight.cast_signed()) - value(zero_point, i)) * value(scale, i)).to_bits()
                    });
                    let expected: Vec<u32> = expected.collect();
                    for kernel in Kernel::available() {
                        let mut out = vec![MaybeUninit::new(f32::NAN); len];
                        kernel.dequantize(&weights[..len], WeightType::I8, channels, at, &mut out);
                        // SAFETY: they were initialised above.
                        let found: Vec<u32> =
                            out.iter().map(|each| unsafe { each.assume_init() }.to_bits()).collect();
                        assert_eq!(found, expected, "{kernel:?} {channels:?} {at}");
                    }
                }
            }
        }
    }
}
