//! The arguments of a multiplication against its weight and each other.

use super::activation::Activation;
use super::call::{Heads, MatmulCall, ZeroPoint};
use crate::arch::output::{Elementwise, Output};
use crate::error::Error;

/// Checks every length that a multiplication by n columns of k relies on.
pub(super) fn validate(k: usize, n: usize, call: &MatmulCall<'_>, output: &Output<'_>) -> Result<(), Error> {
    let expect = |what, expected: Option<usize>, found: usize| match expected {
        Some(expected) if expected == found => Ok(()),
        expected => Err(Error::Argument { what, expected: expected.unwrap_or(usize::MAX), found }),
    };
    expect("x1", call.m.checked_mul(k), call.x.len())?;
    expect("the output", call.m.checked_mul(n), output.destination.len())?;
    if let Some((destination, results)) = output.mismatch() {
        return Err(Error::Output { destination, results });
    }
    if let ZeroPoint::PerColumn(z) = call.w_zero_point {
        expect("the weight's zero point", Some(n), z.len())?;
    }
    if let Some(bias) = call.bias {
        expect("bias", Some(n), bias.len())?;
    }
    for (what, values) in [("deq_scale", Some(output.epilogue.scale())), ("addend", output.epilogue.addend())] {
        expect(what, Some(n), values.and_then(|values| values.per_column()).unwrap_or(n))?;
    }
    let Elementwise { gate, residual } = output.epilogue.elementwise();
    for (what, values) in [("gate", gate), ("residual", residual)] {
        let expected = output.destination.len();
        expect(what, Some(expected), values.map_or(expected, <[f32]>::len))?;
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
    Ok(())
}
