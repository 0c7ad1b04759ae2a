//! What the operator takes and gives.

use std::ffi::CStr;

use ort_sys::ONNXTensorElementDataType as Type;

use crate::ffi::ElementType;
use crate::operator::{Input, Signature};
use crate::operators::declared::{ABSENT, ANY, FLOAT, INT8};

/// Which axis of the table scales and zero points go along, where there are several.
pub const AXIS: &CStr = c"axis";

/// The inputs, with their names and positions.
pub mod input {
    use crate::operator::Input;

    /// The compressed stream of the table, (n, k): n rows of k columns.
    pub const X2: Input = Input::required(0, "x2");
    /// The tile table.
    pub const COMPRESS_INDEX: Input = Input::required(1, "compress_index");
    /// Which rows; below zero they count from the end.
    pub const INDICES: Input = Input::required(2, "indices");
    /// What the rows are multiplied by; none where they are wanted as they are.
    pub const SCALE: Input = Input::optional(3, "scale");
    /// What is subtracted before, as a float.
    pub const ZERO_POINT: Input = Input::optional(4, "zero_point");

    /// All of them.
    pub const ALL: &[Input] = &[X2, COMPRESS_INDEX, INDICES, SCALE, ZERO_POINT];
}

/// The type of the indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indices {
    I32,
    I64,
}

/// One overload of the operator each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    pub indices: Indices,
    /// Whether the output is float, and not of the table's type.
    pub dequantized: bool,
}

impl Form {
    /// In the order in which onnxruntime tries them: an absent scale fits every overload, so those that want it to be absent come
    /// first.
    pub const ALL: [Self; 4] = [
        Self { indices: Indices::I64, dequantized: false },
        Self { indices: Indices::I32, dequantized: false },
        Self { indices: Indices::I64, dequantized: true },
        Self { indices: Indices::I32, dequantized: true },
    ];
}

impl Signature for Form {
    const NAME: &'static CStr = c"GatherCompressDequant";
    const INPUTS: &'static [Input] = input::ALL;

    fn input(self, index: usize) -> Type {
        match index {
            // The one of any type that a type of the output to be inferred needs.
            0 => ANY,
            1 => INT8,
            2 if self.indices == Indices::I64 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
            2 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
            3 if !self.dequantized => ABSENT,
            _ => FLOAT,
        }
    }

    /// Where it is that of the table, inference says which. Where it cannot, before onnxruntime 1.24 or
    /// without a known shape of the indices, onnxruntime takes it for that of `x2`, which may be uint8 for that.
    fn output(self) -> Type {
        if self.dequantized { FLOAT } else { ANY }
    }
}

/// The type of the output of a node whose table is of the type `dtype`.
pub fn output_type(dtype: i64, scale: Option<ElementType>) -> Option<Type> {
    match (scale, i32::try_from(dtype).map(ElementType)) {
        (Some(_), _) => Some(FLOAT),
        (None, Ok(ElementType::UINT8)) => Some(Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8),
        (None, Ok(ElementType::INT8)) => Some(INT8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overloads_differ_in_an_input() {
        for (i, a) in Form::ALL.iter().enumerate() {
            for b in &Form::ALL[i + 1..] {
                assert!((0..input::ALL.len()).any(|index| a.input(index) != b.input(index)), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn one_input_is_of_any_type() {
        for form in Form::ALL {
            let any = (0..input::ALL.len()).filter(|&index| form.input(index) == ANY).count();
            assert_eq!(any, 1, "{form:?}: onnxruntime wants one where the output is of any");
        }
    }
}
