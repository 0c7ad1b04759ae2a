//! What is asked of tensors, types and shapes.

use std::ffi::{c_char, c_void};
use std::ptr;

use ort_sys::{ONNXTensorElementDataType, OrtStatusPtr, OrtTensorTypeAndShapeInfo, OrtTypeInfo, OrtValue};

use super::lent::{Info, at, give_back, info, lend};
use super::node::Tensor;
use super::status::done;

pub(super) unsafe extern "system" fn cast_type_info(
    of: *const OrtTypeInfo,
    out: *mut *const OrtTensorTypeAndShapeInfo,
) -> OrtStatusPtr {
    // SAFETY: a place for the answer.
    unsafe { *out = of.cast() };
    done()
}

pub(super) unsafe extern "system" fn release_type_info(of: *mut OrtTypeInfo) {
    // SAFETY: the caller's last use.
    unsafe { give_back(of) };
}

pub(super) unsafe extern "system" fn release_tensor_info(of: *mut OrtTensorTypeAndShapeInfo) {
    // SAFETY: the caller's last use.
    unsafe { give_back(of) };
}

pub(super) unsafe extern "system" fn tensor_data(value: *mut OrtValue, out: *mut *mut c_void) -> OrtStatusPtr {
    // SAFETY: the tensor is live, and there is a place for the answer. An output's pointer comes from `context_output`,
    // which made it of a `&mut Tensor`, so that one that may write can be had from it. An input's is made of a shared
    // reference, and so is the answer: onnxruntime forbids to write there as well.
    unsafe {
        let tensor = at::<Tensor, _>(value);
        *out = match tensor.data() {
            [] => ptr::null_mut(),
            _ if tensor.output => (*value.cast::<Tensor>()).bytes.as_mut_ptr().cast(),
            data => data.as_ptr().cast_mut().cast(),
        };
    }
    done()
}

pub(super) unsafe extern "system" fn tensor_shape(
    value: *const OrtValue,
    element: *mut ONNXTensorElementDataType,
    dims: *mut *const i64,
    rank: *mut usize,
) -> OrtStatusPtr {
    // SAFETY: the tensor is live, and there are places for the answers, that of the type for a plain number: not every
    // one is a variant of the enumeration.
    unsafe {
        let tensor = at::<Tensor, _>(value);
        *element.cast() = tensor.element;
        *dims = tensor.dims.as_ptr();
        *rank = tensor.dims.len();
    }
    done()
}

pub(super) unsafe extern "system" fn tensor_info(
    value: *const OrtValue,
    out: *mut *mut OrtTensorTypeAndShapeInfo,
) -> OrtStatusPtr {
    // SAFETY: the tensor is live, and there is a place for the answer.
    unsafe { *out = lend(info(at(value))) };
    done()
}

pub(super) unsafe extern "system" fn element_type(
    of: *const OrtTensorTypeAndShapeInfo,
    out: *mut ONNXTensorElementDataType,
) -> OrtStatusPtr {
    // SAFETY: the info is live, and there is a place for a plain number, as above.
    unsafe { *out.cast() = at::<Info, _>(of).element };
    done()
}

pub(super) unsafe extern "system" fn dimensions_count(
    of: *const OrtTensorTypeAndShapeInfo,
    out: *mut usize,
) -> OrtStatusPtr {
    // SAFETY: the info is live, and there is a place for the answer.
    unsafe { *out = at::<Info, _>(of).dims.len() };
    done()
}

pub(super) unsafe extern "system" fn dimensions(
    of: *const OrtTensorTypeAndShapeInfo,
    out: *mut i64,
    len: usize,
) -> OrtStatusPtr {
    // SAFETY: the info is live, and there is room for `len` numbers.
    unsafe {
        let dims = &at::<Info, _>(of).dims;
        ptr::copy_nonoverlapping(dims.as_ptr(), out, dims.len().min(len));
    }
    done()
}

pub(super) unsafe extern "system" fn symbolic_dimensions(
    of: *const OrtTensorTypeAndShapeInfo,
    out: *mut *const c_char,
    len: usize,
) -> OrtStatusPtr {
    // SAFETY: the info is live, and there is room for `len` names.
    unsafe {
        for (i, name) in at::<Info, _>(of).names.iter().enumerate().take(len) {
            *out.add(i) = name.as_ptr();
        }
    }
    done()
}

pub(super) unsafe extern "system" fn has_shape(of: *const OrtTensorTypeAndShapeInfo) -> bool {
    // SAFETY: the info is live. A first dimension of -3 stands for a shape that is not known.
    unsafe { at::<Info, _>(of) }.dims.first() != Some(&-3)
}
