//! Enough of onnxruntime's C API for the operator to be registered, created, inferred and run, with a node and tensors that
//! are described freely. What onnxruntime promises of pointers and sizes holds; what it promises of values need not.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use ort_sys::stub::{self, Error};
use ort_sys::*;

/// A tensor of any description.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// ONNX's number of the type.
    pub element: i32,
    pub dims: Vec<i64>,
    /// Elements from `gap` on, which may put them off their alignment.
    pub bytes: Box<[u8]>,
    pub gap: usize,
    /// A run's output: the operator writes it. Inputs are lent to be read only.
    output: bool,
}

impl Tensor {
    pub fn new(element: i32, dims: &[i64], bytes: &[u8]) -> Self {
        Self { element, dims: dims.to_vec(), bytes: bytes.into(), gap: 0, output: false }
    }
    /// The elements' bytes.
    pub fn data(&self) -> &[u8] {
        &self.bytes[self.gap..]
    }
    /// As many elements as the shape has, zeros behind those that are there; the shape is cut down if it has too many.
    pub fn fit(&mut self, limit: usize) {
        let count =
            |dims: &[i64]| dims.iter().try_fold(1_usize, |count, &dim| count.checked_mul(usize::try_from(dim).ok()?));
        let count = match count(&self.dims) {
            Some(count) if count <= limit => count,
            Some(_) => {
                self.dims = vec![limit as i64];
                limit
            }
            // A shape that no tensor has: it must be refused before there is a question of data.
            None => 0,
        };
        let mut bytes = self.data().to_vec();
        bytes.resize(count * size_of_element(self.element), 0);
        bytes.splice(0..0, vec![0; self.gap]);
        self.bytes = bytes.into();
    }
}

/// Bytes of an element of a type; 8 for those that are not looked at.
pub fn size_of_element(element: i32) -> usize {
    match element {
        2 | 3 | 9 => 1,
        4 | 5 | 10 | 16 => 2,
        1 | 6 | 12 => 4,
        _ => 8,
    }
}

/// An input of a node.
#[derive(Debug, Clone)]
pub struct NodeInput {
    pub tensor: Tensor,
    /// An initializer.
    pub constant: bool,
}

/// A node in a session.
#[derive(Debug, Clone)]
pub struct Node {
    pub inputs: Vec<Option<NodeInput>>,
    pub compress_info: Option<Vec<i64>>,
    pub offset_x: Option<i64>,
    pub output_type: Option<i64>,
    pub x1_perm: Option<Vec<i64>>,
    pub y_perm: Option<Vec<i64>>,
    /// Session config entries.
    pub residency: Option<CString>,
    pub device: Option<CString>,
}

/// An operator as it was registered.
#[derive(Clone, Copy)]
pub struct Operator(*const OrtCustomOp);

// SAFETY: registered operators live for good (`mcd_ort` leaks them, since sessions keep pointers to them), are only read,
// and do not belong to a thread.
unsafe impl Send for Operator {}
// SAFETY: as above.
unsafe impl Sync for Operator {}

thread_local! {
    static REGISTERED: RefCell<Vec<Operator>> = const { RefCell::new(Vec::new()) };
    /// Objects that were lent and not given back.
    static LENT: Cell<isize> = const { Cell::new(0) };
}

/// The overloads as onnxruntime 1.20 and 1.32 get to know them.
pub fn operators(newer: bool) -> &'static [Operator] {
    static OPERATORS: OnceLock<[Vec<Operator>; 2]> = OnceLock::new();
    &OPERATORS.get_or_init(|| {
        [old as unsafe extern "system" fn() -> *const c_char, new].map(|version| {
            let base = OrtApiBase { GetApi: api, GetVersionString: version };
            // SAFETY: the base is live for the call, and the table that it leads to for good; the options are only handed
            // to `has_option` and `add_domain`, which do not look at them.
            let status = unsafe { mcd_ort::RegisterCustomOps(ptr::null_mut(), &base) };
            assert!(status.0.is_null());
            REGISTERED.take()
        })
    })[usize::from(newer)]
}

