//! Status codes and the text behind them.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::ptr;

/// Success, of both families of functions.
pub const SUCCESS: i32 = 0;

/// `acl*`: an argument is not acceptable.
pub const INVALID_PARAM: i32 = 100_000;
/// `acl*`: `aclInit` was not called, or `aclrtSetDevice` was not.
pub const UNINITIALIZE: i32 = 100_001;
/// `acl*`: `aclInit` was called already.
pub const REPEAT_INITIALIZE: i32 = 100_002;
/// `acl*`: no memory.
pub const BAD_ALLOC: i32 = 200_000;
/// `acl*`: anything else, queued work that failed included.
pub const FAILURE: i32 = 500_001;

/// `aclnn*`: a null pointer.
pub const PARAM_NULLPTR: i32 = 161_001;
/// `aclnn*`: an argument is not acceptable.
pub const PARAM_INVALID: i32 = 161_002;
/// `aclnn*`: the runtime refuses.
pub const RUNTIME_ERROR: i32 = 361_001;
/// `aclnn*`: anything else.
pub const INNER: i32 = 561_000;
/// `aclnn*`: there is no such executor, or no longer.
pub const NO_EXECUTOR: i32 = 561_101;

/// Why a call fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: i32,
    pub message: String,
}

/// What a call's body returns.
pub type Checked<T> = Result<T, Failure>;

/// A failure with its message.
pub fn fail<T>(code: i32, message: impl Into<String>) -> Checked<T> {
    Err(Failure { code, message: message.into() })
}

/// The two families of functions, which differ in their codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// The runtime.
    Acl,
    /// Operators and their descriptors.
    Aclnn,
}

impl Family {
    /// The code of an argument that is not acceptable.
    pub fn invalid(self) -> i32 {
        match self {
            Self::Acl => INVALID_PARAM,
            Self::Aclnn => PARAM_INVALID,
        }
    }

    /// The code of what should not happen.
    pub fn inner(self) -> i32 {
        match self {
            Self::Acl => FAILURE,
            Self::Aclnn => INNER,
        }
    }
}

/// What a thread has to tell.
#[derive(Default)]
struct Recent {
    /// Recorded and not yet asked for.
    pending: Option<CString>,
    /// Handed out; lives until the thread's next call for it.
    lent: Option<CString>,
}

thread_local! {
    static RECENT: RefCell<Recent> = RefCell::default();
}

/// Keeps a failure's text for `aclGetRecentErrMsg` on this thread, and returns it.
pub fn record(function: &str, failure: &Failure) -> String {
    let text = format!("{function}: {} (status {})", failure.message, failure.code).replace('\0', "");
    RECENT.with_borrow_mut(|recent| recent.pending = CString::new(text.as_str()).ok());
    text
}

/// The text of this thread's most recent failure since the last call, or null. Valid until the next call.
pub fn take_recent() -> *const c_char {
    RECENT.with_borrow_mut(|recent| {
        recent.lent = recent.pending.take();
        recent.lent.as_ref().map_or(ptr::null(), |text| text.as_ptr())
    })
}

/// Reports what no return value can tell.
pub fn report(message: &str) {
    eprintln!("libmcd_aclnn: {message}");
}

/// The text of a panic.
pub fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic without a message")
}
