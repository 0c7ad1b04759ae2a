//! What a call answers.

use std::ffi::{CStr, c_char};

use ort_sys::stub::Error;
use ort_sys::{OrtErrorCode, OrtStatusPtr};

/// What became of a call: nothing, or the message of its status.
pub(super) type Outcome = Result<(), String>;

/// # Safety
/// As of [`message`].
pub(super) unsafe fn outcome(status: OrtStatusPtr) -> Outcome {
    // SAFETY: the caller's contract.
    match unsafe { message(status) } {
        None => Ok(()),
        Some(message) => {
            assert!(!message.contains("internal error"), "{message}");
            Err(message)
        }
    }
}

/// A status's text; releases it. None for success.
///
/// # Safety
/// The status is the stand-in's, and is not used again.
pub unsafe fn message(status: OrtStatusPtr) -> Option<String> {
    if status.0.is_null() {
        return None;
    }
    // SAFETY: the caller's contract.
    Some(unsafe { Error::consume_sys(status.0) }.message().to_owned())
}

pub(super) fn fail(message: &str) -> OrtStatusPtr {
    Error::new_sys(OrtErrorCode::ORT_FAIL, message)
}

pub(super) fn done() -> OrtStatusPtr {
    OrtStatusPtr::default()
}

pub(super) unsafe extern "system" fn create_status(code: OrtErrorCode, message: *const c_char) -> OrtStatusPtr {
    // SAFETY: messages are zero-terminated.
    Error::new_sys(code, unsafe { CStr::from_ptr(message) }.to_string_lossy())
}