/// What became of a call: nothing, or the message of its status.
type Outcome = Result<(), String>;

fn outcome(status: OrtStatusPtr) -> Outcome {
    if status.0.is_null() {
        return Ok(());
    }
    // SAFETY: the status was made by this file, and is not used again.
    let message = unsafe { Error::consume_sys(status.0) }.message().to_owned();
    assert!(!message.contains("internal error"), "{message}");
    Err(message)
}

/// A kernel, released when dropped.
pub struct Kernel(Operator, *mut c_void);

impl Operator {
    fn table(&self) -> &OrtCustomOp {
        // SAFETY: registered operators live for good.
        unsafe { &*self.0 }
    }

    /// A kernel of a node.
    pub fn create(self, node: &Node) -> Result<Kernel, String> {
        let mut kernel = ptr::null_mut();
        let create = self.table().CreateKernelV2.expect("there is one");
        // SAFETY: the operator gets itself, a node that is live for the call, and a place for the kernel.
        let status = unsafe { create(self.0, table(), ptr::from_ref(node).cast(), &mut kernel) };
        let created = outcome(status);
        assert_eq!(LENT.get(), 0, "an object was not released");
        created.map(|()| Kernel(self, kernel))
    }

    /// The type and shape that are inferred for a node's output, if any; dimensions below zero are named.
    pub fn infer(self, node: &Node) -> Option<(i32, Vec<i64>)> {
        let infer = self.table().InferOutputShapeFn?;
        let context = Inference { node, inputs: RefCell::default(), output: RefCell::default() };
        // SAFETY: the operator gets itself and a context that is live for the call.
        let status = unsafe { infer(self.0, ptr::from_ref(&context).cast_mut().cast()) };
        outcome(status).expect("what cannot be inferred is left alone");
        assert_eq!(LENT.get(), 0, "an object was not released");
        context.output.into_inner().map(|info| (info.element, info.dims))
    }
}

impl Kernel {
    /// The output of one run.
    pub fn run(&self, node: &Node) -> Result<Tensor, String> {
        let mut context = Run { node, output: None };
        let compute = self.0.table().KernelComputeV2.expect("there is one");
        // SAFETY: the kernel is live, and so is the context, which nothing else uses during the call.
        let status = unsafe { compute(self.1, ptr::from_mut(&mut context).cast()) };
        assert_eq!(LENT.get(), 0, "an object was not released");
        outcome(status)?;
        Ok(*context.output.expect("a run without an error has an output"))
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let destroy = self.0.table().KernelDestroy.expect("there is one");
        // SAFETY: the kernel is live, and this is its last use.
        unsafe { destroy(self.1) };
    }
}

/// Type and shape.
struct Info {
    element: i32,
    dims: Vec<i64>,
    names: Vec<CString>,
}

struct Run<'a> {
    node: &'a Node,
    /// In a place of its own: the operator keeps its address while it asks the context for more.
    output: Option<Box<Tensor>>,
}

struct Inference<'a> {
    node: &'a Node,
    #[expect(clippy::vec_box, reason = "the operator keeps their addresses while the list grows")]
    inputs: RefCell<Vec<Box<Info>>>,
    output: RefCell<Option<Info>>,
}

unsafe extern "system" fn old() -> *const c_char {
    c"1.20.1".as_ptr()
}

unsafe extern "system" fn new() -> *const c_char {
    c"1.32.0".as_ptr()
}

unsafe extern "system" fn api(_: u32) -> *const OrtApi {
    table()
}

fn fail(message: &str) -> OrtStatusPtr {
    Error::new_sys(OrtErrorCode::ORT_FAIL, message)
}

fn done() -> OrtStatusPtr {
    OrtStatusPtr::default()
}

/// What a pointer that this file gave out points to.
///
/// # Safety
/// It points to a `T` that lives, and is not changed but in cells, for as long as the caller uses the answer.
unsafe fn at<'a, T, U>(pointer: *const U) -> &'a T {
    // SAFETY: the caller's contract.
    unsafe { &*pointer.cast::<T>() }
}

