//! The exported functions, with the names, types and status codes of Ascend's headers.
//!
//! Each checks what it is given before it uses it, and none unwinds. Pointers that a caller owns (names, dimensions, host
//! memory, places for results) cannot be checked beyond null: they are valid for the call, or, for
//! [`aclrtMemcpyAsync`], until the stream is synchronised. That is each function's safety contract.
#![allow(non_snake_case, reason = "the names are Ascend's")]
#![allow(clippy::missing_safety_doc, reason = "the contract is the module's")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::sync::{Arc, Once};
use std::{ptr, slice};

use half::f16;

use crate::arguments::Arguments;
use crate::guard::{guard, guard_object};
use crate::inject;
use crate::memory::{Access, Place};
use crate::mode::strict;
use crate::state::{Kind, Object, State, report_at_exit, with_state};
use crate::status::{
    self, Checked, Family, INVALID_PARAM, NO_EXECUTOR, PARAM_INVALID, PARAM_NULLPTR, REPEAT_INITIALIZE, fail, report,
};
use crate::stream::Stream;
use crate::tensor::{DataType, MAX_RANK, Tensor, check_list};
use crate::{launch, operator};

/// Elements that an `aclIntArray` may have.
const MAX_INTS: u64 = 1 << 20;

unsafe extern "C" {
    fn atexit(callback: extern "C" fn()) -> c_int;
}

/// Starts the runtime. `config` is null or the path of a readable file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclInit(config: *const c_char) -> c_int {
    guard(Family::Acl, "aclInit", || {
        if !config.is_null() {
            // SAFETY: a zero-terminated string by contract.
            let path = unsafe { CStr::from_ptr(config) }.to_string_lossy();
            if !path.is_empty() && !Path::new(&*path).is_file() {
                return fail(INVALID_PARAM, format!("configPath {path:?} is not a file"));
            }
        }
        let once = strict(); // settles the mode for good
        with_state(|state| {
            if state.initialized {
                return fail(REPEAT_INITIALIZE, "called twice");
            }
            if state.finalized && once {
                return fail(REPEAT_INITIALIZE, "called again after aclFinalize; a process may call it once");
            }
            state.initialized = true;
            Ok(())
        })?;
        static AT_EXIT: Once = Once::new();
        AT_EXIT.call_once(|| {
            // SAFETY: a plain function; it is run before the library is unloaded.
            if unsafe { atexit(report_at_exit) } != 0 {
                report("leaks will not be reported at exit");
            }
        });
        Ok(())
    })
}

/// Stops the runtime, and reports objects that were not destroyed.
#[unsafe(no_mangle)]
pub extern "C" fn aclFinalize() -> c_int {
    guard(Family::Acl, "aclFinalize", || {
        with_state(|state| {
            state.check_initialized()?;
            if state.device_uses > 0 {
                report("aclFinalize before aclrtResetDevice");
            }
            state.report_leaks("at aclFinalize");
            state.initialized = false;
            state.finalized = true;
            Ok(())
        })
    })
}

/// Uses device 0, the only one, on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn aclrtSetDevice(device: i32) -> c_int {
    guard(Family::Acl, "aclrtSetDevice", || {
        with_state(|state| {
            state.check_initialized()?;
            check_device_id(device)?;
            state.set_device()
        })
    })
}

/// Undoes one `aclrtSetDevice`; the last one closes the device.
#[unsafe(no_mangle)]
pub extern "C" fn aclrtResetDevice(device: i32) -> c_int {
    guard(Family::Acl, "aclrtResetDevice", || {
        let closing = with_state(|state| {
            state.check_initialized()?;
            check_device_id(device)?;
            if state.device_uses == 0 {
                return fail(INVALID_PARAM, "the device is not set");
            }
            if state.device_uses == 1 {
                state.report_leaks("at aclrtResetDevice");
            }
            Ok(state.reset_device())
        })?;
        if let Some((handle, stream)) = closing {
            close(handle, stream);
        }
        Ok(())
    })
}

