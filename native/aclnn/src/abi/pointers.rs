//! What of a caller's pointers can be checked.

use std::ffi::c_void;
use std::slice;

use crate::status::{Checked, INVALID_PARAM, fail};
use crate::tensor::check_list;

/// Checks a place for a result.
pub fn check_place<T>(what: &str, place: *mut T) -> Checked<()> {
    if place.is_null() { fail(INVALID_PARAM, format!("{what} is null")) } else { Ok(()) }
}

/// The address of what may not be null.
pub fn not_null(what: &str, pointer: *mut c_void, code: i32) -> Checked<usize> {
    if pointer.is_null() { fail(code, format!("{what} is null")) } else { Ok(pointer.addr()) }
}

/// Copies a list that a caller gives as pointer and count.
///
/// # Safety
///
/// `data` is null or points to `length` integers.
pub unsafe fn list(what: &str, data: *const i64, length: u64, limit: u64) -> Checked<Vec<i64>> {
    check_list(what, data.is_null(), length, limit)?;
    if length == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the caller's contract; the limit keeps the length small.
    Ok(unsafe { slice::from_raw_parts(data, length as usize) }.to_vec())
}
