//! The arguments of a multiplication against its weight and each other.

use super::activation::Activation;
use super::call::{Heads, MatmulCall, Operands, ZeroPoint};
use crate::arch::output::{Elementwise, Output};
use crate::error::Error;

/// Checks a length against what it should be, `None` if that is too large to count.
pub(crate) fn check_length(what: &'static str, expected: Option<usize>, found: usize) -> Result<(), Error> {
    match expected {
        Some(expected) if expected == found => Ok(()),
        expected => Err(Error::Argument { what, expected: expected.unwrap_or(usize::MAX), found }),
    }
}

/// Checks the length of all that is given by column, of which there are `n`, and that the output's type can hold its results.
pub(crate) fn check_columns(n: usize, operands: &Operands<'_>, output: &Output<'_>) -> Result<(), Error> {
    if let Some((destination, results)) = output.mismatch() {
        return Err(Error::Output { destination, results });
    }
    let zero_points = if let ZeroPoint::PerColumn(each) = operands.w_zero_point { Some(each.len()) } else { None };
    for (what, found) in [
        ("the weight's zero point", zero_points),
        ("bias", operands.bias.map(<[i32]>::len)),
        ("deq_scale", output.epilogue.scale().per_column()),
        ("addend", output.epilogue.addend().and_then(|addend| addend.per_column())),
    ] {
        check_length(what, Some(n), found.unwrap_or(n))?;
    }
    Ok(())
}

/// Checks every length that a multiplication by n columns of k relies on.
pub(super) fn validate(k: usize, n: usize, call: &MatmulCall<'_>, output: &Output<'_>) -> Result<(), Error> {
    check_length("x1", call.m.checked_mul(k), call.x.len())?;
    check_length("the output", call.m.checked_mul(n), output.destination.len())?;
    check_columns(n, &call.operands, output)?;
    let Elementwise { gate, residual } = output.epilogue.elementwise();
    for (what, values) in [("gate", gate), ("residual", residual)] {
        let expected = output.destination.len();
        check_length(what, Some(expected), values.map_or(expected, <[f32]>::len))?;
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
