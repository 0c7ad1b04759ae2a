//! onnxruntime's C API, as far as the operator uses it, behind types that are safe to use.
//!
//! Functions up to API version 20 (onnxruntime 1.20) are always there. Some of API version 24 are used where the running
//! onnxruntime has them: to borrow a tensor's shape without an allocation, to read session config entries from a kernel,
//! and to tell an unknown shape from a scalar's.

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::ptr;

use ort_sys::{
    ONNXTensorElementDataType, OrtApi, OrtApiBase, OrtErrorCode, OrtKernelContext, OrtKernelInfo, OrtLoggingLevel,
    OrtOpAttrType, OrtSessionOptions, OrtShapeInferContext, OrtStatusPtr, OrtTensorTypeAndShapeInfo, OrtTypeInfo,
    OrtValue,
};
use smallvec::SmallVec;

/// The API version that every function used unconditionally belongs to.
pub const API_VERSION: u32 = 20;

/// The API version of the functions that are used only where they exist.
const NEWER_API_VERSION: u32 = 24;

/// Why a session cannot be created or a run cannot go on.
#[derive(Debug)]
pub struct Error {
    code: OrtErrorCode,
    message: String,
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

    /// The same error, with what it is about in front.
    pub fn within(self, what: &str) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Element type of a tensor: ONNX's `TensorProto.DataType`, which onnxruntime shares for all types of tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElementType(pub i32);

impl ElementType {
    pub const FLOAT: Self = Self(1);
    pub const UINT8: Self = Self(2);
    pub const INT8: Self = Self(3);
    pub const INT32: Self = Self(6);
    pub const FLOAT16: Self = Self(10);
    pub const UINT64: Self = Self(13);
    pub const INT64: Self = Self(7);
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 17] = [
            "undefined",
            "float",
            "uint8",
            "int8",
            "uint16",
            "int16",
            "int32",
            "int64",
            "string",
            "bool",
            "float16",
            "double",
            "uint32",
            "uint64",
            "complex64",
            "complex128",
            "bfloat16",
        ];
        match usize::try_from(self.0).ok().and_then(|index| NAMES.get(index)) {
            Some(name) => f.write_str(name),
            None => write!(f, "element type {}", self.0),
        }
    }
}

/// A Rust type with the layout of a tensor's elements.
///
/// # Safety
///
/// Every bit pattern is a value, and size and alignment are those of the ONNX type.
pub unsafe trait Element: Copy + 'static {
    /// The ONNX type.
    const TYPE: ElementType;
}

// SAFETY: plain numbers of the width that ONNX gives the type.
unsafe impl Element for f32 {
    const TYPE: ElementType = ElementType::FLOAT;
}
// SAFETY: as above.
unsafe impl Element for u8 {
    const TYPE: ElementType = ElementType::UINT8;
}
// SAFETY: as above.
unsafe impl Element for i8 {
    const TYPE: ElementType = ElementType::INT8;
}
// SAFETY: as above.
unsafe impl Element for i32 {
    const TYPE: ElementType = ElementType::INT32;
}
// SAFETY: as above.
unsafe impl Element for i64 {
    const TYPE: ElementType = ElementType::INT64;
}
// SAFETY: as above.
unsafe impl Element for u64 {
    const TYPE: ElementType = ElementType::UINT64;
}
// SAFETY: `f16` is a transparent wrapper of u16.
unsafe impl Element for half::f16 {
    const TYPE: ElementType = ElementType::FLOAT16;
}

/// An element of one byte.
pub trait Byte: Element {}
impl Byte for u8 {}
impl Byte for i8 {}

/// The dimensions of a tensor; no allocation up to rank 8.
pub type Dims = SmallVec<[i64; 8]>;

