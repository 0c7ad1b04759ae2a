//! Session config entries of this library, all under `mcd.`.

use std::ffi::CStr;

use mcd_core::Residency;
use ort_sys::OrtSessionOptions;

use crate::ffi::{Api, Error, KernelInfo};

/// What a weight occupies while the session lives: `compressed` (default) or `decoded`.
const RESIDENCY: &CStr = c"mcd.residency";
/// Where nodes run: `cpu` (default), `ascend:0`, or `ascend:0,cpu` for what can.
const DEVICE: &CStr = c"mcd.device";
/// Rows of one call on the device: 256 by default, the limit of the operator's document.
const MAX_ROWS: &CStr = c"mcd.ascend.max_rows";
/// Without that entry.
const DEFAULT_ROWS: usize = 256;

/// Where nodes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    #[default]
    Cpu,
    Ascend {
        id: i32,
        /// Nodes that cannot run there run on the CPU.
        or_cpu: bool,
    },
}

impl Device {
    fn parse(text: Option<&str>) -> Result<Self, Error> {
        let Some(text) = text else { return Ok(Self::default()) };
        if text == "cpu" {
            return Ok(Self::Cpu);
        }
        let (device, or_cpu) = text.strip_suffix(",cpu").map_or((text, false), |device| (device, true));
        let id = device.strip_prefix("ascend:").filter(|id| id.bytes().all(|byte| byte.is_ascii_digit()));
        match id.and_then(|id| id.parse().ok()) {
            Some(id) => Ok(Self::Ascend { id, or_cpu }),
            None => Err(Error::invalid(format!(
                "session config entry mcd.device is {text:?}, not \"cpu\", \"ascend:0\" or \"ascend:0,cpu\""
            ))),
        }
    }
}

fn max_rows(text: Option<&str>) -> Result<usize, Error> {
    let Some(text) = text else { return Ok(DEFAULT_ROWS) };
    // The operator counts in 32 bits.
    let rows = text.parse().ok().filter(|&rows: &usize| rows > 0 && i32::try_from(rows).is_ok());
    rows.ok_or_else(|| {
        Error::invalid(format!(
            "session config entry mcd.ascend.max_rows is {text:?}, not a number of rows from 1 on"
        ))
    })
}

/// The entries, read and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    pub residency: Residency,
    pub device: Device,
    /// Rows of one call on the device.
    pub max_rows: usize,
}

impl Options {
    /// The entries that are set when the library is registered.
    ///
    /// # Safety
    ///
    /// `options` is a live `OrtSessionOptions`.
    pub unsafe fn at_registration(api: Api, options: *const OrtSessionOptions) -> Result<Self, Error> {
        let [residency, device, rows] = [RESIDENCY, DEVICE, MAX_ROWS].map(|key| {
            // SAFETY: the caller's contract.
            unsafe { api.session_config_entry(options, key) }
        });
        Self::parse(residency?.as_deref(), device?.as_deref(), rows?.as_deref())
    }

    /// The entries that are set when the session is created, where onnxruntime tells (1.24 and later), so that the
    /// order of setting an entry and registering the library does not matter; else `self`.
    pub fn at_session(self, info: &KernelInfo<'_>) -> Result<Self, Error> {
        match (info.config_entry(RESIDENCY)?, info.config_entry(DEVICE)?, info.config_entry(MAX_ROWS)?) {
            (Some(residency), Some(device), Some(rows)) => {
                Self::parse(residency.as_deref(), device.as_deref(), rows.as_deref())
            }
            _ => Ok(self),
        }
    }

    fn parse(residency: Option<&str>, device: Option<&str>, rows: Option<&str>) -> Result<Self, Error> {
        let residency = match residency {
            None | Some("compressed") => Residency::Compressed,
            Some("decoded") => Residency::Decoded,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "session config entry mcd.residency is {other:?}, not \"compressed\" or \"decoded\""
                )));
            }
        };
        Ok(Self { residency, device: Device::parse(device)?, max_rows: max_rows(rows)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residency_is_compressed_unless_asked_for() {
        assert_eq!(Options::parse(None, None, None).unwrap().residency, Residency::Compressed);
        assert_eq!(Options::parse(Some("decoded"), None, None).unwrap().residency, Residency::Decoded);
        let error = Options::parse(Some("Decoded"), None, None).unwrap_err().to_string();
        assert!(error.contains("mcd.residency") && error.contains("\"Decoded\""), "{error}");
    }

    #[test]
    fn rows_of_a_call_are_counted_from_one() {
        assert_eq!(max_rows(None).unwrap(), 256);
        assert_eq!(max_rows(Some("2064")).unwrap(), 2064);
        for wrong in ["", "0", "-1", "x", "99999999999"] {
            assert!(max_rows(Some(wrong)).unwrap_err().to_string().contains(&format!("{wrong:?}")));
        }
    }

    #[test]
    fn nodes_run_on_the_cpu_unless_asked_for() {
        let device = |text| Device::parse(text).ok();
        assert_eq!(device(None), Some(Device::Cpu));
        assert_eq!(device(Some("cpu")), Some(Device::Cpu));
        assert_eq!(device(Some("ascend:0")), Some(Device::Ascend { id: 0, or_cpu: false }));
        assert_eq!(device(Some("ascend:12,cpu")), Some(Device::Ascend { id: 12, or_cpu: true }));
        for wrong in
            ["", "ascend", "ascend:", "ascend:-1", "ascend:+1", "ascend:0,gpu", "cuda:0", "ascend:99999999999"]
        {
            let error = Device::parse(Some(wrong)).unwrap_err().to_string();
            assert!(error.contains(&format!("{wrong:?}")), "{error}");
        }
    }
}
