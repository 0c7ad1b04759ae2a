//! What becomes of the products when all of them are there: made float again, met by what does not have their shape,
//! brought into another order.

use std::ffi::c_void;
use std::mem::MaybeUninit;

use mcd_core::WeightType;

use super::layout::{Moved, Order};
use super::spec::Form;
use crate::pool::Pool;

/// Brings the `len` elements of a form's output to their places.
///
/// # Safety
/// `from` has them, `to` has room for them, both are aligned for the form's type, and neither is in use elsewhere.
pub unsafe fn reorder(
    form: Form,
    (order, dims): (Order, [usize; 4]),
    from: *const c_void,
    to: *mut c_void,
    len: usize,
    pool: &Pool<'_>,
) {
    // SAFETY: the caller's contract.
    unsafe {
        match form {
            Form::Raw | Form::Float | Form::Dequantized => permute::<u32>(order, dims, from, to, len, pool),
            Form::Strict | Form::Half => permute::<u16>(order, dims, from, to, len, pool),
            Form::RequantU8 | Form::RequantI8 => permute::<u8>(order, dims, from, to, len, pool),
        }
    }
}

/// Copies `len` elements in another order.
///
/// # Safety
/// `from` has them, `to` has room for them, both are aligned for `T`, and neither is in use elsewhere.
unsafe fn permute<T: Moved>(
    order: Order,
    dims: [usize; 4],
    from: *const c_void,
    to: *mut c_void,
    len: usize,
    pool: &Pool<'_>,
) {
    // SAFETY: the caller's contract.
    let (from, to) = unsafe {
        (std::slice::from_raw_parts(from.cast::<T>(), len), std::slice::from_raw_parts_mut(to.cast(), len))
    };
    order.permute(from, dims, to, pool);
}

/// `float(byte − zero_point) · scale` of each of the first bytes, of a type, as DequantizeLinear does it.
pub fn dequantize((bytes, of): (&[u8], WeightType), zero_point: i32, scale: f32, out: &mut [MaybeUninit<f32>]) {
    fn each(bytes: &[u8], value: impl Fn(u8) -> f32, out: &mut [MaybeUninit<f32>]) {
        for (out, &byte) in out.iter_mut().zip(bytes) {
            out.write(value(byte));
        }
    }
    match of {
        WeightType::U8 => each(bytes, |byte| (i32::from(byte) - zero_point) as f32 * scale, out),
        WeightType::I8 => each(bytes, |byte| (i32::from(byte.cast_signed()) - zero_point) as f32 * scale, out),
    }
}
