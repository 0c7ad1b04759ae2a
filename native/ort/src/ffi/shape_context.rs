//! A node, while onnxruntime infers the type and shape of its output.

use std::ffi::{CStr, c_char};
use std::marker::PhantomData;
use std::ptr;

use ort_sys::{ONNXTensorElementDataType, OrtOpAttrType, OrtShapeInferContext, OrtTensorTypeAndShapeInfo};
use smallvec::SmallVec;

use super::api::{Api, call};
use super::element::{Dims, ElementType, MAX_RANK};

/// A dimension and the name of it, which is empty if it has none.
pub type NamedDim<'a> = (i64, &'a CStr);

/// What elementwise operators make of two shapes. None where they contradict each other, or where a dimension is not known
/// and may be either of two.
fn broadcast<'a>(left: &[NamedDim<'a>], right: &[NamedDim<'a>]) -> Option<SmallVec<[NamedDim<'a>; 8]>> {
    let rank = left.len().max(right.len());
    let at = |of: &[NamedDim<'a>], i: usize| (i + of.len()).checked_sub(rank).map_or((1, c""), |i| of[i]);
    (0..rank)
        .map(|i| match (at(left, i), at(right, i)) {
            ((1, _), other) | (other, (1, _)) => Some(other),
            (one, other) if one.0 >= 0 && one.0 == other.0 => Some(one),
            (one, other) if one.0 < 0 && other.0 < 0 => (one.1 == other.1).then_some(one),
            (one, other) if one.0 < 0 || other.0 < 0 => Some(if one.0 < 0 { other } else { one }),
            _ => None,
        })
        .collect()
}

/// A node, while onnxruntime infers the type and shape of its output.
pub struct ShapeContext<'a> {
    api: Api,
    raw: *mut OrtShapeInferContext,
    lifetime: PhantomData<&'a ()>,
}

impl<'a> ShapeContext<'a> {
    /// # Safety
    ///
    /// `raw` is live for `'a`, and [`Api::infers`].
    pub unsafe fn new(api: Api, raw: *mut OrtShapeInferContext) -> Self {
        Self { api, raw, lifetime: PhantomData }
    }

    /// The element type of an input; None when it is absent.
    pub fn input_type(&self, index: impl Into<usize>) -> Option<ElementType> {
        let index = index.into();
        let mut element = ElementType(0);
        // SAFETY: the info is live. The element type is written as a plain number, as in `KernelInfo::input_type`.
        unsafe {
            let element = ptr::from_mut(&mut element.0).cast();
            call!(self.api, GetTensorElementType(self.input_info(index)?, element)).ok()?;
        }
        (element != ElementType(0)).then_some(element)
    }

    /// An attribute that is a list of `N` integers.
    pub fn ints<const N: usize>(&self, name: &CStr) -> Option<[i64; N]> {
        let mut values = [0; N];
        let size = self.attribute(name, OrtOpAttrType::ORT_OP_ATTR_INTS, &mut values)?;
        (size == N).then_some(values)
    }

    /// An attribute that is a list of integers, not more than a shape may have.
    pub fn list(&self, name: &CStr) -> Option<Dims> {
        let mut values = [0; MAX_RANK];
        let size = self.attribute(name, OrtOpAttrType::ORT_OP_ATTR_INTS, &mut values)?;
        values.get(..size).map(Dims::from_slice)
    }

    /// An attribute that is an integer.
    pub fn int(&self, name: &CStr) -> Option<i64> {
        let mut value = [0];
        self.attribute(name, OrtOpAttrType::ORT_OP_ATTR_INT, &mut value).map(|_| value[0])
    }

    /// Reads an attribute of integers into `values`, and tells how many there are.
    fn attribute(&self, name: &CStr, kind: OrtOpAttrType, values: &mut [i64]) -> Option<usize> {
        let mut attribute = ptr::null();
        let (data, room, mut size) = (values.as_mut_ptr().cast(), size_of_val(values), 0);
        // SAFETY: `raw` is live, the attribute belongs to it, and the buffer has the size that is said.
        unsafe {
            call!(self.api, ShapeInferContext_GetAttribute(self.raw, name.as_ptr(), &mut attribute)).ok()?;
            call!(self.api, ReadOpAttr(attribute, kind, data, room, &mut size)).ok()?;
        }
        Some(size / size_of::<i64>())
    }

    /// Declares output 0: the shape of input 0 with another last dimension, broadcast with those of the inputs `elementwise`.
    /// Leaves it as it is when one of them is not known, or when an unknown dimension remains without a name, which
    /// onnxruntime would take for the number -1.
    pub fn set_output(&self, element: ONNXTensorElementDataType, last: i64, elementwise: &[usize]) -> Option<()> {
        let mut shape = self.shape(0)?;
        *shape.last_mut()? = (last, c"");
        for &index in elementwise {
            shape = broadcast(&shape, &self.shape(index)?)?;
        }
        self.set_output_shape(element, &shape)
    }

