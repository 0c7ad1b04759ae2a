//! A last word where a mapped file was truncated: reading behind its end raises SIGBUS, which no caller can recover from.
//!
//! The handler does only what a signal handler may: it writes a message, removes the temporaries that it was told of,
//! and ends the process. Windows has no such signal, and refuses to truncate a file that is mapped: there, the handler is
//! never installed.

use std::ffi::{CString, c_char};
#[cfg(unix)]
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use pyo3::prelude::*;

#[cfg(target_os = "linux")]
const SIGBUS: c_int = 7;
#[cfg(all(unix, not(target_os = "linux")))]
const SIGBUS: c_int = 10;

#[cfg(unix)]
const STATUS: c_int = 2;
#[cfg(unix)]
const STDERR: c_int = 2;

/// What is written, and its length; set before the handler is.
static MESSAGE: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static MESSAGE_LEN: AtomicUsize = AtomicUsize::new(0);

/// Paths to remove. More files than there are slots stay behind; the next run removes those.
static TEMPORARIES: [AtomicPtr<c_char>; 64] = [const { AtomicPtr::new(ptr::null_mut()) }; 64];

/// Whether a thread is saying it: several may read the file that was truncated.
#[cfg(unix)]
static SAYING: AtomicBool = AtomicBool::new(false);

/// The handler before ours.
static PREVIOUS: Mutex<Option<usize>> = Mutex::new(None);

#[cfg(unix)]
unsafe extern "C" {
    fn signal(signal: c_int, handler: usize) -> usize;
    fn write(file: c_int, data: *const c_void, len: usize) -> isize;
    fn unlink(path: *const c_char) -> c_int;
    fn pause() -> c_int;
    fn _exit(status: c_int) -> !;
}

#[cfg(unix)]
extern "C" fn explain(_signal: c_int) {
    // SAFETY: write, unlink, pause and _exit may be called in a signal handler. Message and paths are never freed.
    unsafe {
        while SAYING.swap(true, Ordering::SeqCst) {
            pause();
        }
        for slot in &TEMPORARIES {
            let path = slot.load(Ordering::SeqCst);
            if !path.is_null() {
                unlink(path);
            }
        }
        write(STDERR, MESSAGE.load(Ordering::SeqCst).cast(), MESSAGE_LEN.load(Ordering::SeqCst));
        _exit(STATUS)
    }
}

/// Sets the handler; returns the one before.
#[cfg(unix)]
fn install() -> usize {
    // SAFETY: `explain` does only what a handler may do.
    unsafe { signal(SIGBUS, explain as *const () as usize) }
}

#[cfg(unix)]
fn put_back(before: usize) {
    // SAFETY: it is the handler that was there before.
    unsafe { signal(SIGBUS, before) };
}

#[cfg(not(unix))]
fn install() -> usize {
    0
}

#[cfg(not(unix))]
fn put_back(_before: usize) {}

/// explain_bus_error(message) -> None
///
/// From now on SIGBUS removes the temporaries it was told of, writes `message` (bytes) to standard error and ends the
/// process with status 2. `None` puts back what was before.
#[pyfunction]
#[pyo3(signature = (message))]
pub fn explain_bus_error(message: Option<Vec<u8>>) {
    let mut previous = PREVIOUS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match message {
        Some(message) => {
            let message: &'static mut [u8] = message.leak(); // the handler may run at any time
            MESSAGE_LEN.store(0, Ordering::SeqCst);
            MESSAGE.store(message.as_mut_ptr(), Ordering::SeqCst);
            MESSAGE_LEN.store(message.len(), Ordering::SeqCst);
            let before = install();
            previous.get_or_insert(before);
        }
        None => {
            if let Some(before) = previous.take() {
                put_back(before);
            }
        }
    }
}

/// remove_at_bus_error(path) -> int
///
/// Have a file (bytes) removed then; returns what `keep_at_bus_error` takes.
#[pyfunction]
pub fn remove_at_bus_error(path: Vec<u8>) -> usize {
    let Ok(path) = CString::new(path) else { return TEMPORARIES.len() };
    let path = path.into_raw(); // never freed: the handler may be reading it, and there are few
    TEMPORARIES
        .iter()
        .position(|slot| slot.compare_exchange(ptr::null_mut(), path, Ordering::SeqCst, Ordering::SeqCst).is_ok())
        .unwrap_or(TEMPORARIES.len())
}

/// keep_at_bus_error(slot) -> None
#[pyfunction]
pub fn keep_at_bus_error(slot: usize) {
    if let Some(slot) = TEMPORARIES.get(slot) {
        slot.store(ptr::null_mut(), Ordering::SeqCst);
    }
}