fn check_device_id(device: i32) -> Checked<()> {
    if device == 0 { Ok(()) } else { fail(INVALID_PARAM, format!("there is no device {device}, only device 0")) }
}

/// Ends a stream that is no longer in the state.
fn close(handle: usize, stream: Stream) {
    stream.close();
    with_state(|state| state.memory.settle(handle, u64::MAX));
}

/// Makes a stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtCreateStream(stream: *mut *mut c_void) -> c_int {
    guard(Family::Acl, "aclrtCreateStream", || {
        check_place("stream", stream)?;
        let handle = with_state(|state| {
            state.check_device(Family::Acl)?;
            Ok(state.insert(Object::Stream(Stream::new()?)))
        })?;
        // SAFETY: a place for a handle by contract.
        unsafe { stream.write(ptr::without_provenance_mut(handle)) };
        Ok(())
    })
}

/// Finishes a stream's work and ends it.
#[unsafe(no_mangle)]
pub extern "C" fn aclrtDestroyStream(stream: *mut c_void) -> c_int {
    guard(Family::Acl, "aclrtDestroyStream", || {
        let handle = not_null("stream", stream, INVALID_PARAM)?;
        let removed = with_state(|state| {
            if state.default_stream == Some(handle) {
                return fail(INVALID_PARAM, "the device's own stream is not the caller's to destroy");
            }
            state.remove("stream", handle, Kind::Stream, INVALID_PARAM)
        })?;
        if let Object::Stream(stream) = removed {
            close(handle, stream);
        }
        Ok(())
    })
}

/// Waits for a stream; a failure of its work since the last wait is told here, once.
#[unsafe(no_mangle)]
pub extern "C" fn aclrtSynchronizeStream(stream: *mut c_void) -> c_int {
    guard(Family::Acl, "aclrtSynchronizeStream", || {
        let (handle, queue, ticket) = with_state(|state| {
            state.check_device(Family::Acl)?;
            let (handle, stream) = state.stream(stream.addr(), Family::Acl)?;
            Ok((handle, Arc::clone(&stream.queue), stream.submitted))
        })?;
        let result = queue.wait(ticket);
        with_state(|state| state.memory.settle(handle, ticket));
        result
    })
}

/// Device memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMalloc(address: *mut *mut c_void, size: usize, policy: c_int) -> c_int {
    guard(Family::Acl, "aclrtMalloc", || {
        if !(0..=2).contains(&policy) {
            return fail(INVALID_PARAM, format!("policy {policy} is no aclrtMemMallocPolicy of 0 to 2"));
        }
        // SAFETY: the module's contract.
        unsafe { allocate(address, size, Place::Device) }
    })
}

/// Host memory that a device reaches.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMallocHost(address: *mut *mut c_void, size: usize) -> c_int {
    // SAFETY: the module's contract.
    guard(Family::Acl, "aclrtMallocHost", || unsafe { allocate(address, size, Place::Host) })
}

/// # Safety
///
/// `address` is null or a place for a pointer.
unsafe fn allocate(address: *mut *mut c_void, size: usize, place: Place) -> Checked<()> {
    check_place("the place for the address", address)?;
    let allocated = with_state(|state| {
        state.check_device(Family::Acl)?;
        state.memory.allocate(size, place)
    })?;
    // SAFETY: the caller's contract.
    unsafe { address.write(ptr::with_exposed_provenance_mut(allocated)) };
    Ok(())
}

/// Gives device memory back.
#[unsafe(no_mangle)]
pub extern "C" fn aclrtFree(address: *mut c_void) -> c_int {
    guard(Family::Acl, "aclrtFree", || release(address, Place::Device))
}

/// Gives host memory back.
#[unsafe(no_mangle)]
pub extern "C" fn aclrtFreeHost(address: *mut c_void) -> c_int {
    guard(Family::Acl, "aclrtFreeHost", || release(address, Place::Host))
}

fn release(address: *mut c_void, place: Place) -> Checked<()> {
    let address = not_null("the address", address, INVALID_PARAM)?;
    with_state(|state| {
        state.check_device(Family::Acl)?;
        state.memory.free(address, place)
    })
}

