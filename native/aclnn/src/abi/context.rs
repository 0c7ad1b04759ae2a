//! Contexts. There is one device, and all contexts share it: a context is a name for "the device, on this thread".

use std::ffi::{c_int, c_void};
use std::ptr;

use super::device::{check_device_id, close_device};
use super::pointers::{check_place, not_null};
use crate::guard::guard;
use crate::state::{Kind, with_state};
use crate::status::{Family, INVALID_PARAM, UNINITIALIZE, fail};

/// Makes a context, which this thread uses from now on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtCreateContext(context: *mut *mut c_void, device: i32) -> c_int {
    guard(Family::Acl, "aclrtCreateContext", || {
        check_place("context", context)?;
        let handle = with_state(|state| {
            state.check_initialized()?;
            check_device_id(device)?;
            state.create_context()
        })?;
        // SAFETY: a place for a handle by contract.
        unsafe { context.write(ptr::without_provenance_mut(handle)) };
        Ok(())
    })
}

/// Ends a context; the last user of the device closes it.
#[unsafe(no_mangle)]
pub extern "C" fn aclrtDestroyContext(context: *mut c_void) -> c_int {
    guard(Family::Acl, "aclrtDestroyContext", || {
        let handle = not_null("context", context, INVALID_PARAM)?;
        with_state(|state| {
            state.check_initialized()?;
            if state.default_context == Some(handle) {
                return fail(INVALID_PARAM, "the device's own context goes with aclrtResetDevice");
            }
            state.remove("context", handle, Kind::Context, INVALID_PARAM)
        })?;
        close_device();
        Ok(())
    })
}

/// This thread uses a context from now on.
#[unsafe(no_mangle)]
pub extern "C" fn aclrtSetCurrentContext(context: *mut c_void) -> c_int {
    guard(Family::Acl, "aclrtSetCurrentContext", || {
        let handle = not_null("context", context, INVALID_PARAM)?;
        with_state(|state| {
            state.check_initialized()?;
            state.use_context(handle)
        })
    })
}

/// The context that this thread uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetCurrentContext(context: *mut *mut c_void) -> c_int {
    guard(Family::Acl, "aclrtGetCurrentContext", || {
        check_place("context", context)?;
        let Some(handle) = with_state(|state| state.current_context()) else {
            return fail(
                UNINITIALIZE,
                "no context is set on this thread; call aclrtSetDevice or aclrtSetCurrentContext",
            );
        };
        // SAFETY: a place for a handle by contract.
        unsafe { context.write(ptr::without_provenance_mut(handle)) };
        Ok(())
    })
}

/// The device that this thread uses: 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetDevice(device: *mut i32) -> c_int {
    guard(Family::Acl, "aclrtGetDevice", || {
        check_place("deviceId", device)?;
        with_state(|state| state.check_device(Family::Acl))?;
        // SAFETY: a place for a number by contract.
        unsafe { device.write(0) };
        Ok(())
    })
}

/// How many devices there are: 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetDeviceCount(count: *mut u32) -> c_int {
    guard(Family::Acl, "aclrtGetDeviceCount", || {
        check_place("count", count)?;
        with_state(|state| state.check_initialized())?;
        // SAFETY: a place for a number by contract.
        unsafe { count.write(1) };
        Ok(())
    })
}