    /// Declares output 0: the shape of an input with one dimension more behind it. As for [`Self::set_output`], where that
    /// is not known; for a scalar input as well, which onnxruntime does not tell from one.
    pub fn set_output_of_rows(&self, element: ONNXTensorElementDataType, of: usize, last: i64) -> Option<()> {
        let mut shape = self.shape(of)?;
        shape.push((last, c""));
        self.set_output_shape(element, &shape)
    }

    /// The dimensions of an input with their names, as far as they are known; none of a scalar.
    pub fn input_shape(&self, index: impl Into<usize>) -> Option<SmallVec<[NamedDim<'a>; 8]>> {
        self.shape(index.into())
    }

    /// Declares output 0. Leaves it as it is where an unknown dimension has no name.
    pub fn set_output_shape(&self, element: ONNXTensorElementDataType, shape: &[NamedDim<'_>]) -> Option<()> {
        if shape.iter().any(|(dim, name)| *dim < 0 && name.is_empty()) {
            return None;
        }
        let (rank, dims): (_, Dims) = (shape.len(), shape.iter().map(|(dim, _)| *dim).collect());
        let mut names: SmallVec<[*const c_char; 8]> = shape.iter().map(|(_, name)| name.as_ptr()).collect();
        // SAFETY: the buffers have the rank as length; the info is made here and released once.
        unsafe {
            let mut output = ptr::null_mut();
            call!(self.api, CreateTensorTypeAndShapeInfo(&mut output)).ok()?;
            let result = call!(self.api, SetTensorElementType(output, element))
                .and_then(|()| call!(self.api, SetDimensions(output, dims.as_ptr(), rank)))
                .and_then(|()| call!(self.api, SetSymbolicDimensions(output, names.as_mut_ptr(), rank)))
                .and_then(|()| call!(self.api, ShapeInferContext_SetOutputTypeShape(self.raw, 0, output)));
            ((*self.api.raw).ReleaseTensorTypeAndShapeInfo)(output);
            result.ok()
        }
    }

    /// The dimensions of an input with their names; those that are not known are below zero. None when not even the rank
    /// is known, and for scalars: onnxruntime tells of both the same.
    fn shape(&self, index: usize) -> Option<SmallVec<[NamedDim<'a>; 8]>> {
        let input = self.input_info(index)?;
        let mut rank = 0;
        // SAFETY: `input` is live, and the first function exists where onnxruntime may infer; the buffers have the rank as
        // length, and the names live as long as `input`, which `raw` keeps.
        unsafe {
            if !((*self.api.raw).TensorTypeAndShape_HasShape)(input) {
                return None;
            }
            call!(self.api, GetDimensionsCount(input, &mut rank)).ok()?;
            if rank == 0 || rank > MAX_RANK {
                return None;
            }
            let mut dims = Dims::from_elem(0, rank);
            let mut names: SmallVec<[*const c_char; 8]> = SmallVec::from_elem(ptr::null(), rank);
            call!(self.api, GetDimensions(input, dims.as_mut_ptr(), rank)).ok()?;
            call!(self.api, GetSymbolicDimensions(input, names.as_mut_ptr(), rank)).ok()?;
            let name = |name: *const c_char| if name.is_null() { c"" } else { CStr::from_ptr(name) };
            Some(dims.iter().zip(&names).map(|(&dim, &of)| (dim, name(of))).collect())
        }
    }

    /// Type and shape of an input, as far as they are known.
    fn input_info(&self, index: usize) -> Option<*const OrtTensorTypeAndShapeInfo> {
        let mut info = ptr::null_mut();
        // SAFETY: `raw` is live and keeps the info.
        unsafe { call!(self.api, ShapeInferContext_GetInputTypeShape(self.raw, index, &mut info)) }.ok()?;
        (!info.is_null()).then_some(info.cast_const())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_broadcast_as_far_as_they_are_known() {
        let (b, s, none) = ((-1, c"b"), (-1, c"s"), (-1, c""));
        let n = |dim: i64| (dim, c"");
        for (left, right, expected) in [
            (&[b, s, n(8)][..], &[b, s, n(8)][..], Some(&[b, s, n(8)][..])),
            (&[b, n(1), n(8)], &[n(1), s, n(8)], Some(&[b, s, n(8)])),
            (&[s, n(8)], &[b, s, n(1)], Some(&[b, s, n(8)])),
            (&[b, n(8)], &[s, n(8)], None),
            (&[b, n(8)], &[n(3), none], Some(&[n(3), n(8)])),
            (&[none, n(8)], &[none, n(8)], Some(&[none, n(8)])),
            (&[n(2), n(8)], &[n(3), n(8)], None),
            (&[n(8)], &[], Some(&[n(8)])),
        ] {
            assert_eq!(broadcast(left, right).as_deref(), expected, "{left:?} {right:?}");
            assert_eq!(broadcast(right, left).as_deref(), expected, "{right:?} {left:?}");
        }
    }
}
