//! CANN's libraries, opened by name, and the few functions that the hand-off calls.
//!
//! The names have changed between releases: the runtime was `libascendcl.so` before it was `libacl_rt.so`, and operators
//! moved from `libopapi.so` to `libopapi_math.so` to `libopapi_nn.so`. All that are there are opened, and each function is
//! taken from the first that has it.

use std::ffi::{CStr, OsString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::ffi::Error;

/// Libraries to open instead of searching, between them what the system puts between paths: colons, on Windows semicolons.
pub const LIBRARY_VARIABLE: &str = "MCD_ASCEND_LIBRARY";

const RUNTIME_NAMES: [&str; 2] = ["libacl_rt.so", "libascendcl.so"];
const BASE_NAMES: [&str; 1] = ["libnnopbase.so"];
const OPERATOR_NAMES: [&str; 3] = ["libopapi_nn.so", "libopapi_math.so", "libopapi.so"];
/// Where CANN is installed when no variable says so.
const DEFAULT_ROOTS: [&str; 2] = ["/usr/local/Ascend/cann", "/usr/local/Ascend/ascend-toolkit/latest"];
/// Variables that hold an installation's root.
const ROOT_VARIABLES: [&str; 2] = ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"];

const GET_WORKSPACE_SIZE: &CStr = c"aclnnMatmulCompressDequantGetWorkspaceSize";
const EXECUTE: &CStr = c"aclnnMatmulCompressDequant";
/// Only the stand-in has it.
const STAND_IN_MARK: &CStr = c"mcdAclnnLiveObjects";

const SUCCESS: c_int = 0;
/// Somebody else in the process has called `aclInit`, which is as good.
const REPEAT_INITIALIZE: c_int = 100_002;
const HOST_TO_DEVICE: c_int = 1;
const DEVICE_TO_HOST: c_int = 2;
const HUGE_FIRST: c_int = 0;
const FORMAT_ND: c_int = 2;

/// `aclDataType`.
#[derive(Debug, Clone, Copy)]
pub enum DataType {
    Float16 = 1,
    Int8 = 2,
    Int32 = 3,
    Uint64 = 10,
}

impl DataType {
    /// Bytes of an element.
    fn size(self) -> usize {
        match self {
            Self::Int8 => 1,
            Self::Float16 => 2,
            Self::Int32 => 4,
            Self::Uint64 => 8,
        }
    }
}

/// Declares the table of functions and how it is filled.
macro_rules! functions {
    ($($field:ident = $symbol:expr, fn($($argument:ty),*) -> $result:ty;)*) => {
        /// CANN's functions, with the types of its headers.
        struct Functions {
            $($field: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Functions {
            fn find(libraries: &[Library]) -> Result<Self, Error> {
                Ok(Self {
                    // SAFETY: the function of that name has this type.
                    $($field: unsafe { symbol(libraries, $symbol) }?,)*
                })
            }
        }
    };
}

functions! {
    init = c"aclInit", fn(*const c_char) -> c_int;
    set_device = c"aclrtSetDevice", fn(i32) -> c_int;
    create_stream = c"aclrtCreateStream", fn(*mut *mut c_void) -> c_int;
    destroy_stream = c"aclrtDestroyStream", fn(*mut c_void) -> c_int;
    synchronize_stream = c"aclrtSynchronizeStream", fn(*mut c_void) -> c_int;
    malloc = c"aclrtMalloc", fn(*mut *mut c_void, usize, c_int) -> c_int;
    free = c"aclrtFree", fn(*mut c_void) -> c_int;
    memcpy = c"aclrtMemcpy", fn(*mut c_void, usize, *const c_void, usize, c_int) -> c_int;
    recent_message = c"aclGetRecentErrMsg", fn() -> *const c_char;
    create_tensor = c"aclCreateTensor",
        fn(*const i64, u64, c_int, *const i64, i64, c_int, *const i64, u64, *mut c_void) -> *mut c_void;
    destroy_tensor = c"aclDestroyTensor", fn(*const c_void) -> c_int;
    create_int_array = c"aclCreateIntArray", fn(*const i64, u64) -> *mut c_void;
    destroy_int_array = c"aclDestroyIntArray", fn(*const c_void) -> c_int;
    set_repeatable = c"aclSetAclOpExecutorRepeatable", fn(*mut c_void) -> c_int;
    destroy_executor = c"aclDestroyAclOpExecutor", fn(*mut c_void) -> c_int;
    get_workspace_size = GET_WORKSPACE_SIZE,
        fn(
            *const c_void, *const c_void, *const c_void, *const c_void, *const c_void, *const c_void, c_int,
            *const c_void, *mut c_void, *mut u64, *mut *mut c_void
        ) -> c_int;
    execute = EXECUTE, fn(*mut c_void, u64, *mut c_void, *mut c_void) -> c_int;
}

/// An open library; stays open, for functions of it are called for as long as the process lives.
struct Library {
    name: String,
    handle: ManuallyDrop<libloading::Library>,
}

impl Library {
    fn open(name: &str) -> Result<Self, String> {
        // SAFETY: what a library does when it is loaded is its own affair; the user or the system has named it.
        let handle = unsafe { open_now(name) };
        let handle = handle.map_err(|error| error.to_string())?;
        Ok(Self { name: name.to_owned(), handle: ManuallyDrop::new(handle) })
    }

    /// A function, if the library has it.
    ///
    /// # Safety
    ///
    /// The function of that name has the type `F`, which is one of a function pointer.
    unsafe fn symbol<F: Copy>(&self, name: &CStr) -> Option<F> {
        // SAFETY: the caller's contract.
        unsafe { self.handle.get::<F>(name) }.ok().map(|found| *found)
    }

    fn has(&self, name: &CStr) -> bool {
        // SAFETY: the function is not called.
        unsafe { self.symbol::<unsafe extern "C" fn()>(name) }.is_some()
    }
}

/// Opens a library with all that it needs, so that what is missing is said here and not at some call.
///
/// # Safety
///
/// The library is one that may be loaded.
#[cfg(unix)]
unsafe fn open_now(name: &str) -> Result<libloading::Library, libloading::Error> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    // SAFETY: the caller's contract.
    unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL) }.map(Into::into)
}

