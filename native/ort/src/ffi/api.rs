//! The function table of the running onnxruntime.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr;

use ort_sys::{OrtApi, OrtApiBase, OrtErrorCode, OrtSessionOptions, OrtStatusPtr};

use super::error::{Error, with_room};

/// The API version that every function used unconditionally belongs to.
pub const API_VERSION: u32 = 20;

/// The API version of the functions that are used only where they exist.
const NEWER_API_VERSION: u32 = 24;

/// A borrowed onnxruntime; as cheap to copy as a pointer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Api {
    /// Points to at least the functions of [`API_VERSION`], for as long as onnxruntime stays loaded.
    pub(super) raw: *const OrtApi,
    /// What the running onnxruntime supports, which may be more than the functions used here.
    version: u32,
}

// SAFETY: the table is immutable, and its functions may be called from any thread.
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

/// Calls one function of the C API and turns its status into a `Result`. Only for use inside `unsafe`.
macro_rules! call {
    ($api:expr, $function:ident($($argument:expr),* $(,)?)) => {{
        let api: Api = $api;
        let status = ((*api.raw).$function)($($argument),*);
        api.check(status)
    }};
}

pub(super) use call;

impl Api {
    /// The API of the onnxruntime that loads this library.
    ///
    /// An onnxruntime that is too old gets the status to answer with.
    ///
    /// # Safety
    ///
    /// `base` is onnxruntime's, and onnxruntime stays loaded while the result is used.
    pub unsafe fn from_base(base: *const OrtApiBase) -> Result<Self, OrtStatusPtr> {
        // SAFETY: `base` is valid and the version is a static, zero-terminated string.
        let version = unsafe { CStr::from_ptr(((*base).GetVersionString)()) }.to_string_lossy();
        // Asking for a version that is not there prints to stderr, so look before asking.
        let supported = api_version(&version);
        let wanted = match supported {
            NEWER_API_VERSION.. => NEWER_API_VERSION,
            API_VERSION.. => API_VERSION,
            _ => 1,
        };
        // SAFETY: `base` is valid.
        let raw = unsafe { ((*base).GetApi)(wanted) };
        let api = Self { raw, version: supported };
        if raw.is_null() {
            return Err(OrtStatusPtr::default()); // no way to say more, and no onnxruntime of this kind is known
        }
        if supported < API_VERSION {
            let message = format!("mcd needs onnxruntime 1.20 or later, and this is {version}");
            return Err(api.status(&Error::invalid(message)));
        }
        Ok(api)
    }

    /// An onnxruntime 1.20 with these functions.
    ///
    /// # Safety
    ///
    /// The table is there while the result is used.
    #[cfg(test)]
    pub unsafe fn from_table(raw: *const OrtApi) -> Self {
        Self { raw, version: API_VERSION }
    }

    /// Whether a custom op's inference function may be given to this onnxruntime: before 1.24 it reads through a null
    /// pointer when an input is absent in the middle of the list.
    pub fn infers(self) -> bool {
        self.newer()
    }

    /// Whether an initializer of an outer graph looks like a computed tensor while a kernel is created.
    pub fn hides_outer_constants(self) -> bool {
        self.version < 29
    }

    /// Whether a kernel is told the session config entries, and not only the registration.
    pub fn tells_config_entries(self) -> bool {
        self.newer()
    }

    /// Whether the functions of [`NEWER_API_VERSION`] are there.
    pub(super) fn newer(self) -> bool {
        self.version >= NEWER_API_VERSION
    }

    /// A status that onnxruntime owns from now on.
    pub fn status(self, error: &Error) -> OrtStatusPtr {
        let message = CString::new(error.message.replace('\0', "")).unwrap_or_default();
        // SAFETY: CreateStatus copies the zero-terminated message.
        unsafe { ((*self.raw).CreateStatus)(error.code, message.as_ptr()) }
    }

    /// Takes a status over and releases it.
    pub(super) fn check(self, status: OrtStatusPtr) -> Result<(), Error> {
        if status.0.is_null() {
            return Ok(());
        }
        // SAFETY: a non-null status is a live one, ours to release, and its message lives as long.
        unsafe {
            let message = CStr::from_ptr(((*self.raw).GetErrorMessage)(status.0)).to_string_lossy().into_owned();
            ((*self.raw).ReleaseStatus)(status.0);
            Err(Error { code: OrtErrorCode::ORT_FAIL, message })
        }
    }

