//! Pools of threads that a session may have.

use std::ffi::c_void;

use ort_sys::stub::Error;
use ort_sys::{OrtErrorCode, OrtKernelContext, OrtStatusPtr};

use super::status::done;

/// One task after the other, the last one first.
///
/// # Safety
/// The task takes this data, until the call returns.
pub unsafe extern "system" fn in_turn(
    _: *const OrtKernelContext,
    task: unsafe extern "system" fn(*mut c_void, usize),
    total: usize,
    _: usize,
    data: *mut c_void,
) -> OrtStatusPtr {
    for index in (0..total).rev() {
        // SAFETY: the caller's contract; onnxruntime as well calls it once for each index.
        unsafe { task(data, index) };
    }
    done()
}

/// Two threads that share out the tasks.
///
/// # Safety
/// The task takes this data from any thread, until the call returns.
pub unsafe extern "system" fn two_threads(
    _: *const OrtKernelContext,
    task: unsafe extern "system" fn(*mut c_void, usize),
    total: usize,
    _: usize,
    data: *mut c_void,
) -> OrtStatusPtr {
    struct Shared(*mut c_void);
    // SAFETY: a task takes its data from any thread.
    unsafe impl Sync for Shared {}
    let data = &Shared(data);
    std::thread::scope(|scope| {
        for first in 0..2 {
            scope.spawn(move || {
                for index in (first..total).step_by(2) {
                    // SAFETY: the caller's contract.
                    unsafe { task(data.0, index) };
                }
            });
        }
    });
    done()
}

/// A pool that does not work.
///
/// # Safety
/// It looks at nothing.
pub unsafe extern "system" fn no_threads(
    _: *const OrtKernelContext,
    _: unsafe extern "system" fn(*mut c_void, usize),
    _: usize,
    _: usize,
    _: *mut c_void,
) -> OrtStatusPtr {
    Error::new_sys(OrtErrorCode::ORT_RUNTIME_EXCEPTION, "no threads today")
}