/// As many values as are said, at a place that may be null when there are none.
///
/// # Safety
/// Else they are there, and stay as they are for as long as the caller uses the answer.
unsafe fn slice<'a, T>(values: *const T, count: usize) -> &'a [T] {
    // SAFETY: the caller's contract.
    if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(values, count) } }
}

/// # Safety
/// `size` is a place for a number. A null `out` asks for that number, else there is room for as many bytes as it says.
unsafe fn string(text: &CStr, out: *mut c_char, size: *mut usize) -> OrtStatusPtr {
    let bytes = text.to_bytes_with_nul();
    // SAFETY: the caller's contract.
    unsafe {
        if !out.is_null() {
            if *size < bytes.len() {
                return fail("the buffer is too small");
            }
            ptr::copy_nonoverlapping(bytes.as_ptr(), out.cast(), bytes.len());
        }
        *size = bytes.len();
    }
    done()
}

fn info(tensor: &Tensor) -> Box<Info> {
    let names = tensor.dims.iter().enumerate().map(|(i, &dim)| match dim {
        0.. => CString::default(),
        -2 => CString::default(), // unknown, and without a name
        _ => CString::new(format!("d{i}")).expect("no zero"),
    });
    Box::new(Info { element: tensor.element, dims: tensor.dims.clone(), names: names.collect() })
}

fn lend<T>(info: Box<Info>) -> *mut T {
    LENT.set(LENT.get() + 1);
    Box::into_raw(info).cast()
}

/// # Safety
/// Null, or one of [`lend`]'s and its last use.
unsafe fn give_back<T>(info: *mut T) {
    if !info.is_null() {
        LENT.set(LENT.get() - 1);
        // SAFETY: the caller's contract.
        drop(unsafe { Box::from_raw(info.cast::<Info>()) });
    }
}

/// The functions that the operator uses; the rest of the table answers that it is not implemented.
fn table() -> &'static OrtApi {
    static TABLE: OnceLock<OrtApi> = OnceLock::new();
    TABLE.get_or_init(|| OrtApi {
        CreateStatus: create_status,
        HasSessionConfigEntry: has_option,
        CreateCustomOpDomain: create_domain,
        CustomOpDomain_Add: domain_add,
        AddCustomOpDomain: add_domain,
        KernelInfo_GetNodeName: node_name,
        KernelInfo_GetInputCount: input_count,
        KernelInfo_GetInputName: input_name,
        KernelInfo_GetInputTypeInfo: input_type_info,
        CastTypeInfoToTensorInfo: cast_type_info,
        ReleaseTypeInfo: release_type_info,
        KernelInfoGetConstantInput_tensor: constant_input,
        KernelInfoGetAttributeArray_int64: attribute_ints,
        KernelInfoGetAttribute_int64: attribute_int,
        KernelInfo_GetConfigEntries: config_entries,
        GetKeyValue: key_value,
        ReleaseKeyValuePairs: release_entries,
        KernelContext_GetInput: context_input,
        KernelContext_GetOutput: context_output,
        KernelContext_ParallelFor: parallel_for,
        GetTensorMutableData: tensor_data,
        GetTensorElementTypeAndShapeDataReference: tensor_shape,
        GetTensorTypeAndShape: tensor_info,
        GetTensorElementType: element_type,
        GetDimensionsCount: dimensions_count,
        GetDimensions: dimensions,
        GetSymbolicDimensions: symbolic_dimensions,
        ReleaseTensorTypeAndShapeInfo: release_tensor_info,
        TensorTypeAndShape_HasShape: has_shape,
        ShapeInferContext_GetInputTypeShape: infer_input,
        ShapeInferContext_GetAttribute: infer_attribute,
        ReadOpAttr: read_attribute,
        CreateTensorTypeAndShapeInfo: create_info,
        SetTensorElementType: set_element_type,
        SetDimensions: set_dimensions,
        SetSymbolicDimensions: set_symbolic_dimensions,
        ShapeInferContext_SetOutputTypeShape: infer_output,
        ..stub::api()
    })
}