/// A borrowed onnxruntime; as cheap to copy as a pointer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Api {
    /// Points to at least the functions of [`API_VERSION`], for as long as onnxruntime stays loaded.
    raw: *const OrtApi,
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

    /// Whether the functions of [`NEWER_API_VERSION`] are there.
    fn newer(self) -> bool {
        self.version >= NEWER_API_VERSION
    }

    /// A status that onnxruntime owns from now on.
    pub fn status(self, error: &Error) -> OrtStatusPtr {
        let message = CString::new(error.message.replace('\0', "")).unwrap_or_default();
        // SAFETY: CreateStatus copies the zero-terminated message.
        unsafe { ((*self.raw).CreateStatus)(error.code, message.as_ptr()) }
    }

    /// Takes a status over and releases it.
    fn check(self, status: OrtStatusPtr) -> Result<(), Error> {
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
fn read_string(mut fetch: impl FnMut(*mut c_char, *mut usize) -> Result<(), Error>) -> Result<String, Error> {
    let mut size = 0;
    fetch(ptr::null_mut(), &mut size)?;
    let mut bytes = vec![0_u8; size];
    fetch(bytes.as_mut_ptr().cast(), &mut size)?;
    bytes.truncate(size);
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// An attribute, if the node has it: the API has no other way to tell a missing one from one of another type.
fn optional<T>(attribute: Result<T, Error>) -> Result<Option<T>, Error> {
    match attribute {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.message.contains("No attribute with ") => Ok(None),
        Err(error) => Err(error),
    }
}

/// A node, while its kernel is created.
pub struct KernelInfo<'a> {
    api: Api,
    raw: *const OrtKernelInfo,
    lifetime: PhantomData<&'a ()>,
}

impl<'a> KernelInfo<'a> {
    /// # Safety
    ///
    /// `raw` is live for `'a`.
    pub unsafe fn new(api: Api, raw: *const OrtKernelInfo) -> Self {
        Self { api, raw, lifetime: PhantomData }
    }

    /// The node's name; empty when the model gives none.
    pub fn node_name(&self) -> Result<String, Error> {
        // SAFETY: `raw` is live; `read_string` keeps to the size protocol.
        read_string(|out, size| unsafe { call!(self.api, KernelInfo_GetNodeName(self.raw, out, size)) })
    }

    /// The inputs that the node lists, absent ones in the middle included.
    pub fn input_count(&self) -> Result<usize, Error> {
        let mut count = 0;
        // SAFETY: `raw` is live.
        unsafe { call!(self.api, KernelInfo_GetInputCount(self.raw, &mut count)) }?;
        Ok(count)
    }

    /// The name of an input that the node lists; empty when it is absent.
    pub fn input_name(&self, index: usize) -> Result<String, Error> {
        // SAFETY: as in `node_name`.
        read_string(|out, size| unsafe { call!(self.api, KernelInfo_GetInputName(self.raw, index, out, size)) })
    }

    /// The element type of a present input.
    pub fn input_type(&self, index: usize) -> Result<ElementType, Error> {
        let mut info: *mut OrtTypeInfo = ptr::null_mut();
        // SAFETY: `raw` is live; the info is released below, once.
        unsafe { call!(self.api, KernelInfo_GetInputTypeInfo(self.raw, index, &mut info)) }?;
        let mut tensor: *const OrtTensorTypeAndShapeInfo = ptr::null();
        let mut element = ElementType(0);
        // SAFETY: `info` is live until its release, and `tensor` is a part of it. The element type is written as the
        // 32-bit number it is, so that one that the declarations do not know is no invalid enum.
        let result = unsafe {
            call!(self.api, CastTypeInfoToTensorInfo(info, &mut tensor)).and_then(|()| {
                if tensor.is_null() {
                    return Ok(());
                }
                call!(self.api, GetTensorElementType(tensor, ptr::from_mut(&mut element.0).cast()))
            })
        };
        // SAFETY: made above, released once.
        unsafe { ((*self.api.raw).ReleaseTypeInfo)(info) };
        result.map(|()| element)
    }

    /// An attribute that is a list of integers.
    pub fn ints(&self, name: &CStr) -> Result<Vec<i64>, Error> {
        let fetch = |out: *mut i64, size: &mut usize| {
            // SAFETY: a null buffer asks for the size; any other has room for `size` elements.
            unsafe { call!(self.api, KernelInfoGetAttributeArray_int64(self.raw, name.as_ptr(), out, size)) }
                .map_err(|error| error.within(&name.to_string_lossy()))
        };
        let mut size = 0;
        fetch(ptr::null_mut(), &mut size)?;
        let mut values = vec![0; size];
        fetch(values.as_mut_ptr(), &mut size)?;
        values.truncate(size);
        Ok(values)
    }

    /// An attribute that is a list of integers, if the node has it.
    pub fn optional_ints(&self, name: &CStr) -> Result<Option<Vec<i64>>, Error> {
        optional(self.ints(name))
    }

    /// An attribute that is an integer, if the node has it.
    pub fn optional_int(&self, name: &CStr) -> Result<Option<i64>, Error> {
        let mut value = 0;
        // SAFETY: the name is zero-terminated and `value` takes the answer.
        let result = unsafe { call!(self.api, KernelInfoGetAttribute_int64(self.raw, name.as_ptr(), &mut value)) };
        optional(result.map(|()| value).map_err(|error| error.within(&name.to_string_lossy())))
    }

    /// An input that is an initializer, in place; it lives as long as the session. None when it is computed.
    pub fn constant_input(&self, index: usize) -> Result<Option<Value<'a>>, Error> {
        let mut constant: c_int = 0;
        let mut value: *const OrtValue = ptr::null();
        // SAFETY: `raw` is live.
        unsafe { call!(self.api, KernelInfoGetConstantInput_tensor(self.raw, index, &mut constant, &mut value)) }?;
        Ok((constant != 0 && !value.is_null()).then_some(Value { api: self.api, raw: value, lifetime: PhantomData }))
    }

    /// Tells the session's log of something that its user may not expect.
    pub fn warn(&self, message: &str) -> Result<(), Error> {
        let message = CString::new(message.replace('\0', "")).unwrap_or_default();
        let (file, function) = (c"mcd", c"MatmulCompressDequant");
        let level = OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING;
        let mut logger = ptr::null();
        // SAFETY: `raw` is live and keeps the logger; the texts are zero-terminated and copied.
        unsafe {
            call!(self.api, KernelInfo_GetLogger(self.raw, &mut logger))?;
            let (message, file, function) = (message.as_ptr(), file.as_ptr(), function.as_ptr());
            call!(self.api, Logger_LogMessage(logger, level, message, file, 0, function))
        }
    }

    /// A session config entry as it is when the session is created. The outer option is None when the running
    /// onnxruntime (before 1.24) cannot tell.
    pub fn config_entry(&self, key: &CStr) -> Result<Option<Option<String>>, Error> {
        if !self.api.newer() {
            return Ok(None);
        }
        let mut entries = ptr::null_mut();
        // SAFETY: `newer` says that the three functions exist. The value belongs to the entries, which are released
        // once, after it has been copied.
        unsafe {
            call!(self.api, KernelInfo_GetConfigEntries(self.raw, &mut entries))?;
            let value = ((*self.api.raw).GetKeyValue)(entries, key.as_ptr());
            let value = (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned());
            ((*self.api.raw).ReleaseKeyValuePairs)(entries);
            Ok(Some(value))
        }
    }
}

