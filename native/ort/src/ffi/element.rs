//! Element types and shapes of tensors.

use std::fmt;

use smallvec::SmallVec;

use super::error::Error;

/// Element type of a tensor: ONNX's `TensorProto.DataType`, which onnxruntime shares for all types of tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElementType(pub i32);

impl ElementType {
    pub const FLOAT: Self = Self(1);
    pub const UINT8: Self = Self(2);
    pub const INT8: Self = Self(3);
    pub const INT32: Self = Self(6);
    pub const FLOAT16: Self = Self(10);
    pub const UINT64: Self = Self(13);
    pub const INT64: Self = Self(7);
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 17] = [
            "undefined",
            "float",
            "uint8",
            "int8",
            "uint16",
            "int16",
            "int32",
            "int64",
            "string",
            "bool",
            "float16",
            "double",
            "uint32",
            "uint64",
            "complex64",
            "complex128",
            "bfloat16",
        ];
        match usize::try_from(self.0).ok().and_then(|index| NAMES.get(index)) {
            Some(name) => f.write_str(name),
            None => write!(f, "element type {}", self.0),
        }
    }
}

/// A Rust type with the layout of a tensor's elements.
///
/// # Safety
///
/// Every bit pattern is a value, and size and alignment are those of the ONNX type.
pub unsafe trait Element: Copy + 'static {
    /// The ONNX type.
    const TYPE: ElementType;
}

// SAFETY: plain numbers of the width that ONNX gives the type.
unsafe impl Element for f32 {
    const TYPE: ElementType = ElementType::FLOAT;
}
// SAFETY: as above.
unsafe impl Element for u8 {
    const TYPE: ElementType = ElementType::UINT8;
}
// SAFETY: as above.
unsafe impl Element for i8 {
    const TYPE: ElementType = ElementType::INT8;
}
// SAFETY: as above.
unsafe impl Element for i32 {
    const TYPE: ElementType = ElementType::INT32;
}
// SAFETY: as above.
unsafe impl Element for i64 {
    const TYPE: ElementType = ElementType::INT64;
}
// SAFETY: as above.
unsafe impl Element for u64 {
    const TYPE: ElementType = ElementType::UINT64;
}
// SAFETY: `f16` is a transparent wrapper of u16.
unsafe impl Element for half::f16 {
    const TYPE: ElementType = ElementType::FLOAT16;
}

/// An element of one byte.
pub trait Byte: Element {}
impl Byte for u8 {}
impl Byte for i8 {}

/// Dimensions of a shape at the most, and numbers of an attribute: more are refused, so that neither they nor messages that show
/// them take memory as a file pleases.
pub const MAX_RANK: usize = 64;

/// The dimensions of a tensor; no allocation up to rank 8.
pub type Dims = SmallVec<[i64; 8]>;

/// The number of elements of a shape.
pub fn element_count(dims: &[i64]) -> Result<usize, Error> {
    dims.iter()
        .try_fold(1_usize, |count, &dim| count.checked_mul(usize::try_from(dim).ok()?))
        .ok_or_else(|| Error::invalid(format!("has the impossible shape {dims:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn element_count_refuses_what_does_not_fit() {
        assert_eq!(element_count(&[]).unwrap(), 1);
        assert_eq!(element_count(&[2, 0, 3]).unwrap(), 0);
        assert_eq!(element_count(&[2, 5]).unwrap(), 10);
        assert!(element_count(&[-1]).is_err());
        assert!(element_count(&[i64::MAX, 4]).is_err());
    }

    #[test]
    fn element_types_have_names() {
        assert_eq!(ElementType::UINT64.to_string(), "uint64");
        assert_eq!(ElementType(99).to_string(), "element type 99");
    }
}
