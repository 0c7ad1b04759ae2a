//! Tensors that this library gives to onnxruntime.

use std::borrow::Cow;
use std::ffi::CString;
use std::ptr;

use ort_sys::{ONNXTensorElementDataType, OrtAllocatorType, OrtMemType, OrtSessionOptions, OrtValue};

use super::api::{Api, call};
use super::error::Error;

/// A tensor whose elements have one byte each.
pub struct ByteTensor {
    /// The initializer that it stands for.
    pub name: String,
    pub element: ONNXTensorElementDataType,
    pub shape: Vec<i64>,
    pub bytes: Cow<'static, [u8]>,
}

/// An `OrtValue` of this library's; released when dropped.
struct Owned {
    api: Api,
    raw: *mut OrtValue,
}

impl Owned {
    fn new(api: Api, tensor: &'static ByteTensor) -> Result<Self, Error> {
        let (mut info, mut raw) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the description is released once it has been read; the data lives for good, and onnxruntime reads it only.
        unsafe {
            let (allocator, memory) = (OrtAllocatorType::OrtDeviceAllocator, OrtMemType::OrtMemTypeDefault);
            call!(api, CreateCpuMemoryInfo(allocator, memory, &mut info))?;
            let data = tensor.bytes.as_ptr().cast_mut().cast();
            let (shape, element) = (&tensor.shape, tensor.element);
            let made = call!(
                api,
                CreateTensorWithDataAsOrtValue(
                    info,
                    data,
                    tensor.bytes.len(),
                    shape.as_ptr(),
                    shape.len(),
                    element,
                    &mut raw
                )
            );
            ((*api.raw).ReleaseMemoryInfo)(info);
            made?;
        }
        Ok(Self { api, raw })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the value is live and ours.
        unsafe { ((*self.api.raw).ReleaseValue)(self.raw) };
    }
}

impl Api {
    /// Gives the data of external initializers, by their names, to a session's options. onnxruntime uses it in place.
    ///
    /// # Safety
    ///
    /// `options` is a live `OrtSessionOptions`.
    pub unsafe fn add_external_initializers(
        self,
        options: *mut OrtSessionOptions,
        tensors: &'static [ByteTensor],
    ) -> Result<(), Error> {
        let names = tensors.iter().map(|tensor| CString::new(tensor.name.as_str()));
        let names: Vec<CString> =
            names.collect::<Result<_, _>>().map_err(|_| Error::invalid("a name has a zero byte"))?;
        let texts: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        let values: Vec<Owned> = tensors.iter().map(|tensor| Owned::new(self, tensor)).collect::<Result<_, _>>()?;
        let raw: Vec<_> = values.iter().map(|value| value.raw.cast_const()).collect();
        // SAFETY: the options are live, and names and values are for the call; onnxruntime takes shares of the values.
        unsafe { call!(self, AddExternalInitializers(options, texts.as_ptr(), raw.as_ptr(), raw.len())) }
    }
}
