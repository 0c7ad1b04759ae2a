//! What stands around every exported function: failures on request, a status for every failure, nothing that unwinds.
//!
//! A refusal goes to standard error as well as to `aclGetRecentErrMsg`: the operator document's own program never asks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use crate::inject;
use crate::mode::quiet;
use crate::status::{Checked, Family, SUCCESS, fail, panic_text, record, report};

/// Runs the body of a function that returns a status; nothing unwinds out of it.
pub fn guard(family: Family, function: &'static str, body: impl FnOnce() -> Checked<()>) -> i32 {
    outcome(family, function, body).err().unwrap_or(SUCCESS)
}

/// Runs the body of a function that returns an object; null when it fails.
pub fn guard_object<T>(function: &'static str, body: impl FnOnce() -> Checked<*mut T>) -> *mut T {
    outcome(Family::Aclnn, function, body).unwrap_or(ptr::null_mut())
}

fn outcome<T>(family: Family, function: &'static str, body: impl FnOnce() -> Checked<T>) -> Result<T, i32> {
    let run = || inject::check(family, function).and_then(|()| body());
    let result = catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|payload| fail(family.inner(), format!("internal error: {}", panic_text(payload.as_ref()))));
    result.map_err(|failure| {
        let text = record(function, &failure);
        // What fails on a stream is reported when it happens.
        if !quiet() && !function.starts_with("aclrtSynchronize") {
            report(&text);
        }
        failure.code
    })
}
