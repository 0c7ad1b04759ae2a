//! Descriptions of memory, lists of integers, and the fp16 helpers.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;

use half::f16;

use super::pointers::{list, not_null};
use crate::guard::{guard, guard_object};
use crate::mode::strict;
use crate::state::{Kind, Object, with_state};
use crate::status::{Family, PARAM_INVALID, PARAM_NULLPTR};
use crate::tensor::{DataType, MAX_RANK, Tensor};

/// Elements that an `aclIntArray` may have.
const MAX_INTS: u64 = 1 << 20;

/// Describes memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclCreateTensor(
    view_dims: *const i64,
    view_dims_num: u64,
    data_type: c_int,
    stride: *const i64,
    offset: i64,
    format: c_int,
    storage_dims: *const i64,
    storage_dims_num: u64,
    data: *mut c_void,
) -> *mut c_void {
    guard_object("aclCreateTensor", || {
        // SAFETY: the module's contract: as many elements as are said.
        let (dims, storage) = unsafe {
            (
                list("viewDims", view_dims, view_dims_num, MAX_RANK)?,
                list("storageDims", storage_dims, storage_dims_num, MAX_RANK)?,
            )
        };
        let strides = match stride.is_null() {
            true => None,
            // SAFETY: as above; there is a stride for each dimension.
            false => Some(unsafe { list("stride", stride, view_dims_num, MAX_RANK) }?),
        };
        let tensor =
            Tensor::new(dims, DataType(data_type), strides, offset, format, &storage, data.expose_provenance())?;
        Ok(ptr::without_provenance_mut(with_state(|state| state.insert(Object::Tensor(Arc::new(tensor))))))
    })
}

/// Ends a description; the memory stays.
#[unsafe(no_mangle)]
pub extern "C" fn aclDestroyTensor(tensor: *const c_void) -> c_int {
    guard(Family::Aclnn, "aclDestroyTensor", || {
        let handle = not_null("tensor", tensor.cast_mut(), PARAM_NULLPTR)?;
        with_state(|state| state.remove("tensor", handle, Kind::Tensor, PARAM_INVALID)).map(drop)
    })
}

/// Copies integers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclCreateIntArray(value: *const i64, size: u64) -> *mut c_void {
    guard_object("aclCreateIntArray", || {
        // SAFETY: the module's contract: as many elements as are said.
        let values = unsafe { list("value", value, size, MAX_INTS) }?;
        Ok(ptr::without_provenance_mut(with_state(|state| state.insert(Object::IntArray(values.into())))))
    })
}

/// Ends a list of integers.
#[unsafe(no_mangle)]
pub extern "C" fn aclDestroyIntArray(array: *const c_void) -> c_int {
    guard(Family::Aclnn, "aclDestroyIntArray", || {
        let handle = not_null("array", array.cast_mut(), PARAM_NULLPTR)?;
        with_state(|state| state.remove("array", handle, Kind::IntArray, PARAM_INVALID)).map(drop)
    })
}

/// fp16 to fp32. Strictly as the device's own helper, which has no infinities and no NaN.
#[unsafe(no_mangle)]
pub extern "C" fn aclFloat16ToFloat(value: u16) -> f32 {
    let special = value & 0x7c00 == 0x7c00;
    if strict() && special {
        // The greatest exponent read as any other.
        let magnitude = 65536.0 * (1.0 + f32::from(value & 0x3ff) / 1024.0);
        return if value & 0x8000 == 0 { magnitude } else { -magnitude };
    }
    f16::from_bits(value).to_f32()
}

/// fp32 to the nearest fp16, ties to even. Strictly as the device's own helper, which saturates.
#[unsafe(no_mangle)]
pub extern "C" fn aclFloatToFloat16(value: f32) -> u16 {
    let rounded = f16::from_f32(value);
    if strict() && !rounded.is_finite() {
        let limit = if value.is_sign_negative() && !value.is_nan() { f16::MIN } else { f16::MAX };
        return limit.to_bits();
    }
    rounded.to_bits()
}
