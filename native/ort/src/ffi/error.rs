//! Why a session cannot be created or a run cannot go on.

use std::fmt;

use ort_sys::OrtErrorCode;

/// Why a session cannot be created or a run cannot go on.
#[derive(Debug)]
pub struct Error {
    pub(super) code: OrtErrorCode,
    pub(super) message: String,
}

impl Error {
    /// The model or its inputs are not what the operator accepts.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { code: OrtErrorCode::ORT_INVALID_ARGUMENT, message: message.into() }
    }

    /// A device or its runtime does not do what it is asked to. Not `ORT_EP_FAIL`: at that, onnxruntime's Python face makes
    /// another session and tries again.
    pub fn device(message: impl Into<String>) -> Self {
        Self { code: OrtErrorCode::ORT_FAIL, message: message.into() }
    }

    /// A defect of this library.
    pub fn internal(message: &str) -> Self {
        Self { code: OrtErrorCode::ORT_RUNTIME_EXCEPTION, message: format!("internal error: {message}") }
    }

    /// What a file's sizes call for cannot be allocated: so many bytes.
    pub fn no_memory(what: &str, bytes: usize) -> Self {
        Self { code: OrtErrorCode::ORT_FAIL, message: format!("out of memory: {bytes} bytes for {what}") }
    }

    /// The same error, with what it is about in front.
    pub fn within(self, what: &str) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// The same error, with what to do behind it.
    pub fn advising(self, what: &str) -> Self {
        Self { message: format!("{}. {what}", self.message), ..self }
    }
}

/// An empty vector with room for `len` elements, whose number a file or a caller tells: where it cannot be had, that is an
/// error, not the end of the process.
pub fn with_room<T>(len: usize, what: &str) -> Result<Vec<T>, Error> {
    let mut vec = Vec::new();
    grow(&mut vec, len, what)?;
    Ok(vec)
}

/// Makes room for `len` elements in all, as [`with_room`].
pub fn grow<T>(vec: &mut Vec<T>, len: usize, what: &str) -> Result<(), Error> {
    let more = len.saturating_sub(vec.len());
    vec.try_reserve_exact(more).map_err(|_| Error::no_memory(what, len.saturating_mul(size_of::<T>())))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
