//! A tensor that this library makes, in memory of onnxruntime's.

use std::ffi::{CString, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use ort_sys::{ONNXTensorElementDataType, OrtSessionOptions, OrtValue};

use super::api::{Api, call};
use super::error::Error;

/// A tensor of bytes in memory of onnxruntime's; released when dropped, unless somebody else refers to it.
pub struct OwnedTensor {
    api: Api,
    raw: *mut OrtValue,
    len: usize,
}

// SAFETY: a value belongs to no thread.
unsafe impl Send for OwnedTensor {}

impl OwnedTensor {
    /// A tensor whose bytes are not set yet; its elements have one byte each.
    pub fn new(api: Api, element: ONNXTensorElementDataType, shape: &[i64]) -> Result<Self, Error> {
        let len = super::element::element_count(shape)?;
        let (mut allocator, mut raw) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the allocator is the process's, and lives as long as onnxruntime; the shape is read in the call.
        unsafe {
            call!(api, GetAllocatorWithDefaultOptions(&mut allocator))?;
            call!(api, CreateTensorAsOrtValue(allocator, shape.as_ptr(), shape.len(), element, &mut raw))?;
        }
        Ok(Self { api, raw, len })
    }

    /// Its memory, if it has `len` bytes.
    pub fn bytes_mut(&mut self, len: usize) -> Result<&mut [MaybeUninit<u8>], Error> {
        let mut data: *mut c_void = ptr::null_mut();
        // SAFETY: the value is live.
        unsafe { call!(self.api, GetTensorMutableData(self.raw, &mut data)) }?;
        if len != self.len || (data.is_null() && len > 0) {
            return Err(Error::internal("a new tensor has no memory"));
        }
        if len == 0 {
            return Ok(&mut []);
        }
        // SAFETY: the tensor has that many bytes, and is lent to nobody else.
        Ok(unsafe { std::slice::from_raw_parts_mut(data.cast(), len) })
    }
}

impl Drop for OwnedTensor {
    fn drop(&mut self) {
        // SAFETY: the value is live and ours.
        unsafe { ((*self.api.raw).ReleaseValue)(self.raw) };
    }
}

impl Api {
    /// Gives the data of external initializers, by their names, to a session's options, which share the tensors.
    ///
    /// # Safety
    ///
    /// `options` is a live `OrtSessionOptions`.
    pub unsafe fn add_external_initializers(
        self,
        options: *mut OrtSessionOptions,
        tensors: &[(String, OwnedTensor)],
    ) -> Result<(), Error> {
        let names = tensors.iter().map(|(name, _)| CString::new(name.as_str()));
        let names: Vec<CString> =
            names.collect::<Result<_, _>>().map_err(|_| Error::invalid("a name has a zero byte"))?;
        let texts: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        let values: Vec<_> = tensors.iter().map(|(_, tensor)| tensor.raw.cast_const()).collect();
        // SAFETY: the options are live, and names and values are for the call; onnxruntime takes shares of the values.
        unsafe { call!(self, AddExternalInitializers(options, texts.as_ptr(), values.as_ptr(), values.len())) }
    }
}
