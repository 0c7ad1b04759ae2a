//! `mcd::MatmulCompressDequant` as onnxruntime sees it.
//!
//! The type of the output follows from the types of `deq_scale` and `y_zero_point`. A custom op may infer it by a
//! function, but onnxruntime before 1.24 crashes before it calls one, if an input is absent in the middle of the list,
//! as several of this operator's always are. So there is one overload per type of output, all of one name, and
//! onnxruntime takes the first whose declared types fit the inputs that are present. An overload without a scale, or
//! without `y_zero_point`, declares a type for it that no other one accepts, and so is taken only where the input is
//! absent. The shape of the output is inferred from 1.24 on; before, it is what the model's `value_info` says.

use std::ffi::{CStr, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use ort_sys::{
    ONNXTensorElementDataType as Type, OrtApi, OrtCustomOp, OrtCustomOpDomain, OrtCustomOpInputOutputCharacteristic,
    OrtKernelContext, OrtKernelInfo, OrtMemType, OrtSessionOptions, OrtShapeInferContext, OrtStatusPtr,
};
use smallvec::SmallVec;

use crate::ffi::{API_VERSION, Api, ElementType, Error, KernelContext, KernelInfo, ShapeContext};
use crate::guard;
use crate::options::Options;
use crate::place::Place;
use crate::weight::COMPRESS_INFO;

const DOMAIN: &CStr = c"mcd";
const NAME: &CStr = c"MatmulCompressDequant";

/// The inputs by position.
pub mod input {
    /// Activations, (..., k); float ones are quantised first.
    pub const X1: usize = 0;
    /// The compressed stream.
    pub const X2: usize = 1;
    /// The tile table.
    pub const COMPRESS_INDEX: usize = 2;
    /// Multiplier of the accumulator.
    pub const DEQ_SCALE: usize = 3;
    /// int32, added to the accumulator.
    pub const BIAS: usize = 4;
    /// Reserved by Ascend's operator; always absent.
    pub const OFFSET_W: usize = 5;
    /// Zero point of the activations.
    pub const X1_ZERO_POINT: usize = 6;
    /// Zero points of the weight.
    pub const W_ZERO_POINT: usize = 7;
    /// Float bias, added after the multiplication.
    pub const ADDEND: usize = 8;
    /// Zero point of a requantised output.
    pub const Y_ZERO_POINT: usize = 9;
    /// Scale of the activations, which `deq_scale` is multiplied by.
    pub const X1_SCALE: usize = 10;
    /// Scale by which a requantised result is made float again.
    pub const Y_SCALE: usize = 11;
    /// Shape that `x1` is brought to, its dimensions in another order.
    pub const X1_SHAPE: usize = 12;
    /// Shape that the result is brought to, before its dimensions get another order.
    pub const Y_SHAPE: usize = 13;
    /// What the float result is multiplied with, element by element.
    pub const GATE: usize = 14;
    /// What is added to the float result then, element by element.
    pub const RESIDUAL: usize = 15;
    /// How many there are.
    pub const COUNT: usize = 16;
    /// The names in the schema, for messages.
    pub const NAMES: [&str; COUNT] = [
        "x1",
        "x2",
        "compress_index",
        "deq_scale",
        "bias",
        "offset_w",
        "x1_zero_point",
        "w_zero_point",
        "addend",
        "y_zero_point",
        "x1_scale",
        "y_scale",
        "x1_shape",
        "y_shape",
        "gate",
        "residual",
    ];
}

/// What becomes of the integer accumulator; one overload of the operator each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// No scale: int32.
    Raw,
    /// float scale: float.
    Float,
    /// Scale as fp32 bits in uint64, as on Ascend: float16.
    Strict,
    /// float16 scale: float16.
    Half,
    /// float scale and a zero point: uint8.
    RequantU8,
    /// float scale and a zero point: int8.
    RequantI8,
    /// float scale, a zero point, and a scale of the result: requantised, and made float again.
    Dequantised,
}

/// Declared where an overload wants an input to be absent: no overload accepts it.
const ABSENT: Type = Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
/// Any type; the kernel checks it.
const ANY: Type = Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;

impl Form {
    /// In the order in which onnxruntime tries them: an absent input fits every overload, so those that want inputs
    /// to be absent come before those that want them to be there.
    const ALL: [Self; 7] =
        [Self::Raw, Self::Float, Self::Strict, Self::Half, Self::RequantU8, Self::RequantI8, Self::Dequantised];

