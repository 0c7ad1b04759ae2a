//! What the pointers that are given out point to, and what of that has to be given back.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char};
use std::ptr;

use ort_sys::OrtStatusPtr;

use super::node::Tensor;
use super::status::{done, fail};

/// Type and shape.
pub(super) struct Info {
    pub(super) element: i32,
    pub(super) dims: Vec<i64>,
    pub(super) names: Vec<CString>,
}

/// What a pointer that the stand-in gave out points to.
///
/// # Safety
/// It points to a `T` that lives, and is not changed but in cells, for as long as the caller uses the answer.
pub(super) unsafe fn at<'a, T, U>(pointer: *const U) -> &'a T {
    // SAFETY: the caller's contract.
    unsafe { &*pointer.cast::<T>() }
}

/// As many values as are said, at a place that may be null when there are none.
///
/// # Safety
/// Else they are there, and stay as they are for as long as the caller uses the answer.
pub(super) unsafe fn slice<'a, T>(values: *const T, count: usize) -> &'a [T] {
    // SAFETY: the caller's contract.
    if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(values, count) } }
}

/// # Safety
/// `size` is a place for a number. A null `out` asks for that number, else there is room for as many bytes as it says.
pub(super) unsafe fn string(text: &CStr, out: *mut c_char, size: *mut usize) -> OrtStatusPtr {
    let bytes = text.to_bytes_with_nul();
    // SAFETY: the caller's contract.
    unsafe {
        if !out.is_null() {
            if *size < bytes.len() {
                return fail("the buffer is too small");
            }
            ptr::copy_nonoverlapping(bytes.as_ptr(), out.cast(), bytes.len());
        }
        *size = bytes.len();
    }
    done()
}

pub(super) fn info(tensor: &Tensor) -> Box<Info> {
    let names = tensor.dims.iter().enumerate().map(|(i, &dim)| match dim {
        0.. => CString::default(),
        -2 => CString::default(), // unknown, and without a name
        _ => CString::new(format!("d{i}")).expect("no zero"),
    });
    Box::new(Info { element: tensor.element, dims: tensor.dims.clone(), names: names.collect() })
}

thread_local! {
    /// Objects that were lent and not given back.
    static LENT: Cell<isize> = const { Cell::new(0) };
}

/// How many objects of this thread were lent and not given back.
pub(super) fn lent() -> isize {
    LENT.get()
}

/// Counts an object that is lent, or one that is given back.
pub(super) fn count(by: isize) {
    LENT.set(LENT.get() + by);
}

pub(super) fn lend<T>(info: Box<Info>) -> *mut T {
    count(1);
    Box::into_raw(info).cast()
}

/// # Safety
/// Null, or one of [`lend`]'s and its last use.
pub(super) unsafe fn give_back<T>(info: *mut T) {
    if !info.is_null() {
        count(-1);
        // SAFETY: the caller's contract.
        drop(unsafe { Box::from_raw(info.cast::<Info>()) });
    }
}
