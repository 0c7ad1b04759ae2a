//! The memory of a node's output.

use std::ffi::c_void;
use std::mem::MaybeUninit;

use ort_sys::ONNXTensorElementDataType as Type;

use crate::ffi::Error;

/// Refuses an address where no slice of such elements may begin. onnxruntime's own memory is aligned; what a caller binds to an
/// output need not be.
pub fn check_address(address: usize, of: Type) -> Result<(), Error> {
    if address == 0 {
        return Err(Error::invalid("the output has no memory"));
    }
    let alignment = alignment(of);
    if !address.is_multiple_of(alignment) {
        return Err(Error::invalid(format!("the output's memory is not at a multiple of {alignment} bytes")));
    }
    Ok(())
}

/// Bytes of an element of a type that an output may have.
fn alignment(of: Type) -> usize {
    match of {
        Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT | Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 => 4,
        Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 => 2,
        _ => 1,
    }
}

/// The elements of an output.
///
/// # Safety
/// There is room for `len` of them from `data` on, where a slice of them may begin, and nothing else uses it while what this
/// gives lives.
pub unsafe fn elements<'a, T>(data: *mut c_void, len: usize) -> &'a mut [MaybeUninit<T>] {
    // SAFETY: the caller's contract.
    unsafe { std::slice::from_raw_parts_mut(data.cast(), len) }
}
