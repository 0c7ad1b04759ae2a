//! The exported functions, with the names, types and status codes of Ascend's headers.
//!
//! Each checks what it is given before it uses it, and none unwinds. Pointers that a caller owns (names, dimensions, host
//! memory, places for results) cannot be checked beyond null: they are valid for the call, or, for
//! [`aclrtMemcpyAsync`], until the stream is synchronised. That is each function's safety contract.
#![allow(non_snake_case, reason = "the names are Ascend's")]
#![allow(clippy::missing_safety_doc, reason = "the contract is the module's")]

mod descriptors;
mod device;
mod memory;
mod operator;
mod own;

use std::ffi::c_void;

pub use descriptors::*;
pub use device::*;
pub use memory::*;
pub use operator::*;
pub use own::*;

use crate::status::{Checked, INVALID_PARAM, fail};

fn check_place<T>(what: &str, place: *mut T) -> Checked<()> {
    if place.is_null() { fail(INVALID_PARAM, format!("{what} is null")) } else { Ok(()) }
}

fn not_null(what: &str, pointer: *mut c_void, code: i32) -> Checked<usize> {
    if pointer.is_null() { fail(code, format!("{what} is null")) } else { Ok(pointer.addr()) }
}
