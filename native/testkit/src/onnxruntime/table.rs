//! The table of functions, and how a library comes to it.

use std::ffi::{c_char, c_void};
use std::sync::OnceLock;

use ort_sys::{OrtApi, OrtApiBase, OrtKernelContext, OrtStatusPtr, stub};

use super::inference::*;
use super::kernel_context::*;
use super::kernel_info::*;
use super::registration::*;
use super::status::create_status;
use super::tensor::*;
use super::threads::in_turn;

/// What answers a version.
pub type Version = unsafe extern "system" fn() -> *const c_char;

/// An onnxruntime of a version, as a library gets to know it.
pub fn base(version: Version) -> OrtApiBase {
    OrtApiBase { GetApi: api, GetVersionString: version }
}

/// One that only makes statuses: every other function answers that it is not implemented.
pub fn bare_base(version: Version) -> OrtApiBase {
    OrtApiBase { GetApi: bare_api, GetVersionString: version }
}

/// One of a pool's functions: `KernelContext_ParallelFor`.
pub type ParallelFor = unsafe extern "system" fn(
    *const OrtKernelContext,
    unsafe extern "system" fn(*mut c_void, usize),
    usize,
    usize,
    *mut c_void,
) -> OrtStatusPtr;

/// A table with statuses and this pool.
pub fn table_with_pool(pool: ParallelFor) -> OrtApi {
    OrtApi { KernelContext_ParallelFor: pool, ..bare_table() }
}

pub(super) unsafe extern "system" fn api(_: u32) -> *const OrtApi {
    table()
}

pub(super) unsafe extern "system" fn bare_api(_: u32) -> *const OrtApi {
    static TABLE: OnceLock<OrtApi> = OnceLock::new();
    TABLE.get_or_init(bare_table)
}

pub(super) fn bare_table() -> OrtApi {
    // The stub's own takes the message over, onnxruntime copies it.
    OrtApi { CreateStatus: create_status, ..stub::api() }
}

/// The functions that an operator uses; the rest answer that they are not implemented.
pub(super) fn table() -> &'static OrtApi {
    static TABLE: OnceLock<OrtApi> = OnceLock::new();
    TABLE.get_or_init(|| OrtApi {
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
        KernelInfo_GetLogger: logger,
        KernelInfo_GetConfigEntries: config_entries,
        GetKeyValue: key_value,
        ReleaseKeyValuePairs: release_entries,
        KernelContext_GetInput: context_input,
        KernelContext_GetOutput: context_output,
        KernelContext_ParallelFor: in_turn,
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
        ..bare_table()
    })
}
