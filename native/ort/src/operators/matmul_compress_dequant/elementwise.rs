//! Mul and Add behind the multiplication, with tensors of the result's shape: a gate, and what a residual stream held.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use crate::ffi::{Dims, Error, KernelContext, element_count};
use crate::operator::Input;

/// A float tensor that meets the result element by element.
pub struct Operand<'a> {
    pub values: Cow<'a, [f32]>,
    dims: Dims,
}

impl<'a> Operand<'a> {
    /// Reads the input `index`, and broadcasts the result's shape with its own.
    pub fn read(context: &KernelContext<'a>, input: Input, result: &mut Dims) -> Result<Self, Error> {
        let mut read = || {
            let mut dims = Dims::new();
            let values = context.input(input)?.read::<f32>(&mut dims)?;
            *result = broadcast(result, &dims).ok_or_else(|| {
                Error::invalid(format!("has shape {dims:?}, which does not broadcast with {result:?}"))
            })?;
            Ok(Self { values, dims })
        };
        read().map_err(|error| input.context(error))
    }
}

/// The shape that Mul and Add give for these two.
fn broadcast(left: &[i64], right: &[i64]) -> Option<Dims> {
    let rank = left.len().max(right.len());
    let at = |of: &[i64], i: usize| (i + of.len()).checked_sub(rank).map_or(1, |i| of[i]);
    (0..rank)
        .map(|i| match (at(left, i), at(right, i)) {
            (1, size) | (size, 1) => Some(size),
            (left, right) => (left == right).then_some(left),
        })
        .collect()
}

/// Brings products to the shape of the result on the way through gate and residual.
///
/// # Panics
/// If the shapes of operands do not broadcast to that of the result, or elements are missing.
pub fn broadcast_into(
    (products, dims): (&[f32], &[i64]),
    gate: Option<&Operand<'_>>,
    residual: Option<&Operand<'_>>,
    (out, result): (&mut [MaybeUninit<f32>], &[i64]),
) {
    assert_eq!(element_count(result).ok(), Some(out.len()), "elements for {result:?}");
    let columns = result.last().map_or(1, |&size| size as usize);
    if out.is_empty() {
        return;
    }
    let products = StridedView::new(products, dims, result);
    let [gate, residual] = [gate, residual].map(|of| of.map(|of| StridedView::new(&of.values, &of.dims, result)));
    for (row, out) in out.chunks_exact_mut(columns).enumerate() {
        let products = products.row(row);
        let [gate, residual] = [&gate, &residual].map(|of| of.as_ref().map(|of| of.row(row)));
        for (j, out) in out.iter_mut().enumerate() {
            let mut value = products(j);
            if let Some(gate) = &gate {
                value *= gate(j);
            }
            if let Some(residual) = &residual {
                value += residual(j);
            }
            out.write(value);
        }
    }
}

/// The elements of a tensor in the order of a shape that it is broadcast to.
struct StridedView<'a> {
    values: &'a [f32],
    /// Of the result's dimensions from the last but one on: their size, and the distance of their elements.
    outer: Vec<(usize, usize)>,
    /// The distance in the last one.
    step: usize,
}

impl<'a> StridedView<'a> {
    fn new(values: &'a [f32], dims: &[i64], result: &[i64]) -> Self {
        let mut distance = 1;
        let mut all = Vec::with_capacity(result.len());
        for (i, &size) in result.iter().rev().enumerate() {
            let own = dims.len().checked_sub(i + 1).map_or(1, |at| dims[at]);
            assert!(own == size || own == 1, "{dims:?} is not {result:?}");
            all.push((size as usize, if own == 1 { 0 } else { distance }));
            distance *= own as usize;
        }
        let step = all.first().map_or(0, |last| last.1);
        Self { values, outer: all.split_off(all.len().min(1)), step }
    }

    /// The elements of the result's row `row`, by column.
    fn row(&self, mut row: usize) -> impl Fn(usize) -> f32 {
        let mut start = 0;
        for &(size, distance) in &self.outer {
            start += row % size * distance;
            row /= size;
        }
        move |column| self.values[start + column * self.step]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_broadcast_as_mul_and_add_do() {
        for (left, right, expected) in [
            (&[2, 3][..], &[2, 3][..], Some(&[2, 3][..])),
            (&[2, 3], &[], Some(&[2, 3])),
            (&[2, 3], &[1, 1, 1], Some(&[1, 2, 3])),
            (&[2, 1, 3], &[4, 1], Some(&[2, 4, 3])),
            (&[1, 3], &[0, 3], Some(&[0, 3])),
            (&[2, 3], &[0, 3], None),
            (&[2, 3], &[2], None),
            (&[], &[], Some(&[])),
        ] {
            assert_eq!(broadcast(left, right).as_deref(), expected, "{left:?} {right:?}");
            assert_eq!(broadcast(right, left).as_deref(), expected, "{right:?} {left:?}");
        }
    }

    #[test]
    fn every_element_meets_its_own() {
        let operand = |dims: &[i64], from: f32| Operand {
            values: (0..dims.iter().product::<i64>()).map(|i| from + i as f32).collect(),
            dims: dims.into(),
        };
        let (gate, residual) = (operand(&[2, 1, 1], 2.0), operand(&[2, 1], 100.0));
        let products = [1.0, 2.0, 3.0];
        let mut out = [MaybeUninit::new(f32::NAN); 12];
        broadcast_into((&products, &[1, 3]), Some(&gate), Some(&residual), (&mut out, &[2, 2, 3]));
        // SAFETY: they were initialised above.
        let out = out.map(|value| unsafe { value.assume_init() });
        assert_eq!(out, [102.0, 104.0, 106.0, 103.0, 105.0, 107.0, 103.0, 106.0, 109.0, 104.0, 107.0, 110.0]);
        let mut out = [MaybeUninit::new(f32::NAN); 1];
        broadcast_into((&[3.0], &[]), Some(&operand(&[], 4.0)), None, (&mut out, &[]));
        // SAFETY: as above.
        assert_eq!(unsafe { out[0].assume_init() }, 12.0);
    }
}