/// Copies, and returns when it is done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMemcpy(
    dst: *mut c_void,
    dst_max: usize,
    src: *const c_void,
    count: usize,
    kind: c_int,
) -> c_int {
    guard(Family::Acl, "aclrtMemcpy", || {
        with_state(|state| {
            check_copy(state, dst, dst_max, src, count, kind, None)?;
            // SAFETY: library memory was checked to hold the bytes and to be used by no queued work, and cannot be freed
            // while the state is locked; other memory is the caller's by contract.
            unsafe { ptr::copy(src.cast::<u8>(), dst.cast::<u8>(), count) };
            Ok(())
        })
    })
}

/// Copies in its turn on a stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtMemcpyAsync(
    dst: *mut c_void,
    dst_max: usize,
    src: *const c_void,
    count: usize,
    kind: c_int,
    stream: *mut c_void,
) -> c_int {
    guard(Family::Acl, "aclrtMemcpyAsync", || {
        with_state(|state| {
            state.check_device(Family::Acl)?;
            let (handle, _) = state.stream(stream.addr(), Family::Acl)?;
            check_copy(state, dst, dst_max, src, count, kind, Some(handle))?;
            let (from, to) = (src.expose_provenance(), dst.expose_provenance());
            let task = Box::new(move || {
                let (src, dst) =
                    (ptr::with_exposed_provenance::<u8>(from), ptr::with_exposed_provenance_mut::<u8>(to));
                // SAFETY: library memory was checked when the copy was queued and is kept until it is done; other memory
                // is the caller's by contract.
                unsafe { ptr::copy(src, dst, count) };
                Ok(())
            });
            let ticket = state.stream(handle, Family::Acl)?.1.submit(task);
            state.memory.note_use(handle, ticket, from, count, Access::Read);
            state.memory.note_use(handle, ticket, to, count, Access::Write);
            Ok(())
        })
    })
}

/// Checks a copy; `stream` is the one that it is queued on.
fn check_copy(
    state: &State,
    dst: *mut c_void,
    dst_max: usize,
    src: *const c_void,
    count: usize,
    kind: c_int,
    stream: Option<usize>,
) -> Checked<()> {
    state.check_device(Family::Acl)?;
    let dst = not_null("dst", dst, INVALID_PARAM)?;
    let src = not_null("src", src.cast_mut(), INVALID_PARAM)?;
    if count == 0 {
        return fail(INVALID_PARAM, "count is 0");
    }
    if count > dst_max {
        return fail(INVALID_PARAM, format!("count is {count}, and destMax is {dst_max}"));
    }
    let (from, to) = match kind {
        0 => (Some(Place::Host), Some(Place::Host)),
        1 => (Some(Place::Host), Some(Place::Device)),
        2 => (Some(Place::Device), Some(Place::Host)),
        3 => (Some(Place::Device), Some(Place::Device)),
        4 => (None, None),
        _ => return fail(INVALID_PARAM, format!("kind {kind} is no aclrtMemcpyKind of 0 to 4")),
    };
    for (what, address, wanted, access) in [("src", src, from, Access::Read), ("dst", dst, to, Access::Write)] {
        let memory = &state.memory;
        match (wanted, memory.place(address)) {
            // Any memory of the process is host memory, unless it is the device's.
            (None | Some(Place::Host), None) => continue,
            (Some(Place::Device), _) => memory.check_inside(what, address, count, Place::Device)?,
            (Some(Place::Host), Some(_)) => memory.check_inside(what, address, count, Place::Host)?,
            (None, Some(place)) => memory.check_inside(what, address, count, place)?,
        }
        memory.check_settled(what, address, count, access, stream)?;
    }
    Ok(())
}

/// What went wrong most recently on this thread since the last call, or null; valid until the next call.
#[unsafe(no_mangle)]
pub extern "C" fn aclGetRecentErrMsg() -> *const c_char {
    status::take_recent()
}

