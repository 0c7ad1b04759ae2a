//! The arguments of a multiplication against its weight and each other.

use super::activation::Activation;
use super::call::{Heads, MatmulCall, ZeroPoint};
use super::epilogue::Output;
use super::prepared::PreparedWeight;
use crate::error::Error;

/// Checks every length that a multiplication relies on.
pub(super) fn validate(
    weight: &PreparedWeight,
    x2: &[u8],
    call: &MatmulCall<'_>,
    output: &Output<'_>,
) -> Result<(), Error> {
    let (k, n) = (weight.k(), weight.n());
    let expect = |what, expected: Option<usize>, found: usize| match expected {
        Some(expected) if expected == found => Ok(()),
        expected => Err(Error::Argument { what, expected: expected.unwrap_or(usize::MAX), found }),
    };
    expect("x1", call.m.checked_mul(k), call.x.len())?;
    expect("the output", call.m.checked_mul(n), output.len())?;
    if let ZeroPoint::PerColumn(z) = call.w_zero_point {
        expect("the weight's zero point", Some(n), z.len())?;
    }
    if let Some(bias) = call.bias {
        expect("bias", Some(n), bias.len())?;
    }
    for (what, len) in ["deq_scale", "addend"].into_iter().zip(output.vectors()) {
        expect(what, Some(n), len.unwrap_or(n))?;
    }
    for (what, len) in ["gate", "residual"].into_iter().zip(output.elementwise()) {
        expect(what, Some(output.len()), len.unwrap_or(output.len()))?;
    }
    if let Activation::F32(x, Some(split)) = call.x
        && !split.elements().is_some_and(|batch| x.is_empty() || batch > 0 && x.len().is_multiple_of(batch))
    {
        let part = split.elements().unwrap_or(usize::MAX);
        return Err(Error::Divisibility { what: "activations", whole: x.len(), part });
    }
    if let Some(Heads { rows, columns }) = call.heads
        && call.m > 0
    {
        for (what, part, whole) in [("rows", rows, call.m), ("columns", columns, n)] {
            if !whole.is_multiple_of(part) {
                return Err(Error::Divisibility { what, whole, part });
            }
        }
    }
    if weight.decoded.is_none() && x2.len() != weight.weight.x2_len() {
        return Err(Error::Length { expected: weight.weight.x2_len(), found: x2.len() });
    }
    Ok(())
}
