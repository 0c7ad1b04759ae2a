//! The calls that a library registers its operators with.

use std::cell::RefCell;
use std::ffi::{c_char, c_int};
use std::ptr;

use ort_sys::{OrtApiBase, OrtCustomOp, OrtCustomOpDomain, OrtSessionOptions, OrtStatusPtr};

use super::operator::Operator;
use super::status::{done, message};
use super::table::{Version, base};

/// The entry point of a library of operators.
pub type RegisterCustomOps = unsafe extern "system" fn(*mut OrtSessionOptions, *const OrtApiBase) -> OrtStatusPtr;

thread_local! {
    static REGISTERED: RefCell<Vec<Operator>> = const { RefCell::new(Vec::new()) };
}

/// The operators that a library registers with an onnxruntime of this version.
///
/// # Safety
/// The library asks nothing of its caller but what onnxruntime promises, and its operators live for good.
pub unsafe fn register(library: RegisterCustomOps, version: Version) -> Vec<Operator> {
    // SAFETY: the base is live for the call, and the table that it leads to for good; the options are only handed to
    // `has_option` and `add_domain`, which do not look at them. The status is the table's.
    let text = unsafe { message(library(ptr::null_mut(), &base(version))) };
    assert_eq!(text, None);
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
    REGISTERED.with_borrow_mut(|registered| registered.push(Operator(operator)));
    done()
}

pub(super) unsafe extern "system" fn add_domain(
    _: *mut OrtSessionOptions,
    _: *mut OrtCustomOpDomain,
) -> OrtStatusPtr {
    done()
}