    /// A session config entry as it is when the library is registered.
    ///
    /// # Safety
    ///
    /// `options` is a live `OrtSessionOptions`.
    pub unsafe fn session_config_entry(
        self,
        options: *const OrtSessionOptions,
        key: &CStr,
    ) -> Result<Option<String>, Error> {
        let mut there: c_int = 0;
        // SAFETY: the options are live, the key is zero-terminated, and `there` takes the answer.
        unsafe { call!(self, HasSessionConfigEntry(options, key.as_ptr(), &mut there)) }?;
        if there == 0 {
            return Ok(None);
        }
        // SAFETY: as above; `read_string` keeps to the size protocol.
        read_string(|out, size| unsafe { call!(self, GetSessionConfigEntry(options, key.as_ptr(), out, size)) })
            .map(Some)
    }

    /// Sets a session config entry.
    ///
    /// # Safety
    ///
    /// `options` is a live `OrtSessionOptions`.
    pub unsafe fn set_session_config_entry(
        self,
        options: *mut OrtSessionOptions,
        key: &CStr,
        value: &str,
    ) -> Result<(), Error> {
        let value = CString::new(value.replace('\0', "")).unwrap_or_default();
        // SAFETY: the options are live, and both texts are zero-terminated and copied.
        unsafe { call!(self, AddSessionConfigEntry(options, key.as_ptr(), value.as_ptr())) }
    }

    /// Makes a domain of operators.
    ///
    /// # Safety
    ///
    /// The operators outlive every session that the domain is given to.
    pub unsafe fn create_domain(
        self,
        name: &CStr,
        operators: impl Iterator<Item = *const ort_sys::OrtCustomOp>,
    ) -> Result<*mut ort_sys::OrtCustomOpDomain, Error> {
        let mut domain = ptr::null_mut();
        // SAFETY: the name is zero-terminated and copied.
        unsafe { call!(self, CreateCustomOpDomain(name.as_ptr(), &mut domain)) }?;
        for operator in operators {
            // SAFETY: the domain was made above, and the caller keeps the operator alive.
            unsafe { call!(self, CustomOpDomain_Add(domain, operator)) }?;
        }
        Ok(domain)
    }

    /// Gives a domain to a session's options, which keep the pointer.
    ///
    /// # Safety
    ///
    /// Both are live, and the domain outlives the options and their sessions.
    pub unsafe fn add_domain(
        self,
        options: *mut OrtSessionOptions,
        domain: *mut ort_sys::OrtCustomOpDomain,
    ) -> Result<(), Error> {
        // SAFETY: the caller's contract.
        unsafe { call!(self, AddCustomOpDomain(options, domain)) }
    }
}

/// The API version that an onnxruntime version has: its minor number (1.20.1 has 20). Zero when it cannot be read.
fn api_version(version: &str) -> u32 {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    match (numbers.next(), numbers.next()) {
        (Some(1), Some(minor)) => minor,
        (Some(major), _) if major > 1 => u32::MAX,
        _ => 0,
    }
}

/// Fetches a string by the protocol that onnxruntime has for it: ask for the size, then for the bytes.
pub(super) fn read_string(
    mut fetch: impl FnMut(*mut c_char, *mut usize) -> Result<(), Error>,
) -> Result<String, Error> {
    let mut size = 0;
    fetch(ptr::null_mut(), &mut size)?;
    let mut bytes = with_room(size, "a text")?;
    bytes.resize(size, 0_u8);
    fetch(bytes.as_mut_ptr().cast(), &mut size)?;
    bytes.truncate(size);
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_version_is_the_minor_number() {
        assert_eq!(api_version("1.20.1"), 20);
        assert_eq!(api_version("1.24.4"), 24);
        assert_eq!(api_version("1.32.0+cann"), 32);
        assert_eq!(api_version("2.0.0"), u32::MAX);
        assert_eq!(api_version("0.9"), 0);
        assert_eq!(api_version("main"), 0);
    }

    #[test]
    fn strings_lose_their_terminator() {
        let text = read_string(|out, size| {
            // SAFETY: null asks for the size, and afterwards there is room for it.
            unsafe {
                *size = 3;
                if !out.is_null() {
                    ptr::copy_nonoverlapping(c"hi".as_ptr(), out, 3);
                }
            }
            Ok(())
        });
        assert_eq!(text.unwrap(), "hi");
    }
}