/// As above; this is how Windows always does it. CANN is for Linux alone: here it can only be the stand-in.
///
/// # Safety
///
/// As above.
#[cfg(not(unix))]
unsafe fn open_now(name: &str) -> Result<libloading::Library, libloading::Error> {
    // SAFETY: the caller's contract.
    unsafe { libloading::Library::new(name) }
}

/// A function of the first library that has it. Both phases of the operator come from the same library, for several may
/// have them.
///
/// # Safety
///
/// As for [`Library::symbol`].
unsafe fn symbol<F: Copy>(libraries: &[Library], name: &CStr) -> Result<F, Error> {
    let phase = name == EXECUTE || name == GET_WORKSPACE_SIZE;
    let complete = |library: &&Library| !phase || (library.has(EXECUTE) && library.has(GET_WORKSPACE_SIZE));
    // SAFETY: the caller's contract.
    let found = libraries.iter().filter(complete).find_map(|library| unsafe { library.symbol(name) });
    found.ok_or_else(|| {
        let names: Vec<&str> = libraries.iter().map(|library| library.name.as_str()).collect();
        Error::device(format!("none of {} has the function {}", names.join(", "), name.to_string_lossy()))
    })
}

/// Opens what there is, or says what was searched.
fn open_libraries() -> Result<Vec<Library>, Error> {
    if let Ok(paths) = std::env::var(LIBRARY_VARIABLE) {
        return std::env::split_paths(&paths)
            .map(|path| path.display().to_string())
            .filter(|path| !path.is_empty())
            .map(|path| {
                Library::open(&path)
                    .map_err(|reason| Error::device(format!("{path}, which {LIBRARY_VARIABLE} names: {reason}")))
            })
            .collect();
    }
    let roots: Vec<PathBuf> = ROOT_VARIABLES
        .into_iter()
        .filter_map(|variable| std::env::var_os(variable).map(PathBuf::from))
        .chain(DEFAULT_ROOTS.into_iter().map(PathBuf::from))
        .collect();
    let mut libraries = Vec::new();
    let mut reasons = Vec::new();
    for names in [&RUNTIME_NAMES[..], &BASE_NAMES, &OPERATOR_NAMES] {
        let before = libraries.len();
        for name in names {
            let inside = roots.iter().map(|root| root.join("lib64").join(name)).filter(|path| path.exists());
            let candidates = std::iter::once((*name).to_owned()).chain(inside.map(|path| path.display().to_string()));
            for candidate in candidates {
                match Library::open(&candidate) {
                    Ok(library) => {
                        libraries.push(library);
                        break;
                    }
                    Err(reason) => reasons.push(reason),
                }
            }
        }
        if libraries.len() == before {
            let folders: Vec<String> = roots.iter().map(|root| root.join("lib64").display().to_string()).collect();
            return Err(Error::device(format!(
                "CANN was not found: searched for {} in the loader's path and in {} ({}). Source the set_env.sh of \
                 CANN",
                names.join(" or "),
                folders.join(", "),
                reasons.join("; ")
            )));
        }
    }
    Ok(libraries)
}