    /// The type of the output.
    fn output(self) -> Type {
        match self {
            Self::Raw => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
            Self::Float | Self::Dequantised => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
            Self::Strict | Self::Half => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
            Self::RequantU8 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
            Self::RequantI8 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        }
    }

    /// The declared type of an input.
    fn input(self, index: usize) -> Type {
        match index {
            input::X2 | input::COMPRESS_INDEX | input::OFFSET_W => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
            input::BIAS => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
            input::X1_SCALE => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
            input::X1_SHAPE | input::Y_SHAPE => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
            input::DEQ_SCALE => match self {
                Self::Raw => ABSENT,
                Self::Float | Self::RequantU8 | Self::RequantI8 | Self::Dequantised => {
                    Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
                }
                Self::Strict => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
                Self::Half => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
            },
            input::Y_ZERO_POINT => match self {
                Self::RequantU8 | Self::RequantI8 => self.output(),
                Self::Dequantised => ANY,
                _ => ABSENT,
            },
            input::Y_SCALE => match self {
                Self::Dequantised => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                _ => ABSENT,
            },
            _ => ANY,
        }
    }

    /// The overload that onnxruntime takes for a node, by the types of those inputs of it that decide.
    fn of(types: [(usize, Option<ElementType>); 3]) -> Option<Self> {
        let fits = |form: &Self, index, present: Option<ElementType>| {
            present.is_none_or(|found| [found.0, ANY as i32].contains(&(form.input(index) as i32)))
        };
        Self::ALL.into_iter().find(|form| types.iter().all(|&(index, present)| fits(form, index, present)))
    }

    /// ONNX's number of the type of the output, as in the attribute `output_type`.
    pub fn output_type(self) -> i64 {
        self.output() as i64
    }
}

/// One overload. onnxruntime knows it by the address of `base`, and gives that to every callback.
#[repr(C)]
struct Overload {
    base: OrtCustomOp,
    form: Form,
    api: Api,
    options: Options,
}

impl Overload {
    fn new(form: Form, api: Api, options: Options) -> Self {
        Self {
            base: OrtCustomOp {
                version: API_VERSION,
                CreateKernel: None,
                GetName: Some(name),
                GetExecutionProviderType: Some(execution_provider),
                GetInputType: Some(input_type),
                GetInputTypeCount: Some(input_count),
                GetOutputType: Some(output_type),
                GetOutputTypeCount: Some(output_count),
                KernelCompute: None,
                KernelDestroy: Some(destroy_kernel),
                GetInputCharacteristic: Some(input_characteristic),
                GetOutputCharacteristic: Some(output_characteristic),
                GetInputMemoryType: Some(input_memory),
                GetVariadicInputMinArity: None,
                GetVariadicInputHomogeneity: None,
                GetVariadicOutputMinArity: None,
                GetVariadicOutputHomogeneity: None,
                CreateKernelV2: Some(create_kernel),
                KernelComputeV2: Some(compute),
                InferOutputShapeFn: api.infers().then_some(infer as _),
                GetStartVersion: None,
                GetEndVersion: None,
                GetMayInplace: None,
                ReleaseMayInplace: None,
                GetAliasMap: None,
                ReleaseAliasMap: None,
            },
            form,
            api,
            options,
        }
    }
}

/// A domain with its overloads, made once for each onnxruntime in the process and each set of options.
struct Domain {
    api: Api,
    options: Options,
    raw: *mut OrtCustomOpDomain,
}

// SAFETY: onnxruntime only reads a domain once it is made.
unsafe impl Send for Domain {}

/// Adds the operator to a session's options.
///
/// # Safety
///
/// `session_options` is live and belongs to `api`.
pub unsafe fn register(api: Api, session_options: *mut OrtSessionOptions) -> Result<(), Error> {
    // Sessions keep pointers to a domain and nothing tells when the last one has gone, so domains stay.
    static DOMAINS: Mutex<Vec<Domain>> = Mutex::new(Vec::new());

    // SAFETY: the caller's contract.
    let options = unsafe { Options::at_registration(api, session_options) }?;
    // SAFETY: the caller's contract.
    if unsafe { is_registered(api, session_options, &options) }? {
        return Ok(());
    }
    let mut domains = DOMAINS.lock().unwrap_or_else(PoisonError::into_inner);
    let known = domains.iter().find(|domain| domain.api == api && domain.options == options);
    let raw = match known {
        Some(domain) => domain.raw,
        None => {
            let overloads: &'static [Overload] =
                Box::leak(Box::new(Form::ALL.map(|form| Overload::new(form, api, options))));
            let operators = overloads.iter().map(|overload| ptr::from_ref(overload).cast());
            // SAFETY: the overloads live for good.
            let raw = unsafe { api.create_domain(DOMAIN, operators) }?;
            domains.push(Domain { api, options, raw });
            raw
        }
    };
    // SAFETY: the options are live, and the domain lives for good.
    unsafe {
        api.add_domain(session_options, raw)?;
        // The options have the domain. Without the mark, only a second registration would come to grief.
        let _ = api.set_session_config_entry(session_options, REGISTERED, &mark(session_options, &options));
    }
    Ok(())
}

