//! What a kernel is told when it is created.

use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use ort_sys::{OrtKernelInfo, OrtKeyValuePairs, OrtLogger, OrtStatusPtr, OrtTypeInfo, OrtValue};

use super::lent::{at, count, info, lend, string};
use super::node::Node;
use super::status::{done, fail};

pub(super) unsafe extern "system" fn node_name(
    _: *const OrtKernelInfo,
    out: *mut c_char,
    size: *mut usize,
) -> OrtStatusPtr {
    // SAFETY: the caller keeps to the protocol that `string` asks for.
    unsafe { string(c"node", out, size) }
}

pub(super) unsafe extern "system" fn input_count(node: *const OrtKernelInfo, out: *mut usize) -> OrtStatusPtr {
    // SAFETY: the node is live, and there is a place for the answer.
    unsafe { *out = at::<Node, _>(node).inputs.len() };
    done()
}

pub(super) unsafe extern "system" fn input_name(
    node: *const OrtKernelInfo,
    index: usize,
    out: *mut c_char,
    size: *mut usize,
) -> OrtStatusPtr {
    // SAFETY: the node is live, and the caller keeps to the protocol that `string` asks for.
    unsafe {
        match at::<Node, _>(node).inputs.get(index) {
            None => fail("there is no such input"),
            Some(None) => string(c"", out, size),
            Some(Some(_)) => string(c"input", out, size),
        }
    }
}

pub(super) unsafe extern "system" fn input_type_info(
    node: *const OrtKernelInfo,
    index: usize,
    out: *mut *mut OrtTypeInfo,
) -> OrtStatusPtr {
    // SAFETY: the node is live, and there is a place for the answer.
    unsafe {
        let Some(Some(input)) = at::<Node, _>(node).inputs.get(index) else { return fail("there is no such input") };
        *out = lend(info(&input.tensor));
    }
    done()
}

pub(super) unsafe extern "system" fn constant_input(
    node: *const OrtKernelInfo,
    index: usize,
    constant: *mut c_int,
    out: *mut *const OrtValue,
) -> OrtStatusPtr {
    // SAFETY: the node is live, and there are places for the answers.
    unsafe {
        let input = at::<Node, _>(node).inputs.get(index).and_then(Option::as_ref).filter(|input| input.constant);
        *constant = c_int::from(input.is_some());
        *out = input.map_or(ptr::null(), |input| ptr::from_ref(&input.tensor).cast());
    }
    done()
}

pub(super) unsafe extern "system" fn attribute_ints(
    node: *const OrtKernelInfo,
    name: *const c_char,
    out: *mut i64,
    size: *mut usize,
) -> OrtStatusPtr {
    // SAFETY: node and name are live, `size` is a place for a number, and `out` is null or has room for as many
    // numbers as that says.
    unsafe {
        match at::<Node, _>(node).list(CStr::from_ptr(name)) {
            Some(values) => {
                if !out.is_null() {
                    if *size < values.len() {
                        return fail("the buffer is too small");
                    }
                    ptr::copy_nonoverlapping(values.as_ptr(), out, values.len());
                }
                *size = values.len();
                done()
            }
            None => fail("No attribute with this name is defined."),
        }
    }
}

pub(super) unsafe extern "system" fn attribute_int(
    node: *const OrtKernelInfo,
    name: *const c_char,
    out: *mut i64,
) -> OrtStatusPtr {
    // SAFETY: node and name are live, and there is a place for the answer.
    unsafe {
        let Some(value) = at::<Node, _>(node).number(CStr::from_ptr(name)) else {
            return fail("No attribute with name");
        };
        *out = value;
    }
    done()
}

pub(super) unsafe extern "system" fn config_entries(
    node: *const OrtKernelInfo,
    out: *mut *mut OrtKeyValuePairs,
) -> OrtStatusPtr {
    count(1);
    // SAFETY: a place for the answer.
    unsafe { *out = node.cast_mut().cast() };
    done()
}

pub(super) unsafe extern "system" fn key_value(
    entries: *const OrtKeyValuePairs,
    key: *const c_char,
) -> *const c_char {
    // SAFETY: the entries are the node that `config_entries` was asked about, which lives longer than they do; the key
    // is zero-terminated.
    let (node, key) = unsafe { (at::<Node, _>(entries), CStr::from_ptr(key)) };
    node.entry(key).map_or(ptr::null(), |text| text.as_ptr())
}

pub(super) unsafe extern "system" fn release_entries(_: *mut OrtKeyValuePairs) {
    count(-1);
}

pub(super) unsafe extern "system" fn logger(node: *const OrtKernelInfo, out: *mut *const OrtLogger) -> OrtStatusPtr {
    // SAFETY: a place for the answer, which nothing looks behind: each node stands for a session.
    unsafe { *out = node.cast() };
    done()
}
