//! Nothing unwinds into onnxruntime.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ort_sys::OrtStatusPtr;

use crate::ffi::{Api, Error};

/// Runs a callback's body; an error or a panic becomes a status, so that nothing unwinds into onnxruntime.
pub fn guard(api: Api, body: impl FnOnce() -> Result<(), Error>) -> OrtStatusPtr {
    let error = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return OrtStatusPtr::default(),
        Ok(Err(error)) => error,
        Err(payload) => Error::internal(panic_message(payload.as_ref())),
    };
    api.status(&error)
}

/// The text of a panic.
pub fn panic_message(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic without a message")
}
