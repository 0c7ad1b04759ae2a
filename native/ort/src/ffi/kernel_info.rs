//! A node, while its kernel is created.

use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::ptr;

use ort_sys::{OrtKernelInfo, OrtTensorTypeAndShapeInfo, OrtTypeInfo, OrtValue};

use super::api::{Api, call, read_string};
use super::element::{ElementType, MAX_RANK};
use super::error::Error;
use super::log;
use super::value::Value;

/// A node, while its kernel is created.
pub struct KernelInfo<'a> {
    api: Api,
    raw: *const OrtKernelInfo,
    lifetime: PhantomData<&'a ()>,
}

impl<'a> KernelInfo<'a> {
    /// # Safety
    ///
    /// `raw` is live for `'a`.
    pub unsafe fn new(api: Api, raw: *const OrtKernelInfo) -> Self {
        Self { api, raw, lifetime: PhantomData }
    }

    /// The node's name for messages; empty when the model gives none.
    pub fn node_name(&self) -> Result<String, Error> {
        // SAFETY: `raw` is live; `read_string` keeps to the size protocol.
        read_string(|out, size| unsafe { call!(self.api, KernelInfo_GetNodeName(self.raw, out, size)) })
            .map(shortened)
    }

    /// The inputs that the node lists, absent ones in the middle included.
    pub fn input_count(&self) -> Result<usize, Error> {
        let mut count = 0;
        // SAFETY: `raw` is live.
        unsafe { call!(self.api, KernelInfo_GetInputCount(self.raw, &mut count)) }?;
        Ok(count)
    }

    /// The name of an input that the node lists, for messages; empty when it is absent.
    pub fn input_name(&self, index: impl Into<usize>) -> Result<String, Error> {
        let index = index.into();
        // SAFETY: as in `node_name`.
        read_string(|out, size| unsafe { call!(self.api, KernelInfo_GetInputName(self.raw, index, out, size)) })
            .map(shortened)
    }

    /// The element type of a present input.
    pub fn input_type(&self, index: impl Into<usize>) -> Result<ElementType, Error> {
        let index = index.into();
        let mut info: *mut OrtTypeInfo = ptr::null_mut();
        // SAFETY: `raw` is live; the info is released below, once.
        unsafe { call!(self.api, KernelInfo_GetInputTypeInfo(self.raw, index, &mut info)) }?;
        let mut tensor: *const OrtTensorTypeAndShapeInfo = ptr::null();
        let mut element = ElementType(0);
        // SAFETY: `info` is live until its release, and `tensor` is a part of it. The element type is written as the
        // 32-bit number it is, so that one that the declarations do not know is no invalid enum.
        let result = unsafe {
            call!(self.api, CastTypeInfoToTensorInfo(info, &mut tensor)).and_then(|()| {
                if tensor.is_null() {
                    return Ok(());
                }
                call!(self.api, GetTensorElementType(tensor, ptr::from_mut(&mut element.0).cast()))
            })
        };
        // SAFETY: made above, released once.
        unsafe { ((*self.api.raw).ReleaseTypeInfo)(info) };
        result.map(|()| element)
    }

    /// An attribute that is a list of integers.
    pub fn ints(&self, name: &CStr) -> Result<Vec<i64>, Error> {
        let fetch = |out: *mut i64, size: &mut usize| {
            // SAFETY: a null buffer asks for the size; any other has room for `size` elements.
            unsafe { call!(self.api, KernelInfoGetAttributeArray_int64(self.raw, name.as_ptr(), out, size)) }
                .map_err(|error| error.within(&name.to_string_lossy()))
        };
        let mut size = 0;
        fetch(ptr::null_mut(), &mut size)?;
        if size > MAX_RANK {
            let name = name.to_string_lossy();
            return Err(Error::invalid(format!("{name} has {size} numbers; no more than {MAX_RANK} are read")));
        }
        let mut values = vec![0; size];
        fetch(values.as_mut_ptr(), &mut size)?;
        values.truncate(size);
        Ok(values)
    }

    /// An attribute that is a list of integers, if the node has it.
    pub fn optional_ints(&self, name: &CStr) -> Result<Option<Vec<i64>>, Error> {
        if self.has_attribute(name) { self.ints(name).map(Some) } else { Ok(None) }
    }