unsafe extern "system" fn create_status(code: OrtErrorCode, message: *const c_char) -> OrtStatusPtr {
    // SAFETY: messages are zero-terminated.
    Error::new_sys(code, unsafe { CStr::from_ptr(message) }.to_string_lossy())
}

unsafe extern "system" fn has_option(_: *const OrtSessionOptions, _: *const c_char, out: *mut c_int) -> OrtStatusPtr {
    // SAFETY: a place for the answer.
    unsafe { *out = 0 };
    done()
}

unsafe extern "system" fn create_domain(_: *const c_char, out: *mut *mut OrtCustomOpDomain) -> OrtStatusPtr {
    // SAFETY: a place for the answer, which nothing looks behind.
    unsafe { *out = ptr::dangling_mut::<u64>().cast() };
    done()
}

unsafe extern "system" fn domain_add(_: *mut OrtCustomOpDomain, operator: *const OrtCustomOp) -> OrtStatusPtr {
    REGISTERED.with_borrow_mut(|registered| registered.push(Operator(operator)));
    done()
}

unsafe extern "system" fn add_domain(_: *mut OrtSessionOptions, _: *mut OrtCustomOpDomain) -> OrtStatusPtr {
    done()
}

unsafe extern "system" fn node_name(_: *const OrtKernelInfo, out: *mut c_char, size: *mut usize) -> OrtStatusPtr {
    // SAFETY: the caller keeps to the protocol that `string` asks for.
    unsafe { string(c"node", out, size) }
}

unsafe extern "system" fn input_count(node: *const OrtKernelInfo, out: *mut usize) -> OrtStatusPtr {
    // SAFETY: the node is live, and there is a place for the answer.
    unsafe { *out = at::<Node, _>(node).inputs.len() };
    done()
}

unsafe extern "system" fn input_name(
    node: *const OrtKernelInfo,
    index: usize,
    out: *mut c_char,
    size: *mut usize,
) -> OrtStatusPtr {
    // SAFETY: the node is live, and the caller keeps to the protocol that `string` asks for.
    unsafe {
        match at::<Node, _>(node).inputs.get(index) {
            None => fail("there is no such input"),
            Some(None) => string(c"", out, size),
            Some(Some(_)) => string(c"input", out, size),
        }
    }
}

unsafe extern "system" fn input_type_info(
    node: *const OrtKernelInfo,
    index: usize,
    out: *mut *mut OrtTypeInfo,
) -> OrtStatusPtr {
    // SAFETY: the node is live, and there is a place for the answer.
    unsafe {
        let Some(Some(input)) = at::<Node, _>(node).inputs.get(index) else { return fail("there is no such input") };
        *out = lend(info(&input.tensor));
    }
    done()
}

unsafe extern "system" fn cast_type_info(
    of: *const OrtTypeInfo,
    out: *mut *const OrtTensorTypeAndShapeInfo,
) -> OrtStatusPtr {
    // SAFETY: a place for the answer.
    unsafe { *out = of.cast() };
    done()
}

unsafe extern "system" fn release_type_info(of: *mut OrtTypeInfo) {
    // SAFETY: the caller's last use.
    unsafe { give_back(of) };
}

unsafe extern "system" fn release_tensor_info(of: *mut OrtTensorTypeAndShapeInfo) {
    // SAFETY: the caller's last use.
    unsafe { give_back(of) };
}

unsafe extern "system" fn constant_input(
    node: *const OrtKernelInfo,
    index: usize,
    constant: *mut c_int,
    out: *mut *const OrtValue,
) -> OrtStatusPtr {
    // SAFETY: the node is live, and there are places for the answers.
    unsafe {
        let input = at::<Node, _>(node).inputs.get(index).and_then(Option::as_ref).filter(|input| input.constant);
        *constant = c_int::from(input.is_some());
        *out = input.map_or(ptr::null(), |input| ptr::from_ref(&input.tensor).cast());
    }
    done()
}