/// Session config entry that marks options which have the domain: onnxruntime tells nobody which domains there are, and
/// refuses to create a session where one is there twice.
const REGISTERED: &CStr = c"mcd.registered";

/// What the mark says. Options that were cloned have the entries of the original, but not its domains, so it names the
/// options that it was put on.
fn mark(session_options: *const OrtSessionOptions, options: &Options) -> String {
    format!("{session_options:p} {options:?}")
}

/// Whether the options have the domain already.
///
/// # Safety
///
/// `session_options` is live and belongs to `api`.
unsafe fn is_registered(
    api: Api,
    session_options: *const OrtSessionOptions,
    options: &Options,
) -> Result<bool, Error> {
    // SAFETY: the caller's contract.
    let Some(found) = unsafe { api.session_config_entry(session_options, REGISTERED) }? else { return Ok(false) };
    if !found.starts_with(&format!("{session_options:p} ")) {
        return Ok(false);
    }
    // Where kernels are not told the entries, those of the first registration hold.
    if !api.tells_config_entries() && found != mark(session_options, options) {
        return Err(Error::invalid(
            "the library is registered with these session options already, and session config entries mcd.* have changed \
             since; before onnxruntime 1.24 they must be set before the library is registered",
        ));
    }
    Ok(true)
}

/// # Safety
///
/// `operator` is one that [`register`] handed to onnxruntime.
unsafe fn overload<'a>(operator: *const OrtCustomOp) -> &'a Overload {
    // SAFETY: the operator is the first field of an `Overload` that lives for good, and the pointer was made from
    // one to the whole.
    unsafe { &*operator.cast() }
}

unsafe extern "system" fn name(_: *const OrtCustomOp) -> *const std::ffi::c_char {
    NAME.as_ptr()
}

unsafe extern "system" fn execution_provider(_: *const OrtCustomOp) -> *const std::ffi::c_char {
    ptr::null() // the CPU's
}

unsafe extern "system" fn input_type(operator: *const OrtCustomOp, index: usize) -> Type {
    // SAFETY: onnxruntime hands back what it was given.
    unsafe { overload(operator) }.form.input(index)
}

unsafe extern "system" fn input_count(_: *const OrtCustomOp) -> usize {
    input::COUNT
}

unsafe extern "system" fn output_type(operator: *const OrtCustomOp, _: usize) -> Type {
    // SAFETY: onnxruntime hands back what it was given.
    unsafe { overload(operator) }.form.output()
}

unsafe extern "system" fn output_count(_: *const OrtCustomOp) -> usize {
    1
}

unsafe extern "system" fn input_characteristic(
    _: *const OrtCustomOp,
    index: usize,
) -> OrtCustomOpInputOutputCharacteristic {
    if index <= input::COMPRESS_INDEX {
        OrtCustomOpInputOutputCharacteristic::INPUT_OUTPUT_REQUIRED
    } else {
        OrtCustomOpInputOutputCharacteristic::INPUT_OUTPUT_OPTIONAL
    }
}

unsafe extern "system" fn output_characteristic(
    _: *const OrtCustomOp,
    _: usize,
) -> OrtCustomOpInputOutputCharacteristic {
    OrtCustomOpInputOutputCharacteristic::INPUT_OUTPUT_REQUIRED
}

unsafe extern "system" fn input_memory(_: *const OrtCustomOp, _: usize) -> OrtMemType {
    OrtMemType::OrtMemTypeDefault
}

