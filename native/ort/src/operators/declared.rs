//! Types that overloads declare for their inputs and outputs.

use ort_sys::ONNXTensorElementDataType as Type;

/// Declared where an overload wants an input to be absent: no overload accepts it.
pub const ABSENT: Type = Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
/// Any type; binding a node checks it.
pub const ANY: Type = Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
pub const FLOAT: Type = Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
pub const INT8: Type = Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
pub const INT32: Type = Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
pub const UINT8: Type = Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