unsafe extern "system" fn attribute_ints(
    node: *const OrtKernelInfo,
    name: *const c_char,
    out: *mut i64,
    size: *mut usize,
) -> OrtStatusPtr {
    // SAFETY: node and name are live, `size` is a place for a number, and `out` is null or has room for as many
    // numbers as that says.
    unsafe {
        let node = at::<Node, _>(node);
        let attributes =
            [(c"compress_info", &node.compress_info), (c"x1_perm", &node.x1_perm), (c"y_perm", &node.y_perm)];
        let asked = CStr::from_ptr(name);
        match attributes.into_iter().find(|(name, _)| *name == asked).and_then(|(_, values)| values.as_ref()) {
            Some(values) => {
                if !out.is_null() {
                    if *size < values.len() {
                        return fail("the buffer is too small");
                    }
                    ptr::copy_nonoverlapping(values.as_ptr(), out, values.len());
                }
                *size = values.len();
                done()
            }
            None => fail("No attribute with this name is defined."),
        }
    }
}

unsafe extern "system" fn attribute_int(
    node: *const OrtKernelInfo,
    name: *const c_char,
    out: *mut i64,
) -> OrtStatusPtr {
    // SAFETY: node and name are live, and there is a place for the answer.
    unsafe {
        let node = at::<Node, _>(node);
        let value = match CStr::from_ptr(name).to_bytes() {
            b"offset_x" => node.offset_x,
            b"output_type" => node.output_type,
            _ => None,
        };
        let Some(value) = value else { return fail("No attribute with name") };
        *out = value;
    }
    done()
}

unsafe extern "system" fn config_entries(
    node: *const OrtKernelInfo,
    out: *mut *mut OrtKeyValuePairs,
) -> OrtStatusPtr {
    LENT.set(LENT.get() + 1);
    // SAFETY: a place for the answer.
    unsafe { *out = node.cast_mut().cast() };
    done()
}

unsafe extern "system" fn key_value(entries: *const OrtKeyValuePairs, key: *const c_char) -> *const c_char {
    // SAFETY: the entries are the node that `config_entries` was asked about, which lives longer than they do; the key
    // is zero-terminated.
    let (node, key) = unsafe { (at::<Node, _>(entries), CStr::from_ptr(key)) };
    let entry = match key.to_bytes() {
        b"mcd.residency" => &node.residency,
        b"mcd.device" => &node.device,
        _ => &None,
    };
    entry.as_ref().map_or(ptr::null(), |text| text.as_ptr())
}

unsafe extern "system" fn release_entries(_: *mut OrtKeyValuePairs) {
    LENT.set(LENT.get() - 1);
}

unsafe extern "system" fn context_input(
    context: *const OrtKernelContext,
    index: usize,
    out: *mut *const OrtValue,
) -> OrtStatusPtr {
    // SAFETY: the context is live, and there is a place for the answer.
    unsafe {
        let input = at::<Run<'_>, _>(context).node.inputs.get(index).and_then(Option::as_ref);
        *out = input.map_or(ptr::null(), |input| ptr::from_ref(&input.tensor).cast());
    }
    done()
}

unsafe extern "system" fn context_output(
    context: *mut OrtKernelContext,
    index: usize,
    dims: *const i64,
    rank: usize,
    out: *mut *mut OrtValue,
) -> OrtStatusPtr {
    assert_eq!(index, 0);
    // SAFETY: the context is live, made of a `&mut Run`, and nothing else looks at it during this call; there are as many
    // dimensions as said, and a place for the answer.
    unsafe {
        let dims = slice(dims, rank);
        let count = dims.iter().try_fold(1_i64, |count, dim| count.checked_mul(*dim));
        let Some(count) = count.filter(|count| (0..1 << 20).contains(count)) else { return fail("too large") };
        // As many bytes as the widest output has; the element's size is the target's business.
        let tensor = Tensor { output: true, ..Tensor::new(0, dims, &vec![0xa5; count as usize * 4]) };
        let run = &mut *context.cast::<Run<'_>>();
        // A second one would free the first, which the operator may still write to.
        assert!(run.output.is_none(), "the output is asked for twice");
        *out = ptr::from_mut(&mut **run.output.insert(Box::new(tensor))).cast();
    }
    done()
}

