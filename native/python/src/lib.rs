//! `mcd_graph._native`: conversion of arguments and errors; the work is done in the core, with the interpreter lock
//! released.

mod bus_error;
mod numpy_api;

use mcd_core::container::Decoded;
use mcd_core::parallel::Scoped;
use mcd_core::{
    CompressedWeight, EncodedWeight, Error, Kernel, Layout, PrepareOptions, PreparedWeight, Profile, Tiling,
    WeightType, WeightView, encode_packed,
};
use numpy::{
    Element, PyArray1, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyMemoryError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PySlice};
use std::mem::MaybeUninit;

pyo3::create_exception!(
    mcd_graph._native,
    FormatError,
    PyValueError,
    "The three tensors of a compressed weight do not fit together, are damaged, or were written by another version."
);

fn format_error(error: Error) -> PyErr {
    if matches!(error, Error::Memory { .. }) {
        return PyMemoryError::new_err(error.to_string());
    }
    FormatError::new_err(error.to_string())
}

fn argument_error(error: Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// A 1-D array of one-byte elements, read in place.
enum Bytes<'py> {
    I8(PyReadonlyArray1<'py, i8>),
    U8(PyReadonlyArray1<'py, u8>),
}

impl<'py> Bytes<'py> {
    fn new(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(a) = object.extract() {
            Ok(Self::I8(a))
        } else if let Ok(a) = object.extract() {
            Ok(Self::U8(a))
        } else {
            // An array comes from a model, so the file is wrong, not the call.
            let message = format!("{name} must be a 1-D array of int8 or uint8");
            let array = object.cast::<PyUntypedArray>().is_ok();
            Err(if array { FormatError::new_err(message) } else { PyTypeError::new_err(message) })
        }
    }

    fn as_slice(&self) -> PyResult<&[u8]> {
        match self {
            Self::I8(a) => Ok(as_bytes(a.as_slice()?)),
            Self::U8(a) => Ok(a.as_slice()?),
        }
    }
}

fn as_bytes(values: &[i8]) -> &[u8] {
    // SAFETY: i8 and u8 have the same size and alignment, and every bit pattern is valid in both.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}

/// A 2-D weight with strides that the core takes; `None` if they are negative.
fn view<'a, T: Element>(
    array: &'a PyReadonlyArray2<'_, T>,
    weight_type: WeightType,
) -> Option<Result<WeightView<'a>, Error>> {
    let (n, k) = (array.shape()[0], array.shape()[1]);
    if n == 0 || k == 0 {
        return Some(WeightView::new(&[], (n, k), (1, 1), weight_type));
    }
    let stride_n = usize::try_from(array.strides()[0]).ok()?;
    let stride_k = usize::try_from(array.strides()[1]).ok()?;
    let len = (n - 1) * stride_n + (k - 1) * stride_k + 1;
    // SAFETY: NumPy guarantees that every element lies inside the array's memory; with strides that are not negative
    // the elements span `len` bytes from the first one on. The array is borrowed for reading as long as the slice.
    let data = unsafe { std::slice::from_raw_parts(array.as_array().as_ptr().cast::<u8>(), len) };
    Some(WeightView::new(data, (n, k), (stride_n, stride_k), weight_type))
}

/// Calls `f` with a view of the weight, without the interpreter lock.
fn with_weight<R: Send>(
    py: Python<'_>,
    weight: &Bound<'_, PyAny>,
    f: impl Fn(&WeightView<'_>) -> Result<R, Error> + Send + Sync,
) -> PyResult<R> {
    let run = |view: Option<Result<WeightView<'_>, Error>>| match view {
        Some(Ok(view)) => py.detach(|| f(&view)).map_err(argument_error),
        Some(Err(error)) => Err(argument_error(error)),
        None => Err(PyValueError::new_err("weight has negative strides: pass a copy")),
    };
    if let Ok(array) = weight.extract::<PyReadonlyArray2<'_, i8>>() {
        run(view(&array, WeightType::I8))
    } else if let Ok(array) = weight.extract::<PyReadonlyArray2<'_, u8>>() {
        run(view(&array, WeightType::U8))
    } else {
        Err(PyTypeError::new_err("weight must be a 2-D array (n, k) of int8 or uint8"))
    }
}

