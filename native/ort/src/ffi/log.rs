//! The log of a session.

use std::ffi::{CStr, CString};

use ort_sys::{OrtLogger, OrtLoggingLevel, os_char};

use super::api::{Api, call};
use super::error::Error;

/// Tells a log of something that its user may not expect, about an operator.
///
/// # Safety
///
/// `logger` is live.
pub(super) unsafe fn warn(api: Api, logger: *const OrtLogger, operator: &CStr, message: &str) -> Result<(), Error> {
    let message = CString::new(message.replace('\0', "")).unwrap_or_default();
    // A path, whose characters are wider on Windows: written so that it is the same text in either.
    const FILE: [os_char; 4] = [b'm' as os_char, b'c' as os_char, b'd' as os_char, 0];
    let level = OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING;
    // SAFETY: the caller's contract; the texts are zero-terminated and copied.
    unsafe {
        let (message, file, function) = (message.as_ptr(), FILE.as_ptr(), operator.as_ptr());
        call!(api, Logger_LogMessage(logger, level, message, file, 0, function))
    }
}