/// An initialised runtime; stays for good.
pub struct Runtime {
    /// What the variables were that the libraries were found by.
    source: Vec<Option<OsString>>,
    functions: Functions,
    /// Whether it is the CPU's stand-in rather than CANN.
    pub is_stand_in: bool,
}

impl Runtime {
    /// The process's runtime, opened and initialised at the first call.
    pub fn get() -> Result<&'static Self, Error> {
        static RUNTIMES: Mutex<Vec<&'static Runtime>> = Mutex::new(Vec::new());

        let source = [LIBRARY_VARIABLE].iter().chain(&ROOT_VARIABLES).map(std::env::var_os).collect::<Vec<_>>();
        let mut runtimes = RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = runtimes.iter().find(|runtime| runtime.source == source) {
            return Ok(known);
        }
        let libraries = open_libraries()?;
        let is_stand_in = libraries.iter().any(|library| library.has(STAND_IN_MARK));
        let runtime = Self { source, functions: Functions::find(&libraries)?, is_stand_in };
        // SAFETY: null asks for the default configuration.
        let status = unsafe { (runtime.functions.init)(ptr::null()) };
        if status != REPEAT_INITIALIZE {
            runtime.check("aclInit", status)?;
        }
        // `aclFinalize` is not called: the process may have other users of the runtime, and it is allowed once only.
        let runtime: &'static Self = Box::leak(Box::new(runtime));
        runtimes.push(runtime);
        Ok(runtime)
    }

    /// Turns a status into an error with the runtime's own words.
    fn check(&self, function: &str, status: c_int) -> Result<(), Error> {
        if status == SUCCESS {
            return Ok(());
        }
        Err(Error::device(format!("{function} returned {status}: {}", self.message())))
    }

    fn message(&self) -> String {
        // SAFETY: null, or a zero-terminated string that is valid until the next call on this thread.
        unsafe {
            let text = (self.functions.recent_message)();
            if text.is_null() {
                "the runtime gives no reason".into()
            } else {
                CStr::from_ptr(text).to_string_lossy().trim().to_owned()
            }
        }
    }

    /// Makes this thread one that uses a device; every thread has to.
    pub fn set_device(&self, device: i32) -> Result<(), Error> {
        // SAFETY: plain arguments.
        self.check("aclrtSetDevice", unsafe { (self.functions.set_device)(device) })
    }

    /// New memory on the device of this thread.
    pub fn allocate(&'static self, len: usize) -> Result<Arc<Memory>, Error> {
        let mut address = ptr::null_mut();
        // SAFETY: a place for the address.
        let status = unsafe { (self.functions.malloc)(&mut address, len, HUGE_FIRST) };
        self.check("aclrtMalloc", status)?;
        Ok(Arc::new(Memory { runtime: self, address, len }))
    }

    /// New memory with bytes in it.
    pub fn upload(&'static self, bytes: &[u8]) -> Result<Arc<Memory>, Error> {
        let memory = self.allocate(bytes.len())?;
        memory.write(bytes)?;
        Ok(memory)
    }

    /// A new stream.
    pub fn stream(&'static self) -> Result<Stream, Error> {
        let mut raw = ptr::null_mut();
        // SAFETY: a place for the handle.
        self.check("aclrtCreateStream", unsafe { (self.functions.create_stream)(&mut raw) })?;
        Ok(Stream { runtime: self, raw })
    }

    /// A list of integers.
    pub fn int_array(&'static self, values: &[i64]) -> Result<IntArray, Error> {
        // SAFETY: the values are copied.
        let raw = unsafe { (self.functions.create_int_array)(values.as_ptr(), values.len() as u64) };
        if raw.is_null() {
            return Err(Error::device(format!("aclCreateIntArray returned null: {}", self.message())));
        }
        Ok(IntArray { runtime: self, raw })
    }
}