/// One call of a kernel.
pub struct KernelContext<'a> {
    api: Api,
    raw: *mut OrtKernelContext,
    lifetime: PhantomData<&'a ()>,
}

impl<'a> KernelContext<'a> {
    /// # Safety
    ///
    /// `raw` is live for `'a`, and no other `KernelContext` is made of it.
    pub unsafe fn new(api: Api, raw: *mut OrtKernelContext) -> Self {
        Self { api, raw, lifetime: PhantomData }
    }

    /// A present input.
    pub fn input(&self, index: usize) -> Result<Value<'a>, Error> {
        let mut value: *const OrtValue = ptr::null();
        // SAFETY: `raw` is live.
        unsafe { call!(self.api, KernelContext_GetInput(self.raw, index, &mut value)) }?;
        if value.is_null() {
            return Err(Error::invalid("there is no value"));
        }
        Ok(Value { api: self.api, raw: value, lifetime: PhantomData })
    }

    /// The address of output 0, made with `dims`; null when it has no elements.
    ///
    /// The memory is uninitialised, and `dims` tells its size.
    pub fn output(&self, dims: &[i64]) -> Result<*mut c_void, Error> {
        let mut value: *mut OrtValue = ptr::null_mut();
        let mut data = ptr::null_mut();
        // SAFETY: `raw` and `dims` are live; the value belongs to the context.
        unsafe {
            call!(self.api, KernelContext_GetOutput(self.raw, 0, dims.as_ptr(), dims.len(), &mut value))?;
            if value.is_null() {
                return Err(Error::internal("onnxruntime has no place for the output"));
            }
            call!(self.api, GetTensorMutableData(value, &mut data))?;
        }
        Ok(data)
    }

    /// The session's intra-op threads.
    pub fn threads(&self) -> Threads<'a> {
        Threads { api: self.api, raw: self.raw, lifetime: PhantomData }
    }
}