type Tensors<'py> = (Bound<'py, PyArray1<i8>>, Bound<'py, PyArray1<i8>>, Bound<'py, PyArray1<i64>>);

fn signed(py: Python<'_>, bytes: Vec<u8>) -> Bound<'_, PyArray1<i8>> {
    let mut bytes = std::mem::ManuallyDrop::new(bytes);
    // SAFETY: the parts come from a Vec that is not used again; i8 and u8 have the same layout.
    let values = unsafe { Vec::from_raw_parts(bytes.as_mut_ptr().cast::<i8>(), bytes.len(), bytes.capacity()) };
    PyArray1::from_vec(py, values)
}

/// encode(weight, profile="balanced", tiling=(8, 8), packed=False) -> (x2, compress_index, compress_info)
///
/// weight: (n, k) int8 or uint8, any non-negative strides. tiling: fractals per tile along k and n. packed: as few bytes
/// as can be, for a weight that is decoded once.
/// Returns int8 (c,), int8 (8 * tiles,), int64 (5,). Raises ValueError for shapes and names it does not know.
#[pyfunction]
#[pyo3(signature = (weight, profile = "balanced", tiling = (8, 8), packed = false))]
fn encode<'py>(
    py: Python<'py>,
    weight: &Bound<'py, PyAny>,
    profile: &str,
    tiling: (usize, usize),
    packed: bool,
) -> PyResult<Tensors<'py>> {
    let profile = Profile::from_name(profile)
        .ok_or_else(|| PyValueError::new_err(format!("unknown profile {profile:?}: fast, balanced or small")))?;
    let tiling = Tiling { k: tiling.0, n: tiling.1 };
    let EncodedWeight { x2, compress_index, compress_info } = with_weight(py, weight, |view| {
        if packed { encode_packed(view, profile, tiling) } else { mcd_core::encode(view, profile, tiling) }
    })?;
    Ok((signed(py, x2), signed(py, compress_index), PyArray1::from_slice(py, &compress_info)))
}

/// entropy_bits(weight) -> float
///
/// Order-0 entropy of the weight (n, k), int8 or uint8, in bits per element.
#[pyfunction]
fn entropy_bits(py: Python<'_>, weight: &Bound<'_, PyAny>) -> PyResult<f64> {
    with_weight(py, weight, |view| Ok(view.histogram().order0_entropy_bits()))
}

/// histogram(weight) -> list[int]
///
/// Occurrences of each symbol: index = weight + 128 for int8, the weight itself for uint8.
#[pyfunction]
fn histogram(py: Python<'_>, weight: &Bound<'_, PyAny>) -> PyResult<Vec<u64>> {
    with_weight(py, weight, |view| Ok(view.histogram().counts().to_vec()))
}

/// The three tensors, borrowed from Python.
struct Borrowed<'py> {
    x2: Bytes<'py>,
    index: Bytes<'py>,
    info: Vec<i64>,
}

impl<'py> Borrowed<'py> {
    fn new(
        x2: &Bound<'py, PyAny>,
        compress_index: &Bound<'py, PyAny>,
        compress_info: &Bound<'py, PyAny>,
    ) -> PyResult<Self> {
        Ok(Self {
            x2: Bytes::new("x2", x2)?,
            index: Bytes::new("compress_index", compress_index)?,
            info: compress_info.try_iter()?.map(|v| v?.extract()).collect::<PyResult<_>>()?,
        })
    }

    fn with<R: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&[u8], &[u8], &[i64]) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        let (x2, index, info) = (self.x2.as_slice()?, self.index.as_slice()?, &self.info);
        py.detach(|| f(x2, index, info)).map_err(format_error)
    }
}

