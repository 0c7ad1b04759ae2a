//! What the operator takes and gives.

use std::ffi::CStr;

use ort_sys::ONNXTensorElementDataType as Type;

use crate::ffi::{Error, element_count};
use crate::operator::{Input, Signature};
use crate::operators::declared::{ANY, FLOAT, INT8};

/// The axis of the output that scales and zero points go along, where there are several.
pub const AXIS: &CStr = c"axis";

/// The inputs, with their names and positions.
pub mod input {
    use crate::operator::Input;

    /// The compressed stream.
    pub const X2: Input = Input::required(0, "x2");
    /// The tile table.
    pub const COMPRESS_INDEX: Input = Input::required(1, "compress_index");
    /// One value, or one for each place along the axis.
    pub const SCALE: Input = Input::required(2, "scale");
    /// Of the weight's type, and as many as there are scales.
    pub const ZERO_POINT: Input = Input::optional(3, "zero_point");

    /// All of them.
    pub const ALL: &[Input] = &[X2, COMPRESS_INDEX, SCALE, ZERO_POINT];
}

/// The only overload.
#[derive(Debug, Clone, Copy)]
pub struct DecompressDequant;

impl Signature for DecompressDequant {
    const NAME: &'static CStr = c"DecompressDequant";
    const INPUTS: &'static [Input] = input::ALL;

    fn input(self, index: usize) -> Type {
        match index {
            _ if index == input::SCALE.index => FLOAT,
            // Bytes of the type that `dtype` says; binding and each call check it.
            _ if index == input::ZERO_POINT.index => ANY,
            _ => INT8,
        }
    }

    fn output(self) -> Type {
        FLOAT
    }
}

/// Where scales are, where there are several: element `i` of the output has that of place `i / inner % count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Along {
    pub inner: usize,
    pub count: usize,
}

/// Where the scales of a tensor are; its shape has been checked.
pub fn along(shape: &[i64], axis: i64) -> Result<Along, Error> {
    let rank = shape.len() as i64;
    let wrong = || Error::invalid(format!("axis is {axis}, and the shape is {shape:?}"));
    let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).map_err(|_| wrong())?;
    let (Some(&count), Some(rest)) = (shape.get(axis), shape.get(axis + 1..)) else { return Err(wrong()) };
    let size = |dims: &[i64]| element_count(dims);
    Ok(Along { inner: size(rest)?, count: size(&[count])? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_along_every_axis() {
        let shape = [4, 3, 5];
        for (axis, inner, count) in [(0, 15, 4), (1, 5, 3), (2, 1, 5), (-1, 1, 5), (-3, 15, 4)] {
            assert_eq!(along(&shape, axis).unwrap(), Along { inner, count }, "{axis}");
        }
        for axis in [3, -4, i64::MAX, i64::MIN] {
            assert!(along(&shape, axis).is_err(), "{axis}");
        }
        assert!(along(&[], 0).is_err());
    }
}