/// Device memory, freed when dropped.
pub struct Memory {
    runtime: &'static Runtime,
    address: *mut c_void,
    len: usize,
}

// SAFETY: device memory belongs to the device, not to a thread.
unsafe impl Send for Memory {}
// SAFETY: as above; shared use is for reading an address.
unsafe impl Sync for Memory {}

impl Memory {
    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Copies bytes to its beginning.
    pub fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        // SAFETY: the source is live, and the runtime is told how much room there is.
        let status = unsafe {
            (self.runtime.functions.memcpy)(
                self.address,
                self.len,
                bytes.as_ptr().cast(),
                bytes.len(),
                HOST_TO_DEVICE,
            )
        };
        self.runtime.check("aclrtMemcpy", status)
    }

    /// Copies `len` bytes from its beginning.
    ///
    /// # Safety
    ///
    /// There is room for them at `out`.
    pub unsafe fn read(&self, out: *mut c_void, len: usize) -> Result<(), Error> {
        assert!(len <= self.len, "reads within the memory");
        // SAFETY: the caller's contract, and the check above.
        let status = unsafe { (self.runtime.functions.memcpy)(out, len, self.address, len, DEVICE_TO_HOST) };
        self.runtime.check("aclrtMemcpy", status)
    }

    /// Describes memory from a byte offset on; an error where the memory ends before the tensor.
    pub fn tensor(self: &Arc<Self>, offset: usize, dims: &[i64], data_type: DataType) -> Result<Arc<Tensor>, Error> {
        let size = |len: usize, &dim: &i64| len.checked_mul(usize::try_from(dim).ok()?);
        let end = dims.iter().try_fold(data_type.size(), size).and_then(|len| len.checked_add(offset));
        if end.is_none_or(|end| end > self.len) {
            let len = self.len;
            return Err(Error::device(format!(
                "a tensor {dims:?} of {data_type:?} from byte {offset} on does not fit into {len} bytes of device memory"
            )));
        }
        let mut strides = vec![1_i64; dims.len()];
        for at in (1..dims.len()).rev() {
            strides[at - 1] = strides[at].saturating_mul(dims[at]);
        }
        let rank = dims.len() as u64;
        // SAFETY: the lists have `rank` elements and are copied; the tensor lies inside of the memory, as was checked, and keeps
        // it alive.
        let raw = unsafe {
            (self.runtime.functions.create_tensor)(
                dims.as_ptr(),
                rank,
                data_type as c_int,
                strides.as_ptr(),
                0,
                FORMAT_ND,
                dims.as_ptr(),
                rank,
                self.address.wrapping_byte_add(offset),
            )
        };
        if raw.is_null() {
            return Err(Error::device(format!("aclCreateTensor returned null: {}", self.runtime.message())));
        }
        Ok(Arc::new(Tensor { runtime: self.runtime, raw, _memory: Arc::clone(self) }))
    }
}