/// The intra-op threads of a session, for the time of a call.
#[derive(Clone, Copy)]
pub struct Threads<'a> {
    api: Api,
    raw: *const OrtKernelContext,
    lifetime: PhantomData<&'a ()>,
}

// SAFETY: `parallel_for` is all that can be done with it, which onnxruntime allows from a task as well.
unsafe impl Sync for Threads<'_> {}

impl Threads<'_> {
    /// Calls `task(data, i)` for all i below `tasks` on the session's intra-op threads, and returns when all are done.
    ///
    /// # Safety
    ///
    /// `task` may be called with `data` from several threads at once, and does not unwind.
    pub unsafe fn parallel_for(
        &self,
        task: unsafe extern "system" fn(*mut c_void, usize),
        tasks: usize,
        data: *mut c_void,
    ) -> Result<(), Error> {
        // Batches of 0: a thread takes one index after the other, so a slow thread does not hold up the rest.
        // SAFETY: `raw` is live; the rest is the caller's contract.
        unsafe { call!(self.api, KernelContext_ParallelFor(self.raw, task, tasks, 0, data)) }
    }
}

/// A dimension and the name of it, which is empty if it has none.
type NamedDim<'a> = (i64, &'a CStr);

/// What elementwise operators make of two shapes. None where they contradict each other, or where a dimension is not known
/// and may be either of two.
fn broadcast<'a>(left: &[NamedDim<'a>], right: &[NamedDim<'a>]) -> Option<SmallVec<[NamedDim<'a>; 8]>> {
    let rank = left.len().max(right.len());
    let at = |of: &[NamedDim<'a>], i: usize| (i + of.len()).checked_sub(rank).map_or((1, c""), |i| of[i]);
    (0..rank)
        .map(|i| match (at(left, i), at(right, i)) {
            ((1, _), other) | (other, (1, _)) => Some(other),
            (one, other) if one.0 >= 0 && one.0 == other.0 => Some(one),
            (one, other) if one.0 < 0 && other.0 < 0 => (one.1 == other.1).then_some(one),
            (one, other) if one.0 < 0 || other.0 < 0 => Some(if one.0 < 0 { other } else { one }),
            _ => None,
        })
        .collect()
}

/// A node, while onnxruntime infers the type and shape of its output.
pub struct ShapeContext<'a> {
    api: Api,
    raw: *mut OrtShapeInferContext,
    lifetime: PhantomData<&'a ()>,
}

