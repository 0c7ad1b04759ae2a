//! `libmcd_ort.so`: the operator `mcd::MatmulCompressDequant` for onnxruntime's CPU provider.
//!
//! The one exported symbol is [`RegisterCustomOps`], the entry point that `SessionOptions.register_custom_ops_library`
//! and its counterparts in other languages look up. Everything that the library needs of onnxruntime reaches it
//! through the pointers given there, so it links against neither onnxruntime nor Python.
//!
//! - [`api`]: the C API behind safe types; the only file that dereferences onnxruntime's pointers
//! - [`operator`]: what the operator accepts, told to onnxruntime as one overload per type of the output
//! - [`kernel`]: a node's attributes and inputs, checked, and the call
//! - [`weight`]: its weight, verified once
//! - [`operand`]: scalars and per-column vectors, constant or read anew each call
//! - [`pool`]: the core's parallelism on onnxruntime's threads
//! - [`options`]: session config entries

mod api;
mod kernel;
mod operand;
mod operator;
mod options;
mod pool;
mod weight;

use std::panic::{AssertUnwindSafe, catch_unwind};

use ort_sys::{OrtApiBase, OrtSessionOptions, OrtStatusPtr};

use crate::api::{Api, Error};

/// Adds the domain `mcd` to a session's options.
///
/// Returns null, or a status that says why not: an onnxruntime older than 1.20, or a session config entry `mcd.*`
/// with an unknown value.
///
/// # Safety
///
/// Both pointers are those that onnxruntime gives to a custom-op library: valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn RegisterCustomOps(
    options: *mut OrtSessionOptions,
    base: *const OrtApiBase,
) -> OrtStatusPtr {
    // SAFETY: the caller's contract.
    let api = match unsafe { Api::from_base(base) } {
        Ok(api) => api,
        Err(status) => return status,
    };
    // SAFETY: the caller's contract.
    guard(api, || unsafe { operator::register(api, options) })
}

/// Runs a callback's body; an error or a panic becomes a status, so that nothing unwinds into onnxruntime.
fn guard(api: Api, body: impl FnOnce() -> Result<(), Error>) -> OrtStatusPtr {
    let error = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return OrtStatusPtr::default(),
        Ok(Err(error)) => error,
        Err(payload) => Error::internal(panic_message(payload.as_ref())),
    };
    api.status(&error)
}

/// The text of a panic.
fn panic_message(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic without a message")
}
