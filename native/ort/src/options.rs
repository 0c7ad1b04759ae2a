//! Session config entries of this library, all under `mcd.`.

use std::ffi::CStr;

use mcd_core::dispatch::saturates_pairs;
use ort_sys::OrtSessionOptions;

use crate::decoded_folder::Folder;
use crate::ffi::{Api, Error, KernelInfo};
use crate::residency::Policy;

/// What a weight occupies while the session lives: `auto` (default), `compressed` or `decoded`.
const RESIDENCY: &CStr = c"mcd.residency";
/// Bytes that may be decoded; no limit by default.
const DECODED_LIMIT: &CStr = c"mcd.decoded_limit";
/// A folder for decoded weights, which processes share; none by default.
const DECODED_FOLDER: &CStr = c"mcd.decoded_folder";
/// Bytes of memory that what is compressed may take in a session; no limit by default.
pub const MEMORY_LIMIT: &CStr = c"mcd.memory_limit";
/// When the tiles of weights are verified: `use` (default): at the first run of a node, before its result; or `load`.
const VERIFY: &CStr = c"mcd.verify";
/// Where nodes run: `cpu` (default), `ascend:0`, or `ascend:0,cpu` for what can.
const DEVICE: &CStr = c"mcd.device";
/// Rows of one call on the device: 256 by default, the limit of the operator's document.
const MAX_ROWS: &CStr = c"mcd.ascend.max_rows";
/// How uint8 activations are multiplied with int8 weights: `auto` (default): as onnxruntime does it on this processor;
/// `exact`; or `saturating`: as onnxruntime does it on x86 processors without VNNI.
const PRODUCTS: &CStr = c"mcd.products";
/// onnxruntime's own: `1` makes its products exact there.
const PRECISION: &CStr = c"session.x64quantprecision";
/// All entries.
const KEYS: [&CStr; 9] =
    [RESIDENCY, DECODED_LIMIT, DECODED_FOLDER, VERIFY, DEVICE, MAX_ROWS, MEMORY_LIMIT, PRODUCTS, PRECISION];
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

/// A limit; none where there is no entry.
pub fn bytes(key: &CStr, text: Option<&str>) -> Result<u64, Error> {
    let Some(text) = text else { return Ok(u64::MAX) };
    text.parse().map_err(|_| {
        Error::invalid(format!("session config entry {} is {text:?}, not a number of bytes", key.to_string_lossy()))
    })
}

fn residency(text: Option<&str>, limit: Option<&str>) -> Result<Policy, Error> {
    let limit = bytes(DECODED_LIMIT, limit)?;
    match text {
        None | Some("auto") => Ok(Policy::Auto { limit }),
        Some("compressed") => Ok(Policy::Compressed),
        Some("decoded") => Ok(Policy::Decoded { limit }),
        Some(other) => Err(Error::invalid(format!(
            "session config entry mcd.residency is {other:?}, not \"auto\", \"compressed\" or \"decoded\""
        ))),
    }
}

/// Whether products of uint8 activations and int8 weights saturate; `here` says whether those of this processor do.
fn saturates(text: Option<&str>, precision: Option<&str>, here: bool) -> Result<bool, Error> {
    match text {
        None | Some("auto") => Ok(here && precision != Some("1")),
        Some("exact") => Ok(false),
        Some("saturating") => Ok(true),
        Some(other) => Err(Error::invalid(format!(
            "session config entry mcd.products is {other:?}, not \"auto\", \"exact\" or \"saturating\""
        ))),
    }
}

/// When the tiles of weights whose bytes are known are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// When the session is created.
    Load,
    /// At the first run of a node, before anything is computed from them.
    #[default]
    Use,
}

impl Verify {
    fn parse(text: Option<&str>) -> Result<Self, Error> {
        match text {
            None => Ok(Self::default()),
            Some("load") => Ok(Self::Load),
            Some("use") => Ok(Self::Use),
            Some(other) => {
                Err(Error::invalid(format!("session config entry mcd.verify is {other:?}, not \"load\" or \"use\"")))
            }
        }
    }
}

/// The entries, read and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    pub residency: Policy,
    /// Where decoded weights go, if not into memory of the process alone.
    pub decoded_folder: Option<&'static Folder>,
    pub verify: Verify,
    pub device: Device,
    /// Rows of one call on the device.
    pub max_rows: usize,
    /// Bytes that the session's weights may take.
    pub memory_limit: u64,
    /// Whether products of uint8 activations and int8 weights saturate.
    pub saturates: bool,
}