impl<'a> ShapeContext<'a> {
    /// # Safety
    ///
    /// `raw` is live for `'a`, and [`Api::infers`].
    pub unsafe fn new(api: Api, raw: *mut OrtShapeInferContext) -> Self {
        Self { api, raw, lifetime: PhantomData }
    }

    /// The element type of an input; None when it is absent.
    pub fn input_type(&self, index: usize) -> Option<ElementType> {
        let mut element = ElementType(0);
        // SAFETY: the info is live. The element type is written as a plain number, as in `KernelInfo::input_type`.
        unsafe {
            let element = ptr::from_mut(&mut element.0).cast();
            call!(self.api, GetTensorElementType(self.input_info(index)?, element)).ok()?;
        }
        (element != ElementType(0)).then_some(element)
    }

    /// An attribute that is a list of `N` integers.
    pub fn ints<const N: usize>(&self, name: &CStr) -> Option<[i64; N]> {
        let mut attribute = ptr::null();
        let mut values = [0; N];
        let mut size = 0;
        // SAFETY: `raw` is live, the attribute belongs to it, and the buffer has the size that is said.
        unsafe {
            call!(self.api, ShapeInferContext_GetAttribute(self.raw, name.as_ptr(), &mut attribute)).ok()?;
            let (kind, data) = (OrtOpAttrType::ORT_OP_ATTR_INTS, values.as_mut_ptr().cast());
            call!(self.api, ReadOpAttr(attribute, kind, data, size_of_val(&values), &mut size)).ok()?;
        }
        (size == size_of_val(&values)).then_some(values)
    }

    /// Declares output 0: the shape of input 0 with another last dimension, broadcast with those of the inputs `beside`.
    /// Leaves it as it is when one of them is not known, or when an unknown dimension remains without a name, which
    /// onnxruntime would take for the number -1.
    pub fn set_output(&self, element: ONNXTensorElementDataType, last: i64, beside: &[usize]) -> Option<()> {
        let mut shape = self.shape(0)?;
        *shape.last_mut()? = (last, c"");
        for &index in beside {
            shape = broadcast(&shape, &self.shape(index)?)?;
        }
        if shape.iter().any(|(dim, name)| *dim < 0 && name.is_empty()) {
            return None;
        }
        let (rank, dims): (_, Dims) = (shape.len(), shape.iter().map(|(dim, _)| *dim).collect());
        let mut names: SmallVec<[*const c_char; 8]> = shape.iter().map(|(_, name)| name.as_ptr()).collect();
        // SAFETY: the buffers have the rank as length; the info is made here and released once.
        unsafe {
            let mut output = ptr::null_mut();
            call!(self.api, CreateTensorTypeAndShapeInfo(&mut output)).ok()?;
            let result = call!(self.api, SetTensorElementType(output, element))
                .and_then(|()| call!(self.api, SetDimensions(output, dims.as_ptr(), rank)))
                .and_then(|()| call!(self.api, SetSymbolicDimensions(output, names.as_mut_ptr(), rank)))
                .and_then(|()| call!(self.api, ShapeInferContext_SetOutputTypeShape(self.raw, 0, output)));
            ((*self.api.raw).ReleaseTensorTypeAndShapeInfo)(output);
            result.ok()
        }
    }

