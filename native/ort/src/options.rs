//! Session config entries of this library, all under `mcd.`.

use std::ffi::CStr;

use mcd_core::Residency;
use ort_sys::OrtSessionOptions;

use crate::api::{Api, Error, KernelInfo};

/// What a weight occupies while the session lives: `compressed` (default) or `decoded`.
const RESIDENCY: &CStr = c"mcd.residency";

/// The entries, read and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    pub residency: Residency,
}

impl Options {
    /// The entries that are set when the library is registered.
    ///
    /// # Safety
    ///
    /// `options` is a live `OrtSessionOptions`.
    pub unsafe fn at_registration(api: Api, options: *const OrtSessionOptions) -> Result<Self, Error> {
        // SAFETY: the caller's contract.
        let residency = unsafe { api.session_config_entry(options, RESIDENCY) }?;
        Self::parse(residency.as_deref())
    }

    /// The entries that are set when the session is created, where onnxruntime tells (1.24 and later), so that the
    /// order of setting an entry and registering the library does not matter; else `self`.
    pub fn at_session(self, info: &KernelInfo<'_>) -> Result<Self, Error> {
        match info.config_entry(RESIDENCY)? {
            Some(residency) => Self::parse(residency.as_deref()),
            None => Ok(self),
        }
    }

    fn parse(residency: Option<&str>) -> Result<Self, Error> {
        let residency = match residency {
            None | Some("compressed") => Residency::Compressed,
            Some("decoded") => Residency::Decoded,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "session config entry mcd.residency is {other:?}, not \"compressed\" or \"decoded\""
                )));
            }
        };
        Ok(Self { residency })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residency_is_compressed_unless_asked_for() {
        assert_eq!(Options::parse(None).unwrap().residency, Residency::Compressed);
        assert_eq!(Options::parse(Some("decoded")).unwrap().residency, Residency::Decoded);
        let error = Options::parse(Some("Decoded")).unwrap_err().to_string();
        assert!(error.contains("mcd.residency") && error.contains("\"Decoded\""), "{error}");
    }
}
