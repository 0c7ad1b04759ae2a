//! `libmcd_ort.so`: the operator `mcd::MatmulCompressDequant` for onnxruntime's CPU provider.
//!
//! The one exported symbol is [`RegisterCustomOps`], the entry point that `SessionOptions.register_custom_ops_library`
//! and its counterparts in other languages look up. Everything that the library needs of onnxruntime reaches it
//! through the pointers given there, so it links against neither onnxruntime nor Python.
//!
//! - [`ffi`]: the C API behind safe types; nothing else dereferences onnxruntime's pointers
//! - [`operator`]: what the operator accepts, told to onnxruntime as one overload per type of the output
//! - [`kernel`]: a node's attributes and inputs, checked, and the call
//! - [`weight`]: its weight, verified once
//! - [`place`]: a node on the CPU or on a device
//! - [`ascend`]: nodes on an Ascend device
//! - [`operand`]: scalars and per-column vectors, constant or read anew each call
//! - [`layout`], [`elementwise`]: what stood around the multiplication
//! - [`pool`]: the core's parallelism on onnxruntime's threads
//! - [`scratch`]: memory that a thread keeps from call to call
//! - [`options`]: session config entries

mod ascend;
mod elementwise;
#[cfg(test)]
mod fake;
mod ffi;
mod kernel;
mod layout;
mod operand;
mod operator;
mod options;
mod place;
mod pool;
mod scratch;
mod weight;

use std::panic::{AssertUnwindSafe, catch_unwind};

use ort_sys::{OrtApiBase, OrtSessionOptions, OrtStatusPtr};

use crate::ffi::{Api, Error};

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::c_char;
    use std::ptr;

    unsafe extern "system" fn version_1_19() -> *const c_char {
        c"1.19.2".as_ptr()
    }

    unsafe extern "system" fn version_1_20() -> *const c_char {
        c"1.20.0".as_ptr()
    }

    #[test]
    fn an_old_onnxruntime_is_refused() {
        // SAFETY: the base is live, and the options are not looked at.
        let status = unsafe { RegisterCustomOps(ptr::null_mut(), &fake::base(version_1_19)) };
        assert_eq!(fake::message(status).unwrap(), "mcd needs onnxruntime 1.20 or later, and this is 1.19.2");
    }

    #[test]
    fn a_failing_call_is_passed_on() {
        // SAFETY: as above.
        let status = unsafe { RegisterCustomOps(ptr::null_mut(), &fake::base(version_1_20)) };
        assert_eq!(fake::message(status).unwrap(), "Unimplemented");
    }

    #[test]
    fn a_panic_becomes_a_status() {
        // SAFETY: the base is live.
        let api = unsafe { Api::from_base(&fake::base(version_1_20)) }.ok().unwrap();
        assert_eq!(fake::message(guard(api, || Ok(()))), None);
        let status = guard(api, || panic!("of {}", "sorts"));
        assert_eq!(fake::message(status).unwrap(), "internal error: of sorts");
        let status = guard(api, || Err(Error::invalid("a\0b")));
        assert_eq!(fake::message(status).unwrap(), "ab");
    }
}