    /// The dimensions of an input with their names; those that are not known are below zero. None when not even the rank
    /// is known, and for scalars: onnxruntime tells of both the same.
    fn shape(&self, index: usize) -> Option<SmallVec<[NamedDim<'a>; 8]>> {
        let input = self.input_info(index)?;
        let mut rank = 0;
        // SAFETY: `input` is live, and the first function exists where onnxruntime may infer; the buffers have the rank as
        // length, and the names live as long as `input`, which `raw` keeps.
        unsafe {
            if !((*self.api.raw).TensorTypeAndShape_HasShape)(input) {
                return None;
            }
            call!(self.api, GetDimensionsCount(input, &mut rank)).ok()?;
            if rank == 0 {
                return None;
            }
            let mut dims = Dims::from_elem(0, rank);
            let mut names: SmallVec<[*const c_char; 8]> = SmallVec::from_elem(ptr::null(), rank);
            call!(self.api, GetDimensions(input, dims.as_mut_ptr(), rank)).ok()?;
            call!(self.api, GetSymbolicDimensions(input, names.as_mut_ptr(), rank)).ok()?;
            let name = |name: *const c_char| if name.is_null() { c"" } else { CStr::from_ptr(name) };
            Some(dims.iter().zip(&names).map(|(&dim, &of)| (dim, name(of))).collect())
        }
    }

    /// Type and shape of an input, as far as they are known.
    fn input_info(&self, index: usize) -> Option<*const OrtTensorTypeAndShapeInfo> {
        let mut info = ptr::null_mut();
        // SAFETY: `raw` is live and keeps the info.
        unsafe { call!(self.api, ShapeInferContext_GetInputTypeShape(self.raw, index, &mut info)) }.ok()?;
        (!info.is_null()).then_some(info.cast_const())
    }
}

/// A tensor that onnxruntime owns.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    api: Api,
    raw: *const OrtValue,
    lifetime: PhantomData<&'a ()>,
}

impl<'a> Value<'a> {
    /// Elements and dimensions of a tensor of type `T`: in place, or copied when they are not aligned, as a caller's own
    /// buffer or an initializer in a file may be.
    pub fn read<T: Element>(&self, dims: &mut Dims) -> Result<Cow<'a, [T]>, Error> {
        let (data, len) = self.elements::<T>(dims)?;
        Ok(if data.is_aligned() {
            // SAFETY: onnxruntime's tensor has `len` elements from `data` on, immutable while the value is lent; the
            // address is aligned, and not null.
            Cow::Borrowed(unsafe { std::slice::from_raw_parts(data, len) })
        } else {
            // SAFETY: as above, without the need for alignment.
            Cow::Owned((0..len).map(|i| unsafe { data.add(i).read_unaligned() }).collect())
        })
    }

    /// Elements and dimensions of a tensor of bytes, in place.
    pub fn read_bytes<T: Byte>(&self, dims: &mut Dims) -> Result<&'a [T], Error> {
        let (data, len) = self.elements::<T>(dims)?;
        // SAFETY: as in `read`; bytes need no alignment.
        Ok(unsafe { std::slice::from_raw_parts(data, len) })
    }

    /// The address and number of a tensor's elements, which are of type `T`; never null.
    fn elements<T: Element>(&self, dims: &mut Dims) -> Result<(*const T, usize), Error> {
        let element = self.shape(dims)?;
        if element != T::TYPE {
            return Err(Error::invalid(format!("is {element} instead of {}", T::TYPE)));
        }
        match element_count(dims)? {
            0 => Ok((ptr::dangling(), 0)),
            len => Ok((self.address()?.cast(), len)),
        }
    }

    /// The bytes of a tensor whose size is known already.
    ///
    /// # Safety
    ///
    /// The tensor has `len` bytes.
    pub unsafe fn bytes(&self, len: usize) -> Result<&'a [u8], Error> {
        if len == 0 {
            return Ok(&[]);
        }
        let data = self.address()?;
        // SAFETY: the caller's contract; bytes need no alignment.
        Ok(unsafe { std::slice::from_raw_parts(data, len) })
    }

    fn address(&self) -> Result<*const u8, Error> {
        let mut data: *mut c_void = ptr::null_mut();
        // SAFETY: the value is live; onnxruntime's signature wants it mutable, and nothing is written.
        unsafe { call!(self.api, GetTensorMutableData(self.raw.cast_mut(), &mut data)) }?;
        if data.is_null() {
            return Err(Error::invalid("has no data"));
        }
        Ok(data.cast())
    }

    /// Reads the dimensions, and returns the element type.
    fn shape(&self, dims: &mut Dims) -> Result<ElementType, Error> {
        dims.clear();
        let mut element = ElementType(0);
        if self.api.newer() {
            let mut data: *const i64 = ptr::null();
            let mut rank = 0;
            // SAFETY: `newer` says that the function exists; the dimensions belong to the value. The element type is
            // written as a plain number, as in `KernelInfo::input_type`.
            unsafe {
                let element = ptr::from_mut(&mut element.0).cast();
                call!(self.api, GetTensorElementTypeAndShapeDataReference(self.raw, element, &mut data, &mut rank))?;
                if rank > 0 {
                    dims.extend_from_slice(std::slice::from_raw_parts(data, rank));
                }
            }
            return Ok(element);
        }
        let mut info: *mut OrtTensorTypeAndShapeInfo = ptr::null_mut();
        // SAFETY: the value is live; the info is released below, once.
        unsafe { call!(self.api, GetTensorTypeAndShape(self.raw, &mut info)) }?;
        let mut rank = 0;
        // SAFETY: `info` is live, and `dims` has room for the rank it was asked for.
        let result = unsafe {
            call!(self.api, GetTensorElementType(info, ptr::from_mut(&mut element.0).cast()))
                .and_then(|()| call!(self.api, GetDimensionsCount(info, &mut rank)))
                .and_then(|()| {
                    dims.resize(rank, 0);
                    call!(self.api, GetDimensions(info, dims.as_mut_ptr(), rank))
                })
        };
        // SAFETY: made above, released once.
        unsafe { ((*self.api.raw).ReleaseTensorTypeAndShapeInfo)(info) };
        result.map(|()| element)
    }
}