impl Options {
    /// The entries that are set when the library is registered.
    ///
    /// # Safety
    ///
    /// `options` is a live `OrtSessionOptions`.
    pub unsafe fn at_registration(api: Api, options: *const OrtSessionOptions) -> Result<Self, Error> {
        let texts = KEYS.map(|key| {
            // SAFETY: the caller's contract.
            unsafe { api.session_config_entry(options, key) }
        });
        let texts: Vec<_> = texts.into_iter().collect::<Result<_, _>>()?;
        Self::parse(std::array::from_fn(|i| texts[i].as_deref()))
    }

    /// The entries that are set when the session is created, where onnxruntime tells (1.24 and later), so that the
    /// order of setting an entry and registering the library does not matter; else `self`.
    pub fn at_session(self, info: &KernelInfo<'_>) -> Result<Self, Error> {
        let texts: Vec<_> = KEYS.map(|key| info.config_entry(key)).into_iter().collect::<Result<_, _>>()?;
        let told: Option<Vec<_>> = texts.into_iter().collect();
        told.map_or(Ok(self), |texts| Self::parse(std::array::from_fn(|i| texts[i].as_deref())))
    }

    /// Of the values of [`KEYS`].
    fn parse(texts: [Option<&str>; KEYS.len()]) -> Result<Self, Error> {
        let [text, limit, folder, verify, device, rows, memory, products, precision] = texts;
        Ok(Self {
            residency: residency(text, limit)?,
            decoded_folder: folder.map(Folder::named).transpose()?,
            verify: Verify::parse(verify)?,
            device: Device::parse(device)?,
            max_rows: max_rows(rows)?,
            memory_limit: bytes(MEMORY_LIMIT, memory)?,
            saturates: saturates(products, precision, saturates_pairs())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residency_is_chosen_unless_asked_for() {
        assert_eq!(residency(None, None).unwrap(), Policy::Auto { limit: u64::MAX });
        assert_eq!(residency(None, Some("4096")).unwrap(), Policy::Auto { limit: 4096 });
        assert_eq!(residency(Some("compressed"), Some("4096")).unwrap(), Policy::Compressed);
        assert_eq!(residency(Some("decoded"), None).unwrap(), Policy::Decoded { limit: u64::MAX });
        assert_eq!(residency(Some("auto"), Some("4096")).unwrap(), Policy::Auto { limit: 4096 });
        let error = residency(Some("Decoded"), None).unwrap_err().to_string();
        assert!(error.contains("mcd.residency") && error.contains("\"Decoded\""), "{error}");
        for wrong in ["", "-1", "4G", "99999999999999999999"] {
            let error = residency(None, Some(wrong)).unwrap_err().to_string();
            assert!(error.contains("mcd.decoded_limit") && error.contains(&format!("{wrong:?}")), "{error}");
        }
    }

    #[test]
    fn products_saturate_where_those_of_onnxruntime_do() {
        for here in [false, true] {
            for (text, precision, expected) in [
                (None, None, here),
                (None, Some("0"), here),
                (None, Some("1"), false),
                (Some("auto"), Some("1"), false),
                (Some("exact"), None, false),
                (Some("saturating"), Some("1"), true),
            ] {
                assert_eq!(saturates(text, precision, here).unwrap(), expected, "{text:?} {precision:?} {here}");
            }
        }
        for wrong in ["", "Exact", "1"] {
            let error = saturates(Some(wrong), None, true).unwrap_err().to_string();
            assert!(error.contains("mcd.products") && error.contains(&format!("{wrong:?}")), "{error}");
        }
    }

    #[test]
    fn weights_are_verified_at_their_first_use_unless_asked_for() {
        assert_eq!(Verify::parse(None).unwrap(), Verify::Use);
        assert_eq!([Some("load"), Some("use")].map(|text| Verify::parse(text).unwrap()), [Verify::Load, Verify::Use]);
        for wrong in ["", "Load", "never"] {
            let error = Verify::parse(Some(wrong)).unwrap_err().to_string();
            assert!(error.contains("mcd.verify") && error.contains(&format!("{wrong:?}")), "{error}");
        }
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