/// decode(x2, compress_index, compress_info, by_columns=False) -> ndarray
///
/// The weight (n, k), int8 or uint8; by_columns: in memory as the matrix (k, n). Checks everything; raises FormatError
/// with the reason.
#[pyfunction]
#[pyo3(signature = (x2, compress_index, compress_info, by_columns = false))]
fn decode<'py>(
    py: Python<'py>,
    x2: &Bound<'py, PyAny>,
    compress_index: &Bound<'py, PyAny>,
    compress_info: &Bound<'py, PyAny>,
    by_columns: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let tensors = Borrowed::new(x2, compress_index, compress_info)?;
    let weight = tensors.with(py, CompressedWeight::parse)?;
    let (n, k, weight_type) = (weight.geometry().n(), weight.geometry().k(), weight.weight_type());
    let (layout, shape) = if by_columns { (Layout::Kn, [k, n]) } else { (Layout::Nk, [n, k]) };
    let room = Room::new(py, n * k)?;
    // SAFETY: nobody else knows of the array, which lives to the end of this function.
    let out = unsafe { room.memory() };
    tensors.with(py, |x2, _, _| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        mcd_core::unpack_into(layout, weight, x2, Kernel::from_env()?, out, &Scoped(threads))
    })?;
    let matrix = room.array()?.reshape(shape)?.into_any();
    let matrix = match weight_type {
        WeightType::U8 => matrix,
        WeightType::I8 => matrix.call_method1("view", ("int8",))?,
    };
    if by_columns { matrix.getattr("T") } else { Ok(matrix) }
}

/// An array of bytes that begins on a cache line. NumPy's own memory, and not Rust's, because it asks for large pages:
/// the first touch of 16 MiB in small ones takes longer than decoding as much.
struct Room<'py> {
    bytes: Bound<'py, PyArray1<u8>>,
    /// Of a line in front.
    skipped: usize,
    len: usize,
}

impl<'py> Room<'py> {
    const LINE: usize = 64;

    /// # Errors
    ///
    /// There is not so much memory.
    fn new(py: Python<'py>, len: usize) -> PyResult<Self> {
        let bytes = py.import("numpy")?.call_method1("empty", (len + Self::LINE - 1, "uint8"))?;
        let bytes = bytes.cast_into::<PyArray1<u8>>()?;
        Ok(Self { skipped: bytes.data().align_offset(Self::LINE), bytes, len })
    }

    /// # Safety
    ///
    /// Nothing else uses the array while the memory is used, and it lives as long.
    unsafe fn memory<'a>(&self) -> &'a mut [MaybeUninit<u8>] {
        // SAFETY: the array has a line more than these, but for a byte; the caller answers for the rest.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.data().add(self.skipped).cast(), self.len) }
    }

    /// The array, without what was skipped.
    fn array(&self) -> PyResult<Bound<'py, PyArray1<u8>>> {
        let (start, end) = (self.skipped.cast_signed(), (self.skipped + self.len).cast_signed());
        Ok(self.bytes.get_item(PySlice::new(self.bytes.py(), start, end, 1))?.cast_into()?)
    }
}

/// verify(x2, compress_index, compress_info) -> None
///
/// Checks every checksum and every code word; raises FormatError with the reason.
#[pyfunction]
fn verify(
    py: Python<'_>,
    x2: &Bound<'_, PyAny>,
    compress_index: &Bound<'_, PyAny>,
    compress_info: &Bound<'_, PyAny>,
) -> PyResult<()> {
    Borrowed::new(x2, compress_index, compress_info)?
        .with(py, |x2, index, info| PreparedWeight::new(x2, index, info, PrepareOptions::from_env()?).map(drop))
}

