//! Session config entries of this library, all under `mcd.`.

use std::ffi::CStr;

use mcd_core::Residency;
use ort_sys::OrtSessionOptions;

use crate::ffi::{Api, Error, KernelInfo};

/// What a weight occupies while the session lives: `compressed` (default) or `decoded`.
const RESIDENCY: &CStr = c"mcd.residency";
/// Where nodes run: `cpu` (default), `ascend:0`, or `ascend:0,cpu` for what can.
const DEVICE: &CStr = c"mcd.device";

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

/// The entries, read and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    pub residency: Residency,
    pub device: Device,
}

impl Options {
    /// The entries that are set when the library is registered.
    ///
    /// # Safety
    ///
    /// `options` is a live `OrtSessionOptions`.
    pub unsafe fn at_registration(api: Api, options: *const OrtSessionOptions) -> Result<Self, Error> {
        let [residency, device] = [RESIDENCY, DEVICE].map(|key| {
            // SAFETY: the caller's contract.
            unsafe { api.session_config_entry(options, key) }
        });
        Self::parse(residency?.as_deref(), device?.as_deref())
    }

    /// The entries that are set when the session is created, where onnxruntime tells (1.24 and later), so that the
    /// order of setting an entry and registering the library does not matter; else `self`.
    pub fn at_session(self, info: &KernelInfo<'_>) -> Result<Self, Error> {
        match (info.config_entry(RESIDENCY)?, info.config_entry(DEVICE)?) {
            (Some(residency), Some(device)) => Self::parse(residency.as_deref(), device.as_deref()),
            _ => Ok(self),
        }
    }

    fn parse(residency: Option<&str>, device: Option<&str>) -> Result<Self, Error> {
        let residency = match residency {
            None | Some("compressed") => Residency::Compressed,
            Some("decoded") => Residency::Decoded,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "session config entry mcd.residency is {other:?}, not \"compressed\" or \"decoded\""
                )));
            }
        };
        Ok(Self { residency, device: Device::parse(device)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residency_is_compressed_unless_asked_for() {
        assert_eq!(Options::parse(None, None).unwrap().residency, Residency::Compressed);
        assert_eq!(Options::parse(Some("decoded"), None).unwrap().residency, Residency::Decoded);
        let error = Options::parse(Some("Decoded"), None).unwrap_err().to_string();
        assert!(error.contains("mcd.residency") && error.contains("\"Decoded\""), "{error}");
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
