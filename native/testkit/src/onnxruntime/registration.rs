//! The calls that a library registers its operators with.

use std::cell::RefCell;
use std::ffi::{c_char, c_int};
use std::ptr;

use ort_sys::{OrtCustomOp, OrtCustomOpDomain, OrtSessionOptions, OrtStatusPtr};

use super::status::done;

thread_local! {
    static REGISTERED: RefCell<Vec<*const OrtCustomOp>> = const { RefCell::new(Vec::new()) };
}

/// The operators that were registered on this thread since this was asked last.
pub(super) fn registered() -> Vec<*const OrtCustomOp> {
    REGISTERED.take()
}

pub(super) unsafe extern "system" fn has_option(
    _: *const OrtSessionOptions,
    _: *const c_char,
    out: *mut c_int,
) -> OrtStatusPtr {
    // SAFETY: a place for the answer.
    unsafe { *out = 0 };
    done()
}

pub(super) unsafe extern "system" fn create_domain(
    _: *const c_char,
    out: *mut *mut OrtCustomOpDomain,
) -> OrtStatusPtr {
    // SAFETY: a place for the answer, which nothing looks behind.
    unsafe { *out = ptr::dangling_mut::<u64>().cast() };
    done()
}

pub(super) unsafe extern "system" fn domain_add(
    _: *mut OrtCustomOpDomain,
    operator: *const OrtCustomOp,
) -> OrtStatusPtr {
    REGISTERED.with_borrow_mut(|registered| registered.push(operator));
    done()
}

pub(super) unsafe extern "system" fn add_domain(
    _: *mut OrtSessionOptions,
    _: *mut OrtCustomOpDomain,
) -> OrtStatusPtr {
    done()
}