unsafe extern "system" fn infer(operator: *const OrtCustomOp, context: *mut OrtShapeInferContext) -> OrtStatusPtr {
    // SAFETY: onnxruntime hands back what it was given.
    let overload = unsafe { overload(operator) };
    guard(overload.api, || {
        // SAFETY: the context is live for the call, and onnxruntime has this function only if it may infer.
        let context = unsafe { ShapeContext::new(overload.api, context) };
        // What cannot be inferred is left unknown: creating the kernel tells what is wrong, and where.
        infer_output(&context);
        Ok(())
    })
}

/// Declares the output of a node. All overloads share one inference function, so `Form` has to be found anew.
fn infer_output(context: &ShapeContext<'_>) -> Option<()> {
    if [input::X1_SHAPE, input::Y_SHAPE].into_iter().any(|index| context.input_type(index).is_some()) {
        return None;
    }
    let decisive = [input::DEQ_SCALE, input::Y_ZERO_POINT, input::Y_SCALE];
    let form = Form::of(decisive.map(|index| (index, context.input_type(index))))?;
    let [_, _, _, n, _] = context.ints::<5>(COMPRESS_INFO)?;
    if n < 0 {
        return None;
    }
    let beside = [input::GATE, input::RESIDUAL];
    let beside: SmallVec<[usize; 2]> =
        beside.into_iter().filter(|&index| context.input_type(index).is_some()).collect();
    context.set_output(form.output(), n, &beside)
}

unsafe extern "system" fn create_kernel(
    operator: *const OrtCustomOp,
    _: *const OrtApi,
    info: *const OrtKernelInfo,
    kernel: *mut *mut c_void,
) -> OrtStatusPtr {
    // SAFETY: onnxruntime hands back what it was given.
    let overload = unsafe { overload(operator) };
    guard(overload.api, || {
        // SAFETY: `info` is live for the call.
        let info = unsafe { KernelInfo::new(overload.api, info) };
        let options = overload.options.at_session(&info)?;
        let made = Place::new(overload.api, overload.form, options, &info)?;
        // SAFETY: onnxruntime gives a place for the kernel.
        unsafe { *kernel = Box::into_raw(Box::new(made)).cast() };
        Ok(())
    })
}

unsafe extern "system" fn compute(kernel: *mut c_void, context: *mut OrtKernelContext) -> OrtStatusPtr {
    // SAFETY: the kernel is one of `create_kernel`'s, and runs at the same time share it.
    let kernel = unsafe { &*kernel.cast::<Place>() };
    guard(kernel.api(), || {
        // SAFETY: the context is live for the call.
        let context = unsafe { KernelContext::new(kernel.api(), context) };
        kernel.compute(&context)
    })
}

unsafe extern "system" fn destroy_kernel(kernel: *mut c_void) {
    // SAFETY: the kernel is one of `create_kernel`'s, and this is its last use.
    let kernel = unsafe { Box::from_raw(kernel.cast::<Place>()) };
    // A panic has no status to go to here, and the memory is lost at worst.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(kernel)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_decide_the_output() {
        let (float, uint8, int8) = (Some(ElementType::FLOAT), Some(ElementType::UINT8), Some(ElementType::INT8));
        let uint64 = Some(ElementType::UINT64);
        for (deq_scale, y_zero_point, y_scale, form) in [
            (None, None, None, Some(Form::Raw)),
            (float, None, None, Some(Form::Float)),
            (uint64, None, None, Some(Form::Strict)),
            (Some(ElementType::FLOAT16), None, None, Some(Form::Half)),
            (float, uint8, None, Some(Form::RequantU8)),
            (float, int8, None, Some(Form::RequantI8)),
            (float, uint8, float, Some(Form::Dequantised)),
            (float, int8, float, Some(Form::Dequantised)),
            (int8, None, None, None),
            (uint64, int8, None, None),
            (uint64, int8, float, None),
        ] {
            let types =
                [(input::DEQ_SCALE, deq_scale), (input::Y_ZERO_POINT, y_zero_point), (input::Y_SCALE, y_scale)];
            assert_eq!(Form::of(types), form, "{types:?}");
        }
    }

    #[test]
    fn overloads_differ_in_an_input_or_the_output() {
        // onnxruntime refuses to register two kernels that could take the same node.
        for (i, a) in Form::ALL.iter().enumerate() {
            for b in &Form::ALL[i + 1..] {
                let differs =
                    (0..input::COUNT).any(|index| a.input(index) != b.input(index)) || a.output() != b.output();
                assert!(differs, "{a:?} {b:?}");
            }
        }
    }
}
