//! `libmcd_ort.so`: the operators of the domain `mcd` for onnxruntime's CPU provider.
//!
//! It exports [`RegisterCustomOps`], the entry point that `SessionOptions.register_custom_ops_library` and its counterparts
//! in other languages look up, and [`mcd_drop_pages`]. Everything that the library needs of onnxruntime reaches it
//! through the pointers given there, so it links against neither onnxruntime nor Python.
//!
//! - [`ffi`]: the C API behind safe types; nothing else dereferences onnxruntime's pointers
//! - [`operator`]: what an operator is to the rest of the library
//! - [`operators`]: the operators, a folder each
//! - [`registration`]: the operators told to onnxruntime
//! - [`at_open`]: constants that are restored when a session is created
//! - [`backend`]: a node on the CPU or on a device
//! - [`ascend`]: nodes on an Ascend device
//! - [`pool`]: the core's parallelism on onnxruntime's threads
//! - [`residency`]: which weights are decoded once
//! - [`decoded_folder`]: decoded weights that processes share
//! - [`large_pages`]: memory for large decoded weights
//! - [`ahead`]: which bytes of a file are read next, and by what pages
//! - [`release`]: which bytes of a file are not read again
//! - [`memory`]: what the weights of a session may take
//! - [`sharing`]: what the sessions of a process share
//! - [`scratch`]: memory that a thread keeps from call to call
//! - [`options`]: session config entries

mod ahead;
mod ascend;
mod at_open;
mod backend;
mod decoded_folder;
mod ffi;
mod guard;
mod large_pages;
mod memory;
mod operator;
mod operators;
mod options;
#[cfg(unix)]
mod pages;
mod pool;
mod registration;
mod release;
mod residency;
mod scratch;
mod sharing;

use ort_sys::{OrtApiBase, OrtSessionOptions, OrtStatusPtr};

use crate::ffi::Api;
use crate::guard::guard;

/// Adds the domain `mcd` to a session's options.
///
/// Returns null, or a status that says why not: an onnxruntime older than 1.20, or a session config entry `mcd.*`
/// with an unknown value; or the model that `mcd.model` names has constants that cannot be restored.
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
    guard(api, || unsafe {
        registration::register(api, options)?;
        at_open::restore(api, options)
    })
}

/// Lets go of the pages of constants that were restored for sessions, where a file backs them: to be called when a session has
/// been created, or again and again meanwhile, from any thread. Pages that are touched again come back.
///
/// Returns how many bytes these constants have in all.
#[unsafe(no_mangle)]
pub extern "system" fn mcd_drop_pages() -> u64 {
    at_open::drop_pages()
}

/// Names and bytes of the constants of a model that sessions would be given, for fuzzing: theirs are kept for good.
#[doc(hidden)]
pub fn restored_constants(model: &std::path::Path) -> Result<Vec<(String, Vec<u8>)>, String> {
    let restored = at_open::constants_of(model).map_err(|error| error.to_string())?;
    Ok(restored.into_iter().map(|tensor| (tensor.name, tensor.bytes.into_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::Error;
    use mcd_testkit::onnxruntime::{self, bare_base};
    use std::ffi::c_char;
    use std::ptr;

    /// The text of a status of these tests, all of which are the stand-in's.
    fn message(status: OrtStatusPtr) -> Option<String> {
        // SAFETY: the stand-in's, and used once.
        unsafe { onnxruntime::message(status) }
    }

    unsafe extern "system" fn version_1_19() -> *const c_char {
        c"1.19.2".as_ptr()
    }

    unsafe extern "system" fn version_1_20() -> *const c_char {
        c"1.20.0".as_ptr()
    }

    #[test]
    fn an_old_onnxruntime_is_refused() {
        // SAFETY: the base is live, and the options are not looked at.
        let status = unsafe { RegisterCustomOps(ptr::null_mut(), &bare_base(version_1_19)) };
        assert_eq!(message(status).unwrap(), "mcd needs onnxruntime 1.20 or later, and this is 1.19.2");
    }

    #[test]
    fn a_failing_call_is_passed_on() {
        // SAFETY: as above.
        let status = unsafe { RegisterCustomOps(ptr::null_mut(), &bare_base(version_1_20)) };
        assert_eq!(message(status).unwrap(), "Unimplemented");
    }

    #[test]
    fn a_panic_becomes_a_status() {
        // SAFETY: the base is live.
        let api = unsafe { Api::from_base(&bare_base(version_1_20)) }.ok().unwrap();
        assert_eq!(message(guard(api, || Ok(()))), None);
        let status = guard(api, || panic!("of {}", "sorts"));
        assert_eq!(message(status).unwrap(), "internal error: of sorts");
        let status = guard(api, || Err(Error::invalid("a\0b")));
        assert_eq!(message(status).unwrap(), "ab");
    }
}
