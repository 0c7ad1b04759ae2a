//! What operators that decode a whole constant share: its type and shape, as a node declares them.

use std::ffi::CStr;

use mcd_core::WeightType;
use ort_sys::ONNXTensorElementDataType as Type;

use super::weight::{COMPRESS_INFO, byte_type, not_five_numbers};
use crate::ffi::{Dims, Error, KernelInfo, ShapeContext, element_count};

/// The shape of the output: as many elements as the weight has.
pub const SHAPE: &CStr = c"shape";
/// ONNX's number of its type.
pub const DTYPE: &CStr = c"dtype";

/// What the attributes of a node that decodes a constant say of it.
pub struct Declared {
    pub weight_type: WeightType,
    pub shape: Dims,
    /// Elements of the constant.
    pub count: usize,
}

impl Declared {
    /// Reads and checks the attributes.
    pub fn by(info: &KernelInfo<'_>) -> Result<Self, Error> {
        let (_, weight_type) = byte_type(dtype(info)?)?;
        let shape = Dims::from_vec(info.ints(SHAPE)?);
        let compress_info = info.ints(COMPRESS_INFO)?;
        let &[_, _, k, n, _] = compress_info.as_slice() else {
            return Err(not_five_numbers(&compress_info));
        };
        let count = check_shape(&shape, k, n)?;
        Ok(Self { weight_type, shape, count })
    }
}

/// The attribute that tells the type of a constant.
pub fn dtype(info: &KernelInfo<'_>) -> Result<i64, Error> {
    info.optional_int(DTYPE)?.ok_or_else(|| Error::invalid("there is no attribute dtype"))
}

/// Declares the output of a node: its shape, which must be one that the weight has, and elements of this type.
pub fn infer(context: &ShapeContext<'_>, element: Type) -> Option<()> {
    let shape = context.list(SHAPE)?;
    let [_, _, k, n, _] = context.ints::<5>(COMPRESS_INFO)?;
    check_shape(&shape, k, n).ok()?;
    let dims: Vec<_> = shape.iter().map(|&dim| (dim, c"")).collect();
    context.set_output_shape(element, &dims)
}

/// The elements of a shape, of which the weight must have as many.
fn check_shape(shape: &[i64], k: i64, n: i64) -> Result<usize, Error> {
    let count = |dims: &[i64]| element_count(dims).ok().filter(|&count| count > 0);
    match (count(shape), count(&[k, n])) {
        (Some(found), Some(expected)) if found == expected => Ok(found),
        _ => Err(Error::invalid(format!("shape is {shape:?}, and the weight has {k} x {n} elements"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_the_elements_of_the_weight() {
        for shape in [&[6][..], &[2, 3], &[3, 2], &[1, 6, 1]] {
            assert!(check_shape(shape, 3, 2).is_ok(), "{shape:?}");
        }
        for (shape, k, n) in [
            (&[][..], 3, 2),
            (&[5], 3, 2),
            (&[-2, -3], 3, 2),
            (&[i64::MAX, i64::MAX], 3, 2),
            (&[0], 0, 2),
            (&[6], -3, -2),
        ] {
            let error = check_shape(shape, k, n).unwrap_err().to_string();
            assert!(error.contains(&format!("{shape:?}")), "{error}");
        }
    }
}