/// memory_needed(index_bytes, compress_info, decoded) -> int
///
/// Bytes that loading a weight takes at the most, its own tensors and 1 MiB apart; `decoded`: that decoding takes.
#[pyfunction]
fn memory_needed(index_bytes: usize, compress_info: Vec<i64>, decoded: bool) -> u64 {
    mcd_core::container::memory_needed(index_bytes, &compress_info, decoded.then_some(Decoded::Plain))
}

/// inspect(x2, compress_index, compress_info) -> dict
///
/// Shape, type, code parameters and sizes, from header and index alone.
#[pyfunction]
fn inspect<'py>(
    py: Python<'py>,
    x2: &Bound<'py, PyAny>,
    compress_index: &Bound<'py, PyAny>,
    compress_info: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyDict>> {
    let tensors = Borrowed::new(x2, compress_index, compress_info)?;
    let weight = tensors.with(py, CompressedWeight::parse)?;
    let (geometry, stats) = (weight.geometry(), weight.stats());
    let dict = PyDict::new(py);
    dict.set_item("version", weight.version())?;
    dict.set_item("codec", weight.code().map_or("none", |_| "plane-golomb"))?;
    dict.set_item("profile", weight.profile().name())?;
    dict.set_item(
        "dtype",
        match weight.weight_type() {
            WeightType::I8 => "int8",
            WeightType::U8 => "uint8",
        },
    )?;
    dict.set_item("k", geometry.k())?;
    dict.set_item("n", geometry.n())?;
    dict.set_item("tiling", (geometry.tiling().k, geometry.tiling().n))?;
    dict.set_item("tiles", geometry.tiles())?;
    dict.set_item("coded_tiles", stats.coded_tiles)?;
    dict.set_item("raw_tiles", stats.raw_tiles)?;
    dict.set_item("constant_tiles", stats.constant_tiles)?;
    dict.set_item("payload_bytes", stats.payload_bytes)?;
    dict.set_item("stored_bytes", stats.stored_bytes)?;
    dict.set_item("root_bits", weight.code().map(|c| c.root_bits()))?;
    dict.set_item("step", weight.code().map(|c| c.step()))?;
    dict.set_item("levels", weight.code().map(|c| c.levels()))?;
    dict.set_item("ranks", weight.code().map(|c| c.order().stored_bytes()))?;
    Ok(dict)
}

/// kernels() -> list[str]
///
/// Names of the kernels that this processor runs, best first, as `MCD_KERNEL` takes them.
#[pyfunction]
fn kernels() -> Vec<&'static str> {
    Kernel::available().iter().map(Kernel::short_name).collect()
}

/// saturates_pairs() -> bool
///
/// Whether products of uint8 and int8 saturate in pairs on this processor: x86 with AVX2 and without VNNI.
#[pyfunction]
fn saturates_pairs() -> bool {
    mcd_core::dispatch::saturates_pairs()
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    numpy_api::fetch(module.py())?;
    module.add("FormatError", module.py().get_type::<FormatError>())?;
    module.add_function(wrap_pyfunction!(encode, module)?)?;
    module.add_function(wrap_pyfunction!(decode, module)?)?;
    module.add_function(wrap_pyfunction!(verify, module)?)?;
    module.add_function(wrap_pyfunction!(inspect, module)?)?;
    module.add_function(wrap_pyfunction!(memory_needed, module)?)?;
    module.add_function(wrap_pyfunction!(entropy_bits, module)?)?;
    module.add_function(wrap_pyfunction!(histogram, module)?)?;
    module.add_function(wrap_pyfunction!(kernels, module)?)?;
    module.add_function(wrap_pyfunction!(saturates_pairs, module)?)?;
    module.add_function(wrap_pyfunction!(bus_error::explain_bus_error, module)?)?;
    module.add_function(wrap_pyfunction!(bus_error::remove_at_bus_error, module)?)?;
    module.add_function(wrap_pyfunction!(bus_error::keep_at_bus_error, module)?)?;
    Ok(())
}