/// The number of elements of a shape.
pub fn element_count(dims: &[i64]) -> Result<usize, Error> {
    dims.iter()
        .try_fold(1_usize, |count, &dim| count.checked_mul(usize::try_from(dim).ok()?))
        .ok_or_else(|| Error::invalid(format!("has the impossible shape {dims:?}")))
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
    fn shapes_are_broadcast_as_far_as_they_are_known() {
        let (b, s, none) = ((-1, c"b"), (-1, c"s"), (-1, c""));
        let n = |dim: i64| (dim, c"");
        for (left, right, expected) in [
            (&[b, s, n(8)][..], &[b, s, n(8)][..], Some(&[b, s, n(8)][..])),
            (&[b, n(1), n(8)], &[n(1), s, n(8)], Some(&[b, s, n(8)])),
            (&[s, n(8)], &[b, s, n(1)], Some(&[b, s, n(8)])),
            (&[b, n(8)], &[s, n(8)], None),
            (&[b, n(8)], &[n(3), none], Some(&[n(3), n(8)])),
            (&[none, n(8)], &[none, n(8)], Some(&[none, n(8)])),
            (&[n(2), n(8)], &[n(3), n(8)], None),
            (&[n(8)], &[], Some(&[n(8)])),
        ] {
            assert_eq!(broadcast(left, right).as_deref(), expected, "{left:?} {right:?}");
            assert_eq!(broadcast(right, left).as_deref(), expected, "{right:?} {left:?}");
        }
    }

    #[test]
    fn element_count_refuses_what_does_not_fit() {
        assert_eq!(element_count(&[]).unwrap(), 1);
        assert_eq!(element_count(&[2, 0, 3]).unwrap(), 0);
        assert_eq!(element_count(&[2, 5]).unwrap(), 10);
        assert!(element_count(&[-1]).is_err());
        assert!(element_count(&[i64::MAX, 4]).is_err());
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

    #[test]
    fn element_types_have_names() {
        assert_eq!(ElementType::UINT64.to_string(), "uint64");
        assert_eq!(ElementType(99).to_string(), "element type 99");
    }
}
