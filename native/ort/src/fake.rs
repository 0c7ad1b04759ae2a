//! A stand-in for onnxruntime in unit tests: statuses and a thread pool, everything else answers "not implemented".

use std::ffi::{CStr, c_char, c_void};

use ort_sys::stub::{self, Error};
use ort_sys::{OrtApi, OrtApiBase, OrtErrorCode, OrtKernelContext, OrtStatusPtr};

use crate::ffi::{Api, KernelContext};

/// A function that stands for `KernelContext_ParallelFor`.
type ParallelFor = unsafe extern "system" fn(
    *const OrtKernelContext,
    unsafe extern "system" fn(*mut c_void, usize),
    usize,
    usize,
    *mut c_void,
) -> OrtStatusPtr;

/// An onnxruntime of a version, as a library gets to know it.
pub fn base(version: unsafe extern "system" fn() -> *const c_char) -> OrtApiBase {
    OrtApiBase { GetApi: get_api, GetVersionString: version }
}

/// A status's text; releases it. None for success.
pub fn message(status: OrtStatusPtr) -> Option<String> {
    if status.0.is_null() {
        return None;
    }
    // SAFETY: the status was made by `create_status`, and is not used again.
    Some(unsafe { Error::consume_sys(status.0) }.message().to_owned())
}

/// Two threads that share out the tasks.
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
                    // SAFETY: as onnxruntime would.
                    unsafe { task(data.0, index) };
                }
            });
        }
    });
    OrtStatusPtr::default()
}

/// A pool that does not work.
pub unsafe extern "system" fn no_threads(
    _: *const OrtKernelContext,
    _: unsafe extern "system" fn(*mut c_void, usize),
    _: usize,
    _: usize,
    _: *mut c_void,
) -> OrtStatusPtr {
    Error::new_sys(OrtErrorCode::ORT_RUNTIME_EXCEPTION, "no threads today")
}

/// Calls `body` with the context of a kernel whose session has this pool.
pub fn with_context<R>(pool: ParallelFor, body: impl FnOnce(&KernelContext<'_>) -> R) -> R {
    let table = OrtApi { KernelContext_ParallelFor: pool, ..table() };
    // SAFETY: the table outlives the API, and its pool does not look at the context.
    body(&unsafe { KernelContext::new(Api::from_table(&table), std::ptr::null_mut()) })
}

fn table() -> OrtApi {
    // The stub's own takes the message over, onnxruntime copies it.
    OrtApi { CreateStatus: create_status, ..stub::api() }
}

unsafe extern "system" fn create_status(code: OrtErrorCode, message: *const c_char) -> OrtStatusPtr {
    // SAFETY: messages are zero-terminated.
    Error::new_sys(code, unsafe { CStr::from_ptr(message) }.to_string_lossy())
}

unsafe extern "system" fn get_api(_: u32) -> *const OrtApi {
    Box::leak(Box::new(table()))
}
