//! What the stand-in has beyond Ascend's interface.

use std::ffi::{CStr, c_char, c_int};

use crate::guard::guard;
use crate::inject;
use crate::state::with_state;
use crate::status::{Family, INVALID_PARAM, fail};

/// The stand-in's own: replaces the failures to come, `FUNCTION:N,…`, as in `MCD_ACLNN_FAIL`; empty for none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcdAclnnFail(spec: *const c_char) -> c_int {
    guard(Family::Acl, "mcdAclnnFail", || {
        if spec.is_null() {
            return fail(INVALID_PARAM, "spec is null");
        }
        // SAFETY: a zero-terminated string by contract.
        inject::set(&unsafe { CStr::from_ptr(spec) }.to_string_lossy())
    })
}

/// The stand-in's own: how many objects and allocations are live.
#[unsafe(no_mangle)]
pub extern "C" fn mcdAclnnLiveObjects() -> u64 {
    with_state(|state| state.live() as u64)
}
