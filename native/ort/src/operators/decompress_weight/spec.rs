//! What the operator takes and gives.
//!
//! One overload gives both types of output. onnxruntime finds an overload by the types of the inputs, and those are the same
//! for both; so the output is declared to be of any type, which onnxruntime allows where one input is (`x2`), and inference
//! says which.

use std::ffi::CStr;

use ort_sys::ONNXTensorElementDataType as Type;

use crate::operator::{Input, Signature};
use crate::operators::declared::{ANY, INT8};

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

/// The only overload.
#[derive(Debug, Clone, Copy)]
pub struct DecompressWeight;

impl Signature for DecompressWeight {
    const NAME: &'static CStr = c"DecompressWeight";
    const INPUTS: &'static [Input] = input::ALL;

    fn input(self, index: usize) -> Type {
        if index == input::X2.index { ANY } else { INT8 }
    }

    fn output(self) -> Type {
        ANY
    }
}
