//! A tensor that onnxruntime owns.

use std::borrow::Cow;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr;

use ort_sys::{OrtTensorTypeAndShapeInfo, OrtValue};

use super::api::{Api, call};
use super::element::{Byte, Dims, Element, ElementType, MAX_RANK, element_count};
use super::error::{Error, with_room};

/// A tensor that onnxruntime owns.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    pub(super) api: Api,
    pub(super) raw: *const OrtValue,
    pub(super) lifetime: PhantomData<&'a ()>,
}

impl<'a> Value<'a> {
    /// Elements and dimensions of a tensor of type `T`: in place, or copied when they are not aligned, as a caller's own
    /// buffer or an initializer in a file may be.
    pub fn read<T: Element>(&self, dims: &mut Dims) -> Result<Cow<'a, [T]>, Error> {
        let (data, len) = self.elements::<T>(dims)?;
        Ok(if data.is_aligned() {
            // SAFETY: onnxruntime's tensor has `len` elements from `data` on, immutable while the value is lent; the
            // address is aligned, and not null.
            Cow::Borrowed(unsafe { std::slice::from_raw_parts(data, len) })
        } else {
            let mut elements = with_room(len, "a tensor that is not aligned")?;
            // SAFETY: as above, without the need for alignment.
            elements.extend((0..len).map(|i| unsafe { data.add(i).read_unaligned() }));
            Cow::Owned(elements)
        })
    }

    /// Elements and dimensions of a tensor of bytes, in place.
    pub fn read_bytes<T: Byte>(&self, dims: &mut Dims) -> Result<&'a [T], Error> {
        let (data, len) = self.elements::<T>(dims)?;
        // SAFETY: as in `read`; bytes need no alignment.
        Ok(unsafe { std::slice::from_raw_parts(data, len) })
    }

    /// The address and number of a tensor's elements, which are of type `T`; never null.
    fn elements<T: Element>(&self, dims: &mut Dims) -> Result<(*const T, usize), Error> {
        let element = self.shape(dims)?;
        if element != T::TYPE {
            return Err(Error::invalid(format!("is {element} instead of {}", T::TYPE)));
        }
        match element_count(dims)? {
            0 => Ok((ptr::dangling(), 0)),
            len => Ok((self.address()?.cast(), len)),
        }
    }

    /// The bytes of a tensor whose size is known already.
    ///
    /// # Safety
    ///
    /// The tensor has `len` bytes.
    pub unsafe fn bytes(&self, len: usize) -> Result<&'a [u8], Error> {
        if len == 0 {
            return Ok(&[]);
        }
        let data = self.address()?;
        // SAFETY: the caller's contract; bytes need no alignment.
        Ok(unsafe { std::slice::from_raw_parts(data, len) })
    }

    fn address(&self) -> Result<*const u8, Error> {
        let mut data: *mut c_void = ptr::null_mut();
        // SAFETY: the value is live; onnxruntime's signature wants it mutable, and nothing is written.
        unsafe { call!(self.api, GetTensorMutableData(self.raw.cast_mut(), &mut data)) }?;
        if data.is_null() {
            return Err(Error::invalid("has no data"));
        }
        Ok(data.cast())
    }

    /// Reads the dimensions, and returns the element type.
    fn shape(&self, dims: &mut Dims) -> Result<ElementType, Error> {
        dims.clear();
        let mut element = ElementType(0);
        if self.api.newer() {
            let mut data: *const i64 = ptr::null();
            let mut rank = 0;
            // SAFETY: `newer` says that the function exists; the dimensions belong to the value. The element type is
            // written as a plain number, as in `KernelInfo::input_type`.
            unsafe {
                let element = ptr::from_mut(&mut element.0).cast();
                call!(self.api, GetTensorElementTypeAndShapeDataReference(self.raw, element, &mut data, &mut rank))?;
                check_rank(rank)?;
                if rank > 0 {
                    dims.extend_from_slice(std::slice::from_raw_parts(data, rank));
                }
            }
            return Ok(element);
        }
        let mut info: *mut OrtTensorTypeAndShapeInfo = ptr::null_mut();
        // SAFETY: the value is live; the info is released below, once.
        unsafe { call!(self.api, GetTensorTypeAndShape(self.raw, &mut info)) }?;
        let mut rank = 0;
        // SAFETY: `info` is live, and `dims` has room for the rank it was asked for.
        let result = unsafe {
            call!(self.api, GetTensorElementType(info, ptr::from_mut(&mut element.0).cast()))
                .and_then(|()| call!(self.api, GetDimensionsCount(info, &mut rank)))
                .and_then(|()| check_rank(rank))
                .and_then(|()| {
                    dims.resize(rank, 0);
                    call!(self.api, GetDimensions(info, dims.as_mut_ptr(), rank))
                })
        };
        // SAFETY: made above, released once.
        unsafe { ((*self.api.raw).ReleaseTensorTypeAndShapeInfo)(info) };
        result.map(|()| element)
    }
}

/// Refuses what is no shape.
fn check_rank(rank: usize) -> Result<(), Error> {
    if rank > MAX_RANK {
        return Err(Error::invalid(format!("has {rank} dimensions; no more than {MAX_RANK} are read")));
    }
    Ok(())
}
