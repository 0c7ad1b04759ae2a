//! Dynamic quantisation of activations, as ONNX's `DynamicQuantizeLinear` and onnxruntime's kernel for it define it.
//!
//! `scale = (max − min) / 255` over the values and zero, `zero_point = round(clamp(−min / scale))`, and then
//! `round(clamp(x / scale)) + zero_point`, each step rounded to fp32 and to even. Infinite ranges, ranges that are too
//! small to have a scale, and values that are NaN give the bytes that onnxruntime gives: an infinite scale makes a zero
//! of every finite value, a scale of zero an infinity, and NaN counts as the lowest value. Only for the range does NaN
//! differ: it is left out here, while onnxruntime's answer depends on where it stands and on the number of threads.

use std::mem::MaybeUninit;
use std::ops::RangeInclusive;

/// Values that are compared side by side; enough for four vectors of the widest kind.
const LANES: usize = 64;

/// 1.5 · 2²³: a sum with it has no room for fractions, so that it is rounded to even, and its low byte is 0.
const ROUND: f32 = 12_582_912.0;

/// Scales whose reciprocal is a normal number, as is the product with it of each value that is not next to nothing.
const PLAIN_SCALES: RangeInclusive<f32> = 1e-30..=1e30;

/// The lowest and the highest of a number of values, and zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    min: f32,
    max: f32,
}

impl Range {
    /// No values.
    pub const EMPTY: Self = Self { min: 0.0, max: 0.0 };

    /// That of values the lowest and highest of which are these, or zero; neither is NaN, or a zero with a sign.
    pub fn new(min: f32, max: f32) -> Self {
        debug_assert!(min <= 0.0 && max >= 0.0);
        Self { min, max }
    }

    /// The range of `x`: a plain loop, written so that the compiler makes vectors of it, of the width that the caller's
    /// features have.
    #[inline(always)]
    pub fn of(x: &[f32]) -> Self {
        let (mut min, mut max) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        let (blocks, rest) = x.as_chunks::<LANES>();
        let mut take = |values: &[f32]| {
            for ((min, max), &x) in min.iter_mut().zip(&mut max).zip(values) {
                *min = if x < *min { x } else { *min };
                *max = if x > *max { x } else { *max };
            }
        };
        blocks.iter().for_each(|block| take(block));
        take(rest);
        Self { min: min.into_iter().fold(0.0, f32::min), max: max.into_iter().fold(0.0, f32::max) }
    }

    /// The range of all values of both.
    pub fn with(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// Scale and zero point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantizer {
    /// What one step is worth.
    pub scale: f32,
    /// What stands for 0.
    pub zero_point: u8,
}

impl From<Range> for Quantizer {
    fn from(Range { min, max }: Range) -> Self {
        let scale = if max == min { 1.0 } else { (max - min) / 255.0 };
        let position = 0.0 - min / scale;
        // NaN, from a range without end or without a scale, is the highest.
        let position = if position < 255.0 { position } else { 255.0 };
        Self { scale, zero_point: position.round_ties_even() as u8 }
    }
}

impl Quantizer {
    /// What values may be multiplied with instead of being divided by the scale, where that says which bytes they become; `None` for
    /// scales that are next to nothing or beyond everything.
    ///
    /// Product and quotient are less than 2⁻¹⁴ apart where the quotient is 256 at most, for three roundings of 2⁻²⁴ lie between them:
    /// they are rounded to the same number unless the product is [nearly halfway](Self::HALFWAY) between two. Beyond, both are
    /// saturated.
    pub fn reciprocal(&self) -> Option<f32> {
        PLAIN_SCALES.contains(&self.scale).then(|| 1.0 / self.scale)
    }

    /// From how far on a product may be rounded to another number than the quotient.
    pub const HALFWAY: f32 = 0.5 - 1.0 / 16_384.0;
    /// Products that are larger count as this, which stands for the highest byte whatever the zero point.
    pub const LARGE: f32 = 1024.0;