/// Declares handles that are given back when dropped. A failure to do so has nobody to go to.
macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident { $($keeps:ident: $kept:ty)? }, $destroy:ident;)*) => {$(
        $(#[$doc])*
        pub struct $name {
            runtime: &'static Runtime,
            raw: *mut c_void,
            // Given back after the handle, which refers to it.
            $($keeps: $kept,)?
        }

        // SAFETY: handles belong to the runtime, not to a thread.
        unsafe impl Send for $name {}
        // SAFETY: as above; the runtime may be called from any thread, and calls with one handle are made under a lock.
        unsafe impl Sync for $name {}

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: made by the runtime, and given back once.
                unsafe { (self.runtime.functions.$destroy)(self.raw) };
            }
        }
    )*};
}

handles! {
    /// A description of memory.
    Tensor { _memory: Arc<Memory> }, destroy_tensor;
    /// A list of integers.
    IntArray {}, destroy_int_array;
    /// A stream; giving it back finishes its work.
    Stream {}, destroy_stream;
    /// What the first phase of the operator made, to be launched.
    Executor { _arguments: Arguments }, destroy_executor;
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: made by the runtime, and given back once.
        unsafe { (self.runtime.functions.free)(self.address) };
    }
}

/// The operator's arguments.
pub struct Arguments {
    pub x1: Arc<Tensor>,
    pub x2: Arc<Tensor>,
    pub compress_index: Arc<Tensor>,
    pub bias: Arc<Tensor>,
    pub deq_scale: Arc<Tensor>,
    pub compress_info: Arc<IntArray>,
    pub out: Arc<Tensor>,
}

impl Executor {
    /// The first phase: an executor, and the bytes of workspace that it needs.
    pub fn new(arguments: Arguments) -> Result<(Self, usize), Error> {
        let runtime = arguments.x1.runtime;
        let Arguments { x1, x2, compress_index, bias, deq_scale, compress_info, out } = &arguments;
        let tensors = [x1, x2, compress_index, bias, deq_scale, out];
        let runtimes = tensors.map(|tensor| tensor.runtime).into_iter().chain([compress_info.runtime]);
        assert!(runtimes.into_iter().all(|other| ptr::eq(other, runtime)), "handles of one runtime");
        let mut workspace = 0_u64;
        let mut raw = ptr::null_mut();
        // SAFETY: all handles are live and of this runtime, and there are places for the results.
        let status = unsafe {
            (runtime.functions.get_workspace_size)(
                arguments.x1.raw,
                arguments.x2.raw,
                arguments.compress_index.raw,
                arguments.bias.raw,
                arguments.deq_scale.raw,
                ptr::null(),
                0,
                arguments.compress_info.raw,
                arguments.out.raw,
                &mut workspace,
                &mut raw,
            )
        };
        runtime.check(&GET_WORKSPACE_SIZE.to_string_lossy(), status)?;
        // Ours from here on. One that is not repeatable would be the second phase's to give back, unless that fails.
        let executor = Self { runtime, raw, _arguments: arguments };
        // SAFETY: the handle is live.
        runtime.check("aclSetAclOpExecutorRepeatable", unsafe { (runtime.functions.set_repeatable)(raw) })?;
        let workspace = usize::try_from(workspace)
            .map_err(|_| Error::device(format!("the operator asks for {workspace} bytes of workspace")))?;
        Ok((executor, workspace))
    }

    /// The second phase: queues the work.
    ///
    /// # Safety
    ///
    /// The executor and the workspace, of as many bytes as it needs, live until the stream has been synchronised, and
    /// nothing else uses the workspace and the output until then. Workspace and stream are of the executor's runtime.
    pub unsafe fn launch(&self, workspace: Option<&Memory>, stream: &Stream) -> Result<(), Error> {
        let (address, len) = workspace.map_or((ptr::null_mut(), 0), |memory| (memory.address, memory.len as u64));
        // SAFETY: all handles are live; the rest is the caller's contract.
        let status = unsafe { (self.runtime.functions.execute)(address, len, self.raw, stream.raw) };
        self.runtime.check(&EXECUTE.to_string_lossy(), status)
    }
}

impl Stream {
    /// Waits until all work is done.
    pub fn synchronize(&self) -> Result<(), Error> {
        // SAFETY: the handle is live.
        let status = unsafe { (self.runtime.functions.synchronize_stream)(self.raw) };
        self.runtime.check("aclrtSynchronizeStream", status)
    }
}
