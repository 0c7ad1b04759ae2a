//! The operators as onnxruntime sees them: a table of callbacks for each overload, in one domain.

use std::ffi::{CStr, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use ort_sys::{
    ONNXTensorElementDataType as Type, OrtApi, OrtCustomOp, OrtCustomOpDomain, OrtCustomOpInputOutputCharacteristic,
    OrtKernelContext, OrtKernelInfo, OrtMemType, OrtSessionOptions, OrtShapeInferContext, OrtStatusPtr,
};

use crate::ffi::{API_VERSION, Api, Error, KernelContext, KernelInfo, ShapeContext};
use crate::guard::guard;
use crate::operator::{Kernel, Overload};
use crate::operators;
use crate::options::Options;

const DOMAIN: &CStr = c"mcd";

/// One overload. onnxruntime knows it by the address of `base`, and gives that to every callback.
#[repr(C)]
struct Registered {
    base: OrtCustomOp,
    overload: &'static dyn Overload,
    api: Api,
    options: Options,
}

impl Registered {
    fn new(overload: &'static dyn Overload, api: Api, options: Options) -> Self {
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
                InferOutputShapeFn: (api.infers() || overload.always_infers()).then_some(infer as _),
                GetStartVersion: None,
                GetEndVersion: None,
                GetMayInplace: None,
                ReleaseMayInplace: None,
                GetAliasMap: None,
                ReleaseAliasMap: None,
            },
            overload,
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

/// Adds the operators to a session's options.
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
            let overloads: Vec<Registered> =
                operators::overloads().map(|overload| Registered::new(overload, api, options)).collect();
            let operators = overloads.leak().iter().map(|overload| ptr::from_ref(overload).cast());
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
unsafe fn registered<'a>(operator: *const OrtCustomOp) -> &'a Registered {
    // SAFETY: the operator is the first field of a `Registered` that lives for good, and the pointer was made from
    // one to the whole.
    unsafe { &*operator.cast() }
}

unsafe extern "system" fn name(operator: *const OrtCustomOp) -> *const std::ffi::c_char {
    // SAFETY: onnxruntime hands back what it was given.
    unsafe { registered(operator) }.overload.name().as_ptr()
}

unsafe extern "system" fn execution_provider(_: *const OrtCustomOp) -> *const std::ffi::c_char {
    ptr::null() // the CPU's
}

unsafe extern "system" fn input_type(operator: *const OrtCustomOp, index: usize) -> Type {
    // SAFETY: onnxruntime hands back what it was given.
    unsafe { registered(operator) }.overload.input_type(index)
}

unsafe extern "system" fn input_count(operator: *const OrtCustomOp) -> usize {
    // SAFETY: onnxruntime hands back what it was given.
    unsafe { registered(operator) }.overload.inputs().len()
}

unsafe extern "system" fn output_type(operator: *const OrtCustomOp, _: usize) -> Type {
    // SAFETY: onnxruntime hands back what it was given.
    unsafe { registered(operator) }.overload.output_type()
}

unsafe extern "system" fn output_count(_: *const OrtCustomOp) -> usize {
    1
}

unsafe extern "system" fn input_characteristic(
    operator: *const OrtCustomOp,
    index: usize,
) -> OrtCustomOpInputOutputCharacteristic {
    // SAFETY: onnxruntime hands back what it was given.
    if unsafe { registered(operator) }.overload.inputs()[index].required {
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
    let registered = unsafe { registered(operator) };
    guard(registered.api, || {
        // SAFETY: the context is live for the call, and onnxruntime has this function only if it may infer.
        let context = unsafe { ShapeContext::new(registered.api, context) };
        // What cannot be inferred is left unknown: creating the kernel tells what is wrong, and where.
        let _ = registered.overload.infer(&context);
        Ok(())
    })
}

/// A node of a session.
struct Node {
    api: Api,
    /// What errors are about: the operator and the node's name.
    label: String,
    kernel: Box<dyn Kernel>,
}

unsafe extern "system" fn create_kernel(
    operator: *const OrtCustomOp,
    _: *const OrtApi,
    info: *const OrtKernelInfo,
    place: *mut *mut c_void,
) -> OrtStatusPtr {
    // SAFETY: onnxruntime hands back what it was given.
    let registered = unsafe { registered(operator) };
    guard(registered.api, || {
        // SAFETY: `info` is live for the call.
        let info = unsafe { KernelInfo::new(registered.api, info) };
        let options = registered.options.at_session(&info)?;
        let label = format!("{} node {:?}", registered.overload.name().to_string_lossy(), info.node_name()?);
        let kernel = registered.overload.bind(registered.api, options, &info);
        let made = Node { api: registered.api, kernel: kernel.map_err(|error| error.within(&label))?, label };
        // SAFETY: onnxruntime gives a place for the kernel.
        unsafe { *place = Box::into_raw(Box::new(made)).cast() };
        Ok(())
    })
}

unsafe extern "system" fn compute(kernel: *mut c_void, context: *mut OrtKernelContext) -> OrtStatusPtr {
    // SAFETY: the kernel is one of `create_kernel`'s, and runs at the same time share it.
    let node = unsafe { &*kernel.cast::<Node>() };
    guard(node.api, || {
        // SAFETY: the context is live for the call.
        let context = unsafe { KernelContext::new(node.api, context) };
        node.kernel.compute(&context).map_err(|error| error.within(&node.label))
    })
}

unsafe extern "system" fn destroy_kernel(kernel: *mut c_void) {
    // SAFETY: the kernel is one of `create_kernel`'s, and this is its last use.
    let kernel = unsafe { Box::from_raw(kernel.cast::<Node>()) };
    // A panic has no status to go to here, and the memory is lost at worst.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(kernel)));
}