    /// Quantises `x`; as [`Range::of`], for the compiler to make vectors of.
    ///
    /// # Panics
    /// If the lengths differ.
    #[inline(always)]
    pub fn quantize<'a>(&self, x: &[f32], out: &'a mut [MaybeUninit<u8>]) -> &'a mut [u8] {
        assert_eq!(x.len(), out.len(), "a byte for each value");
        let (low, high) = (0.0 - f32::from(self.zero_point), 255.0 - f32::from(self.zero_point));
        for (&x, out) in x.iter().zip(out.iter_mut()) {
            let y = x / self.scale;
            let y = if y > low { y } else { low };
            let y = if y < high { y } else { high };
            out.write(((y + ROUND).to_bits() as u8).wrapping_add(self.zero_point));
        }
        // SAFETY: every element was written above, for the lengths are equal, and the layout is the same.
        unsafe { &mut *(std::ptr::from_mut(out) as *mut [u8]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::Kernel;
    use mcd_testkit::Rng;

    /// The definition, one value at a time.
    fn reference(x: &[f32]) -> (Quantizer, Vec<u8>) {
        let values = || x.iter().copied().filter(|x| !x.is_nan());
        let (min, max) = (values().fold(0.0, f32::min), values().fold(0.0, f32::max));
        let scale = if min == max { 1.0 } else { (max - min) / 255.0 };
        let zero = -min / scale;
        let zero = if zero.is_nan() { 255.0 } else { zero.clamp(0.0, 255.0).round_ties_even() };
        let one = |&x: &f32| {
            let y = x / scale;
            let y = if y.is_nan() { -zero } else { y.clamp(-zero, 255.0 - zero) };
            (y.round_ties_even() + zero) as u8
        };
        (Quantizer { scale, zero_point: zero as u8 }, x.iter().map(one).collect())
    }

    fn check(x: &[f32]) {
        let (quantizer, bytes) = reference(x);
        for kernel in Kernel::available() {
            let found = Quantizer::from(kernel.tile().rows().range(x));
            assert_eq!(
                (found.scale.to_bits(), found.zero_point),
                (quantizer.scale.to_bits(), quantizer.zero_point),
                "{kernel:?}"
            );
            let mut out = vec![MaybeUninit::new(77); x.len()];
            assert_eq!(kernel.tile().rows().quantize(found, x, &mut out), bytes, "{kernel:?}");
        }
    }

    #[test]
    fn every_length_around_the_width_of_a_vector() {
        let mut rng = Rng::new(1);
        let mut random = || (rng.next() as u32 >> 8) as f32 / 1e6 - 7.0;
        for len in (0..150).chain([255, 1000, 4097]) {
            let x: Vec<f32> = (0..len).map(|_| random()).collect();
            check(&x);
            check(&x.iter().map(|x| x.abs()).collect::<Vec<_>>());
            check(&x.iter().map(|x| -x.abs()).collect::<Vec<_>>());
            check(&x.iter().map(|x| x * 1e-41).collect::<Vec<_>>());
        }
    }

    #[test]
    fn halves_are_rounded_to_even() {
        // The range of 255 has a scale of 1.
        let x: Vec<f32> = (-256..=254).map(|i| i as f32 / 2.0).chain([127.0]).collect();
        check(&x);
        let Quantizer { scale, zero_point } = Range::of(&x).into();
        assert_eq!((scale, zero_point), (1.0, 128));
        let mut out = [MaybeUninit::uninit(); 4];
        assert_eq!(Quantizer { scale, zero_point }.quantize(&[0.5, 1.5, -0.5, -1.5], &mut out), [128, 130, 128, 126]);
    }

    /// Quotients that are halfway between two numbers or as near to it as floats get, at all numbers, for scales whose reciprocals are
    /// rounded either way; and what is far beyond the range, with NaN beside it.
    #[test]
    fn halves_and_their_neighbours_become_what_the_quotient_does() {
        let mut rng = Rng::new(7);
        for step in 0..60 {
            let scale = f32::from_bits(0x3f80_0000 | rng.next() as u32 >> 9) * 2.0_f32.powi(step - 30);
            let quantizer = Quantizer { scale, zero_point: (step * 5 % 256) as u8 };
            let near = |half: i32| {
                let value = (half as f32 / 2.0 * scale).to_bits();
                (value - 6..=value + 6).map(f32::from_bits)
            };
            let mut x: Vec<f32> = (1..=520).flat_map(near).collect();
            x.extend([f32::NAN, 1e38, -1e38, f32::INFINITY, f32::NEG_INFINITY].into_iter().cycle().take(64));
            x.extend(x.clone().into_iter().map(|x| -x));
            let mut expected = vec![MaybeUninit::new(77); x.len()];
            let expected = quantizer.quantize(&x, &mut expected);
            for kernel in Kernel::available() {
                let mut out = vec![MaybeUninit::new(78); x.len()];
                assert_eq!(kernel.tile().rows().quantize(quantizer, &x, &mut out), expected, "{kernel:?} {scale}");
            }
        }
    }

    /// Values that are divided nowhere, for none is near halfway: inside of the range, beyond it in either direction, and without end.
    #[test]
    fn what_is_saturated_becomes_the_same_by_products() {
        for (scale, zero_point) in [(0.37, 0), (1.0, 100), (5e-7, 128), (3e9, 255)] {
            let quantizer = Quantizer { scale, zero_point };
            let values = (-1100..1100).map(|i| (i as f32 + 0.25) * scale);
            let x: Vec<f32> = values.chain([f32::NAN, 1e38, f32::INFINITY].into_iter().cycle().take(96)).collect();
            let mut expected = vec![MaybeUninit::new(77); x.len()];
            let expected = quantizer.quantize(&x, &mut expected);
            for kernel in Kernel::available() {
                let mut out = vec![MaybeUninit::new(78); x.len()];
                assert_eq!(kernel.tile().rows().quantize(quantizer, &x, &mut out), expected, "{kernel:?} {scale}");
            }
        }
    }

    #[test]
    fn ranges_without_end_or_without_a_scale() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        for x in [
            &[0.0, -0.0][..],
            &[-0.0],
            &[nan],
            &[inf, 1.0, 2.0],
            &[-inf, 1.0, 2.0],
            &[inf, -inf, 1.0],
            &[inf, nan, 1.0],
            &[1.0, nan, -2.0],
            &[1e-45],
            &[1e-45, -1e-45],
            &[1e-40, 0.0],
            &[3.4e38, -3.4e38, 1.0],
            &[5.0, 6.0, 7.0],
            &[-5.0, -6.0, -7.0],
        ] {
            check(x);
            check(&x.repeat(40));
        }
    }

    #[test]
    fn ranges_of_parts_make_the_range_of_the_whole() {
        let x = [3.0, -1.0, 7.0, 0.5];
        assert_eq!(Range::of(&x[..1]).with(Range::of(&x[1..])), Range::of(&x));
        assert_eq!(Range::EMPTY.with(Range::of(&x)), Range::of(&x));
    }
}
