//! The operator's two phases, and its executors.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use super::pointers::not_null;
use crate::arguments::Arguments;
use crate::guard::guard;
use crate::state::{Object, with_state};
use crate::status::{Family, NO_EXECUTOR, PARAM_NULLPTR, fail};
use crate::{launch, operator};

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
