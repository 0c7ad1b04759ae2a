//! The runtime, its device, contexts and streams.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Once};

use super::pointers::{check_place, not_null};
use crate::guard::guard;
use crate::mode::strict;
use crate::state::{Kind, Object, report_at_exit, with_state};
use crate::status::{self, Checked, Family, INVALID_PARAM, REPEAT_INITIALIZE, fail, report};
use crate::stream::Stream;

unsafe extern "C" {
    fn atexit(callback: extern "C" fn()) -> c_int;
}

/// Starts the runtime. `config` is null or the path of a readable file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclInit(config: *const c_char) -> c_int {
    guard(Family::Acl, "aclInit", || {
        if !config.is_null() {
            // SAFETY: a zero-terminated string by contract.
            let path = unsafe { CStr::from_ptr(config) }.to_string_lossy();
            if !path.is_empty() && !Path::new(&*path).is_file() {
                return fail(INVALID_PARAM, format!("configPath {path:?} is not a file"));
            }
        }
        let once = strict(); // settles the mode for good
        with_state(|state| {
            if state.initialized {
                return fail(REPEAT_INITIALIZE, "called twice");
            }
            if state.finalized && once {
                return fail(REPEAT_INITIALIZE, "called again after aclFinalize; a process may call it once");
            }
            state.initialized = true;
            Ok(())
        })?;
        static AT_EXIT: Once = Once::new();
        AT_EXIT.call_once(|| {
            // SAFETY: a plain function; it is run before the library is unloaded.
            if unsafe { atexit(report_at_exit) } != 0 {
                report("leaks will not be reported at exit");
            }
        });
        Ok(())
    })
}

/// Stops the runtime, and reports objects that were not destroyed.
#[unsafe(no_mangle)]
pub extern "C" fn aclFinalize() -> c_int {
    guard(Family::Acl, "aclFinalize", || {
        with_state(|state| {
            state.check_initialized()?;
            if state.device_uses > 0 {
                report("aclFinalize before aclrtResetDevice");
            }
            state.report_leaks("at aclFinalize");
            state.initialized = false;
            state.finalized = true;
            Ok(())
        })
    })
}

/// Uses device 0, the only one, on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn aclrtSetDevice(device: i32) -> c_int {
    guard(Family::Acl, "aclrtSetDevice", || {
        with_state(|state| {
            state.check_initialized()?;
            check_device_id(device)?;
            state.set_device()
        })
    })
}

/// Undoes one `aclrtSetDevice`; the last user of the device closes it.
#[unsafe(no_mangle)]
pub extern "C" fn aclrtResetDevice(device: i32) -> c_int {
    guard(Family::Acl, "aclrtResetDevice", || {
        with_state(|state| {
            state.check_initialized()?;
            check_device_id(device)?;
            if state.device_uses == 0 {
                return fail(INVALID_PARAM, "the device is not set");
            }
            if state.device_uses == 1 {
                state.report_leaks("at aclrtResetDevice");
            }
            Ok(())
        })?;
        close_device();
        Ok(())
    })
}

/// One user of the device less; without any, its own stream ends.
pub(super) fn close_device() {
    if let Some((handle, stream)) = with_state(|state| state.reset_device()) {
        close(handle, stream);
    }
}

pub(super) fn check_device_id(device: i32) -> Checked<()> {
    if device == 0 { Ok(()) } else { fail(INVALID_PARAM, format!("there is no device {device}, only device 0")) }
}

/// Ends a stream that is no longer in the state.
fn close(handle: usize, stream: Stream) {
    stream.close();
    with_state(|state| state.memory.settle(handle, u64::MAX));
}

/// Makes a stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtCreateStream(stream: *mut *mut c_void) -> c_int {
    guard(Family::Acl, "aclrtCreateStream", || {
        check_place("stream", stream)?;
        let handle = with_state(|state| {
            state.check_device(Family::Acl)?;
            Ok(state.insert(Object::Stream(Stream::new()?)))
        })?;
        // SAFETY: a place for a handle by contract.
        unsafe { stream.write(ptr::without_provenance_mut(handle)) };
        Ok(())
    })
}

/// Finishes a stream's work and ends it.
#[unsafe(no_mangle)]
pub extern "C" fn aclrtDestroyStream(stream: *mut c_void) -> c_int {
    guard(Family::Acl, "aclrtDestroyStream", || {
        let handle = not_null("stream", stream, INVALID_PARAM)?;
        let removed = with_state(|state| {
            if state.default_stream == Some(handle) {
                return fail(INVALID_PARAM, "the device's own stream is not the caller's to destroy");
            }
            state.remove("stream", handle, Kind::Stream, INVALID_PARAM)
        })?;
        if let Object::Stream(stream) = removed {
            close(handle, stream);
        }
        Ok(())
    })
}

/// Waits for a stream; a failure of its work since the last wait is told here, once.
#[unsafe(no_mangle)]
pub extern "C" fn aclrtSynchronizeStream(stream: *mut c_void) -> c_int {
    guard(Family::Acl, "aclrtSynchronizeStream", || {
        let (handle, queue, ticket) = with_state(|state| {
            state.check_device(Family::Acl)?;
            let (handle, stream) = state.stream(stream.addr(), Family::Acl)?;
            Ok((handle, Arc::clone(&stream.queue), stream.submitted))
        })?;
        let result = queue.wait(ticket);
        with_state(|state| state.memory.settle(handle, ticket));
        result
    })
}

/// Waits for all streams; the first failure of their work since the last wait is told here, once.
#[unsafe(no_mangle)]
pub extern "C" fn aclrtSynchronizeDevice() -> c_int {
    guard(Family::Acl, "aclrtSynchronizeDevice", || {
        let streams = with_state(|state| {
            state.check_device(Family::Acl)?;
            Ok(state.streams())
        })?;
        let mut result = Ok(());
        for (handle, queue, ticket) in streams {
            let outcome = queue.wait(ticket);
            with_state(|state| state.memory.settle(handle, ticket));
            result = result.and(outcome);
        }
        result
    })
}

/// What went wrong most recently on this thread since the last call, or null; valid until the next call.
#[unsafe(no_mangle)]
pub extern "C" fn aclGetRecentErrMsg() -> *const c_char {
    status::take_recent()
}
