//! One call of a kernel, and the threads that it may use.

use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::ptr;

use ort_sys::{OrtKernelContext, OrtValue};

use super::api::{Api, call};
use super::error::Error;
use super::log;
use super::value::Value;

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
    pub fn input(&self, index: impl Into<usize>) -> Result<Value<'a>, Error> {
        let index = index.into();
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

    /// Tells the session's log of something that its user may not expect.
    pub fn warn(&self, operator: &CStr, message: &str) -> Result<(), Error> {
        let mut logger = ptr::null();
        // SAFETY: `raw` is live and keeps the logger.
        unsafe {
            call!(self.api, KernelContext_GetLogger(self.raw, &mut logger))?;
            log::warn(self.api, logger, operator, message)
        }
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
