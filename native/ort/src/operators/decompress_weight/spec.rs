//! What the operator takes and gives.

use std::ffi::CStr;

use crate::ffi::{Error, element_count};

pub const NAME: &CStr = c"DecompressWeight";

/// The shape of the output: as many elements as the weight has.
pub const SHAPE: &CStr = c"shape";
/// ONNX's number of its type.
pub const DTYPE: &CStr = c"dtype";
/// Whether its elements are in the order of a matrix (n, k), row by row; (k, n) if not.
pub const TRANSPOSED: &CStr = c"transposed";

/// The inputs, with their names and positions.
pub mod input {
    use crate::operator::Input;

    /// The compressed stream.
    pub const X2: Input = Input::required(0, "x2");
    /// The tile table.
    pub const COMPRESS_INDEX: Input = Input::required(1, "compress_index");

    /// All of them.
    pub const ALL: &[Input] = &[X2, COMPRESS_INDEX];
}

/// The elements of a shape, of which the weight must have as many.
pub fn check_shape(shape: &[i64], k: i64, n: i64) -> Result<usize, Error> {
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