    /// Whether the node has an attribute, of whichever type.
    ///
    /// The API has no function that asks just this, and its status codes do not tell an absent attribute from one of
    /// another type. But one that is there answers to the function of its own type.
    fn has_attribute(&self, name: &CStr) -> bool {
        let (info, name) = (self.raw, name.as_ptr());
        let (mut integer, mut float, mut size) = (0_i64, 0_f32, 0_usize);
        // SAFETY: `raw` is live and the name zero-terminated; null buffers ask for the size.
        unsafe {
            call!(self.api, KernelInfoGetAttributeArray_int64(info, name, ptr::null_mut(), &mut size)).is_ok()
                || call!(self.api, KernelInfoGetAttribute_int64(info, name, &mut integer)).is_ok()
                || call!(self.api, KernelInfoGetAttribute_float(info, name, &mut float)).is_ok()
                || call!(self.api, KernelInfoGetAttributeArray_float(info, name, ptr::null_mut(), &mut size)).is_ok()
                || call!(self.api, KernelInfoGetAttribute_string(info, name, ptr::null_mut(), &mut size)).is_ok()
        }
    }

    /// An attribute that is an integer, if the node has it.
    pub fn optional_int(&self, name: &CStr) -> Result<Option<i64>, Error> {
        if !self.has_attribute(name) {
            return Ok(None);
        }
        let mut value = 0;
        // SAFETY: the name is zero-terminated and `value` takes the answer.
        unsafe { call!(self.api, KernelInfoGetAttribute_int64(self.raw, name.as_ptr(), &mut value)) }
            .map_err(|error| error.within(&name.to_string_lossy()))?;
        Ok(Some(value))
    }

    /// An input that is an initializer, in place; it lives as long as the session. None when it is computed.
    pub fn constant_input(&self, index: impl Into<usize>) -> Result<Option<Value<'a>>, Error> {
        let index = index.into();
        let mut constant: c_int = 0;
        let mut value: *const OrtValue = ptr::null();
        // SAFETY: `raw` is live.
        unsafe { call!(self.api, KernelInfoGetConstantInput_tensor(self.raw, index, &mut constant, &mut value)) }?;
        Ok((constant != 0 && !value.is_null()).then_some(Value { api: self.api, raw: value, lifetime: PhantomData }))
    }

    /// The address of the session's logger.
    pub fn logger(&self) -> Result<usize, Error> {
        let mut logger = ptr::null();
        // SAFETY: `raw` is live and keeps the logger.
        unsafe { call!(self.api, KernelInfo_GetLogger(self.raw, &mut logger)) }?;
        Ok(logger.expose_provenance())
    }

    /// Tells the session's log of something that its user may not expect.
    pub fn warn(&self, operator: &CStr, message: &str) -> Result<(), Error> {
        // SAFETY: `raw` is live and keeps the logger.
        unsafe { log::warn(self.api, ptr::with_exposed_provenance(self.logger()?), operator, message) }
    }

    /// A session config entry as it is when the session is created. The outer option is None when the running
    /// onnxruntime (before 1.24) cannot tell.
    pub fn config_entry(&self, key: &CStr) -> Result<Option<Option<String>>, Error> {
        if !self.api.newer() {
            return Ok(None);
        }
        let mut entries = ptr::null_mut();
        // SAFETY: `newer` says that the three functions exist. The value belongs to the entries, which are released
        // once, after it has been copied.
        unsafe {
            call!(self.api, KernelInfo_GetConfigEntries(self.raw, &mut entries))?;
            let value = ((*self.api.raw).GetKeyValue)(entries, key.as_ptr());
            let value = (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned());
            ((*self.api.raw).ReleaseKeyValuePairs)(entries);
            Ok(Some(value))
        }
    }
}

/// Bytes of a name at the most.
const NAME: usize = 500;

/// A name as messages have it, whatever its length in the file.
fn shortened(mut name: String) -> String {
    if name.len() > NAME {
        let end = (0..=NAME).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
        name.truncate(end);
        name.shrink_to_fit();
        name.push('…');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_messages_are_short() {
        assert_eq!(shortened("weight".into()), "weight");
        assert_eq!(shortened("w".repeat(500)).len(), 500);
        let name = shortened("x".to_owned() + &"ü".repeat(300)); // of which 500 bytes end within a letter
        assert!(name.len() == 499 + '…'.len_utf8() && name.ends_with("ü…"), "{}", name.len());
    }
}