unsafe extern "system" fn parallel_for(
    _: *const OrtKernelContext,
    task: unsafe extern "system" fn(*mut c_void, usize),
    total: usize,
    _: usize,
    data: *mut c_void,
) -> OrtStatusPtr {
    for index in (0..total).rev() {
        // SAFETY: the data is what the caller gave with the task, which it may be called with until this returns; onnxruntime
        // as well calls it once for each index.
        unsafe { task(data, index) };
    }
    done()
}

unsafe extern "system" fn tensor_data(value: *mut OrtValue, out: *mut *mut c_void) -> OrtStatusPtr {
    // SAFETY: the tensor is live, and there is a place for the answer. An output's pointer comes from `context_output`,
    // which made it of a `&mut Tensor`, so that one that may write can be had from it. An input's is made of a shared
    // reference, and so is the answer: onnxruntime forbids to write there as well.
    unsafe {
        let tensor = at::<Tensor, _>(value);
        *out = match tensor.data() {
            [] => ptr::null_mut(),
            _ if tensor.output => (*value.cast::<Tensor>()).bytes.as_mut_ptr().cast(),
            data => data.as_ptr().cast_mut().cast(),
        };
    }
    done()
}

unsafe extern "system" fn tensor_shape(
    value: *const OrtValue,
    element: *mut ONNXTensorElementDataType,
    dims: *mut *const i64,
    rank: *mut usize,
) -> OrtStatusPtr {
    // SAFETY: the tensor is live, and there are places for the answers, that of the type for a plain number: not every
    // one is a variant of the enumeration.
    unsafe {
        let tensor = at::<Tensor, _>(value);
        *element.cast() = tensor.element;
        *dims = tensor.dims.as_ptr();
        *rank = tensor.dims.len();
    }
    done()
}

unsafe extern "system" fn tensor_info(
    value: *const OrtValue,
    out: *mut *mut OrtTensorTypeAndShapeInfo,
) -> OrtStatusPtr {
    // SAFETY: the tensor is live, and there is a place for the answer.
    unsafe { *out = lend(info(at(value))) };
    done()
}

unsafe extern "system" fn element_type(
    of: *const OrtTensorTypeAndShapeInfo,
    out: *mut ONNXTensorElementDataType,
) -> OrtStatusPtr {
    // SAFETY: the info is live, and there is a place for a plain number, as above.
    unsafe { *out.cast() = at::<Info, _>(of).element };
    done()
}

unsafe extern "system" fn dimensions_count(of: *const OrtTensorTypeAndShapeInfo, out: *mut usize) -> OrtStatusPtr {
    // SAFETY: the info is live, and there is a place for the answer.
    unsafe { *out = at::<Info, _>(of).dims.len() };
    done()
}

unsafe extern "system" fn dimensions(
    of: *const OrtTensorTypeAndShapeInfo,
    out: *mut i64,
    len: usize,
) -> OrtStatusPtr {
    // SAFETY: the info is live, and there is room for `len` numbers.
    unsafe {
        let dims = &at::<Info, _>(of).dims;
        ptr::copy_nonoverlapping(dims.as_ptr(), out, dims.len().min(len));
    }
    done()
}

unsafe extern "system" fn symbolic_dimensions(
    of: *const OrtTensorTypeAndShapeInfo,
    out: *mut *const c_char,
    len: usize,
) -> OrtStatusPtr {
    // SAFETY: the info is live, and there is room for `len` names.
    unsafe {
        for (i, name) in at::<Info, _>(of).names.iter().enumerate().take(len) {
            *out.add(i) = name.as_ptr();
        }
    }
    done()
}

unsafe extern "system" fn has_shape(of: *const OrtTensorTypeAndShapeInfo) -> bool {
    // SAFETY: the info is live. A first dimension of -3 stands for a shape that is not known.
    unsafe { at::<Info, _>(of) }.dims.first() != Some(&-3)
}

