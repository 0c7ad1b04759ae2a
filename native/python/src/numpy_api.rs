//! Fetching NumPy's C API while the module is imported, where it can fail as an import fails.
//!
//! The crate `numpy` fetches it at its first use, which runs Python code and panics when that raises. Ctrl-C raises
//! wherever Python code runs, so that a first use in the midst of the work would end in a panic instead of
//! `KeyboardInterrupt`.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};

use numpy::PyArray1;
use pyo3::prelude::*;

const SIGINT: c_int = 2;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn remember(_signal: c_int) {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// Holds Ctrl-C back from its creation until it is dropped, when one that came meanwhile is handed on.
struct Uninterrupted {
    /// The handler before: a function, or a number that stands for the default or for none.
    handler: usize,
}

impl Uninterrupted {
    fn new(_: Python<'_>) -> Self {
        // SAFETY: `remember` only stores into an atomic, which a signal handler may do.
        Self { handler: unsafe { PyOS_setsig(SIGINT, remember as *const () as usize) } }
    }
}

impl Drop for Uninterrupted {
    fn drop(&mut self) {
        // SAFETY: the handler is the one that was there before. What Python does for a signal is only noted here, and
        // done when Python code runs next.
        unsafe {
            PyOS_setsig(SIGINT, self.handler);
            if INTERRUPTED.swap(false, Ordering::SeqCst) {
                interrupt();
            }
        }
    }
}

/// Ctrl-C once more, with whatever handler there is now.
///
/// # Safety
///
/// The handler may be called here.
unsafe fn interrupt() {
    #[cfg(unix)]
    // SAFETY: the caller's contract.
    unsafe {
        raise(SIGINT)
    };
    // Python's C library need not be ours there, and each has handlers of its own.
    #[cfg(not(unix))]
    // SAFETY: it may be called at any time.
    unsafe {
        pyo3::ffi::PyErr_SetInterrupt()
    };
}

#[cfg_attr(windows, link(name = "python3", kind = "raw-dylib"))]
unsafe extern "C" {
    /// As in Python's stable interface; `pyo3::ffi` has it with a pointer that must not be null, which the default is.
    fn PyOS_setsig(signal: c_int, handler: usize) -> usize;
}

#[cfg(unix)]
unsafe extern "C" {
    fn raise(signal: c_int) -> c_int;
}

/// Fetches the API once and for all.
///
/// # Errors
///
/// NumPy cannot be imported, or Ctrl-C came before.
pub fn fetch(py: Python<'_>) -> PyResult<()> {
    py.import("numpy")?;
    let _uninterrupted = Uninterrupted::new(py);
    py.check_signals()?; // one that came before the handler was exchanged is still to be raised
    PyArray1::<i8>::zeros(py, 0, false);
    Ok(())
}