/// Describes memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclCreateTensor(
    view_dims: *const i64,
    view_dims_num: u64,
    data_type: c_int,
    stride: *const i64,
    offset: i64,
    format: c_int,
    storage_dims: *const i64,
    storage_dims_num: u64,
    data: *mut c_void,
) -> *mut c_void {
    guard_object("aclCreateTensor", || {
        // SAFETY: the module's contract: as many elements as are said.
        let (dims, storage) = unsafe {
            (
                list("viewDims", view_dims, view_dims_num, MAX_RANK)?,
                list("storageDims", storage_dims, storage_dims_num, MAX_RANK)?,
            )
        };
        let strides = match stride.is_null() {
            true => None,
            // SAFETY: as above; there is a stride for each dimension.
            false => Some(unsafe { list("stride", stride, view_dims_num, MAX_RANK) }?),
        };
        let tensor =
            Tensor::new(dims, DataType(data_type), strides, offset, format, &storage, data.expose_provenance())?;
        Ok(ptr::without_provenance_mut(with_state(|state| state.insert(Object::Tensor(Arc::new(tensor))))))
    })
}

/// Ends a description; the memory stays.
#[unsafe(no_mangle)]
pub extern "C" fn aclDestroyTensor(tensor: *const c_void) -> c_int {
    guard(Family::Aclnn, "aclDestroyTensor", || {
        let handle = not_null("tensor", tensor.cast_mut(), PARAM_NULLPTR)?;
        with_state(|state| state.remove("tensor", handle, Kind::Tensor, PARAM_INVALID)).map(drop)
    })
}

/// Copies integers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclCreateIntArray(value: *const i64, size: u64) -> *mut c_void {
    guard_object("aclCreateIntArray", || {
        // SAFETY: the module's contract: as many elements as are said.
        let values = unsafe { list("value", value, size, MAX_INTS) }?;
        Ok(ptr::without_provenance_mut(with_state(|state| state.insert(Object::IntArray(values.into())))))
    })
}

/// Ends a list of integers.
#[unsafe(no_mangle)]
pub extern "C" fn aclDestroyIntArray(array: *const c_void) -> c_int {
    guard(Family::Aclnn, "aclDestroyIntArray", || {
        let handle = not_null("array", array.cast_mut(), PARAM_NULLPTR)?;
        with_state(|state| state.remove("array", handle, Kind::IntArray, PARAM_INVALID)).map(drop)
    })
}

/// fp16 to fp32. Strictly as the device's own helper, which has no infinities and no NaN.
#[unsafe(no_mangle)]
pub extern "C" fn aclFloat16ToFloat(value: u16) -> f32 {
    let special = value & 0x7c00 == 0x7c00;
    if strict() && special {
        // The greatest exponent read as any other.
        let magnitude = 65536.0 * (1.0 + f32::from(value & 0x3ff) / 1024.0);
        return if value & 0x8000 == 0 { magnitude } else { -magnitude };
    }
    f16::from_bits(value).to_f32()
}

/// fp32 to the nearest fp16, ties to even. Strictly as the device's own helper, which saturates.
#[unsafe(no_mangle)]
pub extern "C" fn aclFloatToFloat16(value: f32) -> u16 {
    let rounded = f16::from_f32(value);
    if strict() && !rounded.is_finite() {
        let limit = if value.is_sign_negative() && !value.is_nan() { f16::MIN } else { f16::MAX };
        return limit.to_bits();
    }
    rounded.to_bits()
}

/// Starts the operator library; nothing is left to do. `config` is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn aclnnInit(_config: *const c_char) -> c_int {
    guard(Family::Aclnn, "aclnnInit", || Ok(()))
}

/// Stops the operator library.
#[unsafe(no_mangle)]
pub extern "C" fn aclnnFinalize() -> c_int {
    guard(Family::Aclnn, "aclnnFinalize", || Ok(()))
}

/// Keeps an executor beyond its second phase.
#[unsafe(no_mangle)]
pub extern "C" fn aclSetAclOpExecutorRepeatable(executor: *mut c_void) -> c_int {
    guard(Family::Aclnn, "aclSetAclOpExecutorRepeatable", || {
        let handle = not_null("executor", executor, PARAM_NULLPTR)?;
        with_state(|state| {
            state.executor(handle, NO_EXECUTOR)?.repeatable = true;
            Ok(())
        })
    })
}