unsafe extern "system" fn infer_input(
    context: *const OrtShapeInferContext,
    index: usize,
    out: *mut *mut OrtTensorTypeAndShapeInfo,
) -> OrtStatusPtr {
    // SAFETY: the context is live and keeps the info, and there is a place for the answer.
    unsafe {
        let context = at::<Inference<'_>, _>(context);
        match context.node.inputs.get(index) {
            None => return fail("there is no such input"),
            Some(None) => *out = ptr::null_mut(),
            Some(Some(input)) => {
                let mut inputs = context.inputs.borrow_mut();
                inputs.push(info(&input.tensor));
                *out = ptr::from_mut(&mut **inputs.last_mut().expect("it was pushed")).cast();
            }
        }
    }
    done()
}

unsafe extern "system" fn infer_attribute(
    context: *const OrtShapeInferContext,
    name: *const c_char,
    out: *mut *const OrtOpAttr,
) -> OrtStatusPtr {
    // SAFETY: context and name are live, and there is a place for the answer.
    unsafe {
        match &at::<Inference<'_>, _>(context).node.compress_info {
            Some(values) if CStr::from_ptr(name) == c"compress_info" => *out = ptr::from_ref(values).cast(),
            _ => return fail("there is no such attribute"),
        }
    }
    done()
}

unsafe extern "system" fn read_attribute(
    of: *const OrtOpAttr,
    kind: OrtOpAttrType,
    data: *mut c_void,
    len: usize,
    out: *mut usize,
) -> OrtStatusPtr {
    assert!(matches!(kind, OrtOpAttrType::ORT_OP_ATTR_INTS));
    // SAFETY: the attribute is live, there is room for `len` bytes where integers may lie, and a place for their number.
    unsafe {
        let values = at::<Vec<i64>, _>(of);
        *out = size_of_val(&values[..]);
        if len < *out {
            return fail("the buffer is too small");
        }
        ptr::copy_nonoverlapping(values.as_ptr(), data.cast(), values.len());
    }
    done()
}

unsafe extern "system" fn create_info(out: *mut *mut OrtTensorTypeAndShapeInfo) -> OrtStatusPtr {
    // SAFETY: a place for the answer.
    unsafe { *out = lend(Box::new(Info { element: 0, dims: Vec::new(), names: Vec::new() })) };
    done()
}

unsafe extern "system" fn set_element_type(
    of: *mut OrtTensorTypeAndShapeInfo,
    element: ONNXTensorElementDataType,
) -> OrtStatusPtr {
    // SAFETY: the info is the caller's own.
    unsafe { (*of.cast::<Info>()).element = element as i32 };
    done()
}

unsafe extern "system" fn set_dimensions(
    of: *mut OrtTensorTypeAndShapeInfo,
    dims: *const i64,
    rank: usize,
) -> OrtStatusPtr {
    // SAFETY: the info is the caller's own, and there are as many numbers as said.
    unsafe { (*of.cast::<Info>()).dims = slice(dims, rank).to_vec() };
    done()
}

unsafe extern "system" fn set_symbolic_dimensions(
    of: *mut OrtTensorTypeAndShapeInfo,
    names: *mut *const c_char,
    rank: usize,
) -> OrtStatusPtr {
    // SAFETY: the info is the caller's own, and there are as many names as said, zero-terminated.
    unsafe {
        let names = slice(names, rank);
        (*of.cast::<Info>()).names = names.iter().map(|&name| CStr::from_ptr(name).to_owned()).collect();
    }
    done()
}

unsafe extern "system" fn infer_output(
    context: *const OrtShapeInferContext,
    index: usize,
    of: *const OrtTensorTypeAndShapeInfo,
) -> OrtStatusPtr {
    assert_eq!(index, 0);
    // SAFETY: context and info are live.
    unsafe {
        let info = at::<Info, _>(of);
        assert_eq!(info.dims.len(), info.names.len());
        let copy = Info { element: info.element, dims: info.dims.clone(), names: info.names.clone() };
        *at::<Inference<'_>, _>(context).output.borrow_mut() = Some(copy);
    }
    done()
}