/// Ends an executor that the second phase has not ended.
#[unsafe(no_mangle)]
pub extern "C" fn aclDestroyAclOpExecutor(executor: *mut c_void) -> c_int {
    guard(Family::Aclnn, "aclDestroyAclOpExecutor", || {
        let handle = not_null("executor", executor, PARAM_NULLPTR)?;
        with_state(|state| launch::destroy(state, handle))
    })
}

/// The first phase.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclnnMatmulCompressDequantGetWorkspaceSize(
    x1: *const c_void,
    x2: *const c_void,
    compress_index: *const c_void,
    bias: *const c_void,
    deq_scale: *const c_void,
    offset_w: *const c_void,
    offset_x: c_int,
    compress_info: *const c_void,
    out: *mut c_void,
    workspace_size: *mut u64,
    executor: *mut *mut c_void,
) -> c_int {
    guard(Family::Aclnn, "aclnnMatmulCompressDequantGetWorkspaceSize", || {
        let arguments = Arguments {
            x1: x1.addr(),
            x2: x2.addr(),
            compress_index: compress_index.addr(),
            bias: bias.addr(),
            deq_scale: deq_scale.addr(),
            offset_w: offset_w.addr(),
            offset_x,
            compress_info: compress_info.addr(),
            out: out.addr(),
        };
        if workspace_size.is_null() {
            return fail(PARAM_NULLPTR, "workspaceSize is null");
        }
        if executor.is_null() {
            return fail(PARAM_NULLPTR, "executor is null");
        }
        with_state(|state| {
            let (made, workspace) = operator::prepare(state, &arguments)?;
            let handle = state.insert(Object::Executor(made));
            // SAFETY: places for the results by contract.
            unsafe {
                workspace_size.write(workspace);
                executor.write(ptr::without_provenance_mut(handle));
            }
            Ok(())
        })
    })
}

/// The second phase.
#[unsafe(no_mangle)]
pub extern "C" fn aclnnMatmulCompressDequant(
    workspace: *mut c_void,
    workspace_size: u64,
    executor: *mut c_void,
    stream: *mut c_void,
) -> c_int {
    guard(Family::Aclnn, "aclnnMatmulCompressDequant", || {
        let handle = not_null("executor", executor, PARAM_NULLPTR)?;
        with_state(|state| launch::launch(state, handle, workspace.addr(), workspace_size, stream.addr()))
    })
}

/// The stand-in's own: replaces the failures to come, `FUNCTION:N,…`, as in `MCD_ACLNN_FAIL`; empty for none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcdAclnnFail(spec: *const c_char) -> c_int {
    guard(Family::Acl, "mcdAclnnFail", || {
        if spec.is_null() {
            return fail(INVALID_PARAM, "spec is null");
        }
        // SAFETY: a zero-terminated string by contract.
        inject::set(&unsafe { CStr::from_ptr(spec) }.to_string_lossy())
    })
}

/// The stand-in's own: how many objects and allocations are live.
#[unsafe(no_mangle)]
pub extern "C" fn mcdAclnnLiveObjects() -> u64 {
    with_state(|state| state.live() as u64)
}

fn check_place<T>(what: &str, place: *mut T) -> Checked<()> {
    if place.is_null() { fail(INVALID_PARAM, format!("{what} is null")) } else { Ok(()) }
}

fn not_null(what: &str, pointer: *mut c_void, code: i32) -> Checked<usize> {
    if pointer.is_null() { fail(code, format!("{what} is null")) } else { Ok(pointer.addr()) }
}

/// # Safety
///
/// `data` is null or points to `length` integers.
unsafe fn list(what: &str, data: *const i64, length: u64, limit: u64) -> Checked<Vec<i64>> {
    check_list(what, data.is_null(), length, limit)?;
    if length == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the caller's contract; the limit keeps the length small.
    Ok(unsafe { slice::from_raw_parts(data, length as usize) }.to_vec())
}
